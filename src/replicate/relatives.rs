//! Finds candidate base files for a file whose path does not give one.
//!
//! Such a file was renamed, moved, copied or rotated, or is the next one in a series of dumps.
//!
//! It only helps to ship less: a wrong guess ships more, and never wrong content.

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

/// Maximum number of large files of the last manifest that are indexed, which bounds memory to about 20 MiB.
const FILES_MAX: usize = 64 << 10;
/// Maximum number of files of one size that are compared.
const SAME_SIZE_MAX: usize = 4;
/// Minimum size of a file that is compared with files of other sizes.
///
/// Each comparison may cost a request, and stores receive images by the thousand.
const GUESSED_MIN_BYTES: u64 = 4 << 20;

/// Finds candidate base files. It reads the last manifest once, when it is first needed.
pub(crate) struct SimilarFiles<'s> {
    chunks: &'s ChunkReader,
    base: Option<&'s ManifestRoot>,
    known: Option<LargeFiles>,
}

impl<'s> SimilarFiles<'s> {
    pub fn new(chunks: &'s ChunkReader, base: Option<&'s ManifestRoot>) -> Self {
        Self { chunks, base, known: None }
    }

    /// Returns the old files that a file may be made of, its own last version first. Small files have none.
    pub(crate) fn made_of(
        &mut self,
        target: &Target,
        old: Option<&Entry>,
    ) -> Result<Vec<File>, RepositoryError> {
        if !target.stat.is_file() || target.stat.size_bytes < SIGNED_MIN_BYTES {
            return Ok(Vec::new());
        }
        let here = old.and_then(|old| Some((old.fingerprint.inode, old.file()?)));
        let mut files: Vec<File> = here.map(|(_, file)| file.clone()).into_iter().collect();
        let own = target.stat.fingerprint.inode;
        // Unless it is the same file as before, it may have come from another path, perhaps under the name of
        // another file.
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

/// The large files of the last manifest, by the properties that a new file may share with them.
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
        // In a series, the last name wins: the youngest file, if names are dates.
        self.by_series.insert(series(entry.path.as_bytes()), number);
        self.by_name.insert(name(entry.path.as_bytes()).to_vec(), number);
        self.files.push((entry.mtime, file));
    }

    /// Returns the similar files, the likeliest first, each once.
    fn alike(&self, path: &TreePath, stat: &Stat) -> Vec<File> {
        let same_size = self.by_size.get(&stat.size_bytes).map_or(&[][..], Vec::as_slice);
        let same_inode = self.by_inode.get(&stat.fingerprint.inode);
        let mut numbers: Vec<usize> = Vec::new();
        if stat.size_bytes >= GUESSED_MIN_BYTES {
            // A renamed file, perhaps written to since.
            numbers.extend(same_inode);
        }
        numbers.extend(same_inode.filter(|n| same_size.contains(n)));
        // A copy with the same times, or a file moved from another filesystem.
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

/// Returns the path without the digits of its last component, which the files of a series share.
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
