//! One stranded tree in the repository, compared with what the primary has now.

use super::class::{Class, Three};
use super::compare::Comparison;
use super::error::StrandedError;
use super::former::{Changes, Replaced};
use super::rejoin::newest;
use super::stated::Tally;
use crate::api::stranded::{LossCheck, StrandedCounts};
use crate::model::decision::{Decision, Stranded};
use crate::model::id::Sequence;
use crate::model::manifest_root::ManifestRoot;
use crate::model::record::StoreState;
use crate::repository::chunks::ChunkReader;
use crate::repository::decide::Maker;
use crate::repository::error::RepositoryError;
use crate::repository::index::Index;
use crate::repository::manifest::ManifestReader;
use crate::repository::store::Store;
use crate::source::exclude::Excludes;
use std::sync::Arc;

/// A tree of a former primary that no person has settled.
pub struct StrandedView {
    store: Store,
    pub sequence: Sequence,
    pub stranded: Stranded,
    /// The change of the primary that stranded it, if the log tells.
    pub replaced: Option<Replaced>,
    /// The snapshot of the new primary with which it is compared.
    pub compared: Option<Sequence>,
    pub(crate) chunks: ChunkReader,
    base: Option<ManifestRoot>,
    theirs: Option<ManifestRoot>,
}

impl StrandedView {
    /// Opens what is stranded in record `sequence`, to compare it with the newest snapshot.
    ///
    /// # Errors
    /// There is nothing unsettled in that record.
    pub fn open(store: &Store, state: &StoreState, sequence: Sequence) -> Result<Self, StrandedError> {
        let Some(stranded) = state.authority.stranded.get(&sequence).cloned() else {
            return Err(StrandedError::NotStranded { store: store.name().clone(), sequence });
        };
        let changes = Changes::of(&store.log().history()?);
        let replaced = changes.ended(stranded.of_epoch);
        // What the former primary itself committed after the base is no snapshot of the new one.
        let compared = replaced.and_then(|replaced| newest(state, replaced)).or(stranded.base);
        let manifest_of = |snapshot: Option<Sequence>| {
            snapshot.and_then(|snapshot| Some(state.snapshots.get(&snapshot)?.manifest.clone()))
        };
        let (base, theirs) = (manifest_of(stranded.base), manifest_of(compared));
        let index = Arc::new(Index::open(store, state)?);
        let chunks = ChunkReader::new(store.clone(), index);
        let replaced = replaced.cloned();
        Ok(Self { store: store.clone(), sequence, stranded, replaced, compared, chunks, base, theirs })
    }

    pub(crate) fn manifests(&self) -> ManifestReader {
        ManifestReader::new(self.chunks.clone())
    }

    /// Returns each path that the former primary changed, in order.
    pub(crate) fn paths(
        &self,
    ) -> Result<impl Iterator<Item = Result<Three, RepositoryError>> + use<>, RepositoryError> {
        Comparison::of(&self.manifests(), self.base.as_ref(), &self.stranded.manifest, self.theirs.as_ref())
    }

    /// Calls `each` with each path that the former primary changed, in order. Returns their numbers, beside what
    /// the promotion stated.
    ///
    /// # Errors
    /// Those of the repository, and of `each`.
    pub fn each<E: From<RepositoryError>>(
        &self,
        transient: &Excludes,
        mut each: impl FnMut(Class, &Three) -> Result<(), E>,
    ) -> Result<(StrandedCounts, LossCheck), E> {
        let mut tally = Tally::new(self.replaced.as_ref());
        for three in self.paths()? {
            let three = three?;
            if let Some(class) = three.class(transient) {
                tally.count(class, &three);
                each(class, &three)?;
            }
        }
        Ok((tally.counts, tally.check()))
    }

    /// Decides that the tree is settled: from then on nothing keeps it.
    ///
    /// # Errors
    /// `maker` may not decide, or another has settled it meanwhile.
    pub fn settle(
        &self,
        state: &mut StoreState,
        maker: Maker,
        (taken, dropped): (u64, u64),
        person: &str,
    ) -> Result<Option<Sequence>, StrandedError> {
        let stranded = self.sequence;
        self.store.log().refresh(state)?;
        self.store.log().decide(state, maker, |state| {
            if !state.authority.stranded.contains_key(&stranded) {
                let store = self.store.name().clone();
                return Err(StrandedError::NotStranded { store, sequence: stranded });
            }
            Ok(Some(Decision::Settled { stranded, taken, dropped, person: person.to_owned() }))
        })
    }
}
