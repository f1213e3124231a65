//! Removes old leftovers of interrupted uploads and probes.
//!
//! Nothing ever names them; their age is by the store's clock.
//!
//! A directory repository creates an object under a temporary name next to its own, `NAME#NUMBER`, which no
//! listing shows; a killed process leaves it. A pruning looks for them on the disk itself, only in the
//! folders of this store, and follows no symlink below the repository's root. A file that is being written is
//! not old. If a clock is wrong and it is removed all the same, that upload fails and is repeated.

use crate::repository::object_key;
use crate::repository::objects::modified;
use crate::repository::store::Store;
use crate::support::clock::{HOUR, UnixNanos};
use object_store::path::Path as Key;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CStr;
use std::time::Duration;

/// Minimum age of a probe that is removed, whatever age is asked for. A younger one may be in use.
const PROBE_AGE: Duration = HOUR;
/// Depth of folders below a store.
const DEPTH: u32 = 3;

/// Removes leftovers that are as old as `old`; returns their number.
///
/// A file that cannot be removed stays for the next pruning.
pub(crate) fn remove(store: &Store, now: UnixNanos, old: Duration) -> u64 {
    let age = |modified: UnixNanos| now.since(modified);
    let is_old = |modified: UnixNanos| age(modified) >= old;
    let mut dropped = 0;
    store.wait(async {
        for probe in store.objects().list(Some(&object_key::probes()), None).await.unwrap_or_default() {
            let is_over = age(modified(&probe)) >= old.max(PROBE_AGE);
            if is_over && store.objects().delete(&probe.location).await.is_ok() {
                dropped += 1;
            }
        }
    });
    if let Some(directory) = store.repository().directory() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, directory, flags, Mode::empty());
        for folder in root.iter().flat_map(|root| {
            [below(root, &object_key::probes()), below(root, &object_key::all(store.name()))]
        }) {
            dropped += folder.map_or(0, |folder| drop_staged(folder, &is_old, DEPTH));
        }
    }
    dropped
}

fn below(root: &OwnedFd, key: &Key) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(root, key.as_ref(), flags, Mode::empty())
}

fn drop_staged(folder: impl AsFd, is_old: &dyn Fn(UnixNanos) -> bool, depth: u32) -> u64 {
    let Ok(listed) = Dir::read_from(&folder) else { return 0 };
    let mut dropped = 0;
    // Read the directory to its end before removing anything.
    let entries: Vec<_> =
        listed.flatten().map(|entry| (entry.file_name().to_owned(), entry.file_type())).collect();
    for (name, kind) in entries {
        if name.as_c_str() == c"." || name.as_c_str() == c".." {
            continue;
        }
        if matches!(kind, FileType::Directory | FileType::Unknown) && depth > 0 {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if let Ok(inner) = rustix::fs::openat(&folder, &name, flags, Mode::empty()) {
                dropped += drop_staged(inner, is_old, depth - 1);
                continue;
            }
        }
        if is_staged(&name) && is_old_file(&folder, &name, is_old) {
            dropped += u64::from(rustix::fs::unlinkat(&folder, &name, AtFlags::empty()).is_ok());
        }
    }
    dropped
}

/// Returns whether `name` is the temporary name of an upload: a key's name, `#`, and a number.
fn is_staged(name: &CStr) -> bool {
    let name = name.to_bytes();
    let Some(at) = name.iter().position(|byte| *byte == b'#') else { return false };
    let number = &name[at + 1..];
    at > 0 && !number.is_empty() && number.iter().all(u8::is_ascii_digit)
}

fn is_old_file(folder: impl AsFd, name: &CStr, is_old: &dyn Fn(UnixNanos) -> bool) -> bool {
    let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    let modified = UnixNanos(u64::try_from(stat.st_mtime).unwrap_or(0).saturating_mul(1_000_000_000));
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && is_old(modified)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_key_with_a_number_behind_it_is_an_upload() {
        for name in [c"00000000000000000001#1", c"ab12#42", c"web-1#1"] {
            assert!(is_staged(name), "{name:?}");
        }
        // In a host's name with such an end, the key has the sign encoded.
        for name in [c"ab12", c"ab12#", c"#1", c"ab12#1a", c"ab12#1#", c"a#b#1", c"pod%231", c"ab12-1"] {
            assert!(!is_staged(name), "{name:?}");
        }
    }
}
