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
use crate::model::record::{Event, StoreState};
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
    /// Returns where the tree of `host` is while it is the primary; none if it is not. It needs no reading of the
    /// whole log, so a store that is closed does not wait for one.
    pub(crate) fn of_primary(state: &StoreState, host: &WriterId) -> Option<Self> {
        let promotion =
            state.authority.promotion.as_ref().filter(|_| state.primary.as_ref() == Some(host))?;
        let mounted = |base| Self::Mounted { base, epoch: state.epoch };
        Some(promotion.base.map_or(Self::Own, mounted))
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decision::{Cause, Loss, Promoted, Statement};
    use crate::model::id::ContentHash;
    use crate::model::member::{May, Member};
    use crate::model::record::{Record, SnapshotRecord};
    use crate::support::clock::UnixNanos;
    use crate::support::signature::SigningKey;

    fn host(name: &str) -> WriterId {
        WriterId(name.into())
    }

    fn key(name: &str) -> SigningKey {
        SigningKey::of(&[name.as_bytes()[0]; 32])
    }

    fn members(names: &[&str]) -> Decision {
        let member = |name: &&str| Member::sample(name, key(name).public(), &[May::Serve]);
        Decision::Members { members: names.iter().map(member).collect() }
    }

    fn promoted(name: &str, base: Option<u64>) -> Decision {
        Decision::Promoted(Promoted {
            primary: host(name),
            incarnation: None,
            cause: Cause::Forced { person: "ops".into(), attested: false },
            base: base.map(Sequence),
            loss: Loss::default(),
            reason: "a test".into(),
        })
    }

    /// A log, and its history as [`crate::repository::parts::Log::history`] returns it.
    #[derive(Default)]
    struct Told {
        state: StoreState,
        history: Vec<Happened>,
    }

    impl Told {
        fn append(&mut self, writer: &str, event: Event) -> &mut Self {
            let store = StoreName::parse("acme").unwrap();
            let before = self.state.authority.irregular.count;
            let state = &mut self.state;
            let record = Record {
                store: store.clone(),
                sequence: state.next_sequence(),
                epoch: state.epoch_with(&event),
                writer: host(writer),
                nonce: 0,
                previous: state.head.map(|(_, hash)| hash),
                ring: state.ring,
                event,
            };
            let hash = ContentHash::of(&record.sequence.0.to_le_bytes());
            state.apply(&store, record.clone(), hash).unwrap();
            let is_new = state.authority.irregular.count > before;
            let irregular = is_new.then(|| state.authority.irregular.last.last().unwrap().why.clone());
            self.history.push(Happened { record, irregular });
            self
        }

        fn decide(&mut self, by: &str, decision: Decision) -> &mut Self {
            let statement = Statement { at: UnixNanos(1), decision };
            let store = StoreName::parse("acme").unwrap();
            let event = self.state.sign(&store, &statement, &host(by), &key(by)).unwrap();
            self.append(by, event)
        }

        fn founded() -> Self {
            let mut told = Self::default();
            told.append("a", Event::Snapshot(Box::new(SnapshotRecord::sample())));
            told.decide("a", members(&["a"])).decide("a", members(&["a", "b", "c"]));
            told
        }

        fn places(&self) -> [Option<Place>; 3] {
            let places = ["a", "b", "c"].map(|name| Place::of(&self.history, &host(name)));
            if let Some(primary) = self.state.primary.as_ref().filter(|_| self.state.authority.is_founded()) {
                // The state alone tells the same of the primary.
                let found = Place::of_primary(&self.state, primary);
                assert_eq!(found, Place::of(&self.history, primary));
            }
            places
        }
    }

    const fn mounted(base: u64, epoch: u64) -> Option<Place> {
        Some(Place::Mounted { base: Sequence(base), epoch: Epoch(epoch) })
    }

    #[test]
    fn a_founder_serves_its_own_tree_and_nobody_else_has_one() {
        assert_eq!(Told::default().places(), [None; 3]);
        assert_eq!(Told::founded().places(), [Some(Place::Own), None, None]);
    }

    #[test]
    fn who_is_promoted_serves_its_promotion_s_snapshot_with_changes_of_that_epoch() {
        let mut told = Told::founded();
        told.decide("b", promoted("b", Some(1)));
        assert_eq!(told.places(), [Some(Place::Own), mounted(1, 2), None]);
        // A list of members of the new primary moves no tree.
        told.decide("b", members(&["b", "a"]));
        assert_eq!(told.places(), [Some(Place::Own), mounted(1, 2), None]);
        // Handed back: the founder's tree is a snapshot as well now, and the other's stays what it was.
        told.append("b", Event::Snapshot(Box::new(SnapshotRecord::sample())));
        let snapshot = told.state.latest().unwrap().0;
        told.decide("b", Decision::Handover { to: host("a"), snapshot, database: None, reason: None });
        assert_eq!(told.places()[0], Some(Place::Own), "a handover alone moves nothing");
        told.decide("a", promoted("a", Some(snapshot.0)));
        assert_eq!(told.places(), [mounted(snapshot.0, 3), mounted(1, 2), None]);
        // A host that is promoted twice never mixes two epochs.
        told.decide("b", promoted("b", Some(snapshot.0)));
        assert_eq!(told.places(), [mounted(snapshot.0, 3), mounted(snapshot.0, 4), None]);
    }

    #[test]
    fn a_promotion_without_a_snapshot_is_of_the_host_s_own_tree() {
        let mut told = Told::founded();
        told.decide("b", promoted("b", None));
        assert_eq!(told.places()[1], Some(Place::Own));
    }

    #[test]
    fn a_record_without_effect_moves_no_tree() {
        let mut told = Told::founded();
        let statement = Statement { at: UnixNanos(1), decision: promoted("c", Some(1)) };
        let store = StoreName::parse("acme").unwrap();
        let genuine = told.state.sign(&store, &statement, &host("c"), &key("c")).unwrap();
        let Event::Decided(mut decided) = genuine else { panic!() };
        // In another member's name, in an epoch that it claims.
        decided.member = host("b");
        told.append("b", Event::Decided(decided));
        // And one that nobody signed.
        told.append("c", Event::Promoted { primary: host("c") });
        assert!(told.history[3..].iter().all(|happened| happened.irregular.is_some()), "{:?}", told.history);
        assert_eq!(told.places(), [Some(Place::Own), None, None]);
    }

    #[test]
    fn a_host_that_was_promoted_before_the_store_had_members_serves_its_own_tree() {
        let mut told = Told::default();
        told.append("a", Event::Snapshot(Box::new(SnapshotRecord::sample())));
        told.append("b", Event::Promoted { primary: host("b") });
        assert_eq!(told.places(), [None, Some(Place::Own), None]);
        told.decide("b", members(&["b"]));
        assert_eq!(told.places(), [None, Some(Place::Own), None]);
    }
}
