//! Pins: notes in a depot that a snapshot is mounted, so that it is kept.
//!
//! A mount writes its pin before it looks for the image; `umount` removes the pin after the mount. The pin of
//! a read-only mount counts until the machine is started again; that of a writable mount until it is removed,
//! since its changes need their snapshot.
//!
//! Every pin is on the disk before it has its name. Older versions named the pins of read-only mounts first,
//! so that a power cut left names without their bytes. A pin that is empty or ends early is one of those; it
//! pins nothing, and is removed. Any other pin that cannot be read may be of a writable mount, so it is an
//! error for a run that would drop snapshots.

use super::depot::{Depot, boot_id, names};
use super::error::FollowError;
use crate::model::hold::FilesystemId;
use crate::model::id::Sequence;
use crate::source::filesystem;
use crate::source::stat::Stat;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A pinned snapshot, and the path that needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub snapshot: Sequence,
    /// The mount point, or the directory for changes.
    #[serde(with = "written")]
    pub path: PathBuf,
    pub writable: bool,
    /// The id of the boot during which the pin was made.
    pub boot: String,
    /// The parent of the directory for changes. It distinguishes a deleted directory from one whose volume is
    /// not mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<FilesystemId>,
}

impl Pin {
    pub fn new(snapshot: Sequence, path: &Path, writable: bool) -> Self {
        let holder = if writable { holder_of(path) } else { None };
        Self { snapshot, path: path.to_owned(), writable, boot: boot_id(), holder }
    }

    /// Returns the pin's file. Each path and snapshot has its own, since a path that moves on has two pins
    /// for a moment.
    fn file(&self, depot: &Depot) -> PathBuf {
        let mut name = blake3::Hasher::new();
        name.update(&self.snapshot.0.to_le_bytes()).update(self.path.as_os_str().as_encoded_bytes());
        depot.pins().join(&name.finalize().to_hex()[..32])
    }

    /// Writes the pin. Returns false when it existed already.
    pub fn write(&self, depot: &Depot) -> Result<bool, FollowError> {
        let file = self.file(depot);
        let is_new = !file.exists();
        let text =
            serde_json::to_vec(self).map_err(|error| FollowError::io(&file, "write it")(error.into()))?;
        depot.write_new(&file, &text, true)?;
        Ok(is_new)
    }

    pub(crate) fn remove(&self, depot: &Depot) -> Result<(), FollowError> {
        remove(&self.file(depot))
    }

    /// Returns whether the directory for changes was deleted; false if its volume may just not be mounted.
    pub(crate) fn is_deleted(&self) -> bool {
        self.writable && !self.path.exists() && self.holder.is_some() && holder_of(&self.path) == self.holder
    }
}

/// Identifies the directory that `path` is in; `None` when it does not exist.
fn holder_of(path: &Path) -> Option<FilesystemId> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(CWD, path.parent()?, flags, Mode::empty()).ok()?;
    Some(filesystem::identify(&handle, &Stat::of(&handle).ok()?))
}

/// Removes the pin of a snapshot's read-only mount at a path.
pub(crate) fn forget(depot: &Depot, path: &Path, snapshot: Sequence) -> Result<(), FollowError> {
    let file = Pin::new(snapshot, path, false).file(depot);
    match read(&file)? {
        // This is the pin of a directory for changes, which still needs its snapshot.
        Found::Pin(pin) if pin.writable => Ok(()),
        _ => remove(&file),
    }
}

/// Removes the pins of a path's read-only mounts, except for that of `snapshot`. Unreadable pins are skipped.
pub(crate) fn keep_only(depot: &Depot, path: &Path, snapshot: Sequence) -> Result<(), FollowError> {
    for file in files(depot)? {
        if let Found::Pin(pin) = read(&file)?
            && !pin.writable
            && pin.path == path
            && pin.snapshot != snapshot
        {
            remove(&file)?;
        }
    }
    Ok(())
}

/// Returns all pins of a depot. An unreadable pin is an error, since it is unknown what it pins.
pub fn pins(depot: &Depot) -> Result<Vec<Pin>, FollowError> {
    let mut pins = Vec::new();
    for file in files(depot)? {
        match read(&file)? {
            Found::Pin(pin) => pins.push(*pin),
            Found::None | Found::Torn => {}
            Found::Unreadable(reason) => return Err(FollowError::Pin { path: file, reason }),
        }
    }
    Ok(pins)
}

/// Removes the pins without a reason: those of writable directories that were deleted, and those that a power
/// cut left without their bytes.
pub(crate) fn tidy(depot: &Depot) -> Result<(), FollowError> {
    for file in files(depot)? {
        match read(&file)? {
            Found::Torn => remove(&file)?,
            Found::Pin(pin) if pin.is_deleted() => remove(&file)?,
            _ => {}
        }
    }
    Ok(())
}

/// The content of a pin's file.
enum Found {
    None,
    Pin(Box<Pin>),
    Torn,
    Unreadable(String),
}

fn files(depot: &Depot) -> Result<Vec<PathBuf>, FollowError> {
    let names = names(&depot.pins())?.into_iter().filter(|name| !name.starts_with('.'));
    Ok(names.map(|name| depot.pins().join(name)).collect())
}

fn read(file: &Path) -> Result<Found, FollowError> {
    // Any other kind of file there is no pin, and must not block the reader.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut handle = match rustix::fs::openat(CWD, file, flags, Mode::empty()) {
        Ok(handle) => std::fs::File::from(handle),
        Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(Found::None),
        Err(errno) => return Err(FollowError::path(file, "read it")(errno)),
    };
    let wrong = FollowError::io(file, "read it");
    let mut bytes = Vec::new();
    let read = handle.metadata().and_then(|meta| match meta.is_file() {
        true => handle.read_to_end(&mut bytes).map(|_| true),
        false => Ok(false),
    });
    Ok(if read.map_err(wrong)? { parse(&bytes) } else { Found::None })
}

/// Removes the pins of all read-only mounts at a path that has no mount any more, for example since it was
/// unmounted by another program. Returns their snapshots.
pub(crate) fn forget_all(depot: &Depot, path: &Path) -> Result<Vec<Sequence>, FollowError> {
    let mut forgotten = Vec::new();
    for file in files(depot)? {
        if let Found::Pin(pin) = read(&file)?
            && !pin.writable
            && pin.path == path
        {
            remove(&file)?;
            forgotten.push(pin.snapshot);
        }
    }
    Ok(forgotten)
}

fn parse(bytes: &[u8]) -> Found {
    let error = match serde_json::from_slice::<Pin>(bytes) {
        Ok(pin) => return Found::Pin(Box::new(pin)),
        Err(error) => error,
    };
    // Where a filesystem has recorded the file's length, but not its bytes, the file reads as zeros.
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let begun = &bytes[..end];
    let ends_early = serde_json::from_slice::<serde_json::Value>(begun).is_err_and(|error| error.is_eof());
    let may_be_writable = begun.windows(15).any(|part| part == b"\"writable\":true");
    if ends_early && !may_be_writable { Found::Torn } else { Found::Unreadable(error.to_string()) }
}

fn remove(file: &Path) -> Result<(), FollowError> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FollowError::io(file, "remove it")(error))
        }
        _ => Ok(()),
    }
}

/// Returns the snapshots that must stay.
pub(crate) fn pinned(depot: &Depot) -> Result<BTreeSet<Sequence>, FollowError> {
    let boot = boot_id();
    Ok(pins(depot)?
        .into_iter()
        .filter(|pin| pin.writable || pin.boot == boot)
        .map(|pin| pin.snapshot)
        .collect())
}

/// A path in JSON: text, or its bytes where they are not valid text.
mod written {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match path.to_str() {
            Some(text) => Written::Text(text.to_owned()),
            None => Written::Bytes(path.as_os_str().as_bytes().to_vec()),
        };
        written.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(match Written::deserialize(deserializer)? {
            Written::Text(text) => PathBuf::from(text),
            Written::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn pin(path: &[u8], writable: bool) -> Pin {
        let path = Path::new(OsStr::from_bytes(path)).to_owned();
        Pin { snapshot: Sequence(7), path, writable, boot: "b".into(), holder: None }
    }

    #[test]
    fn a_pin_comes_back_whatever_bytes_its_path_has() {
        for path in [&b"/mnt/a b"[..], b"/mnt/\n\\\"", b"/mnt/m\xff", "/mnt/\u{fc}".as_bytes()] {
            let pin = pin(path, false);
            let text = serde_json::to_vec(&pin).unwrap();
            assert!(matches!(parse(&text), Found::Pin(found) if *found == pin), "{path:?}");
        }
    }

    #[test]
    fn only_what_a_power_cut_can_have_left_of_a_read_only_pin_is_taken_for_none() {
        let text = serde_json::to_vec(&pin(b"/mnt", false)).unwrap();
        for end in 0..text.len() {
            assert!(matches!(parse(&text[..end]), Found::Torn), "{end}");
            let mut zeros = text[..end].to_vec();
            zeros.resize(text.len(), 0);
            assert!(matches!(parse(&zeros), Found::Torn), "{end} and zeros");
        }
        let writable = serde_json::to_vec(&pin(b"/srv/changes", true)).unwrap();
        let known = writable.windows(4).position(|part| part == b"true").unwrap() + 4;
        for end in known..writable.len() {
            assert!(matches!(parse(&writable[..end]), Found::Unreadable(_)), "{end}");
        }
        for other in [&b"garbage"[..], b"{}", b"[1]", b"{\"snapshot\":1,\x01"] {
            assert!(matches!(parse(other), Found::Unreadable(_)), "{other:?}");
        }
    }
}
