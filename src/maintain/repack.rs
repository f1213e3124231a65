//! Repacks: copies the needed frames of packs that will be doomed into new packs.
//!
//! Frames are copied without compressing them again, and each is checked against its chunk's id.

use super::mark::Marks;
use crate::format::frame;
use crate::format::index::FrameLocation;
use crate::model::id::{ChunkId, PackId};
use crate::repository::error::RepositoryError;
use crate::repository::index::Segment;
use crate::repository::object_key;
use crate::repository::packer::Packer;
use crate::repository::store::Store;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Number of bytes of frames that are copied together.
const COPY_BYTES: u64 = 16 << 20;

/// Copies the marked frames out of `packs`.
pub(crate) fn copy_marked(
    store: &Store,
    segments: &[Arc<Segment>],
    packs: &BTreeSet<PackId>,
    marks: &Marks,
    packer: &Packer,
) -> Result<(), RepositoryError> {
    // Copy pack by pack, so that each is read once and in order, and chunks that were written together
    // stay together.
    let mut wanted: BTreeMap<PackId, Vec<(ChunkId, FrameLocation)>> = BTreeMap::new();
    for (number, segment) in segments.iter().enumerate() {
        if !segment.header.packs.iter().any(|p| packs.contains(&p.id)) {
            continue;
        }
        for (entry, found) in segment.entries().enumerate() {
            let (id, location) = found?;
            if packs.contains(&location.pack) && marks.contains((number, entry as u32)) {
                wanted.entry(location.pack).or_default().push((id, location));
            }
        }
    }
    for (pack, mut frames) in wanted {
        frames.sort_by_key(|(_, location)| location.offset_bytes);
        let mut rest = &frames[..];
        while let Some((_, first)) = rest.first() {
            let start = u64::from(first.offset_bytes);
            let end_of = |l: &FrameLocation| u64::from(l.offset_bytes) + u64::from(l.length_bytes);
            let count = rest.iter().take_while(|(_, l)| end_of(l) - start <= COPY_BYTES).count().max(1);
            let (now, later) = rest.split_at(count);
            let end = now.last().map_or(start, |(_, l)| end_of(l));
            let at = object_key::pack(store.name(), pack);
            let bytes = store.wait(store.objects().get_range(&at, start..end))?;
            for (id, location) in now {
                let from = (u64::from(location.offset_bytes) - start) as usize;
                let bytes = bytes.slice(from..from + location.length_bytes as usize);
                packer.add_frame(*id, &checked(store, *id, location, bytes)?)?;
            }
            rest = later;
        }
    }
    Ok(())
}

/// Returns a frame without its seal, checked against its chunk's id.
///
/// It is fetched once more if the check fails.
fn checked(
    store: &Store,
    id: ChunkId,
    location: &FrameLocation,
    bytes: Bytes,
) -> Result<Bytes, RepositoryError> {
    let at = object_key::pack(store.name(), location.pack);
    let sealer = store.packs().sealer(&location.sealing)?;
    let bytes = match crate::repository::chunks::decode(&bytes, id, location, sealer.as_ref()) {
        Ok(_) => bytes,
        Err(_) => {
            let again = store.packs().frame(location)?;
            crate::repository::chunks::decode(&again, id, location, sealer.as_ref())
                .map_err(RepositoryError::format(&at))?;
            again
        }
    };
    match sealer {
        Some(sealer) => {
            frame::open_frame(&sealer, &bytes, location.offset_bytes).map_err(RepositoryError::format(&at))
        }
        None => Ok(bytes),
    }
}
