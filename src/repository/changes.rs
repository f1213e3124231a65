//! What changed between two snapshots of a store: the merge-join of the pages that they do not share.

use super::chunks::ChunkReader;
use super::error::RepositoryError;
use super::index::Index;
use super::manifest::ManifestReader;
use super::store::Store;
use crate::model::diff::{Change, next_side};
use crate::model::entry::Entry;
use crate::model::record::SnapshotRecord;
use std::cmp::Ordering;
use std::sync::Arc;

/// Calls `each` with every entry that changed, in order: the new one, or the old one of what is gone.
pub fn changes<E: From<RepositoryError>>(
    store: &Store,
    from: &SnapshotRecord,
    to: &SnapshotRecord,
    mut each: impl FnMut(Change, &Entry) -> Result<(), E>,
) -> Result<(), E> {
    let mut segments = from.index.clone();
    segments.extend(to.index.iter().filter(|s| !from.index.contains(s)).cloned());
    let index = Arc::new(Index::open(store, &segments, Default::default())?);
    let manifests = ManifestReader::new(ChunkReader::new(store.clone(), index));
    // Entries on shared pages are equal: neither read nor counted.
    let (old, new) = manifests.differing_leaves(&from.manifest, &to.manifest)?;
    let (mut old, mut new) = (manifests.entries_of(old), manifests.entries_of(new));
    let (mut a, mut b) = (old.next().transpose()?, new.next().transpose()?);
    while let Some(side) = next_side(a.as_ref(), b.as_ref()) {
        let (left, right) = match side {
            Ordering::Less => (a.as_ref(), None),
            Ordering::Greater => (None, b.as_ref()),
            Ordering::Equal => (a.as_ref(), b.as_ref()),
        };
        if let Some(change) = Change::between(left, right)
            && let Some(entry) = right.or(left)
        {
            each(change, entry)?;
        }
        if side != Ordering::Greater {
            a = old.next().transpose()?;
        }
        if side != Ordering::Less {
            b = new.next().transpose()?;
        }
    }
    Ok(())
}
