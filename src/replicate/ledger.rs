//! Records the outcomes of a scan in the tree's order: manifest, counts, warnings and doubts.
//!
//! A path counts as removed only if its directory, read again after all other readings, does not list it. Any
//! other error with a path says nothing about it, so its last state is kept with everything below it. Both
//! rules need a directory that is still in its place: if it was moved or exchanged meanwhile, everything in
//! it is in doubt, and another round scans it again.

use super::error::ResyncError;
use super::links::Links;
use super::warnings::WarningLog;
use crate::api::resync::WarningKind;
use crate::format::page::Child as Leaf;
use crate::model::diff::{Change, ChangeCounts};
use crate::model::entry::{Entry, Kind, Timestamp};
use crate::model::record::ManifestRoot;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::manifest::{EntryStream, ManifestReader, ManifestWriter};
use crate::source::error::SourceError;
use crate::source::hints::Hints;
use crate::source::node::Node;
use crate::source::stat::{Identity, Stat};
use crate::source::tree::is_own_trouble;
use crate::source::walk::names_at_rest;
use crate::support::mutant::{self, Mutant};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::CString;
use std::sync::Arc;

/// The outcome for one path.
pub(crate) enum EntryOutcome {
    /// The entry is unchanged. `shared` is its inode, if that has other names.
    Keep { entry: Entry, shared: Option<Identity> },
    /// An entry below a directory that could not be read, or was not to be: it is kept unchanged.
    KeepBelow { entry: Entry, is_unseen: bool },
    /// A directory whose entries were all handled.
    Leave(Leave),
    /// An entry of the last snapshot that the previous round did not have.
    ///
    /// It is kept if its directory is still there.
    KeepMissed { entry: Entry },
    Read {
        entry: Entry,
        shared: Option<Identity>,
        old: Option<Box<Entry>>,
        again: bool,
        failed: Option<Errno>,
    },
    /// The path no longer exists.
    Absent { path: TreePath, old: Option<Entry> },
    /// The path exists, but its state could not be read.
    Unreadable { path: TreePath, old: Option<Entry>, errno: Errno },
    /// Like `Unreadable`, for a directory; the kept entries below it follow.
    ///
    /// `old` is `None` if the directory itself is known.
    Unlisted { path: TreePath, old: Option<Entry>, errno: Errno },
    /// The path changed during each look.
    Unsettled { path: TreePath, old: Option<Entry> },
    /// Like `Unsettled`, for a directory; the kept entries below it follow.
    UnsettledTree { old: Entry },
}

/// A directory in which an entry was read or missed.
///
/// It is checked after all its readings whether they are valid.
pub(crate) struct Leave {
    pub node: Arc<Node>,
    /// Its `statx` at the time of listing.
    pub listed: Stat,
    /// Whether the last manifest has entries of it that the listing lacks.
    pub has_lost: bool,
}

/// The paths that have to be scanned again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doubts {
    /// Directories whose entries are in doubt.
    pub directories: BTreeSet<TreePath>,
    /// Paths that are in doubt together with everything below them.
    pub trees: BTreeSet<TreePath>,
    /// Names that a directory lists although they do not exist.
    pub phantoms: HashSet<TreePath>,
    /// Directories that could not be read. They cause no further round, but are tried again if there is one.
    pub unlisted: BTreeSet<TreePath>,
    /// The errors of looking at some of these after all other readings.
    pub failed: BTreeMap<TreePath, Errno>,
}

impl Doubts {
    pub(crate) fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.trees.is_empty()
    }

    fn fail(&mut self, path: &TreePath, errno: Errno) {
        self.trees.insert(path.clone());
        self.failed.insert(path.clone(), errno);
    }

    /// Returns the hints for the next round.
    pub(crate) fn hints(&self) -> Hints {
        Hints::new(self.directories.clone(), self.trees.union(&self.unlisted).cloned().collect())
    }

    /// Returns whether a path is scanned again.
    pub(crate) fn covers(&self, path: &TreePath) -> bool {
        self.phantoms.contains(path)
            || self.trees.iter().chain(&self.unlisted).any(|tree| path.is_within(tree))
            || path.split().is_some_and(|(above, _)| self.directories.iter().any(|d| d.as_bytes() == above))
    }
}

/// Maximum number of lost paths that are looked up once more.
const LOST_MAX: usize = 1024;

/// The findings of a scan.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScanSummary {
    /// The first paths that the last manifest has, in directories that exist, and that were missing.
    pub lost: Vec<TreePath>,
    pub changes: ChangeCounts,
    pub vanished: u64,
    pub warnings: WarningLog,
    pub doubts: Doubts,
}

/// The record of a scan's outcomes.
pub(crate) struct Ledger<'s, 'env> {
    pub manifest: ManifestWriter<'env>,
    pub summary: ScanSummary,
    chunks: &'s ChunkReader,
    /// The last snapshot's manifest, which has the last state of unreadable paths.
    base: Option<&'s ManifestRoot>,
    /// `None` in scans by hints, in which no entry with several names changes.
    links: Option<&'s mut Links>,
    /// Phantoms of the rounds before.
    phantoms: &'s HashSet<TreePath>,
    is_first_round: bool,
    /// Absent names by directory.
    absent: BTreeMap<TreePath, Vec<CString>>,
    /// Number of entries that were counted as removed and are kept.
    kept_after_all: u64,
}

/// The parameters of a ledger.
pub(crate) struct LedgerOptions<'s> {
    pub chunks: &'s ChunkReader,
    pub base: Option<&'s ManifestRoot>,
    pub links: Option<&'s mut Links>,
    pub phantoms: &'s HashSet<TreePath>,
    pub is_first_round: bool,
}

impl<'s, 'env> Ledger<'s, 'env> {
    pub fn new(manifest: ManifestWriter<'env>, options: LedgerOptions<'s>) -> Self {
        let LedgerOptions { chunks, base, links, phantoms, is_first_round } = options;
        let (summary, absent) = (ScanSummary::default(), BTreeMap::new());
        Self { manifest, summary, chunks, base, links, phantoms, is_first_round, absent, kept_after_all: 0 }
    }

    /// Returns whether names of one inode are recognised, so that an entry with several names may change.
    pub(crate) fn tells_links(&self) -> bool {
        self.links.is_some()
    }

    /// Returns the last snapshot's entries below a directory, if the previous round may have missed some.
    pub(crate) fn last_below(&self, directory: &TreePath) -> EntryStream {
        match self.base.filter(|_| !self.is_first_round) {
            Some(base) => ManifestReader::new(self.chunks.clone()).entries_within(base, directory),
            None => EntryStream::none(),
        }
    }

    /// Counts an entry that the last manifest has and the tree lacks.
    ///
    /// `is_top` says that its directory exists.
    pub(crate) fn gone(&mut self, old: &Entry, is_top: bool) {
        self.summary.changes.count(Some(Change::Removed));
        if is_top && self.summary.lost.len() < LOST_MAX {
            self.summary.lost.push(old.path.clone());
        }
    }

    /// Returns the manifest's writer, and the findings.
    pub fn close(mut self) -> (ManifestWriter<'env>, ScanSummary) {
        let removed = &mut self.summary.changes.removed;
        *removed = removed.saturating_sub(self.kept_after_all);
        (self.manifest, self.summary)
    }

    pub(crate) fn take(&mut self, outcome: EntryOutcome) -> Result<(), ResyncError> {
        if mutant::is(Mutant::VanishedForUnreadable)
            && let EntryOutcome::Unreadable { .. } = outcome
        {
            return Ok(());
        }
        match outcome {
            EntryOutcome::Leave(leave) => self.leave(leave)?,
            EntryOutcome::Keep { mut entry, shared } => {
                self.summary.changes.count(None);
                let old = entry.hardlink;
                self.number(&mut entry, shared, old);
                self.manifest.push(&entry)?;
            }
            EntryOutcome::KeepBelow { entry, is_unseen } => {
                // Entries of the previous round have numbers of this scan.
                self.keep_below(entry, is_unseen && self.is_first_round)?;
            }
            EntryOutcome::KeepMissed { entry } if !self.manifest.admits(&entry.path) => {}
            EntryOutcome::KeepMissed { entry } => self.keep_below(entry, true)?,
            EntryOutcome::Read { mut entry, shared, old, again, failed } => {
                self.number(&mut entry, shared, None);
                self.read(entry, old.as_deref(), again, failed)?;
            }
            EntryOutcome::Absent { path, old } => self.absent(path, old)?,
            EntryOutcome::Unreadable { path, old, errno } => {
                if is_own_trouble(errno) {
                    return Err(exhausted(&path, errno));
                }
                self.warn(WarningKind::Unreadable, &path, reason(errno));
                self.keep_last(&path, old)?;
            }
            EntryOutcome::Unlisted { path, old, errno } => {
                self.warn(WarningKind::Unreadable, &path, reason(errno));
                if let Some(entry) = old {
                    self.keep_below(entry, true)?;
                }
                self.summary.doubts.unlisted.insert(path);
            }
            EntryOutcome::Unsettled { path, old } => {
                self.keep_last(&path, old)?;
                self.summary.doubts.trees.insert(path);
            }
            EntryOutcome::UnsettledTree { old } => {
                self.summary.doubts.trees.insert(old.path.clone());
                self.keep_below(old, true)?;
            }
        }
        Ok(())
    }

    /// Records an entry that was read. `failed` is the error of reading its attributes.
    fn read(
        &mut self,
        entry: Entry,
        old: Option<&Entry>,
        again: bool,
        failed: Option<Errno>,
    ) -> Result<(), ResyncError> {
        let change = Change::between(old, Some(&entry));
        self.summary.changes.count(change);
        if let Some(errno) = failed {
            if is_own_trouble(errno) {
                return Err(exhausted(&entry.path, errno));
            }
            self.warn(WarningKind::Attributes, &entry.path, reason(errno));
        }
        if entry.file().is_some_and(|f| f.torn) {
            self.warn(WarningKind::Torn, &entry.path, String::new());
        } else if again && change == Some(Change::Modified) {
            self.warn(WarningKind::ChangedSilently, &entry.path, String::new());
        }
        self.manifest.push(&entry)?;
        Ok(())
    }

    /// Records a path that was listed and no longer exists.
    fn absent(&mut self, path: TreePath, old: Option<Entry>) -> Result<(), ResyncError> {
        if self.phantoms.contains(&path) {
            // Its directory lists it each time.
            return self.take(EntryOutcome::Unreadable { path, old, errno: Errno::NOENT });
        }
        self.summary.vanished += 1;
        if let Some(old) = old {
            self.gone(&old, true);
        }
        if let Some((above, name)) = path.split()
            && let (Ok(above), Ok(name)) = (TreePath::parse(above), CString::new(name))
        {
            if mutant::is(Mutant::SingleAbsent) {
                self.absent.clear();
            }
            self.absent.entry(above).or_default().push(name);
        }
        Ok(())
    }

    /// Takes over a leaf of the manifest that is compared with, all of it below `top`.
    ///
    /// Where the leaf does not begin a page any more, its entries are taken over one by one, until pages of
    /// both manifests begin at the same entry again.
    pub(crate) fn take_leaf(&mut self, leaf: Leaf, top: &TreePath) -> Result<(), ResyncError> {
        if self.manifest.is_between_pages() && self.chunks.knows(leaf.page)? {
            self.summary.changes.unchanged += leaf.entries;
            return Ok(self.manifest.push_leaf(leaf, top)?);
        }
        let entries =
            ManifestReader::new(self.chunks.clone()).read_leaves(std::slice::from_ref(&leaf))?.pop();
        for entry in entries.unwrap_or_default() {
            self.keep_below(entry, false)?;
        }
        Ok(())
    }

    /// Finishes a directory: checks that it is still in its place, and that missed entries are really gone.
    fn leave(&mut self, leave: Leave) -> Result<(), ResyncError> {
        let Leave { node, listed, has_lost } = leave;
        let path = &node.path;
        let absent = self.absent.remove(path).unwrap_or_default();
        match node.is_in_place() {
            Ok(true) => {}
            Ok(false) if mutant::is(Mutant::NoLeave) => {}
            Err(errno) if is_own_trouble(errno) => return Err(exhausted(path, errno)),
            // Another round finds out what is at the path instead, or what fails.
            Ok(false) => {
                self.summary.doubts.trees.insert(path.clone());
                return Ok(());
            }
            Err(errno) => {
                self.summary.doubts.fail(path, errno);
                return Ok(());
            }
        }
        if absent.is_empty() && !has_lost {
            return Ok(());
        }
        let looked = node.handle().and_then(|handle| {
            let stat = handle.stat()?;
            if absent.is_empty() {
                return Ok((Vec::new(), stat));
            }
            // It is read twice even if its mtime is old.
            names_at_rest(&*handle, stat, Timestamp { seconds: i64::MIN, nanos: 0 })
        });
        let (names, stat) = match looked {
            Ok(looked) => looked,
            Err(errno) if is_own_trouble(errno) => return Err(exhausted(path, errno)),
            Err(errno) => {
                self.summary.doubts.fail(path, errno);
                return Ok(());
            }
        };
        let doubts = &mut self.summary.doubts;
        for name in absent.iter().filter(|name| names.binary_search(name).is_ok()) {
            doubts.phantoms.insert(path.join(name.as_bytes()));
            doubts.directories.insert(path.clone());
        }
        // A missed entry may have come back, like one that was renamed and back for a moment: scan once more.
        if self.is_first_round && !stat.same_moment(&listed) {
            doubts.directories.insert(path.clone());
        }
        Ok(())
    }

    /// Keeps the last state of a path and of everything below it, if there is one.
    ///
    /// `old` is the entry that the scan compared with.
    fn keep_last(&mut self, path: &TreePath, old: Option<Entry>) -> Result<(), ResyncError> {
        let was_directory = match old {
            Some(old) if old.kind != Kind::Directory => return self.keep_below(old, self.is_first_round),
            // An earlier round may have dropped it.
            None if self.is_first_round => return Ok(()),
            old => old.is_some(),
        };
        let Some(base) = self.base else { return Ok(()) };
        for entry in ManifestReader::new(self.chunks.clone()).entries_within(base, path) {
            let entry = entry?;
            // The entries below it were counted as removed, or will be.
            self.kept_after_all += u64::from(was_directory && entry.path != *path);
            self.keep_below(entry, true)?;
        }
        Ok(())
    }

    /// Keeps an entry unchanged. One without a directory, in a snapshot of an older version, cannot be kept.
    fn keep_below(&mut self, mut entry: Entry, is_unseen: bool) -> Result<(), ResyncError> {
        if !self.manifest.admits(&entry.path) {
            let reason = "the last snapshot lacks its directory, and it could not be read again".to_owned();
            self.warn(WarningKind::Unreadable, &entry.path, reason);
            self.summary.changes.count(Some(Change::Removed));
            return Ok(());
        }
        if is_unseen && let (Some(links), Some(old)) = (&mut self.links, entry.hardlink) {
            entry.hardlink = Some(links.unseen_number(old, &entry));
        }
        self.summary.changes.count(None);
        Ok(self.manifest.push(&entry)?)
    }

    fn number(&mut self, entry: &mut Entry, shared: Option<Identity>, unchanged: Option<u64>) {
        if let Some(links) = &mut self.links {
            entry.hardlink = shared.map(|inode| links.number(inode, entry, unchanged));
        }
    }

    fn warn(&mut self, kind: WarningKind, path: &TreePath, reason: String) {
        self.summary.warnings.add(kind, path, reason);
    }
}

pub(crate) fn exhausted(path: &TreePath, errno: Errno) -> ResyncError {
    SourceError::Exhausted { path: path.to_string(), source: errno.into() }.into()
}

pub fn reason(errno: Errno) -> String {
    match errno {
        Errno::AGAIN => "it shrank during every attempt to read it".to_owned(),
        Errno::FBIG => "its holes exceed what one run may hash; raise `holes` in [limits]".to_owned(),
        Errno::BUSY => "another process holds a lease on it and does not release it".to_owned(),
        Errno::NOENT => "its directory lists it, but it does not exist".to_owned(),
        errno => std::io::Error::from(errno).to_string(),
    }
}
