//! What a scan found, written down in the tree's order: the manifest, the counts, the warnings, and what is in doubt.
//!
//! A path has gone only if its directory, read again behind all else, does not list it; whatever else goes wrong with a path says
//! nothing of it, and its last state is kept with all that is below it. Both are asked of a directory that is still in its place:
//! of one that was moved or exchanged meanwhile, everything is in doubt, and looked at again by another round.

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

/// What became of one path.
pub enum Outcome {
    /// Nothing has changed. `shared` is its inode, if that has other names.
    Keep { entry: Entry, shared: Option<Identity> },
    /// What was below a directory that could not be looked into, or was not to be: as it was.
    KeepBelow { entry: Entry, is_unseen: bool },
    /// A directory whose entries were all taken.
    Leave(Leave),
    /// What the last snapshot has there, and the round before had not: kept where its directory was.
    KeepMissed { entry: Entry },
    Read {
        entry: Entry,
        shared: Option<Identity>,
        old: Option<Box<Entry>>,
        again: bool,
        failed: Option<Errno>,
    },
    /// Nothing has its name.
    Absent { path: TreePath, old: Option<Entry> },
    /// It is there, and nothing is known of it.
    Unreadable { path: TreePath, old: Option<Entry>, errno: Errno },
    /// As for `Unreadable`, a directory; what is kept of it follows. `old` is none where the directory itself is known.
    Unlisted { path: TreePath, old: Option<Entry>, errno: Errno },
    /// It would not hold still.
    Unsettled { path: TreePath, old: Option<Entry> },
    /// As for `Unsettled`, a directory; what is kept of it follows.
    UnsettledTree { old: Entry },
}

/// A directory of which something was read, or was missed: asked, behind all else of it, whether that is to be believed.
pub struct Leave {
    pub node: Arc<Node>,
    /// As it was when it was listed.
    pub listed: Stat,
    /// The last manifest has entries of it that its listing has not.
    pub has_lost: bool,
}

/// What is to be looked at again.
#[derive(Clone, Debug, Default)]
pub struct Doubts {
    /// Directories whose entries are in doubt.
    pub directories: BTreeSet<TreePath>,
    /// Paths of which all is in doubt, also below them.
    pub trees: BTreeSet<TreePath>,
    /// Names that a directory lists, and that nothing has.
    pub phantoms: HashSet<TreePath>,
    /// Directories that could not be looked into: no reason for another round, but tried again if there is one.
    pub unlisted: BTreeSet<TreePath>,
    /// What was said when some of these were looked at behind all else.
    pub failed: BTreeMap<TreePath, Errno>,
}

impl Doubts {
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.trees.is_empty()
    }

    fn fail(&mut self, path: &TreePath, errno: Errno) {
        self.trees.insert(path.clone());
        self.failed.insert(path.clone(), errno);
    }

    /// Where the next round looks.
    pub fn hints(&self) -> Hints {
        Hints::new(self.directories.clone(), self.trees.union(&self.unlisted).cloned().collect())
    }

    /// Whether a path is looked at again.
    pub fn covers(&self, path: &TreePath) -> bool {
        self.phantoms.contains(path)
            || self.trees.iter().chain(&self.unlisted).any(|tree| path.is_within(tree))
            || path.split().is_some_and(|(above, _)| self.directories.iter().any(|d| d.as_bytes() == above))
    }
}

/// So many lost paths are looked for once more.
const LOST_MAX: usize = 1024;

/// What a scan found.
#[derive(Clone, Debug, Default)]
pub struct ScanSummary {
    /// Paths that the last manifest has in directories that are there, and that were not there; the first of them.
    pub lost: Vec<TreePath>,
    pub changes: ChangeCounts,
    pub vanished: u64,
    pub warnings: WarningLog,
    pub doubts: Doubts,
}

/// Where a scan's outcomes are written down.
pub struct Ledger<'s, 'env> {
    pub manifest: ManifestWriter<'env>,
    pub summary: ScanSummary,
    chunks: &'s ChunkReader,
    /// The last snapshot's: what is unreadable has its state there.
    base: Option<&'s ManifestRoot>,
    /// None in scans by hints, in which nothing that has several names changes.
    links: Option<&'s mut Links>,
    /// Of the rounds before.
    phantoms: &'s HashSet<TreePath>,
    is_first_round: bool,
    /// By directory, what was absent in it.
    absent: BTreeMap<TreePath, Vec<CString>>,
    /// Of what was counted as gone, what is kept.
    kept_after_all: u64,
}

/// What a ledger is opened with.
pub struct LedgerOptions<'s> {
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

    /// Whether names of one inode are told, so that what has several names may change.
    pub fn tells_links(&self) -> bool {
        self.links.is_some()
    }

    /// What the last snapshot has below a directory, where the round before may have missed some of it.
    pub fn last_below(&self, directory: &TreePath) -> EntryStream {
        match self.base.filter(|_| !self.is_first_round) {
            Some(base) => ManifestReader::new(self.chunks.clone()).entries_within(base, directory),
            None => EntryStream::none(),
        }
    }

    /// The last manifest has it, and the tree has not; its directory is there, if `is_top`.
    pub fn gone(&mut self, old: &Entry, is_top: bool) {
        self.summary.changes.count(Some(Change::Removed));
        if is_top && self.summary.lost.len() < LOST_MAX {
            self.summary.lost.push(old.path.clone());
        }
    }

    /// The manifest's writer, and what was found.
    pub fn close(mut self) -> (ManifestWriter<'env>, ScanSummary) {
        let removed = &mut self.summary.changes.removed;
        *removed = removed.saturating_sub(self.kept_after_all);
        (self.manifest, self.summary)
    }

    pub fn take(&mut self, outcome: Outcome) -> Result<(), ResyncError> {
        if mutant::is(Mutant::VanishedForUnreadable)
            && let Outcome::Unreadable { .. } = outcome
        {
            return Ok(());
        }
        match outcome {
            Outcome::Leave(leave) => self.leave(leave)?,
            Outcome::Keep { mut entry, shared } => {
                self.summary.changes.count(None);
                let old = entry.hardlink;
                self.number(&mut entry, shared, old);
                self.manifest.push(&entry)?;
            }
            Outcome::KeepBelow { entry, is_unseen } => {
                // Those of the round before have this scan's numbers.
                self.keep_below(entry, is_unseen && self.is_first_round)?;
            }
            Outcome::KeepMissed { entry } if !self.manifest.admits(&entry.path) => {}
            Outcome::KeepMissed { entry } => self.keep_below(entry, true)?,
            Outcome::Read { mut entry, shared, old, again, failed } => {
                self.number(&mut entry, shared, None);
                self.read(entry, old.as_deref(), again, failed)?;
            }
            Outcome::Absent { path, old } => self.absent(path, old)?,
            Outcome::Unreadable { path, old, errno } => {
                if is_own_trouble(errno) {
                    return Err(exhausted(&path, errno));
                }
                self.warn(WarningKind::Unreadable, &path, reason(errno));
                self.keep_last(&path, old)?;
            }
            Outcome::Unlisted { path, old, errno } => {
                self.warn(WarningKind::Unreadable, &path, reason(errno));
                if let Some(entry) = old {
                    self.keep_below(entry, true)?;
                }
                self.summary.doubts.unlisted.insert(path);
            }
            Outcome::Unsettled { path, old } => {
                self.keep_last(&path, old)?;
                self.summary.doubts.trees.insert(path);
            }
            Outcome::UnsettledTree { old } => {
                self.summary.doubts.trees.insert(old.path.clone());
                self.keep_below(old, true)?;
            }
        }
        Ok(())
    }

    /// Takes an entry that was read; `failed` is why its attributes were not.
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

    /// Takes a path that was listed and is not there any more.
    fn absent(&mut self, path: TreePath, old: Option<Entry>) -> Result<(), ResyncError> {
        if self.phantoms.contains(&path) {
            // Its directory lists it, each time.
            return self.take(Outcome::Unreadable { path, old, errno: Errno::NOENT });
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

    /// A leaf of the manifest that is compared with, all of it below `top`, as it was; entry by entry where it does not begin a
    /// page any more, until the pages fall together again.
    pub fn take_leaf(&mut self, leaf: Leaf, top: &TreePath) -> Result<(), ResyncError> {
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

    /// The directory's entries are written down. Whether it is still where it was, and what was missed has gone.
    fn leave(&mut self, leave: Leave) -> Result<(), ResyncError> {
        let Leave { node, listed, has_lost } = leave;
        let path = &node.path;
        let absent = self.absent.remove(path).unwrap_or_default();
        match node.is_in_place() {
            Ok(true) => {}
            Ok(false) if mutant::is(Mutant::NoLeave) => {}
            Err(errno) if is_own_trouble(errno) => return Err(exhausted(path, errno)),
            // Another round finds out what is there instead, or what is wrong.
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
            // Whatever it says of itself, it is read twice.
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
        // What went may have come back, as something that was moved aside for a moment: one more look.
        if self.is_first_round && !stat.same_moment(&listed) {
            doubts.directories.insert(path.clone());
        }
        Ok(())
    }

    /// The last state of a path, and of all below it; nothing, where there is none. `old` is what the scan compared with.
    fn keep_last(&mut self, path: &TreePath, old: Option<Entry>) -> Result<(), ResyncError> {
        let was_directory = match old {
            Some(old) if old.kind != Kind::Directory => return self.keep_below(old, self.is_first_round),
            // A round before dropped it, perhaps.
            None if self.is_first_round => return Ok(()),
            old => old.is_some(),
        };
        let Some(base) = self.base else { return Ok(()) };
        for entry in ManifestReader::new(self.chunks.clone()).entries_within(base, path) {
            let entry = entry?;
            // What lay below was counted as gone, or will be.
            self.kept_after_all += u64::from(was_directory && entry.path != *path);
            self.keep_below(entry, true)?;
        }
        Ok(())
    }

    /// An entry as it was. What has no directory, in a snapshot of an older version, cannot be kept.
    fn keep_below(&mut self, mut entry: Entry, is_unseen: bool) -> Result<(), ResyncError> {
        if !self.manifest.admits(&entry.path) {
            let reason = "the last snapshot lacks its directory, and it could not be read anew".to_owned();
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

pub fn exhausted(path: &TreePath, errno: Errno) -> ResyncError {
    SourceError::Exhausted { path: path.to_string(), source: errno.into() }.into()
}

pub fn reason(errno: Errno) -> String {
    match errno {
        Errno::AGAIN => "it shrank under every reading".to_owned(),
        Errno::FBIG => {
            "its holes are more than this run may hash; `holes` in [limits] allows more".to_owned()
        }
        Errno::BUSY => "it is under a lease that its holder does not give up".to_owned(),
        Errno::NOENT => "its directory lists it, and nothing has its name".to_owned(),
        errno => std::io::Error::from(errno).to_string(),
    }
}
