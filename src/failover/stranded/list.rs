//! The stranded trees of a store, each with its numbers, and the paths of one.

use super::class::{Class, Three};
use super::error::StrandedError;
use super::tree::StrandedView;
use crate::api::stranded::{StrandedPath, StrandedPaths, StrandedTree};
use crate::model::record::StoreState;
use crate::repository::error::RepositoryError;
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
        let (counts, loss) = view.each(transient, |_, _| Ok::<_, StrandedError>(()))?;
        Ok(StrandedTree {
            record: sequence,
            of_epoch: view.stranded.of_epoch.0,
            host: view.replaced.map(|replaced| replaced.host),
            base: view.stranded.base,
            compared: view.compared,
            counts,
            loss,
        })
    };
    state.authority.stranded.keys().copied().map(tree).collect()
}

/// Returns a path with its class, as it is shown.
pub(crate) fn told(class: Class, three: &Three) -> Option<StrandedPath> {
    let entry = three.entry()?;
    Some(StrandedPath {
        class: class.name().to_owned(),
        path: entry.path.to_string(),
        kind: entry.kind.name().to_owned(),
        size_bytes: entry.size_bytes(),
        mtime: entry.mtime.seconds,
        size_bytes_there: three.theirs.as_ref().map(|entry| entry.size_bytes()),
        mtime_there: three.theirs.as_ref().map(|entry| entry.mtime.seconds),
    })
}

/// Returns up to `limit` paths of a tree, without the first `from`.
///
/// # Errors
/// Those of the repository.
pub(crate) fn paths(
    view: &StrandedView,
    transient: &Excludes,
    from: u64,
    limit: usize,
) -> Result<StrandedPaths, RepositoryError> {
    let (mut paths, mut seen) = (Vec::new(), 0);
    for three in view.paths()? {
        let three = three?;
        let Some(path) = three.class(transient).and_then(|class| told(class, &three)) else { continue };
        seen += 1;
        if seen <= from {
            continue;
        }
        if paths.len() == limit {
            return Ok(StrandedPaths { paths, next: Some(seen - 1) });
        }
        paths.push(path);
    }
    Ok(StrandedPaths { paths, next: None })
}
