//! The file that says what a server's last order was.
//!
//! It is changed under a lock, by the supervisor and by a fence that did not wait for it, and is on the disk
//! before anything follows from it. So whoever is killed leaves the old note or the new one. Where root fences another
//! user's server, note and lock are that user's: its supervisor must read and lock them.

use super::error::DatabaseError;
use super::minimal::Place;
use super::note;
use super::role::RoleNote;
use crate::support::durable;
use crate::support::env::Env;
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const MODE: u32 = 0o600;

/// Returns the name of this boot of the machine; every boot has another.
pub fn this_boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Reads the note; that of a replica where there is none.
///
/// # Errors
/// It cannot be read: then nobody knows what was ordered.
pub fn read(place: &Place) -> Result<RoleNote, DatabaseError> {
    Ok(note::read(place.role())?.unwrap_or_default())
}

/// Changes the note, and returns it once it is on the disk.
///
/// # Errors
/// It could not be read or written: the old one is in force.
pub fn change(
    place: &Place,
    env: &Env,
    change: impl FnOnce(&mut RoleNote),
) -> Result<RoleNote, DatabaseError> {
    let file = |path: &Path, source| DatabaseError::File { path: path.to_owned(), source };
    let lock_path = place.dir.join("role.lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(&lock_path, flags, Mode::from_raw_mode(MODE))
        .map_err(|errno| file(&lock_path, errno.into()))?;
    let owner = owner(&place.dir).map_err(|error| file(&place.dir, error))?;
    hand_over(&lock, owner).map_err(|errno| file(&lock_path, errno.into()))?;
    // It is held for the length of a write.
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .map_err(|errno| file(&lock_path, errno.into()))?;
    let before = read(place)?;
    let mut note = before.clone();
    change(&mut note);
    if note != before {
        let text = serde_json::to_vec_pretty(&note).unwrap_or_default();
        durable::replace_for(env, &place.role(), MODE, &text, owner)
            .map_err(|error| file(&place.role(), error))?;
    }
    Ok(note)
}

/// Returns whose a directory is, where this is root and that is another user's.
fn owner(dir: &Path) -> std::io::Result<Option<(Uid, Gid)>> {
    let meta = std::fs::metadata(dir)?;
    let is_another_s = geteuid().is_root() && meta.uid() != 0;
    Ok(is_another_s.then(|| (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()))))
}

/// Gives a lock that root has just made to the user whose place it is in.
fn hand_over(lock: &OwnedFd, owner: Option<(Uid, Gid)>) -> Result<(), Errno> {
    let Some((user, group)) = owner else { return Ok(()) };
    let stat = rustix::fs::fstat(lock)?;
    // Nothing but an empty file with one name: that user could have linked another one of root's there.
    match (stat.st_uid, stat.st_size, stat.st_nlink) {
        (0, 0, 1) => rustix::fs::fchown(lock, Some(user), Some(group)),
        _ => Ok(()),
    }
}
