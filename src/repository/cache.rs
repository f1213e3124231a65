//! The local cache of one store: objects that were read or written once, so that they are not fetched again.
//!
//! Nothing in it is trusted except the note of what this host saw of the store (see `memory`): index segments
//! and chunks have the hash that names them, and the chain that ends in the log's head verifies records. It
//! may therefore be deleted, truncated, shared by processes, or come from another repository of the same
//! name; at worst something is fetched again. Only the note is synced to the disk. A pack's file has holes
//! where its chunks were never read: their bytes are no chunk, and are fetched.

use super::parts::Cache;
use crate::model::id::{IndexId, PackId, Sequence};
use crate::model::record::StoreState;
use crate::support::listing::entries;
use crate::support::{files, private};
use bytes::Bytes;
use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use walkdir::DirEntry;

/// Number of records between two inspections of the cached packs.
const TRIM_RECORDS: u64 = 64;
/// Age at which a temporary file counts as the leftover of a killed process.
const BROKEN_OFF: Duration = Duration::from_secs(86_400);
/// Maximum size of all cached packs. The oldest are dropped above it.
const PACKS_MAX_BYTES: u64 = 1 << 30;

impl Cache<'_> {
    pub(crate) fn file(&self, name: &str) -> Option<PathBuf> {
        self.store.cache_dir().map(|dir| dir.join(self.store.name().as_str()).join(name))
    }

    fn pack(&self, pack: PackId) -> Option<PathBuf> {
        self.file(&format!("packs/{pack}"))
    }

    /// Returns the cached bytes of a pack from `start` on, as far as there are any. They are not checked.
    pub(crate) fn range(&self, pack: PackId, start: u32, length: usize) -> Option<Bytes> {
        let file = File::open(self.pack(pack)?).ok()?;
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match file.read_at(&mut bytes[filled..], u64::from(start) + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(_) => return None,
            }
        }
        Some(bytes.into())
    }

    /// Stores frames of one pack. Errors of writing the cache are ignored.
    pub(crate) fn put_frames(&self, pack: PackId, frames: impl Iterator<Item = (u32, impl AsRef<[u8]>)>) {
        let Some(path) = self.pack(pack) else { return };
        let mut frames = frames.peekable();
        if frames.peek().is_none() {
            return;
        }
        if let Ok(file) = open_to_write(&path) {
            for (offset, frame) in frames {
                if file.write_all_at(frame.as_ref(), u64::from(offset)).is_err() {
                    return;
                }
            }
        }
    }

    /// Stores the frames at `ranges` of a pack that was just made. They are in ascending order.
    pub(crate) fn put_pack(&self, pack: PackId, bytes: &[u8], ranges: impl Iterator<Item = Range<u32>>) {
        // Adjacent frames are written together.
        let mut stretches: Vec<Range<u32>> = Vec::new();
        for range in ranges {
            match stretches.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => stretches.push(range),
            }
        }
        let frames = stretches.iter().map(|at| (at.start, &bytes[at.start as usize..at.end as usize]));
        self.put_frames(pack, frames);
    }

    /// Returns a cached record. It belongs to another log if the store was created again.
    pub(crate) fn record(&self, sequence: Sequence) -> Option<Bytes> {
        std::fs::read(self.file(&format!("log/{sequence}"))?).ok().map(Bytes::from)
    }

    pub(crate) fn put_record(&self, sequence: Sequence, bytes: &[u8]) {
        if let Some(path) = self.file(&format!("log/{sequence}"))
            && std::fs::metadata(&path).map_or(true, |meta| meta.len() != bytes.len() as u64)
        {
            let _ = files::replace(&path, bytes);
        }
    }

    /// Drops the cached records before `sequence`, where readers begin.
    pub(crate) fn drop_records_before(&self, sequence: Sequence) {
        let Some(dir) = self.file("log") else { return };
        for file in entries(&dir).flatten() {
            let number = file.file_name().to_str().and_then(|name| name.parse().ok());
            if number.is_some_and(|number: u64| number < sequence.0) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }

    /// Drops segments that are not live any more, and sometimes packs.
    ///
    /// Every few records it also drops packs that are not live, and the oldest of the others until the rest
    /// is small enough: inspecting all packs takes longer than a run that has nothing to do. `live` returns
    /// the live packs.
    pub(crate) fn trim(&self, state: &StoreState, live: impl FnOnce() -> HashSet<PackId>) {
        let now = self.store.env().wall().system_time();
        self.drop_segments(state, now);
        let head = state.head.map_or(0, |(sequence, _)| sequence.0);
        if let Some(dir) = self.file("log").filter(|_| head.is_multiple_of(TRIM_RECORDS)) {
            entries(&dir).flatten().filter(|file| is_broken_off(file, now)).for_each(|file| drop_file(&file));
        }
        if let Some(dir) = self.file("packs").filter(|_| head.is_multiple_of(TRIM_RECORDS)) {
            drop_other_packs(&dir, &live());
            trim(&dir, PACKS_MAX_BYTES);
        }
    }

    fn drop_segments(&self, state: &StoreState, now: SystemTime) {
        let Some(dir) = self.store.cache_dir().map(|dir| dir.join(self.store.name().as_str())) else {
            return;
        };
        for file in entries(&dir).flatten() {
            let id = file.file_name().to_str().and_then(|name| IndexId::parse(name).ok());
            // A segment that a concurrent run has just written is fetched once more.
            let is_dead = id.is_some_and(|id| !state.index.iter().any(|live| live.id == id));
            if is_dead || is_broken_off(&file, now) {
                drop_file(&file);
            }
        }
    }
}

fn drop_other_packs(dir: &Path, live: &HashSet<PackId>) {
    for file in entries(dir).flatten() {
        let id = file.file_name().to_str().and_then(|name| PackId::parse(name).ok());
        if id.is_some_and(|id| !live.contains(&id)) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

fn drop_file(file: &DirEntry) {
    let _ = std::fs::remove_file(file.path());
}

/// Returns whether a file is a temporary one and a day old, so that its process was killed.
///
/// A file dated a day in the future counts as well.
fn is_broken_off(file: &DirEntry, now: SystemTime) -> bool {
    if !file.file_name().to_str().is_some_and(files::is_temporary) {
        return false;
    }
    let modified = file.metadata().ok().and_then(|meta| meta.modified().ok());
    modified.is_some_and(|modified| {
        let age = now.duration_since(modified).unwrap_or_else(|error| error.duration());
        age >= BROKEN_OFF
    })
}

fn open_to_write(path: &Path) -> std::io::Result<File> {
    if let Some(dir) = path.parent() {
        private::make_dirs(dir)?;
    }
    File::options().write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn trim(dir: &Path, most_bytes: u64) {
    // Count the space on the disk, not the length: the files have holes.
    let mut files: Vec<_> = entries(dir)
        .flatten()
        .filter_map(|file| Some((file.metadata().ok()?, file.into_path())))
        .map(|(meta, path)| (meta.mtime(), meta.mtime_nsec(), meta.blocks() * 512, path))
        .collect();
    let mut sum: u64 = files.iter().map(|f| f.2).sum();
    if sum <= most_bytes {
        return;
    }
    files.sort();
    for (_, _, bytes, path) in files {
        if sum <= most_bytes / 4 * 3 {
            return;
        }
        if std::fs::remove_file(path).is_ok() {
            sum -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_killed_process_left_a_day_ago_is_broken_off() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let day = BROKEN_OFF + Duration::from_secs(1);
        let broken = |name: &str, at: SystemTime| {
            let path = dir.path().join(name);
            File::create(&path).unwrap().set_modified(at).unwrap();
            let file = entries(dir.path()).next().unwrap().unwrap();
            let is = is_broken_off(&file, now);
            std::fs::remove_file(path).unwrap();
            is
        };
        for name in ["head.32594-72", "00000000000000000001.1-0", "ab12.7-7"] {
            assert!(broken(name, now - day) && broken(name, now + day), "{name}");
            assert!(!broken(name, now), "{name}: somebody may be writing it");
        }
        for name in ["head", "checkpoint", "head.1", "head.a-1", "head.1-", "1-2"] {
            assert!(!broken(name, now - day), "{name}");
        }
    }

    #[test]
    fn the_oldest_go_first_and_holes_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..6u64 {
            let file = File::create(dir.path().join(number.to_string())).unwrap();
            file.write_all_at(&[1; 8192], 1 << 30).unwrap();
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(100 + number);
            file.set_modified(at).unwrap();
        }
        trim(dir.path(), 6 << 20);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 6);
        trim(dir.path(), 40_000);
        let left: Vec<_> = (0..6).filter(|n| dir.path().join(n.to_string()).exists()).collect();
        assert!(!left.is_empty() && left.len() < 6 && left.contains(&5) && !left.contains(&0), "{left:?}");
    }
}
