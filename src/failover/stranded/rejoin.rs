//! Commits what only a former primary has.
//!
//! The order is that of a resync: packs, index, the check that all arrived, the record. The tree is only read.
//! A run that is killed has committed nothing or everything; what it shipped is adopted by the next one. A
//! tree that was committed already is not committed again, whether or not a person has settled it since.
//!
//! With nothing stranded there is no record: the former primary's tree is then the base, the same as the new
//! primary's, or differs only in what is made again. What was shipped for the comparison is an orphan, which a
//! pruning deletes.

use super::compare::Comparison;
use super::error::StrandedError;
use super::former::{Changes, Replaced};
use super::stated::Tally;
use crate::api::resync::Warnings;
use crate::api::stranded::{LossCheck, StrandedCounts};
use crate::model::decision::Stranded;
use crate::model::id::{Epoch, Sequence, WriterId};
use crate::model::manifest_root::ManifestRoot;
use crate::model::record::StoreState;
use crate::replicate::resync::{Request, ResyncContext, StrandedTree, ship_tree};
use crate::repository::decide::Maker;
use crate::repository::error::RepositoryError;
use crate::repository::manifest::{EntryStream, ManifestReader};
use crate::repository::session::WriteSession;
use crate::repository::store::Store;
use crate::source::exclude::Excludes;
use crate::support::progress::Step;
use serde::Serialize;

/// The report of a rejoin.
#[derive(Clone, Debug, Serialize)]
pub struct RejoinReport {
    /// The epoch in which this host was the primary.
    pub of_epoch: Epoch,
    /// The record that made another host the primary.
    pub promotion: Sequence,
    /// The primary that replaced it.
    pub primary: WriterId,
    /// The snapshot that the tree was compared with.
    pub base: Option<Sequence>,
    /// The snapshot of the new primary that it was compared with.
    pub compared: Option<Sequence>,
    /// The record that holds what is stranded; none if nothing is.
    pub record: Option<Sequence>,
    /// Whether an earlier run had committed it.
    pub already: bool,
    pub counts: StrandedCounts,
    /// What the promotion stated that it loses, beside what was found.
    pub loss: LossCheck,
    pub vanished: u64,
    pub warnings: Warnings,
}

/// Commits what only this host has, if it is a former primary.
///
/// # Errors
/// Nothing was committed.
pub fn rejoin(
    store: &Store,
    maker: Maker,
    request: &Request,
    transient: &[String],
    around: &ResyncContext,
) -> Result<RejoinReport, StrandedError> {
    let transient = Excludes::parse(transient)?;
    store.repository().probe()?;
    let attempt = Attempt { store, maker, request, transient: &transient, around };
    loop {
        if let Some(report) = attempt.run()? {
            return Ok(report);
        }
        // Data that the run may have relied on was moved.
        around.progress.begin_again();
    }
}

/// One attempt at a rejoin.
struct Attempt<'a> {
    store: &'a Store,
    maker: Maker<'a>,
    request: &'a Request,
    transient: &'a Excludes,
    around: &'a ResyncContext<'a>,
}

impl Attempt<'_> {
    /// Runs once. Returns `None` if the run has to begin again.
    fn run(&self) -> Result<Option<RejoinReport>, StrandedError> {
        let Self { store, maker, around, .. } = self;
        let changes = Changes::of(&store.log().history()?);
        let state = store.log().state()?;
        let replaced = replaced(store, &changes, maker.name)?;
        let base = base(&state, &replaced);
        let compared = newest(&state, &replaced).or(base);
        let manifest_of = |snapshot: Option<Sequence>| {
            snapshot.and_then(|snapshot| Some(state.snapshots.get(&snapshot)?.manifest.clone()))
        };
        let (base_root, theirs) = (manifest_of(base), manifest_of(compared));
        let mut session = WriteSession::over(store, maker.name, state.clone(), base)?;
        (around.on_step)(Step::Opened);
        let tree = ship_tree(store, &session, self.request, around)?;
        let manifests = ManifestReader::new(session.chunks().clone());
        let all = Comparison::of(&manifests, base_root.as_ref(), &tree.manifest, theirs.as_ref())?;
        let (counts, loss) = self.count(all, &replaced)?;
        let earlier = earlier(&manifests, &state, &replaced, &tree.manifest)?;
        let already = earlier.is_some();
        let record = match earlier {
            None if counts.is_stranded() => {
                let stranded = stranded(&replaced, base, &tree, &counts);
                match session.commit_stranded(*maker, &stranded)? {
                    Some(sequence) => Some(sequence),
                    None => return Ok(None),
                }
            }
            earlier => earlier,
        };
        (around.on_step)(Step::Committed);
        let StrandedTree { vanished, warnings, .. } = tree;
        let Replaced { of_epoch, by: primary, promotion, .. } = replaced;
        Ok(Some(RejoinReport {
            of_epoch,
            promotion,
            primary,
            base,
            compared,
            record,
            already,
            counts,
            loss,
            vanished,
            warnings,
        }))
    }

    fn count(
        &self,
        all: Comparison<EntryStream>,
        replaced: &Replaced,
    ) -> Result<(StrandedCounts, LossCheck), RepositoryError> {
        let mut tally = Tally::new(Some(replaced));
        for three in all {
            let three = three?;
            if let Some(class) = three.class(self.transient) {
                tally.count(class, &three);
            }
        }
        Ok((tally.counts, tally.check()))
    }
}

fn replaced(store: &Store, changes: &Changes, host: &WriterId) -> Result<Replaced, StrandedError> {
    let (store, host) = (store.name().clone(), host.clone());
    match changes.replaced(&host) {
        Some(replaced) => Ok(replaced.clone()),
        None if changes.primary.as_ref() == Some(&host) => Err(StrandedError::Primary { store, host }),
        None => Err(StrandedError::NeverPrimary { store, host }),
    }
}

/// Returns the snapshot that the new primary began with, or the last one before it that still exists.
///
/// With an older one more paths count as changed, never fewer.
fn base(state: &StoreState, replaced: &Replaced) -> Option<Sequence> {
    let last = replaced.base.unwrap_or(replaced.promotion);
    state.snapshots.range(..=last).next_back().map(|(sequence, _)| *sequence)
}

/// Returns the newest snapshot after a change of the primary.
pub(crate) fn newest(state: &StoreState, replaced: &Replaced) -> Option<Sequence> {
    state.latest().map(|(sequence, _)| sequence).filter(|sequence| *sequence > replaced.promotion)
}

/// Returns the record that has this tree already.
fn earlier(
    manifests: &ManifestReader,
    state: &StoreState,
    replaced: &Replaced,
    here: &ManifestRoot,
) -> Result<Option<Sequence>, RepositoryError> {
    for (sequence, manifest) in replaced.stranded.iter().rev() {
        if manifest == here {
            return Ok(Some(*sequence));
        }
        // The pages of a settled tree may be gone.
        if state.authority.stranded.contains_key(sequence) {
            let mut all = Comparison::of(manifests, Some(manifest), here, None)?;
            if all.try_fold(true, |same, three| Ok::<_, RepositoryError>(same && three?.is_unchanged()))? {
                return Ok(Some(*sequence));
            }
        }
    }
    Ok(None)
}

fn stranded(
    replaced: &Replaced,
    base: Option<Sequence>,
    tree: &StrandedTree,
    counts: &StrandedCounts,
) -> Stranded {
    Stranded {
        of_epoch: replaced.of_epoch,
        base,
        manifest: tree.manifest.clone(),
        new_packs: tree.new_packs.clone(),
        new_index: Vec::new(),
        added: counts.added,
        changed: counts.to_take() - counts.added,
        removed: counts.deleted,
    }
}
