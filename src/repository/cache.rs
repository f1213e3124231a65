//! The local cache of one store: what was read or written once, so that it is not asked for again.
//!
//! Nothing in it is trusted: an index segment and a chunk have the hash that names them, a record is held
//! by the chain that ends in the log's head. So it may be deleted, cut short, shared by processes or left by
//! another repository of the same name; the worst is that something is fetched. Nothing is synced. A pack's
//! file has holes where its chunks were never asked for: bytes that are no chunk, and are fetched.

use super::index::Index;
use super::store::Store;
use crate::model::id::{ChunkId, IndexId, PackId, Sequence};
use crate::model::record::StoreState;
use bytes::Bytes;
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Packs are looked at once in so many records.
const TRIM_RECORDS: u64 = 64;
/// Packs' parts above this are dropped, the oldest first.
const PACKS_MAX_BYTES: u64 = 1 << 30;

impl Store {
    pub(super) fn cache_file(&self, name: &str) -> Option<PathBuf> {
        self.repository.cache.as_ref().map(|dir| dir.join(self.name.as_str()).join(name))
    }

    fn cached_pack(&self, pack: PackId) -> Option<PathBuf> {
        self.cache_file(&format!("packs/{pack}"))
    }

    /// The bytes of a pack from `start` on, as far as the cache has some there; not checked.
    pub(super) fn cached_range(&self, pack: PackId, start: u32, length: usize) -> Option<Bytes> {
        let file = File::open(self.cached_pack(pack)?).ok()?;
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

    /// Keeps frames of one pack. A cache that cannot be written is none.
    pub(super) fn cache_frames(&self, pack: PackId, frames: impl Iterator<Item = (u32, impl AsRef<[u8]>)>) {
        let Some(path) = self.cached_pack(pack) else { return };
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

    /// Keeps some of the frames of a pack that was just made.
    pub(super) fn cache_pack(
        &self,
        pack: PackId,
        bytes: &[u8],
        chunks: &[(ChunkId, u32, u32)],
        kept: &[bool],
    ) {
        // Frames that adjoin are written together.
        let mut stretches: Vec<(u32, u32)> = Vec::new();
        for ((_, offset, length), _) in chunks.iter().zip(kept).filter(|(_, kept)| **kept) {
            match stretches.last_mut() {
                Some((_, end)) if *end == *offset => *end += length,
                _ => stretches.push((*offset, offset + length)),
            }
        }
        let frames = stretches.iter().map(|(from, to)| (*from, &bytes[*from as usize..*to as usize]));
        self.cache_frames(pack, frames);
    }

    /// A record as it was read or written once; it is another's if the log began anew.
    pub(super) fn cached_record(&self, sequence: Sequence) -> Option<Bytes> {
        std::fs::read(self.cache_file(&format!("log/{sequence}"))?).ok().map(Bytes::from)
    }

    pub(super) fn cache_record(&self, sequence: Sequence, bytes: &[u8]) {
        if let Some(path) = self.cache_file(&format!("log/{sequence}"))
            && std::fs::metadata(&path).map_or(true, |meta| meta.len() != bytes.len() as u64)
        {
            let _ = write_beside(&path, bytes);
        }
    }

    /// Drops the cached records before `sequence`: a reader begins there.
    pub(super) fn drop_cached_records(&self, sequence: Sequence) {
        let Some(dir) = self.cache_file("log") else { return };
        let Ok(listed) = std::fs::read_dir(dir) else { return };
        for file in listed.flatten() {
            let number = file.file_name().to_str().and_then(|name| name.parse().ok());
            if number.is_some_and(|number: u64| number < sequence.0) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }

    /// Drops segments that are not live any more. Now and then also packs that are not, and of the others those that were written
    /// longest ago, until the rest is small enough: looking at all of them takes longer than a run that has nothing to do.
    pub fn trim_cache(&self, state: &StoreState, index: &Index) {
        self.drop_cached_segments(state);
        let head = state.head.map_or(0, |(sequence, _)| sequence.0);
        if let Some(dir) = self.cache_file("packs").filter(|_| head.is_multiple_of(TRIM_RECORDS)) {
            drop_other_packs(&dir, index);
            trim(&dir, PACKS_MAX_BYTES);
        }
    }
}

fn drop_other_packs(dir: &Path, index: &Index) {
    let segments = index.segments();
    let live: HashSet<PackId> = segments
        .iter()
        .flat_map(|s| s.header.packs.iter().map(|p| p.id))
        .filter(|p| !index.is_doomed(p))
        .collect();
    let Ok(listed) = std::fs::read_dir(dir) else { return };
    for file in listed.flatten() {
        let id = file.file_name().to_str().and_then(|name| PackId::parse(name).ok());
        if id.is_some_and(|id| !live.contains(&id)) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

impl Store {
    fn drop_cached_segments(&self, state: &StoreState) {
        let Some(dir) = self.repository.cache.as_ref().map(|dir| dir.join(self.name.as_str())) else {
            return;
        };
        let Ok(listed) = std::fs::read_dir(dir) else { return };
        for file in listed.flatten() {
            let id = file.file_name().to_str().and_then(|name| IndexId::parse(name).ok());
            if id.is_some_and(|id| !state.index.iter().any(|live| live.id == id)) {
                // One that a run beside us just wrote is fetched once more.
                let _ = std::fs::remove_file(file.path());
            }
        }
    }
}

fn open_to_write(path: &Path) -> std::io::Result<File> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    File::options().write(true).create(true).truncate(false).open(path)
}

/// Writes a file under another name and renames it, so that no reader sees a part of it.
pub(super) fn write_beside(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let beside = path.with_extension(format!("{}-{}", std::process::id(), super::index::unique()));
    std::fs::write(&beside, bytes)?;
    std::fs::rename(&beside, path)
}

fn trim(dir: &Path, most_bytes: u64) {
    let Ok(listed) = std::fs::read_dir(dir) else { return };
    // What a file takes on the disk, not its length: it has holes.
    let mut files: Vec<_> = listed
        .flatten()
        .filter_map(|file| Some((file.metadata().ok()?, file.path())))
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
