//! Hints: where a tree may have changed since it was last scanned, by the kernel's events (`notify`,
//! inotify).
//!
//! Events are only hints. A scan that has them lists the reported directories and those on the way there, and
//! takes the rest from the last manifest. Now and then a full scan looks at everything, since some changes
//! raise no event (writes through a mapping, or from another host on a network filesystem).
//!
//! A scan's hints are complete as of its beginning: inotify delivers events in order, so once a mark that is
//! made at the beginning is reported, everything before it has been.
//!
//! No other event is lost. Directories are watched one by one, by the scan itself, each before it is listed,
//! so every change after a listing is reported, also in new directories. A rename takes watches with it or
//! loses them, so it marks both directories for a full walk and a new watch. Events that were not read yet
//! when a scan took its hints belong to the next scan. After too many events, an error, or a limit, the next
//! scan is a full one.

use crate::model::tree_path::TreePath;
use crate::support::lock::lock;
use crate::support::mountinfo;
use notify::event::{CreateKind, ModifyKind, RemoveKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Maximum number of directories that are remembered one by one; with more, a full scan costs no more.
const DIRECTORIES_MAX: usize = 100_000;

/// Directories and trees that one scan looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Directories in which an entry changed.
    directories: BTreeSet<TreePath>,
    /// Directories below which everything may have changed.
    trees: BTreeSet<TreePath>,
}

impl Hints {
    /// Makes hints to look at the entries of these directories, and at all of these trees.
    pub fn new(directories: BTreeSet<TreePath>, trees: BTreeSet<TreePath>) -> Self {
        Self { directories, trees }
    }

    /// Returns whether nothing changed in a directory and below it.
    pub fn is_clean(&self, path: &TreePath) -> bool {
        if within(&self.directories, path).next().is_some() || within(&self.trees, path).next().is_some() {
            return false;
        }
        // Nor may the directory lie in a tree in which everything may have changed.
        let mut above = path.as_bytes();
        loop {
            let found = TreePath::parse(above).is_ok_and(|above| self.trees.contains(&above));
            if found {
                return false;
            }
            match above.iter().rposition(|byte| *byte == b'/') {
                Some(at) => above = &above[..at],
                None if above.is_empty() => return true,
                None => above = b"",
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.trees.is_empty()
    }

    fn len(&self) -> usize {
        self.directories.len() + self.trees.len()
    }

    fn add(&mut self, other: Hints) {
        self.directories.extend(other.directories);
        self.trees.extend(other.trees);
    }
}

/// Returns the members that are `top` or below it. The order of paths puts them next to each other.
fn within<'a>(set: &'a BTreeSet<TreePath>, top: &'a TreePath) -> impl Iterator<Item = &'a TreePath> {
    set.range((Bound::Included(top), Bound::Unbounded)).take_while(move |path| path.is_within(top))
}

/// Time within which a mark must be reported.
const MARK_LIMIT: Duration = Duration::from_secs(5);

#[derive(Default)]
struct State {
    hints: Hints,
    /// The last mark that was reported.
    mark: u64,
    /// Whether the next scan has to look at everything.
    full: bool,
    watched: BTreeSet<TreePath>,
    /// Directories that could not be watched: changes below them are not reported.
    unwatched: BTreeSet<TreePath>,
    /// Mounts at and below the root when hints were last taken, with the kernel's numbers.
    mounts: BTreeSet<(u64, TreePath)>,
}

impl State {
    fn forget_watches(&mut self, top: &TreePath) {
        for set in [&mut self.watched, &mut self.unwatched] {
            let gone: Vec<_> = within(set, top).cloned().collect();
            for path in gone {
                set.remove(&path);
            }
        }
    }
}

/// Returns the mounts at and below a directory, with the kernel's numbers; none if the kernel does not list
/// them.
fn mounts_below(root: &Path) -> BTreeSet<(u64, TreePath)> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mount = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let number = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let at = mountinfo::unescape(fields.nth(3)?);
        let below = Path::new(std::ffi::OsStr::from_bytes(&at)).strip_prefix(root).ok()?;
        Some((number, TreePath::parse(below.as_os_str().as_bytes()).ok()?))
    };
    text.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

/// A watched tree.
pub struct Watch {
    root: PathBuf,
    /// Device and inode of the root.
    identity: (u64, u64),
    state: Arc<(Mutex<State>, Condvar)>,
    watcher: Mutex<RecommendedWatcher>,
    marks: Marks,
}

/// A directory of this process, watched with the tree. Files are made in it so that their events are
/// reported.
struct Marks {
    dir: PathBuf,
    last: AtomicU64,
}

impl Marks {
    fn new() -> std::io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("understudy-marks-{}-{number}", std::process::id()));
        // The directory may be left from an earlier process with the same number.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir)?;
        // Events use the canonical path.
        Ok(Self { dir: std::fs::canonicalize(&dir)?, last: AtomicU64::new(0) })
    }

    fn make(&self) -> std::io::Result<u64> {
        let mark = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let path = self.dir.join(mark.to_string());
        std::fs::File::create(&path)?;
        std::fs::remove_file(&path)?;
        Ok(mark)
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Watch {
    /// Creates a watch of no directory yet: the scans add those that they list. Calls `told` after each event
    /// that is a hint.
    ///
    /// # Errors
    /// The kernel's limit of watchers (`fs.inotify.max_user_instances`) is reached, or `root` is no
    /// directory.
    pub fn new(root: &Path, told: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let root = std::fs::canonicalize(root)?;
        let meta = std::fs::metadata(&root)?;
        let identity = (meta.dev(), meta.ino());
        let marks = Marks::new()?;
        let state = Arc::new((Mutex::new(State { full: true, ..Default::default() }), Condvar::new()));
        let (noted, at, marks_at) = (state.clone(), root.clone(), marks.dir.clone());
        let handler = move |event: notify::Result<Event>| {
            // Most events are of this kind, and the scan itself causes many of them.
            if event.as_ref().is_ok_and(|event| event.kind.is_access()) {
                return;
            }
            if let Ok(event) = &event
                && let Some(mark) = event.paths.first().and_then(|path| path.strip_prefix(&marks_at).ok())
            {
                let mark = mark.to_str().and_then(|mark| mark.parse().ok()).unwrap_or(0);
                let mut state = lock(&noted.0);
                state.mark = state.mark.max(mark);
                noted.1.notify_all();
                return;
            }
            if note(&mut lock(&noted.0), &at, event) {
                told();
            }
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(std::io::Error::other)?;
        watcher.watch(&marks.dir, RecursiveMode::NonRecursive).map_err(std::io::Error::other)?;
        Ok(Self { root, identity, state, watcher: Mutex::new(watcher), marks })
    }

    /// Takes the hints since the last call; `None` when a scan has to look at everything, which `full` asks
    /// for.
    ///
    /// Such a scan then watches every directory again: a filesystem that was mounted on one meanwhile is not
    /// watched yet.
    ///
    /// It waits until all changes before the call have been reported, usually a moment.
    pub fn take(&self, full: bool) -> Option<Hints> {
        let mark = self.marks.make();
        let mut state = lock(&self.state.0);
        match mark {
            Ok(mark) => {
                let behind = |state: &mut State| state.mark < mark && !state.full;
                let waited = self.state.1.wait_timeout_while(state, MARK_LIMIT, behind);
                let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                state = now;
                state.full |= timeout.timed_out();
            }
            Err(_) => state.full = true,
        }
        let mut hints = std::mem::take(&mut state.hints);
        // The kernel reports no mounts, and a watch does not outlive one.
        let mounts = mounts_below(&self.root);
        let changed: Vec<_> =
            state.mounts.symmetric_difference(&mounts).map(|(_, path)| path.clone()).collect();
        state.mounts = mounts;
        for path in changed {
            state.forget_watches(&path);
            hints.trees.insert(path);
        }
        if full | std::mem::take(&mut state.full) {
            state.watched.clear();
            state.unwatched.clear();
            return None;
        }
        hints.trees.extend(state.unwatched.iter().cloned());
        Some(hints)
    }

    /// Returns whether the root is still the watched directory, and not another one or another filesystem's.
    pub fn is_of(&self, root: &Path) -> bool {
        let identity = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
        identity(root).is_some_and(|found| found == self.identity)
    }

    /// Returns the hints of a scan that failed to the next one.
    pub fn give_back(&self, hints: Option<Hints>) {
        let mut state = lock(&self.state.0);
        match hints {
            Some(hints) => state.hints.add(hints),
            None => state.full = true,
        }
    }

    /// Returns whether there is a reported change to look at.
    pub fn is_due(&self) -> bool {
        let state = lock(&self.state.0);
        state.full || !state.hints.is_empty()
    }

    /// Returns the number of directories that cannot be watched.
    pub(crate) fn unwatched(&self) -> usize {
        lock(&self.state.0).unwatched.len()
    }

    /// Watches a directory that is about to be listed.
    pub(crate) fn before_listing(&self, directory: &TreePath) {
        if lock(&self.state.0).watched.contains(directory) {
            return;
        }
        let path = self.root.join(std::ffi::OsStr::from_bytes(directory.as_bytes()));
        let watched = {
            let mut watcher = lock(&self.watcher);
            watcher.watch(&path, RecursiveMode::NonRecursive)
        };
        let mut state = lock(&self.state.0);
        match watched {
            Ok(()) => {
                state.unwatched.remove(directory);
                state.watched.insert(directory.clone());
            }
            // The directory was removed, which the listing will find as well. Any other error is a limit, or
            // a path that is too long.
            Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
            Err(_) => drop(state.unwatched.insert(directory.clone())),
        }
    }
}

/// Records an event; returns whether it is a hint.
fn note(state: &mut State, root: &Path, event: notify::Result<Event>) -> bool {
    let Ok(event) = event else {
        state.full = true;
        return true;
    };
    if event.need_rescan() {
        state.full = true;
        return true;
    }
    // Whether the path's whole tree, and its watches, are in doubt.
    let whole = !matches!(
        event.kind,
        EventKind::Create(CreateKind::File)
            | EventKind::Remove(RemoveKind::File)
            | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_))
    );
    for path in &event.paths {
        let Ok(relative) = path.strip_prefix(root) else { continue };
        let Ok(path) = TreePath::parse(relative.as_os_str().as_bytes()) else {
            state.full = true;
            continue;
        };
        let parent = path.split().map_or(&b""[..], |(parent, _)| parent);
        if let Ok(parent) = TreePath::parse(parent) {
            state.hints.directories.insert(parent);
        }
        if whole {
            state.forget_watches(&path);
            state.hints.trees.insert(path);
        }
    }
    if state.hints.len() > DIRECTORIES_MAX {
        state.hints = Hints::default();
        state.full = true;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(paths: &[&str]) -> BTreeSet<TreePath> {
        paths.iter().map(|path| TreePath::parse(path.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn a_directory_is_clean_if_nothing_is_told_of_it_nor_of_what_it_holds_or_is_held_by() {
        let hints = Hints { directories: paths(&["a/b", "c"]), trees: paths(&["d/e"]) };
        let clean = |path: &str| hints.is_clean(&TreePath::parse(path.as_bytes()).unwrap());
        for dirty in ["", "a", "a/b", "c", "d", "d/e", "d/e/f", "d/e/f/g"] {
            assert!(!clean(dirty), "{dirty}");
        }
        for path in ["a/b/c", "a/bc", "a/c", "c/d", "ca", "d/ef", "e"] {
            assert!(clean(path), "{path}");
        }
        assert!(!Hints { directories: paths(&[]), trees: paths(&[""]) }.is_clean(&TreePath::root()));
        assert!(Hints::default().is_clean(&TreePath::root()));
    }
}
