//! The stranded trees of a store, each with its numbers.

use super::error::StrandedError;
use super::tree::StrandedView;
use crate::api::stranded::StrandedTree;
use crate::model::record::StoreState;
use crate::repository::store::Store;
use crate::source::exclude::Excludes;

/// Returns the trees of former primaries that no person has settled. Their manifests are read.
///
/// # Errors
/// Those of the repository.
pub(crate) fn list(
    store: &Store,
    state: &StoreState,
    transient: &Excludes,
) -> Result<Vec<StrandedTree>, StrandedError> {
    let tree = |sequence| {
        let view = StrandedView::open(store, state, sequence)?;
        let counts = view.each(transient, |_, _| Ok::<_, StrandedError>(()))?;
        Ok(StrandedTree {
            record: sequence,
            of_epoch: view.stranded.of_epoch.0,
            host: view.host,
            base: view.stranded.base,
            compared: view.compared,
            counts,
        })
    };
    state.authority.stranded.keys().copied().map(tree).collect()
}
