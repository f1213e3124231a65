//! Which old files a file may be made of, when its path does not say so: those that were renamed, moved,
//! copied or rotated, and the one before in a series of dumps.
//!
//! Only a help: a wrong guess ships more, and never anything wrong.

use super::read_entry::Target;
use crate::delta::signature::SIGNED_MIN_BYTES;
use crate::model::entry::{Entry, File, Kind, Timestamp};
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::manifest::ManifestReader;
use crate::source::stat::Stat;
use std::collections::HashMap;

/// So many large files of the last manifest are known, which bounds memory to some 20 MiB.
const FILES_MAX: usize = 64 << 10;
/// Files of one size that are looked at.
const SAME_SIZE_MAX: usize = 4;
/// Files below this are compared with those of their size only: each comparison may cost a request, and
/// stores get images by the thousand.
const GUESSED_MIN_BYTES: u64 = 4 << 20;

/// Finds what a file may be made of; reads the last manifest for it once, when it is first needed.
pub struct Relatives<'s> {
    chunks: &'s ChunkReader,
    base: Option<&'s ManifestRoot>,
    known: Option<LargeFiles>,
}

impl<'s> Relatives<'s> {
    pub fn new(chunks: &'s ChunkReader, base: Option<&'s ManifestRoot>) -> Self {
        Self { chunks, base, known: None }
    }

    /// The old files that a file to be read may be made of, its own old self first. None for small files.
    pub fn made_of(&mut self, target: &Target, old: Option<&Entry>) -> Result<Vec<File>, RepositoryError> {
        if !target.stat.is_file() || target.stat.size_bytes < SIGNED_MIN_BYTES {
            return Ok(Vec::new());
        }
        let here = old.and_then(|old| Some((old.fingerprint.inode, old.file()?)));
        let mut files: Vec<File> = here.map(|(_, file)| file.clone()).into_iter().collect();
        let own = target.stat.fingerprint.inode;
        // The same file as before, or one that came from elsewhere: perhaps under its name's old owner.
        if here.is_none_or(|(inode, _)| inode != 0 && inode != own)
            && let Some(root) = self.base
        {
            let known = match &mut self.known {
                Some(known) => known,
                none => {
                    none.insert(LargeFiles::collect(ManifestReader::new(self.chunks.clone()).entries(root))?)
                }
            };
            files.extend(known.alike(&target.path, &target.stat));
        }
        Ok(files)
    }
}

/// The large files of the last manifest, by what a new file may share with them.
#[derive(Default)]
struct LargeFiles {
    files: Vec<(Timestamp, File)>,
    by_inode: HashMap<u64, usize>,
    by_size: HashMap<u64, Vec<usize>>,
    by_name: HashMap<Vec<u8>, usize>,
    by_series: HashMap<Vec<u8>, usize>,
}

impl LargeFiles {
    /// Collects them from a manifest's entries.
    fn collect(
        entries: impl Iterator<Item = Result<Entry, RepositoryError>>,
    ) -> Result<Self, RepositoryError> {
        let mut all = Self::default();
        for entry in entries {
            let entry = entry?;
            if entry.size_bytes() >= SIGNED_MIN_BYTES && all.files.len() < FILES_MAX {
                all.add(entry);
            }
        }
        Ok(all)
    }

    fn add(&mut self, entry: Entry) {
        let Kind::File(file) = entry.kind else { return };
        let number = self.files.len();
        if entry.fingerprint.inode != 0 {
            self.by_inode.insert(entry.fingerprint.inode, number);
        }
        self.by_size.entry(file.size_bytes).or_default().push(number);
        // Of a series, the last by name: the youngest, where names are dates.
        self.by_series.insert(series(entry.path.as_bytes()), number);
        self.by_name.insert(name(entry.path.as_bytes()).to_vec(), number);
        self.files.push((entry.mtime, file));
    }

    /// The likeliest first; each once.
    fn alike(&self, path: &TreePath, stat: &Stat) -> Vec<File> {
        let same_size = self.by_size.get(&stat.size_bytes).map_or(&[][..], Vec::as_slice);
        let same_inode = self.by_inode.get(&stat.fingerprint.inode);
        let mut numbers: Vec<usize> = Vec::new();
        if stat.size_bytes >= GUESSED_MIN_BYTES {
            // Renamed, and perhaps written to since.
            numbers.extend(same_inode);
        }
        numbers.extend(same_inode.filter(|n| same_size.contains(n)));
        // A copy that keeps times, or a move from another filesystem.
        numbers.extend(same_size.iter().filter(|n| self.files[**n].0 == stat.mtime).take(SAME_SIZE_MAX));
        if stat.size_bytes >= GUESSED_MIN_BYTES {
            numbers.extend(self.by_name.get(name(path.as_bytes())));
            numbers.extend(self.by_series.get(&series(path.as_bytes())));
        }
        numbers.extend(same_size.iter().take(SAME_SIZE_MAX));
        let mut files: Vec<File> = Vec::new();
        for number in numbers {
            let file = &self.files[number].1;
            if !files.iter().any(|known| known.hash == file.hash) {
                files.push(file.clone());
            }
        }
        files
    }
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// The path with every number taken out of its last component: what the files of a series share.
fn series(path: &[u8]) -> Vec<u8> {
    let (directory, name) = path.split_at(path.len() - name(path).len());
    let mut shape = directory.to_vec();
    for byte in name {
        match byte {
            b'0'..=b'9' if shape.last() == Some(&b'#') => {}
            b'0'..=b'9' => shape.push(b'#'),
            other => shape.push(*other),
        }
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_series_are_told_by_their_numbers() {
        assert_eq!(series(b"var/2026/dump-2026-11-23.sql"), b"var/2026/dump-#-#-#.sql");
        assert_eq!(series(b"var/dump-2026-11-23.sql"), series(b"var/dump-2025-01-02.sql"));
        assert_ne!(series(b"a/log.1"), series(b"b/log.1"));
        assert_ne!(series(b"log"), series(b"log.1"));
        assert_eq!(name(b"a/b/c"), b"c");
        assert_eq!(name(b""), b"");
    }
}
