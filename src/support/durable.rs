//! Small files that are made once and must then exist as a whole: keys, tokens.
//!
//! A file is written under a temporary name and synced to the disk. Only then it gets its own name, which
//! replaces no other file; then its directory is synced, and so is each directory that was made for it. So a
//! reader that finds the name finds the whole content, also after a kill, a full disk or a power failure.
//!
//! Races: if two processes make one file at the same time, one wins, and the other gets
//! `AlreadyExists`. A file of 0 bytes of this user's, as earlier versions could leave one, is made again:
//! under its own lock, and only while it still has the name, so that the second of two processes never
//! replaces the first one's result. A killed process's temporary file has a free lock, and is removed.

use super::env::Env;
use super::listing::entries;
use super::trusted;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const BESIDE: (&str, &str) = (".understudy-", ".new");

/// Makes the file `path` with these bytes; `mode` as for open(2).
///
/// # Errors
/// `AlreadyExists` when there is one with content, or another user's; a [`trusted::Distrust`] when the
/// directory is not trusted. Whatever the error, `path` is as it was.
pub(crate) fn create(env: &Env, path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let dir = parent(path);
    // In a directory where other users can exchange names, the file could become theirs, and would not be
    // accepted again.
    trusted::look_at_dir(dir)?;
    tidy(dir);
    let beside = Beside::new(env, dir, mode, bytes)?;
    match std::fs::symlink_metadata(path).is_ok_and(|meta| is_empty_of_ours(&meta)) {
        true => beside.replace_empty(path)?,
        false => beside.name(path)?,
    }
    sync_dir(dir)
}

/// Gives the file `path` these bytes, whatever it was. A reader finds the old or the new content as a whole,
/// also after a power failure.
///
/// # Errors
/// Whatever the error, `path` is as it was.
pub(crate) fn replace(env: &Env, path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    replace_for(env, path, mode, bytes, None)
}

/// Like [`replace`]; the file belongs to `owner`, where one is given.
pub(crate) fn replace_for(
    env: &Env,
    path: &Path,
    mode: u32,
    bytes: &[u8],
    owner: Option<(Uid, Gid)>,
) -> io::Result<()> {
    let dir = parent(path);
    tidy(dir);
    let beside = Beside::new(env, dir, mode, bytes)?;
    if let Some((user, group)) = owner {
        rustix::fs::fchown(&beside.file, Some(user), Some(group))?;
    }
    std::fs::rename(&beside.path, path)?;
    sync_dir(dir)
}

/// Makes a directory and its missing ancestors, each synced to the disk, and for this user alone.
pub(crate) fn create_dirs(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if path.parent().is_some() {
        create_dirs(parent(path))?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        // Another process made it first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    sync_dir(parent(path))
}

/// Returns whether the path has anything but an empty file of this user's: then there is nothing to make.
pub(crate) fn is_made(path: &Path) -> bool {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => !is_empty_of_ours(&meta),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Returns whether it is an empty file of this user's, left by an interrupted process.
fn is_empty_of_ours(meta: &Metadata) -> bool {
    meta.is_file() && meta.len() == 0 && is_ours(meta)
}

fn is_ours(meta: &Metadata) -> bool {
    meta.uid() == rustix::process::geteuid().as_raw()
}

/// Returns the directory of `path`; for a bare name the current one.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // The filesystem does not support the sync of a directory.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

/// Removes temporary files of killed processes. Best effort, since they do no harm.
fn tidy(dir: &Path) {
    for entry in entries(dir).flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|n| n.starts_with(BESIDE.0) && n.ends_with(BESIDE.1))
            && entry.metadata().is_ok_and(|meta| meta.is_file() && is_ours(&meta));
        if ours
            && let Ok(file) = open_no_follow(entry.path())
            && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn open_no_follow(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?.into())
}

/// A file that is on the disk under a temporary name; it is removed unless it gets another name.
struct Beside {
    path: PathBuf,
    /// The file, locked as long as the process that made it lives.
    file: File,
}

impl Beside {
    fn new(env: &Env, dir: &Path, mode: u32, bytes: &[u8]) -> io::Result<Self> {
        loop {
            let path = dir.join(format!("{}{:016x}{}", BESIDE.0, env.nonce(), BESIDE.1));
            let mut file = File::options().write(true).create_new(true).mode(mode).open(&path)?;
            let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            let written = file.write_all(bytes).and_then(|()| file.sync_all());
            let beside = Self { path, file };
            match locked {
                // Another process, which tidies, took the lock first, and removes the file.
                Err(Errno::WOULDBLOCK) => continue,
                // Where files cannot be locked, none is tidied either.
                _ => return written.map(|()| beside),
            }
        }
    }

    /// Gives the file a name that no other file has.
    fn name(&self, path: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(CWD, &self.path, CWD, path, RenameFlags::NOREPLACE) {
            // Not every filesystem supports this; they support links, which replace nothing either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => std::fs::hard_link(&self.path, path),
            other => Ok(other?),
        }
    }

    /// Takes the place of an empty file of this user's, if it still is one.
    fn replace_empty(&self, path: &Path) -> io::Result<()> {
        let empty = match open_no_follow(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.name(path),
            other => other?,
        };
        rustix::fs::flock(&empty, FlockOperation::LockExclusive)?;
        // Any other process that would exchange it waits for the lock of the file with this name.
        let (held, there) = (empty.metadata()?, std::fs::symlink_metadata(path)?);
        if (held.dev(), held.ino()) != (there.dev(), there.ino()) || !is_empty_of_ours(&held) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        std::fs::rename(&self.path, path)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // After a rename the temporary name is already gone.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
        super::create(&Env::system(), path, mode, bytes)
    }

    fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
        super::replace(&Env::system(), path, mode, bytes)
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_whole_for_its_owner_alone_and_replaces_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        create_dirs(&below).unwrap();
        let path = below.join("key");
        create(&path, 0o600, b"first").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(create(&path, 0o600, b"second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!((std::fs::read(&path).unwrap(), names(&below)), (b"first".to_vec(), vec!["key".into()]));
        // Nor is a symlink replaced, wherever it leads.
        let link = below.join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert_eq!(create(&link, 0o600, b"x").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(is_made(&link) && is_made(&path) && !is_made(&below.join("none")));
    }

    #[test]
    fn a_file_that_is_replaced_is_the_old_or_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head");
        replace(&path, 0o600, b"one").unwrap();
        replace(&path, 0o600, b"two").unwrap();
        assert_eq!(
            (std::fs::read(&path).unwrap(), names(dir.path())),
            (b"two".to_vec(), vec!["head".into()])
        );
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let in_the_way = dir.path().join("dir");
        std::fs::create_dir(&in_the_way).unwrap();
        assert!(replace(&in_the_way, 0o600, b"x").is_err());
        assert_eq!(names(dir.path()), ["dir", "head"]);
    }

    #[test]
    fn an_empty_file_is_made_again_and_one_of_somebody_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        File::create(&path).unwrap();
        assert!(!is_made(&path));
        create(&path, 0o600, b"whole").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        let other = dir.path().join("other");
        File::create(&other).unwrap();
        std::os::unix::fs::chown(&other, Some(12_345), None).unwrap();
        assert!(is_made(&other));
        assert_eq!(create(&other, 0o600, b"x").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(names(dir.path()), ["other", "token"]);
    }

    #[test]
    fn of_many_who_make_an_empty_file_again_at_once_one_wins_and_its_content_stays() {
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("key");
            File::create(&path).unwrap();
            let start = std::sync::Barrier::new(4);
            let won: Vec<u8> = std::thread::scope(|scope| {
                let makers: Vec<_> = (b'a'..=b'd')
                    .map(|name| {
                        let (path, start) = (&path, &start);
                        scope.spawn(move || {
                            start.wait();
                            create(path, 0o600, &[name; 64]).is_ok().then_some(name)
                        })
                    })
                    .collect();
                makers.into_iter().filter_map(|maker| maker.join().unwrap()).collect()
            });
            assert_eq!(won.len(), 1, "{won:?}");
            assert_eq!(std::fs::read(&path).unwrap(), [won[0]; 64]);
        }
    }

    #[test]
    fn what_a_killed_maker_left_beside_goes_and_that_of_a_living_one_stays() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(".understudy-0123456789abcdef.new");
        File::create(&left).unwrap();
        let living = Beside::new(&Env::system(), dir.path(), 0o600, b"x").unwrap();
        create(&dir.path().join("key"), 0o600, b"key").unwrap();
        assert!(!left.exists() && living.path.exists());
    }
}
