//! Directories that this process keeps for itself: no other user reads in them, and none of another user's is
//! used.
//!
//! A new directory is 0700. An existing one is checked (through its handle, where it is used by that): it
//! must belong to this user or to root, and other users must not be able to put their own directory in its
//! place. A directory with a name of this program's (`understudy` below a user's cache) is closed to others;
//! a directory that a person named may be shared on purpose (a volume's group, a repository), and keeps its
//! mode.

use super::durable;
use super::trusted::is_trusted;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, StatFs};
use rustix::io::Errno;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use thiserror::Error;

/// Reason why a directory is not used.
#[derive(Debug, Error)]
pub(crate) enum NotPrivate {
    #[error("{} belongs to user {owner}, not to root or this user ({own}), and a directory's owner can redirect what is written there: name another, or run this as that user", path.display())]
    Owner { path: PathBuf, owner: u32, own: u32 },
    #[error("{}: all users can write to it (mode {mode:o}); name a directory below it, or: chmod o-w {}", path.display(), path.display())]
    Writable { path: PathBuf, mode: u32 },
    #[error("{}: other users can enter it (mode {mode:o}); name a directory that they cannot enter, such as one made by: mkdir -m 700 {}/understudy", path.display(), path.display())]
    Open { path: PathBuf, mode: u32 },
}

impl From<NotPrivate> for io::Error {
    fn from(error: NotPrivate) -> Self {
        io::Error::new(ErrorKind::PermissionDenied, error)
    }
}

/// Returns whether an error says that a directory is not private.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NotPrivate>())
}

/// Checks a directory that a person named, and makes it and its missing ancestors if it does not exist.
///
/// # Errors
/// [`NotPrivate`] when it is another user's, or all may write to it and it is not sticky. On a filesystem
/// without modes (a stick's) the mount decides who may write to it.
pub fn hold(path: &Path) -> io::Result<()> {
    // The directory is used by its path, so no handle is kept: a process may have few.
    let stat = match rustix::fs::stat(path) {
        Err(Errno::NOENT) => {
            durable::create_dirs(path)?;
            rustix::fs::stat(path)?
        }
        other => other?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Errno::NOTDIR.into());
    }
    judge(path, &stat, || Some(kind_of(&rustix::fs::statfs(path).ok()?)))
}

/// Checks a directory as [`hold`] does, and refuses other users' entries in a sticky one that all may write
/// to.
///
/// In such a directory (`/tmp`, a new tmpfs) any user could first make what this program would make.
///
/// # Errors
/// As [`hold`].
pub(crate) fn hold_alone(path: &Path) -> io::Result<()> {
    hold(path)?;
    if rustix::fs::stat(path)?.st_mode & 0o1002 != 0o1002 {
        return Ok(());
    }
    // `support::listing` would open directories, which may be another user's.
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if let Ok(stat) = rustix::fs::lstat(&path) {
            judge_owner(&path, stat.st_uid)?;
        }
    }
    Ok(())
}

/// Checks an existing directory as [`hold`] does; one that does not exist is not made.
///
/// # Errors
/// As [`hold`].
pub(crate) fn look(path: &Path) -> io::Result<()> {
    match rustix::fs::stat(path) {
        Err(Errno::NOENT) => Ok(()),
        _ => hold(path),
    }
}

/// Makes a directory 0755, so that other users can pass through it, or uses it if no other user can have put
/// entries into it.
///
/// # Errors
/// [`NotPrivate`] when it is another user's, or others may write to it. A symlink does not count as a
/// directory.
pub(crate) fn passage(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&handle)?;
    let (own, mode) = (rustix::process::geteuid().as_raw(), stat.st_mode & 0o7777);
    match () {
        () if stat.st_uid != own => {
            Err(NotPrivate::Owner { path: path.to_owned(), owner: stat.st_uid, own }.into())
        }
        () if mode & 0o022 != 0 => Err(NotPrivate::Writable { path: path.to_owned(), mode }.into()),
        () => Ok(()),
    }
}

fn judge_owner(path: &Path, owner: u32) -> Result<(), NotPrivate> {
    match is_trusted(owner) {
        true => Ok(()),
        false => {
            let own = rustix::process::geteuid().as_raw();
            Err(NotPrivate::Owner { path: path.to_owned(), owner, own })
        }
    }
}

/// Checks the owner and the mode. `kind` returns the filesystem's type, and is called only if that matters.
fn judge(path: &Path, stat: &Stat, kind: impl Fn() -> Option<u64>) -> io::Result<()> {
    let mode = stat.st_mode & 0o7777;
    let is_mount_s = || kind().is_some_and(|kind| !has_modes(kind));
    // NFS may show a directory of root's as one of `nobody`.
    let is_squashed = || stat.st_uid == NOBODY && kind() == Some(NFS);
    match judge_owner(path, stat.st_uid) {
        Err(error) if !is_mount_s() && !is_squashed() => return Err(error.into()),
        _ => {}
    }
    match mode & 0o1002 == 0o002 && !is_mount_s() {
        true => Err(NotPrivate::Writable { path: path.to_owned(), mode }.into()),
        false => Ok(()),
    }
}

const NOBODY: u32 = 65_534;
const NFS: u64 = 0x6969;

/// Returns the number of a filesystem's type.
fn kind_of(found: &StatFs) -> u64 {
    found.f_type as u64 & 0xFFFF_FFFF
}

/// Returns whether a filesystem has modes of its own.
///
/// FAT, exFAT, NTFS, FUSE filesystems of their kind, and CIFS have none: the mount gives owners and modes.
fn has_modes(magic: u64) -> bool {
    const WITHOUT: [u64; 7] =
        [0x4D44, 0x2011_BAB0, 0x5346_544E, 0x7366_746E, 0x6573_5546, 0xFF53_4D42, 0xFE53_4D42];
    !WITHOUT.contains(&magic)
}

/// Checks a directory with a name of this program's as [`hold`] does, and closes it to all other users.
///
/// # Errors
/// As [`hold`]. Where its mode cannot be set (a read-only filesystem) that is an error only if others may
/// write to it.
pub(crate) fn own(path: &Path) -> io::Result<OwnedFd> {
    let handle = open_or_make(path)?;
    let stat = rustix::fs::fstat(&handle)?;
    let kind = rustix::fs::fstatfs(&handle).ok().map(|found| kind_of(&found));
    judge(path, &stat, || kind)?;
    if kind.is_some_and(|kind| !has_modes(kind)) {
        return Ok(handle);
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(handle);
    }
    match rustix::fs::fchmod(&handle, Mode::RWXU) {
        Err(_) if mode & 0o022 == 0 => Ok(handle),
        Err(Errno::PERM | Errno::ROFS) => Err(NotPrivate::Open { path: path.to_owned(), mode }.into()),
        done => Ok(done.map(|()| handle)?),
    }
}

/// Opens a directory that must already be closed to others, in order to reach another process through it. It
/// is not made.
pub(crate) fn closed(path: &Path) -> io::Result<OwnedFd> {
    let handle = open(path)?;
    let stat = rustix::fs::fstat(&handle)?;
    judge_owner(path, stat.st_uid)?;
    let mode = stat.st_mode & 0o7777;
    match mode & 0o077 {
        0 => Ok(handle),
        _ => Err(NotPrivate::Open { path: path.to_owned(), mode }.into()),
    }
}

static GIVEN_UMASK: OnceLock<u32> = OnceLock::new();

/// Closes everything that this process makes from now on to other users, unless it asks for another mode.
pub(crate) fn close_umask() {
    let given = rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let _ = GIVEN_UMASK.set(given.bits());
}

/// Opens what this process makes from now on to its group, unless it asks for another mode.
///
/// It is called when a directory is found that is shared with a group.
pub(crate) fn share_with_group() {
    if GIVEN_UMASK.get().is_some() {
        rustix::process::umask(Mode::RWXO);
    }
}

/// Returns the umask that this process was started with; its programs are started with it as well.
pub(crate) fn given_umask() -> u32 {
    *GIVEN_UMASK.get().unwrap_or(&0o022)
}

/// Makes a directory and its missing ancestors for this user alone; an existing one stays as it is. Nothing
/// is synced.
pub(crate) fn make_dirs(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Refuses a symlink of another user's, who could lead it anywhere.
fn judge_link(path: &Path) -> io::Result<()> {
    match rustix::fs::lstat(path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
            Ok(judge_owner(path, stat.st_uid)?)
        }
        _ => Ok(()),
    }
}

fn open_or_make(path: &Path) -> io::Result<OwnedFd> {
    judge_link(path)?;
    match open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            durable::create_dirs(path)?;
            open(path)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn what_is_made_is_this_user_s_alone_and_what_is_somebody_else_s_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        hold(&below).unwrap();
        assert_eq!((mode(&below), mode(&dir.path().join("a"))), (0o700, 0o700));
        for (given, held, owned) in [
            (0o755, Ok(()), Ok(0o700)),
            (0o2775, Ok(()), Ok(0o700)),
            (0o1777, Ok(()), Ok(0o700)),
            (0o777, Err("chmod o-w"), Err("chmod o-w")),
        ] {
            let path = dir.path().join(format!("{given:o}"));
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(given)).unwrap();
            match (hold(&path), held) {
                (Ok(()), Ok(())) => assert_eq!(mode(&path), given, "a person named it"),
                (Err(error), Err(told)) => assert!(is_refusal(&error) && error.to_string().contains(told)),
                other => panic!("{given:o}: {other:?}"),
            }
            match (own(&path), owned) {
                (Ok(_), Ok(wanted)) => assert_eq!(mode(&path), wanted),
                (Err(error), Err(told)) => assert!(error.to_string().contains(told)),
                other => panic!("{given:o}: {other:?}"),
            }
        }
        chown(&below, Some(12_345), None).unwrap();
        for refused in [hold(&below), own(&below).map(drop), closed(&below).map(drop)] {
            assert!(refused.unwrap_err().to_string().contains("belongs to user 12345"));
        }
        chown(&below, Some(0), None).unwrap();
        closed(&below).unwrap();
        std::fs::set_permissions(&below, std::fs::Permissions::from_mode(0o711)).unwrap();
        assert!(closed(&below).unwrap_err().to_string().contains("mkdir -m 700"));
    }
}
