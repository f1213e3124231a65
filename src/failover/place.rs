//! Where a store's tree is on a host that serves it, or did.
//!
//! A founder serves the tree that it always had. A host that took over serves the snapshot that its promotion
//! names, mounted writable at the store's `path`; what is written since goes to a directory of its own for
//! each epoch. Both follow from the log alone, so a host that starts again finds its tree without a note of
//! its own, and a host that was promoted twice never mixes what it wrote in two epochs.
//!
//! What can race: nothing else mounts at the store's path. A mount of an earlier epoch there is taken away
//! before another one is made; its changes stay until what is stranded in them was committed.

use crate::model::decision::Decision;
use crate::model::id::{Epoch, Sequence, StoreName, WriterId};
use crate::model::record::Event;
use crate::model::snapshot_ref::{Moment, SnapshotRef};
use crate::mounts::error::StageError;
use crate::mounts::mount::{MountOptions, mount};
use crate::mounts::paths::absolute;
use crate::mounts::table::{MountedSnapshot, mounted_snapshots};
use crate::mounts::unmount::unmount;
use crate::repository::history::Happened;
use crate::standby::depot::{Depot, names};
use crate::standby::error::FollowError;
use crate::standby::pin;
use crate::support::trusted;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The kind of tree that a host serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The host's own tree, as it was before the store had a failover.
    Own,
    /// A snapshot, and what was written over it in this epoch.
    Mounted { base: Sequence, epoch: Epoch },
}

impl Place {
    /// Returns where the tree of `host` is, by the last record that made it the primary; none if it never was.
    pub(crate) fn of(history: &[Happened], host: &WriterId) -> Option<Self> {
        let mut found = None;
        let mut epoch = Epoch(0);
        for Happened { record, .. } in history.iter().filter(|happened| happened.irregular.is_none()) {
            let is_new = record.epoch != epoch;
            epoch = record.epoch;
            match &record.event {
                Event::Promoted { primary } if primary == host => found = Some(Self::Own),
                Event::Decided(decided) => match decided.statement().map(|statement| statement.decision) {
                    // Of the lists of members, only the first moves the epoch: its maker is the primary.
                    Some(Decision::Members { .. }) if is_new && decided.member == *host => {
                        found = Some(found.unwrap_or(Self::Own));
                    }
                    Some(Decision::Promoted(promoted)) if promoted.primary == *host => {
                        let mounted = |base| Self::Mounted { base, epoch };
                        found = Some(promoted.base.map_or(Self::Own, mounted));
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        found
    }
}

/// The tree of a store on this host.
pub(crate) struct Tree<'a> {
    pub store: &'a StoreName,
    /// The store's `path`.
    pub path: &'a Path,
    pub depot: &'a Depot,
}

impl Tree<'_> {
    fn changes(&self, epoch: Epoch) -> PathBuf {
        self.depot.changes().join(epoch.0.to_string())
    }

    /// Returns whether anything may have been written here in this place.
    pub(crate) fn exists(&self, place: Place) -> bool {
        match place {
            Place::Own => true,
            Place::Mounted { epoch, .. } => self.changes(epoch).exists(),
        }
    }

    fn shown(&self) -> Result<Option<MountedSnapshot>, StageError> {
        let path = absolute(self.path)?;
        Ok(mounted_snapshots()?.into_iter().rev().find(|shown| shown.dir == path))
    }

    /// Returns whether the tree is at the store's path.
    pub(crate) fn is_shown(&self, place: Place) -> Result<bool, StageError> {
        let shown = self.shown()?;
        Ok(match (place, shown) {
            (Place::Own, None) => self.path.is_dir(),
            (Place::Mounted { base, epoch }, Some(shown)) => {
                shown.snapshot == base.to_string()
                    && shown.store == self.store.as_str()
                    && shown.writable.is_some_and(|upper| upper == self.changes(epoch))
            }
            _ => false,
        })
    }

    /// Brings the tree to the store's path. Its snapshot must be published here.
    ///
    /// # Errors
    /// Nothing is at the path then, or the host's own tree.
    pub(crate) fn show(&self, place: Place) -> Result<(), StageError> {
        if let Place::Mounted { .. } = place {
            // Whoever owns a directory on the way could have the tree mounted over any other one.
            let made = trusted::look_at_way(self.path).and_then(|()| std::fs::create_dir_all(self.path));
            made.map_err(FollowError::io(self.path, "mount on it"))?;
        }
        if self.is_shown(place)? {
            return Ok(());
        }
        while self.shown()?.is_some() {
            unmount(self.depot.standby(), self.path, true)?;
        }
        match place {
            Place::Own if self.path.is_dir() => Ok(()),
            Place::Own => {
                let missing = std::io::Error::from(ErrorKind::NotFound);
                Err(FollowError::io(self.path, "open the store's tree")(missing).into())
            }
            Place::Mounted { base, epoch } => {
                let wanted = SnapshotRef { store: self.store.clone(), moment: Moment::At(base) };
                let options = MountOptions { writable: Some(self.changes(epoch)), trusted: false };
                mount(self.depot, &wanted, self.path, &options).map(drop)
            }
        }
    }

    /// Takes away what is mounted at the store's path, and deletes what was written over it: it is no longer
    /// needed once what is stranded in it was committed.
    pub(crate) fn forget(&self) -> Result<(), StageError> {
        while self.shown()?.is_some() {
            unmount(self.depot.standby(), self.path, true)?;
        }
        // The directory itself stays: by it a pin tells a deleted directory from a volume that is not mounted.
        for epoch in names(&self.depot.changes())? {
            let path = self.depot.changes().join(epoch);
            std::fs::remove_dir_all(&path).map_err(FollowError::io(&path, "delete it"))?;
        }
        Ok(pin::tidy(self.depot)?)
    }
}
