//! Where a restored tree is built, and how it gets its final name.
//!
//! A destination that does not exist, or is an empty directory, is built beside and renamed when it is complete and on the
//! disk. Of two restores to one place, the rename of one finds the other's tree and fails. Whether an empty directory can be renamed over
//! is tried, not guessed: it is exchanged for another empty one, and back. Where that is refused (a mount point, also of
//! the same filesystem; a parent that belongs to somebody else; `.` and `/`, which have no name), and in the directory that this process
//! works in, the tree is made in place. A marker in it says of which snapshot it is and that it is not complete; the next run with the same
//! goes on, any other is refused, and the marker goes when all is on the disk.
//!
//! Before anything was restored an error leaves nothing behind.

use super::directory::{names, open_below};
use super::error::RestoreError;
use super::filesystem::Mount;
use super::restore::RestoreRequest;
use crate::source::stat::Stat;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What the marker of a tree that is made in place begins with; its snapshot follows.
const MARKER: &str = ".understudy-restoring-";
/// Longer names are shortened, so that there is room for what is put around them.
const NAME_MAX_BYTES: usize = 200;

/// Where the tree is built.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory that is written into.
    pub(super) work: PathBuf,
    pub(super) fresh: bool,
    pub(super) resumed: bool,
    way: Way,
    /// Directories above the destination that were made for it.
    parents: Vec<PathBuf>,
}

/// How the tree gets its final name.
#[derive(Debug)]
enum Way {
    /// Renamed to this at the end.
    Beside(PathBuf),
    /// Made in place. The marker goes at the end.
    InPlace(CString),
    /// Into what is there.
    Over,
}

impl Place {
    pub(super) fn choose(request: &RestoreRequest, tag: &str) -> Result<Self, RestoreError> {
        let destination = &without_slashes(&request.destination);
        match std::fs::symlink_metadata(destination) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Self::beside(destination, tag),
            Err(e) => Err(io(&destination.display().to_string(), "look at it", &e)),
            Ok(found) if !found.is_dir() => Err(RestoreError::NotADirectory(destination.clone())),
            Ok(_) => Self::existing(destination, tag, request.overwrite),
        }
    }

    fn existing(destination: &Path, tag: &str, overwrite: bool) -> Result<Self, RestoreError> {
        let shown = destination.display().to_string();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, destination, flags, Mode::empty())
            .map_err(RestoreError::write(&shown, "open it"))?;
        let marker = CString::new(format!("{MARKER}{tag}")).unwrap_or_default();
        let mut found = names(&handle).map_err(RestoreError::write(&shown, "list it"))?;
        let resumed = found.remove(&marker);
        let foreign = found.iter().any(|name| is_marker(name));
        if is_mount_root(&handle) {
            found.remove(LOST_AND_FOUND);
        }
        let place = |way, fresh, resumed| {
            Ok(Self { work: destination.to_owned(), fresh, resumed, way, parents: Vec::new() })
        };
        if resumed {
            return place(Way::InPlace(marker), false, true);
        }
        if foreign && !overwrite {
            return Err(RestoreError::Unfinished(destination.to_owned()));
        }
        if !found.is_empty() {
            return match overwrite {
                true => place(Way::Over, false, false),
                false => Err(RestoreError::NotEmpty(destination.to_owned())),
            };
        }
        if !is_working_directory(&handle) && can_be_renamed_over(destination, tag)? {
            return Self::beside(destination, tag);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&handle, &marker, flags, Mode::RUSR | Mode::WUSR)
            .map_err(RestoreError::write(&shown, "write into it"))?;
        place(Way::InPlace(marker), true, false)
    }

    fn beside(destination: &Path, tag: &str) -> Result<Self, RestoreError> {
        let (parent, name) =
            parts(destination).ok_or_else(|| RestoreError::NotADirectory(destination.to_owned()))?;
        let missing = parent.ancestors().take_while(|at| !at.as_os_str().is_empty() && !at.exists());
        let mut place = Self {
            work: parent.join(hidden(name, tag)),
            fresh: true,
            resumed: false,
            way: Way::Beside(destination.to_owned()),
            parents: missing.map(Path::to_owned).collect(),
        };
        if let Err(e) = std::fs::create_dir_all(&parent) {
            place.abandon();
            return Err(io(&destination.display().to_string(), "create its parent", &e));
        }
        // Nobody else looks into it before it is complete.
        match rustix::fs::mkdirat(CWD, &place.work, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => (place.fresh, place.resumed) = (false, true),
            Err(errno) => {
                place.abandon();
                return Err(RestoreError::write(place.work.display(), "create it")(errno));
            }
        }
        Ok(place)
    }

    /// All of it was made by a run that was broken off: what the snapshot does not have is that run's as well.
    pub(super) fn is_own(&self) -> bool {
        self.resumed && self.is_named_at_the_end()
    }

    /// Whether the directory is a new one, and gets its name when it is complete.
    pub(super) fn is_named_at_the_end(&self) -> bool {
        matches!(self.way, Way::Beside(_))
    }

    /// Whether a name is that of this run's marker.
    pub(super) fn is_marker(&self, name: &CStr) -> bool {
        matches!(&self.way, Way::InPlace(marker) if **marker == *name)
    }

    /// Written to the disk first: a tree under its final name, or without its marker, is complete, also after a power cut.
    pub(super) fn publish(&self) -> Result<(), RestoreError> {
        let shown = self.work.display().to_string();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(CWD, &self.work, flags, Mode::empty());
        let handle = opened.map_err(RestoreError::write(&shown, "open it"))?;
        rustix::fs::syncfs(&handle).map_err(RestoreError::write(&shown, "write it to the disk"))?;
        match &self.way {
            Way::Beside(destination) => {
                rustix::fs::renameat(CWD, &self.work, CWD, destination).map_err(|errno| {
                    let (destination, work) = (destination.clone(), self.work.clone());
                    RestoreError::Publish { destination, work, errno }
                })
            }
            Way::InPlace(marker) => {
                unmark(&handle, marker).map_err(RestoreError::write(&shown, "remove its marker"))
            }
            Way::Over => Ok(()),
        }
    }

    /// After an error: what was made goes if nothing was put into it.
    pub(super) fn abandon(&self) {
        match &self.way {
            Way::Beside(_) => {
                let _ = std::fs::remove_dir(&self.work);
                for parent in &self.parents {
                    // From the innermost on; one that holds something stays.
                    let _ = std::fs::remove_dir(parent);
                }
            }
            Way::InPlace(marker) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                if let Ok(handle) = rustix::fs::openat(CWD, &self.work, flags, Mode::empty())
                    && names(&handle).is_ok_and(|names| names.len() == 1 && names.contains(marker))
                {
                    let _ = unmark(&handle, marker);
                }
            }
            Way::Over => {}
        }
    }
}

/// Where ext4 puts what it found: no file of anybody's, and no reason to call a filesystem's root not empty.
pub(super) const LOST_AND_FOUND: &CStr = c"lost+found";

/// Whether a name is that of a marker.
pub(super) fn is_marker(name: &CStr) -> bool {
    name.to_bytes().starts_with(MARKER.as_bytes())
}

/// Whether a directory is where its mount begins.
pub(super) fn is_mount_root(handle: impl AsFd) -> bool {
    let above = open_below(&handle, c"..");
    match (Mount::of(&handle), above.and_then(Mount::of)) {
        (Ok(own), Ok(above)) => own != above,
        _ => false,
    }
}

/// Removes a marker, and leaves the directory's time and mode as they were.
fn unmark(handle: &OwnedFd, marker: &CStr) -> Result<(), Errno> {
    let stat = Stat::of(handle)?;
    match rustix::fs::unlinkat(handle, marker, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        // Its own owner may not write into it, as the snapshot has it.
        Err(Errno::ACCESS) => {
            rustix::fs::fchmod(handle, Mode::RWXU)?;
            let removed = rustix::fs::unlinkat(handle, marker, AtFlags::empty());
            rustix::fs::fchmod(handle, Mode::from_raw_mode(stat.mode.into()))?;
            removed?;
        }
        Err(errno) => return Err(errno),
    }
    // Whoever may write into a directory need not own it: then it keeps the time of now.
    let _ = rustix::fs::futimens(
        handle,
        &Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: stat.mtime.seconds, tv_nsec: stat.mtime.nanos.into() },
        },
    );
    let _ = rustix::fs::fsync(handle);
    Ok(())
}

/// Tries whether a directory that is to take this empty one's name would get it.
fn can_be_renamed_over(destination: &Path, tag: &str) -> Result<bool, RestoreError> {
    let Some((parent, name)) = parts(destination) else { return Ok(false) };
    let other = parent.join(hidden(name, &format!("{tag}-trial")));
    match rustix::fs::mkdirat(CWD, &other, Mode::RWXU) {
        // Left by a run that was killed just there.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(_) => return Ok(false),
    }
    let exchange = || rustix::fs::renameat_with(CWD, &other, CWD, destination, RenameFlags::EXCHANGE);
    let can = exchange().is_ok();
    if can {
        exchange().map_err(RestoreError::write(destination.display(), "put it back after a trial"))?;
    }
    rustix::fs::unlinkat(CWD, &other, AtFlags::REMOVEDIR)
        .map_err(RestoreError::write(other.display(), "remove it after a trial"))?;
    Ok(can)
}

/// The directory that this process, and perhaps the shell that started it, works in: it would not see another in its place.
fn is_working_directory(handle: &OwnedFd) -> bool {
    let identity = |stat: Stat| (stat.device, stat.fingerprint.inode);
    match (Stat::of(handle), Stat::at(CWD, c".")) {
        (Ok(one), Ok(other)) => identity(one) == identity(other),
        _ => false,
    }
}

/// The directory that holds a path, and its name there; none of `.`, `..` and `/`.
fn parts(path: &Path) -> Option<(PathBuf, &OsStr)> {
    let name = path.file_name()?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Some((parent.to_owned(), name)),
        _ => Some((PathBuf::from("."), name)),
    }
}

/// The hidden name of something that belongs to a restore to `name`.
fn hidden(name: &OsStr, tag: &str) -> OsString {
    let name = name.as_bytes();
    let mut hidden = b".".to_vec();
    if name.len() <= NAME_MAX_BYTES {
        hidden.extend_from_slice(name);
    } else {
        hidden.extend_from_slice(&blake3::hash(name).to_hex().as_bytes()[..32]);
    }
    hidden.extend_from_slice(format!(".understudy-{tag}").as_bytes());
    OsString::from_vec(hidden)
}

/// A symlink's name with a slash behind it would lead through it.
fn without_slashes(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|b| *b != b'/').map_or(bytes.len().min(1), |at| at + 1);
    PathBuf::from(OsStr::from_bytes(&bytes[..end]))
}

fn io(path: &str, action: &'static str, error: &std::io::Error) -> RestoreError {
    let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    RestoreError::Write { path: path.to_owned(), action, errno }
}
