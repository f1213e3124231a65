//! Finds the changes between two snapshots of a store, by merge-joining the pages that they do not share.

use super::chunks::ChunkReader;
use super::error::RepositoryError;
use super::index::Index;
use super::manifest::{EntryStream, ManifestReader};
use super::store::Store;
use crate::model::diff::{Change, next_side};
use crate::model::entry::Entry;
use crate::model::record::{SnapshotRecord, StoreState};
use std::cmp::Ordering;
use std::sync::Arc;

/// Calls `each` with every changed entry, in order: the new entry, or the old one if it was removed.
pub fn changes<E: From<RepositoryError>>(
    store: &Store,
    state: &StoreState,
    from: &SnapshotRecord,
    to: &SnapshotRecord,
    mut each: impl FnMut(Change, &Entry) -> Result<(), E>,
) -> Result<(), E> {
    let index = Arc::new(Index::open(store, state)?);
    let manifests = ManifestReader::new(ChunkReader::new(store.clone(), index));
    // Entries on shared pages are equal: they are neither read nor counted.
    let (old, new) = manifests.differing_leaves(&from.manifest, &to.manifest)?;
    join(manifests.entries_of(old), manifests.entries_of(new), |old, new| {
        let change = Change::between(old.as_ref(), new.as_ref());
        match (change, new.or(old)) {
            (Some(change), Some(entry)) => each(change, &entry),
            _ => Ok(()),
        }
    })
}

/// Merge-joins the entries of two manifests by path.
pub(crate) fn join<E: From<RepositoryError>>(
    mut old_stream: EntryStream,
    mut new_stream: EntryStream,
    mut each: impl FnMut(Option<Entry>, Option<Entry>) -> Result<(), E>,
) -> Result<(), E> {
    let next = |stream: &mut EntryStream| stream.next().transpose();
    let (mut old, mut new) = (next(&mut old_stream)?, next(&mut new_stream)?);
    while let Some(side) = next_side(old.as_ref(), new.as_ref()) {
        let (mut a, mut b) = (None, None);
        if side != Ordering::Greater {
            a = std::mem::replace(&mut old, next(&mut old_stream)?);
        }
        if side != Ordering::Less {
            b = std::mem::replace(&mut new, next(&mut new_stream)?);
        }
        each(a, b)?;
    }
    Ok(())
}
