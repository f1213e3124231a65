//! The Unix socket by which the commands of this host reach its daemon, in a directory that only its user can
//! enter.
//!
//! Why that is safe: only this user and root can create a file in that directory. So a process that answers
//! there is this user's or root's daemon, and a process that connects is theirs as well; both still ask the
//! kernel for the other's user. A port has no such owner: while a daemon is down any process may answer
//! there, so commands never send anything to a port, least of all a token.
//!
//! The socket is named for the configuration (and for the repository, where one is given on the command
//! line), so that of several daemons of one user a command reaches the one with its own configuration. A lock
//! next to the socket is held as long as the daemon lives. A socket whose lock is free belongs to a dead
//! daemon and is replaced; if the lock is held, a second daemon of that configuration is refused. The
//! directory is opened once, and the socket is reached through its handle, which keeps the socket's path
//! short enough however long the directory's path is.

use super::config::{Config, OFF, state_dir};
use crate::support::failure::{Failure, FailureKind};
use crate::support::private;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The directory of the shipped unit's socket. systemd creates it, and only the daemon's environment names
/// it.
const OF_UNIT: &str = "/run/understudy";

/// The place of a socket: a directory, and a name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketPlace {
    dir: PathBuf,
    name: OsString,
    /// Whether the place was not configured; the directory is then closed to other users.
    is_default: bool,
}

/// The reason why a daemon has no socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("{}: another daemon is running with this configuration; stop it, or set service.socket", .0.display())]
    Taken(PathBuf),
    #[error("{}: {source}; set service.socket", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Failure for SocketError {
    fn kind(&self) -> FailureKind {
        FailureKind::Failed
    }
}

/// A listening socket, which is removed when this value is dropped.
pub(crate) struct Bound {
    pub listener: UnixListener,
    pub path: PathBuf,
    dir: OwnedFd,
    name: OsString,
    _lock: OwnedFd,
}

impl SocketPlace {
    /// Returns where a daemon of this configuration listens; none when the socket is disabled or there is no
    /// place for it.
    pub(crate) fn of_daemon(config: &Config, repository: Option<&str>) -> Option<Self> {
        let given = std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from).filter(|dir| dir.is_absolute());
        Self::all(config, repository, given).into_iter().next()
    }

    /// Returns the places where a command of this configuration looks for the daemon.
    pub(crate) fn of_command(config: &Config, repository: Option<&str>) -> Vec<Self> {
        let mut all = Self::all(config, repository, None);
        if all.first().is_some_and(|place| place.is_default) {
            let name = name(config, repository);
            all.push(Self { dir: OF_UNIT.into(), name, is_default: true });
        }
        all
    }

    fn all(config: &Config, repository: Option<&str>, given: Option<PathBuf>) -> Vec<Self> {
        match &config.service.socket {
            Some(path) if path.as_os_str() == OFF => Vec::new(),
            Some(path) => match (path.parent(), path.file_name()) {
                (Some(dir), Some(name)) => {
                    vec![Self { dir: dir.to_owned(), name: name.to_owned(), is_default: false }]
                }
                _ => Vec::new(),
            },
            None => {
                let dir = given.or_else(|| state_dir().ok().flatten());
                let name = name(config, repository);
                dir.map(|dir| Self { dir, name, is_default: true }).into_iter().collect()
            }
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// Listens on the socket.
    ///
    /// # Errors
    /// [`SocketError::Taken`] when another daemon listens there; else the error of the place.
    pub(crate) fn bind(&self) -> Result<Bound, SocketError> {
        let wrong = |source: io::Error| SocketError::Io { path: self.path(), source };
        let dir = match self.is_default {
            true => private::own(&self.dir),
            false => private::hold(&self.dir).and_then(|()| private::closed(&self.dir)),
        };
        let dir = dir.map_err(wrong)?;
        let mut beside = self.name.clone();
        beside.push(".lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&dir, &beside, flags, Mode::RUSR | Mode::WUSR);
        let lock = lock.map_err(|errno| wrong(errno.into()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(SocketError::Taken(self.path())),
            Err(errno) => return Err(wrong(errno.into())),
        }
        match rustix::fs::unlinkat(&dir, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(wrong(errno.into())),
        }
        let listener = UnixListener::bind(through(&dir, &self.name)).map_err(wrong)?;
        listener.set_nonblocking(true).map_err(wrong)?;
        Ok(Bound { listener, path: self.path(), dir, name: self.name.clone(), _lock: lock })
    }

    /// Connects to the daemon that listens there; none when no daemon does.
    ///
    /// # Errors
    /// The directory exists, but other users can enter it or own it.
    pub(crate) fn connect(&self) -> io::Result<Option<UnixStream>> {
        let dir = match private::closed(&self.dir) {
            Ok(dir) => dir,
            // A directory of another user cannot be entered: no daemon of this user listens there.
            Err(error) if error.raw_os_error().is_some() => return Ok(None),
            // No daemon listens there, so it does not matter that the directory is open to others.
            Err(_) if std::fs::symlink_metadata(self.path()).is_err() => return Ok(None),
            Err(error) => return Err(error),
        };
        match UnixStream::connect(through(&dir, &self.name)) {
            Ok(stream) => stream.set_nonblocking(true).map(|()| Some(stream)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.dir, &self.name, AtFlags::empty());
    }
}

/// Returns a path of a name in an open directory that is short enough for a socket's address.
fn through(dir: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name)
}

/// Returns the socket's name, which differs for each configuration and each repository that overrides a
/// configured one.
fn name(config: &Config, repository: Option<&str>) -> OsString {
    let origin = config.origin.as_deref().map(|path| std::fs::canonicalize(path).unwrap_or(path.to_owned()));
    let mut hasher = blake3::Hasher::new();
    hasher.update(origin.as_deref().map_or(&b""[..], |path| path.as_os_str().as_bytes()));
    hasher.update(&[0]).update(repository.unwrap_or_default().as_bytes());
    format!("daemon-{}.socket", &hasher.finalize().to_hex()[..16]).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn place(dir: &Path) -> SocketPlace {
        SocketPlace { dir: dir.to_owned(), name: "daemon.socket".into(), is_default: true }
    }

    #[test]
    fn a_dead_daemon_s_socket_is_replaced_and_a_living_one_s_is_not() {
        let all = tempfile::tempdir().unwrap();
        // The path is longer than a socket's address may be.
        let dir = all.path().join("long".repeat(50));
        let place = place(&dir);
        assert!(place.connect().unwrap().is_none());
        let bound = place.bind().unwrap();
        assert!(place.connect().unwrap().is_some());
        assert!(matches!(place.bind(), Err(SocketError::Taken(_))));
        drop(bound);
        assert!(place.connect().unwrap().is_none());
        // A killed daemon leaves its socket like this.
        drop(UnixListener::bind(all.path().join("dead")).unwrap());
        std::fs::rename(all.path().join("dead"), place.path()).unwrap();
        assert!(place.connect().unwrap().is_none());
        let _bound = place.bind().unwrap();
        assert!(place.connect().unwrap().is_some());
    }

    #[test]
    fn nobody_is_met_where_others_may_enter() {
        let all = tempfile::tempdir().unwrap();
        let dir = all.path().join("run");
        let bound = place(&dir).bind().unwrap();
        for mode in [0o711, 0o777, 0o1777] {
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(private::is_refusal(&place(&dir).connect().unwrap_err()), "{mode:o}");
        }
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&dir, Some(12_345), None).unwrap();
        assert!(private::is_refusal(&place(&dir).connect().unwrap_err()));
        assert!(place(&dir).bind().is_err());
        drop(bound);
    }

    #[test]
    fn two_configurations_have_two_sockets() {
        let of = |origin: Option<&str>| Config { origin: origin.map(PathBuf::from), ..Config::default() };
        let names = [
            name(&of(None), None),
            name(&of(Some("/etc/a")), None),
            name(&of(Some("/etc/b")), None),
            name(&of(Some("/etc/a")), Some("s3://other")),
        ];
        for (at, one) in names.iter().enumerate() {
            assert!(!names[..at].contains(one) && *one == names[at].clone());
        }
        let off = Config::parse("[service]\nsocket = 'off'", Path::new("/etc/x.toml")).unwrap();
        assert!(
            SocketPlace::of_daemon(&off, None).is_none() && SocketPlace::of_command(&off, None).is_empty()
        );
        let named = Config::parse("[service]\nsocket = 'run/it'", Path::new("/etc/x.toml")).unwrap();
        let found = SocketPlace::of_command(&named, None);
        assert_eq!((found.len(), found[0].path()), (1, PathBuf::from("/etc/run/it")));
    }
}
