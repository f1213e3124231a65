//! Hints: where a tree may have changed since it was last scanned, by the kernel's events (`notify`, inotify).
//!
//! Events are hints only. A scan that has them lists the directories that were told of and those on the way there, and takes
//! the rest from the last manifest; now and then a full scan looks at everything, since an event can be lost for good
//! (a mapping that is written through, another host on a network filesystem).
//!
//! A scan's hints are complete as of its beginning: the kernel tells of things in their order, so a mark that is made then
//! and told of comes behind everything before it.
//!
//! Why none is lost otherwise: directories are watched one by one, by the scan itself, each before it is listed. So whatever
//! changes behind a listing is told of, also in directories that are new; a rename takes watches with it or loses them, and
//! its event marks both places as to be walked wholly and watched anew. Events that were not read yet when a scan took its hints
//! are the next scan's. Too many events, an error, or a limit: the next scan is a full one.

use crate::model::tree_path::TreePath;
use crate::support::mountinfo;
use notify::event::{CreateKind, ModifyKind, RemoveKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// More directories than this are not remembered one by one: a full scan costs no more then.
const DIRECTORIES_MAX: usize = 100_000;

/// Where one scan looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Directories in which something changed.
    directories: BTreeSet<TreePath>,
    /// Those of which everything may have changed.
    trees: BTreeSet<TreePath>,
}

impl Hints {
    /// To look at these directories' entries, and at all of these trees.
    pub fn new(directories: BTreeSet<TreePath>, trees: BTreeSet<TreePath>) -> Self {
        Self { directories, trees }
    }

    /// Whether nothing changed in a directory and below it.
    pub fn is_clean(&self, path: &TreePath) -> bool {
        if within(&self.directories, path).next().is_some() || within(&self.trees, path).next().is_some() {
            return false;
        }
        // Nor in what it is in, wholly.
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

    pub fn is_empty(&self) -> bool {
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

/// The members that are `top` or below it. A tree's paths are ordered so that they follow each other.
fn within<'a>(set: &'a BTreeSet<TreePath>, top: &'a TreePath) -> impl Iterator<Item = &'a TreePath> {
    set.range((Bound::Included(top), Bound::Unbounded)).take_while(move |path| path.is_within(top))
}

/// How long a mark may take to be told of.
const MARK_LIMIT: Duration = Duration::from_secs(5);

#[derive(Default)]
struct State {
    hints: Hints,
    /// The last mark that was told of.
    mark: u64,
    /// The next scan has to look at everything.
    full: bool,
    watched: BTreeSet<TreePath>,
    /// Directories that could not be watched: everything below may change unseen.
    unwatched: BTreeSet<TreePath>,
    /// What was mounted at and below the root when hints were taken last, by the kernel's number.
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

/// The mounts at and below a directory, by the kernel's numbers. None, where it does not say.
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

/// A tree that is watched.
pub struct Watch {
    root: PathBuf,
    /// Its device and inode.
    identity: (u64, u64),
    state: Arc<(Mutex<State>, Condvar)>,
    watcher: Mutex<RecommendedWatcher>,
    marks: Marks,
}

/// A directory of this process's, watched with the tree, in which files are made to be told of.
struct Marks {
    dir: PathBuf,
    last: AtomicU64,
}

impl Marks {
    fn new() -> std::io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("understudy-marks-{}-{number}", std::process::id()));
        // One of a process that is gone, and had this one's number.
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir)?;
        // As events name it.
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
    /// Watches nothing yet: the scans add what they list. `told` is called after each event that is a hint.
    ///
    /// # Errors
    /// The kernel's limit of watchers (`fs.inotify.max_user_instances`) is reached, or `root` is no directory.
    pub fn new(root: &Path, told: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let root = std::fs::canonicalize(root)?;
        let meta = std::fs::metadata(&root)?;
        let identity = (meta.dev(), meta.ino());
        let marks = Marks::new()?;
        let state = Arc::new((Mutex::new(State { full: true, ..Default::default() }), Condvar::new()));
        let (noted, at, marks_at) = (state.clone(), root.clone(), marks.dir.clone());
        let handler = move |event: notify::Result<Event>| {
            // By far the most, the scan's own among them.
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

    /// What was told since the last call; `None` when a scan has to look at everything, which can also be asked for. That
    /// scan then watches every directory anew: a filesystem that was mounted on one meanwhile was watched by nobody.
    ///
    /// Waits until all that happened before the call has been told of, a moment as a rule.
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
        // The kernel tells of no mount, and a watch does not outlive one.
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

    /// Whether the root is still the directory that is watched, and not another one or another filesystem's.
    pub fn is_of(&self, root: &Path) -> bool {
        let identity = |path: &Path| std::fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
        identity(root).is_some_and(|found| found == self.identity)
    }

    /// Of a scan that came to nothing.
    pub fn give_back(&self, hints: Option<Hints>) {
        let mut state = lock(&self.state.0);
        match hints {
            Some(hints) => state.hints.add(hints),
            None => state.full = true,
        }
    }

    /// Whether there is something to look at.
    pub fn is_due(&self) -> bool {
        let state = lock(&self.state.0);
        state.full || !state.hints.is_empty()
    }

    /// Directories that cannot be watched.
    pub fn unwatched(&self) -> usize {
        lock(&self.state.0).unwatched.len()
    }

    /// Watches a directory that is about to be listed.
    pub fn before_listing(&self, directory: &TreePath) {
        if lock(&self.state.0).watched.contains(directory) {
            return;
        }
        let path = self.root.join(std::ffi::OsStr::from_bytes(directory.as_bytes()));
        let watched = {
            let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
            watcher.watch(&path, RecursiveMode::NonRecursive)
        };
        let mut state = lock(&self.state.0);
        match watched {
            Ok(()) => {
                state.unwatched.remove(directory);
                state.watched.insert(directory.clone());
            }
            // Gone: whoever lists it finds that, too. Else a limit, or a path that is too long.
            Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
            Err(_) => drop(state.unwatched.insert(directory.clone())),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes an event down; returns whether it says anything.
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
