//! A Unix socket for this host's own processes, in a directory that only its user can enter.
//!
//! Why that is safe: only this user and root can create a file in that directory. So a process that answers
//! there is this user's or root's, and a process that connects is theirs as well; both still ask the kernel
//! for the other's user. A port has no such owner: while nobody listens, any process may answer there.
//!
//! A lock next to the socket is held as long as its listener lives. A socket whose lock is free belongs to a
//! dead process and is replaced; if the lock is held, a second listener is refused. The directory is opened
//! once, and the socket is reached through its handle, which keeps the socket's path short enough however
//! long the directory's path is.

use super::failure::{Failure, FailureKind};
use super::private;
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The place of a socket: a directory, and a name in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketPlace {
    pub dir: PathBuf,
    pub name: OsString,
    /// Whether the place was not configured; the directory is then closed to other users.
    pub is_default: bool,
    /// What listens there, for messages.
    pub listener: &'static str,
    /// The key of the configuration that names another place.
    pub key: &'static str,
}

/// The reason why nothing listens at a socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("{}: another {listener} is running with this configuration; stop it, or set {key}", path.display())]
    Taken { path: PathBuf, listener: &'static str, key: &'static str },
    #[error("{}: {source}; set {key}", path.display())]
    Io { path: PathBuf, key: &'static str, source: io::Error },
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
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// Listens on the socket.
    ///
    /// # Errors
    /// [`SocketError::Taken`] when another process listens there; else the error of the place.
    pub(crate) fn bind(&self) -> Result<Bound, SocketError> {
        let wrong = |source: io::Error| SocketError::Io { path: self.path(), key: self.key, source };
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
            Err(Errno::WOULDBLOCK) => {
                let (path, listener, key) = (self.path(), self.listener, self.key);
                return Err(SocketError::Taken { path, listener, key });
            }
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

    /// Connects to the process that listens there; none when none does.
    ///
    /// # Errors
    /// The directory exists, but other users can enter it or own it.
    pub(crate) fn connect(&self) -> io::Result<Option<UnixStream>> {
        let dir = match private::closed(&self.dir) {
            Ok(dir) => dir,
            // A directory of another user cannot be entered: no process of this user listens there.
            Err(error) if error.raw_os_error().is_some() => return Ok(None),
            // Nobody listens there, so it does not matter that the directory is open to others.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn place(dir: &Path) -> SocketPlace {
        SocketPlace {
            dir: dir.to_owned(),
            name: "daemon.socket".into(),
            is_default: true,
            listener: "daemon",
            key: "service.socket",
        }
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
        assert!(matches!(place.bind(), Err(SocketError::Taken { .. })));
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
}
