//! Chooses where a restored tree is built, and gives it its final name.
//!
//! A tree for a destination that does not exist, or is an empty directory, is built next to it and renamed
//! when it is complete and on the disk. If two restores have the same destination, the rename of the second
//! finds the tree of the first and fails. Whether an empty directory can be replaced by a rename is tried,
//! not guessed: it is exchanged with another empty directory, and exchanged back. The tree is made in place
//! where that is refused (a mount point, also one of the same filesystem; a parent of another user; `.` and
//! `/`, which have no name), and in the working directory of this process. A marker in it names its snapshot
//! and says that it is not complete. The next run with the same snapshot continues, any other run is refused,
//! and the marker is removed when the whole tree is on the disk.
//!
//! Every user may write to the parent (`/tmp`). A tree next to the destination is therefore built in a room:
//! a directory that belongs to this user and that no other user can enter, whatever owner and mode the tree
//! gets. An existing room that does not satisfy this is refused. The room, the tree in it and the parent are
//! opened once, and all later calls use these handles. A process that exchanges one of the names meanwhile,
//! or creates it first, gains nothing and changes nothing.
//!
//! An error before the first entry was restored leaves nothing in the destination.

use super::at::{name_of, names, open_below, open_existing};
use super::error::RestoreError;
use super::filesystem::{Filesystem, Mount};
use super::request::{Existing, RestoreRequest};
use crate::source::stat::Stat;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Prefix of the name of a marker, in a tree that is made in place; the snapshot follows.
const MARKER: &str = ".understudy-restoring-";
/// Maximum length of a name.
///
/// Longer names are replaced by a hash, to leave room for the rest of the room's name.
const NAME_MAX_BYTES: usize = 200;
/// Names of the tree in its room, and of the directory that is exchanged on trial.
const TREE: &CStr = c"tree";
const TRIAL: &CStr = c"trial";

/// The place where the tree is built.
#[derive(Debug)]
pub(crate) struct Destination {
    /// The path of the directory that is written into, for messages.
    pub(crate) work: PathBuf,
    /// The handle of that directory. All access goes through it.
    handle: OwnedFd,
    pub(crate) fresh: bool,
    pub(crate) resumed: bool,
    way: Way,
}

/// How the tree gets its final name.
#[derive(Debug)]
enum Way {
    /// The tree is renamed out of its room at the end.
    Beside(Room),
    /// The tree is made in place. Its marker is removed at the end.
    InPlace(CString),
    /// The tree is written into a directory that holds something.
    Over,
}

/// A directory next to the destination that no other user can enter.
#[derive(Debug)]
struct Room {
    handle: OwnedFd,
    name: CString,
    /// The directory that contains the room, and the destination's name in it.
    parent: OwnedFd,
    destination_name: CString,
    destination: PathBuf,
    /// Directories above the destination that were created for it.
    parents: Vec<PathBuf>,
}

impl Destination {
    pub fn choose(request: &RestoreRequest, tag: &str) -> Result<Self, RestoreError> {
        let destination = &without_slashes(&request.destination);
        match std::fs::symlink_metadata(destination) {
            Err(e)
                if e.kind() == std::io::ErrorKind::NotFound
                    && !matches!(request.existing, Existing::Add { .. }) =>
            {
                let room = Room::beside(destination, tag)?;
                Self::in_room(room)
            }
            Err(e) => Err(io(&destination.display().to_string(), "stat it", &e)),
            Ok(found) if !found.is_dir() => Err(RestoreError::NotADirectory(destination.clone())),
            Ok(_) => Self::existing(destination, tag, request.existing),
        }
    }

    fn existing(destination: &Path, tag: &str, existing: Existing) -> Result<Self, RestoreError> {
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
        let place = |handle, way, fresh, resumed| {
            Ok(Self { work: destination.to_owned(), handle, fresh, resumed, way })
        };
        if resumed {
            return place(handle, Way::InPlace(marker), false, true);
        }
        let adds = matches!(existing, Existing::Add { .. });
        if foreign && (adds || existing == Existing::Refuse) {
            return Err(RestoreError::Unfinished(destination.to_owned()));
        }
        if adds {
            return place(handle, Way::Over, false, false);
        }
        if !found.is_empty() {
            return match existing {
                Existing::Replace | Existing::Mirror => place(handle, Way::Over, false, false),
                Existing::Refuse | Existing::Add { .. } => {
                    Err(RestoreError::NotEmpty(destination.to_owned()))
                }
            };
        }
        if !is_working_directory(&handle)
            && let Some(room) = Room::over(destination, tag)?
        {
            return Self::in_room(room);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&handle, &marker, flags, Mode::RUSR | Mode::WUSR)
            .map_err(RestoreError::write(&shown, "write into it"))?;
        place(handle, Way::InPlace(marker), true, false)
    }

    fn in_room(room: Room) -> Result<Self, RestoreError> {
        let work = room.path().join("tree");
        let wrong = |action| RestoreError::write(work.display(), action);
        let made = match rustix::fs::mkdirat(&room.handle, TREE, Mode::RWXU) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(wrong("create it")(errno)),
        };
        let opened =
            made.and_then(|fresh| Ok((fresh, open_existing(&room.handle, TREE).map_err(wrong("open it"))?)));
        match opened {
            Ok((fresh, handle)) => Ok(Self { work, handle, fresh, resumed: !fresh, way: Way::Beside(room) }),
            Err(error) => {
                room.abandon();
                Err(error)
            }
        }
    }

    /// Returns a new handle of the directory that is written into.
    pub fn open(&self) -> Result<OwnedFd, Errno> {
        rustix::io::fcntl_dupfd_cloexec(&self.handle, 0)
    }

    /// Returns whether an interrupted run of this restore made everything in the directory.
    ///
    /// Entries that the snapshot does not have were then made by that run as well.
    pub(crate) fn is_own(&self) -> bool {
        self.resumed && self.is_named_at_the_end()
    }

    /// Returns whether the directory is a new one that gets its final name when it is complete.
    pub(crate) fn is_named_at_the_end(&self) -> bool {
        matches!(self.way, Way::Beside(_))
    }

    /// Returns whether `name` is the name of this run's marker.
    pub(crate) fn is_marker(&self, name: &CStr) -> bool {
        matches!(&self.way, Way::InPlace(marker) if **marker == *name)
    }

    /// Gives the tree its final name, or removes its marker, once the tree is on the disk.
    ///
    /// A tree under its final name, or without its marker, is therefore complete, also after a power cut.
    pub(crate) fn publish(&self) -> Result<(), RestoreError> {
        let shown = self.work.display().to_string();
        rustix::fs::syncfs(&self.handle).map_err(RestoreError::write(&shown, "write it to the disk"))?;
        match &self.way {
            Way::Beside(room) => {
                let renamed = rustix::fs::renameat(&room.handle, TREE, &room.parent, &room.destination_name);
                renamed.map_err(|errno| {
                    let (destination, work) = (room.destination.clone(), self.work.clone());
                    RestoreError::Publish { destination, work, errno }
                })?;
                let _ = rustix::fs::unlinkat(&room.parent, &room.name, AtFlags::REMOVEDIR);
                Ok(())
            }
            Way::InPlace(marker) => {
                unmark(&self.handle, marker).map_err(RestoreError::write(&shown, "remove its marker"))
            }
            Way::Over => Ok(()),
        }
    }

    /// Cleans up after an error: removes what was created, if nothing was restored into it.
    pub(crate) fn abandon(&self) {
        match &self.way {
            Way::Beside(room) => room.abandon(),
            Way::InPlace(marker) => {
                if names(&self.handle).is_ok_and(|names| names.len() == 1 && names.contains(marker)) {
                    let _ = unmark(&self.handle, marker);
                }
            }
            Way::Over => {}
        }
    }
}

impl Room {
    /// Makes a room for a destination that does not exist.
    fn beside(destination: &Path, tag: &str) -> Result<Self, RestoreError> {
        let (above, name) =
            parts(destination).ok_or_else(|| RestoreError::NotADirectory(destination.to_owned()))?;
        let missing = above.ancestors().take_while(|at| !at.as_os_str().is_empty() && !at.exists());
        let parents: Vec<_> = missing.map(Path::to_owned).collect();
        let wrong = |action| RestoreError::write(destination.display(), action);
        let make = || {
            std::fs::create_dir_all(&above)
                .map_err(|e| io(&destination.display().to_string(), "create its parent", &e))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let parent = rustix::fs::openat(CWD, &above, flags, Mode::empty());
            let parent = parent.map_err(wrong("open its parent"))?;
            Self::make(parent, destination, name, tag)?.map_err(wrong("create a directory next to it"))
        };
        match make() {
            Ok(room) => Ok(Self { parents, ..room }),
            Err(error) => {
                remove_parents(&parents);
                Err(error)
            }
        }
    }

    /// Makes a room for an empty directory, if a trial shows that a rename can replace that directory.
    ///
    /// Returns `None` if it cannot.
    fn over(destination: &Path, tag: &str) -> Result<Option<Self>, RestoreError> {
        let Some((above, name)) = parts(destination) else { return Ok(None) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(parent) = rustix::fs::openat(CWD, &above, flags, Mode::empty()) else { return Ok(None) };
        let Ok(room) = Self::make(parent, destination, name, tag)? else { return Ok(None) };
        match rustix::fs::mkdirat(&room.handle, TRIAL, Mode::RWXU) {
            // A run that was killed at this point left it.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(_) => {
                room.abandon();
                return Ok(None);
            }
        }
        let (parent, name) = (&room.parent, &room.destination_name);
        let exchange = || rustix::fs::renameat_with(&room.handle, TRIAL, parent, name, RenameFlags::EXCHANGE);
        let can = exchange().is_ok();
        if can {
            exchange().map_err(RestoreError::write(destination.display(), "move it back after a test"))?;
        }
        rustix::fs::unlinkat(&room.handle, TRIAL, AtFlags::REMOVEDIR)
            .map_err(RestoreError::write(room.path().display(), "remove it after a test"))?;
        if !can {
            room.abandon();
        }
        Ok(can.then_some(room))
    }

    /// Creates the room, or takes the existing one if no other user can have put anything into it.
    fn make(
        parent: OwnedFd,
        destination: &Path,
        name: &OsStr,
        tag: &str,
    ) -> Result<Result<Self, Errno>, RestoreError> {
        let room_name = hidden(name, tag);
        match rustix::fs::mkdirat(&parent, &room_name, Mode::RWXU) {
            // An interrupted restore left it.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Ok(Err(errno)),
        }
        let (destination, destination_name) = (destination.to_owned(), name_of(name.as_bytes()));
        let path = destination.with_file_name(OsStr::from_bytes(room_name.to_bytes()));
        let handle = match open_below(&parent, &room_name) {
            Ok(handle) => handle,
            Err(Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => return Err(RestoreError::Taken(path)),
            Err(errno) => return Err(RestoreError::write(path.display(), "open it")(errno)),
        };
        let wrong = RestoreError::write(path.display(), "stat it");
        let looked = Stat::of(&handle).and_then(|stat| Ok((stat, Filesystem::of(&handle)?)));
        let (stat, filesystem) = looked.map_err(wrong)?;
        let is_ours = stat.uid == rustix::process::geteuid().as_raw() && stat.mode & 0o022 == 0;
        // Where the mount decides owners and modes, they do not show who made the directory.
        if !is_ours && filesystem.exact {
            return Err(RestoreError::Taken(path));
        }
        if stat.mode & 0o077 != 0 {
            let _ = rustix::fs::fchmod(&handle, Mode::RWXU);
        }
        let (name, parents) = (room_name, Vec::new());
        Ok(Ok(Self { handle, name, parent, destination_name, destination, parents }))
    }

    fn path(&self) -> PathBuf {
        self.destination.with_file_name(OsStr::from_bytes(self.name.to_bytes()))
    }

    /// Removes the room, if it holds nothing.
    fn abandon(&self) {
        let _ = rustix::fs::unlinkat(&self.handle, TREE, AtFlags::REMOVEDIR);
        let _ = rustix::fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR);
        remove_parents(&self.parents);
    }
}

/// Removes directories from the innermost on. A directory that holds something stays.
fn remove_parents(parents: &[PathBuf]) {
    for parent in parents {
        let _ = std::fs::remove_dir(parent);
    }
}

/// Name of the directory where `fsck` of ext4 puts what it finds.
///
/// It does not make a filesystem's root count as not empty.
pub(crate) const LOST_AND_FOUND: &CStr = c"lost+found";

/// Returns whether `name` is the name of a marker.
pub(crate) fn is_marker(name: &CStr) -> bool {
    name.to_bytes().starts_with(MARKER.as_bytes())
}

/// Returns whether a directory is the root of its mount.
pub(crate) fn is_mount_root(handle: impl AsFd) -> bool {
    let above = open_below(&handle, c"..");
    match (Mount::of(&handle), above.and_then(Mount::of)) {
        (Ok(own), Ok(above)) => own != above,
        _ => false,
    }
}

/// Removes a marker, and keeps the directory's time and mode.
fn unmark(handle: &OwnedFd, marker: &CStr) -> Result<(), Errno> {
    let stat = Stat::of(handle)?;
    match rustix::fs::unlinkat(handle, marker, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        // The directory's mode, as the snapshot has it, forbids even its owner to write.
        Err(Errno::ACCESS) => {
            rustix::fs::fchmod(handle, Mode::RWXU)?;
            let removed = rustix::fs::unlinkat(handle, marker, AtFlags::empty());
            rustix::fs::fchmod(handle, Mode::from_raw_mode(stat.mode.into()))?;
            removed?;
        }
        Err(errno) => return Err(errno),
    }
    // This user may write into the directory without owning it. Then the directory keeps the current time.
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

/// Returns whether `handle` is the working directory of this process.
///
/// This process, and perhaps the shell that started it, would not see another directory that takes its name.
fn is_working_directory(handle: &OwnedFd) -> bool {
    let identity = |stat: Stat| (stat.device, stat.fingerprint.inode);
    match (Stat::of(handle), Stat::at(CWD, c".")) {
        (Ok(one), Ok(other)) => identity(one) == identity(other),
        _ => false,
    }
}

/// Splits a path into its parent directory and its name. `.`, `..` and `/` have none.
fn parts(path: &Path) -> Option<(PathBuf, &OsStr)> {
    let name = path.file_name()?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Some((parent.to_owned(), name)),
        _ => Some((PathBuf::from("."), name)),
    }
}

/// Returns the hidden name of a room for a restore to `name`.
fn hidden(name: &OsStr, tag: &str) -> CString {
    let name = name.as_bytes();
    let mut hidden = b".".to_vec();
    if name.len() <= NAME_MAX_BYTES {
        hidden.extend_from_slice(name);
    } else {
        hidden.extend_from_slice(&blake3::hash(name).to_hex().as_bytes()[..32]);
    }
    hidden.extend_from_slice(format!(".understudy-room-{tag}").as_bytes());
    name_of(&hidden)
}

/// Removes trailing slashes: a symlink's name followed by a slash would lead through the symlink.
fn without_slashes(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|b| *b != b'/').map_or(bytes.len().min(1), |at| at + 1);
    PathBuf::from(OsStr::from_bytes(&bytes[..end]))
}

fn io(path: &str, action: &'static str, error: &std::io::Error) -> RestoreError {
    let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    RestoreError::Write { path: path.to_owned(), action, errno }
}
