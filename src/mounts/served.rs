//! Snapshots mounted by FUSE: threads of this process serve them, straight from the repository.
//!
//! As root the mount is made detached and attached by the caller; for other users `fusermount3` makes it at a
//! directory. A mount ends with the process that serves it: after that every access fails until the mount is
//! removed.
//!
//! A process must not open or stat files in a mount that it serves itself. If it were killed during such a
//! request, the threads that could answer would be dead and the kernel would not let the waiting thread end;
//! the process would stay, and the mount with it. So other processes look at mounts of this process (see
//! `service/drill_look`).

use super::error::StageError;
use super::live::{Live, Method, PreviousMount};
use super::table;
use super::tree::{Complain, SnapshotTree};
use crate::model::id::Sequence;
use crate::model::record::{SnapshotRecord, StoreState};
use crate::model::snapshot_ref::Moment;
use crate::repository::store::Store;
use crate::standby::depot::Depot;
use crate::support::env::Env;
use crate::vfs::fuse::{self, FuseOptions, Serving};
use crate::vfs::overlay::Detached;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Interval between checks whether the mount was removed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Options for serving snapshots of a store.
pub(crate) struct ServeOptions<'a> {
    pub store: &'a Store,
    /// Depot whose objects are read in preference to the repository.
    pub depot: &'a Depot,
    /// Maximum content kept in memory, in bytes.
    pub cache_bytes: u64,
    /// Whether set-user-id bits and device nodes of the snapshot are obeyed.
    pub trusted: bool,
    /// Whether this process may mount by itself; else `fusermount3` does.
    pub may_mount: bool,
    /// Returns the function that is called when something cannot be read.
    pub complain: &'a dyn Fn() -> Complain,
}

impl ServeOptions<'_> {
    /// Serves a snapshot at `dir`. Returns a mount to attach, or none where `fusermount3` has attached it
    /// already.
    pub(crate) fn serve(
        &self,
        state: &StoreState,
        sequence: Sequence,
        record: &SnapshotRecord,
        dir: &Path,
    ) -> Result<(Option<Detached>, Serving), StageError> {
        self.depot.look()?;
        let depot = self.depot.objects().is_dir().then(|| self.depot.clone());
        let view = SnapshotTree::open(self.store, state, record, depot, self.cache_bytes, (self.complain)())?;
        let source = table::source(self.store.name(), sequence);
        let options = FuseOptions { source, trusted: self.trusted };
        if self.may_mount {
            let (mount, serving) = fuse::serve_detached(view, &options)?;
            return Ok((Some(mount), serving));
        }
        Ok((None, fuse::serve_by_helper(view, &options, dir)?))
    }
}

/// A snapshot that was found, with the state of the log that has it.
struct Found {
    state: StoreState,
    sequence: Sequence,
    record: SnapshotRecord,
}

/// Mounts by FUSE of the snapshots in the repository, one after the other. The last one ends with this
/// process.
pub(crate) struct FuseMounts<'a> {
    pub options: ServeOptions<'a>,
    /// The snapshot that was found last.
    found: Option<Found>,
    serving: Option<Serving>,
}

impl<'a> FuseMounts<'a> {
    pub fn new(options: ServeOptions<'a>) -> Self {
        Self { options, found: None, serving: None }
    }

    /// Waits until the last mount is no longer visible to any process.
    pub(crate) fn wait(self) -> std::io::Result<()> {
        self.serving.map_or(Ok(()), Serving::wait)
    }
}

impl Method for FuseMounts<'_> {
    fn find(&mut self, moment: Moment) -> Result<Sequence, StageError> {
        let state = self.options.store.log().state()?;
        let (sequence, record) = self.options.store.log().find(&state, moment)?;
        self.found = Some(Found { state, sequence, record });
        Ok(sequence)
    }

    fn show(&mut self, snapshot: Sequence, live: &mut Live) -> Result<Option<PreviousMount>, StageError> {
        if self.found.as_ref().is_none_or(|found| found.sequence != snapshot) {
            self.find(Moment::At(snapshot))?;
        }
        let Some(Found { state, sequence, record }) = self.found.take() else { return Ok(None) };
        let place = live.place(sequence)?;
        let (mount, serving) = self.options.serve(&state, sequence, &record, &place)?;
        let before = live.show(place, mount)?;
        self.serving = Some(serving);
        Ok(before)
    }

    fn is_over(&self, _: &Live) -> Result<bool, StageError> {
        Ok(self.serving.as_ref().is_none_or(Serving::is_over))
    }

    fn look_every(&self) -> Duration {
        LOOK_EVERY
    }

    fn standby(&self) -> PathBuf {
        self.options.depot.standby().to_owned()
    }

    fn env(&self) -> Env {
        self.options.store.env().clone()
    }
}
