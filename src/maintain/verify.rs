//! Verifies a store: reads its objects, continues past damage, and reports the files it affects.

use super::binlog;
use super::damage::{Broken, Examined, VerifyReport, plain};
use super::walker;
use crate::format::index::{self as index_format, FrameLocation};
use crate::format::record as record_format;
use crate::format::seal::{Sealer, Sealing};
use crate::model::id::{ChunkId, ContentHash, PackId, Sequence};
use crate::model::record::{ObjectRef, Record, StoreState};
use crate::repository::error::RepositoryError;
use crate::repository::index::{Index, Vouched};
use crate::repository::object_key;
use crate::repository::store::Store;
use crate::support::failure::{Failure, FailureKind};
use crate::support::part;
use bytes::Bytes;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The depth of a verification.
#[derive(Clone, Copy)]
pub struct VerifyOptions<'a> {
    /// Percentage of packs that are read whole. With 0, only their existence and size are checked.
    pub read_data_percent: u8,
    /// Last pack of the previous reading. This one begins after it, and wraps around at the end.
    pub after: Option<PackId>,
    /// Returns whether the time is over. No further pack is read then.
    pub is_over: &'a (dyn Fn() -> bool + Sync),
}

impl Default for VerifyOptions<'_> {
    fn default() -> Self {
        Self { read_data_percent: 0, after: None, is_over: &|| false }
    }
}

impl VerifyOptions<'_> {
    /// Reads everything.
    pub fn whole() -> Self {
        Self { read_data_percent: 100, ..Self::default() }
    }
}

/// Verifies all snapshots of the store.
///
/// # Errors
/// The repository cannot be reached, or there is no key. Damage is no error: it is in the report.
pub fn verify(store: &Store, options: VerifyOptions) -> Result<VerifyReport, RepositoryError> {
    walker::walk_all(store, examine(store, options)?, &mut |_| Ok(()))
}

/// Finds the damage to records, segments and packs.
pub(crate) fn examine(store: &Store, options: VerifyOptions) -> Result<Examined, RepositoryError> {
    let mut report = VerifyReport::default();
    let told = verify_log(store, &mut report)?;
    let mut broken = Broken::default();
    let index = Arc::new(verify_index(store, &told, &mut broken, &mut report)?);
    verify_packs(store, &index, options, &mut broken, &mut report)?;
    binlog::verify(store, &told, options.read_data_percent, options.is_over, &mut report)?;
    Ok(Examined { trees: told.trees(), index, broken, report })
}

/// Reads a record; returns a text if it is damaged.
fn decode_for_verify(
    store: &Store,
    sequence: Sequence,
) -> Result<Result<(Record, ContentHash), String>, RepositoryError> {
    let key = object_key::record(store.name(), sequence);
    let limit = record_format::RECORD_MAX_BYTES as u64;
    let bytes = store.wait(store.objects().get(&key, limit))?.unwrap_or_default();
    let generation = record_format::generation(&bytes);
    let keys = match store.keyrings().keys_for(generation) {
        Err(error @ RepositoryError::Keyring { .. }) => return Ok(Err(error.to_string())),
        keys => keys?,
    };
    match record_format::decode(&bytes, keys.as_deref(), sequence.0) {
        Err(error) => Ok(Err(error.to_string())),
        Ok(decoded) => match store.keyrings().check_ring(&decoded.0, generation) {
            Err(error @ RepositoryError::Unnamed { .. }) => Ok(Err(error.to_string())),
            checked => checked.map(|()| Ok(decoded)),
        },
    }
}

/// Reads every readable record. A damaged one affects only its own snapshot.
fn verify_log(store: &Store, report: &mut VerifyReport) -> Result<StoreState, RepositoryError> {
    let prefix = object_key::log_prefix(store.name());
    let listed = store.wait(store.objects().list(Some(&prefix), None))?;
    let seen = store.memory().read()?.head;
    let mut state = StoreState::default();
    let mut chained = true;
    let mut told = StoreState::default();
    let mut last = Sequence(0);
    for object in listed {
        let Some(sequence) = object_key::parse_record(&object.location) else {
            report.problem(&object.location, "is not a valid record name");
            continue;
        };
        let mut missing = last.next();
        while missing < sequence {
            report.problem(object_key::record(store.name(), missing), "is missing");
            report.touch(missing, String::new(), "its record is missing".into());
            missing = missing.next();
            chained = false;
        }
        last = sequence;
        report.records += 1;
        let decoded = decode_for_verify(store, sequence)?;
        let (record, hash) = match decoded {
            Ok(decoded) => decoded,
            Err(error) => {
                report.problem(&object.location, error);
                report.touch(sequence, String::new(), "its record is damaged".into());
                chained = false;
                continue;
            }
        };
        if let Some(seen) = seen.filter(|seen| seen.sequence == sequence && seen.hash != hash) {
            return Err(store.log().rolled_back(seen, "has another record there".into()));
        }
        // Records after a gap cannot be chained to the ones before it, but they are sound by themselves.
        if chained && let Err(error) = state.apply(store.name(), record.clone(), hash) {
            report.problem(&object.location, error);
            chained = false;
        }
        told.take(sequence, record.event);
    }
    if let Some(seen) = seen.filter(|seen| seen.sequence > last) {
        return Err(store.log().rolled_back(seen, format!("ends with record {last}")));
    }
    if chained {
        // Now it is known which decisions hold.
        (told.authority, told.index) = (state.authority, state.index);
    }
    report.snapshots = told.snapshots.len() as u64;
    report.irregular = told.authority.irregular.clone();
    if !chained {
        // The segments named by an unreadable record are unknown, so use all that exist and were not
        // doomed.
        let prefix = object_key::index_prefix(store.name());
        for object in store.wait(store.objects().list(Some(&prefix), None))? {
            if let Some(id) = object_key::parse_index(&object.location)
                && !told.doomed_index.contains_key(&id)
                && !told.index.iter().any(|s| s.id == id)
            {
                told.index.push(ObjectRef { id, size_bytes: object.size });
            }
        }
    }
    Ok(told)
}

fn verify_index(
    store: &Store,
    told: &StoreState,
    broken: &mut Broken,
    report: &mut VerifyReport,
) -> Result<Index, RepositoryError> {
    let mut sound = Vec::new();
    for reference in &told.index {
        report.index_segments += 1;
        // Read from the repository: a copy in the cache would not show damage.
        let checked = store.segments().table(reference.id, Vouched::ByRecord).and_then(|table| {
            let at = object_key::index(store.name(), reference.id);
            index_format::check(&table).map_err(RepositoryError::format(at))
        });
        match checked {
            Ok(_) => sound.push(reference.clone()),
            Err(error) if error.kind() == FailureKind::Damaged => {
                report.problem(object_key::index(store.name(), reference.id), plain(&error));
                broken.segments.insert(reference.id);
            }
            Err(error) => return Err(error),
        }
    }
    Index::of(store, &sound, told.doomed_packs.keys().copied().collect())
}

/// Reports the packs that are missing, or have another size.
fn find_missing_packs(
    store: &Store,
    index: &Index,
    packs: &BTreeMap<PackId, u64>,
    broken: &mut Broken,
    report: &mut VerifyReport,
) -> Result<(), RepositoryError> {
    let prefix = object_key::pack_prefix(store.name());
    let listed = store.wait(store.objects().list(Some(&prefix), None))?;
    let present: HashMap<PackId, u64> =
        listed.iter().filter_map(|o| Some((object_key::parse_pack(&o.location)?, o.size))).collect();
    for (id, size_bytes) in packs {
        let at = object_key::pack(store.name(), *id);
        match present.get(id) {
            None => {
                report.problem(&at, "is missing");
                broken.packs.insert(*id, format!("pack {id} is missing"));
                broken.missing.insert(*id);
            }
            Some(found) if found != size_bytes => {
                report.problem(&at, format!("has {found} bytes instead of {size_bytes}"));
                broken.packs.insert(*id, format!("pack {id} has the wrong size"));
                let bytes = store.wait(store.objects().get(&at, index_format::PACK_MAX_BYTES))?;
                let entries = entries_of(index, &BTreeSet::from([*id]))?.remove(id).unwrap_or_default();
                find_broken_chunks(store, index, &bytes.unwrap_or_default(), &entries, broken)?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn verify_packs(
    store: &Store,
    index: &Index,
    options: VerifyOptions,
    broken: &mut Broken,
    report: &mut VerifyReport,
) -> Result<(), RepositoryError> {
    let mut packs: BTreeMap<PackId, u64> = BTreeMap::new();
    for segment in index.segments() {
        let needed = segment.header.packs.iter().filter(|p| !index.is_doomed(&p.id));
        packs.extend(needed.map(|p| (p.id, p.size_bytes)));
    }
    report.packs = packs.len() as u64;
    find_missing_packs(store, index, &packs, broken, report)?;
    let shares = share(&packs, options.read_data_percent, options.after);
    let mut rest = &shares[..];
    while !rest.is_empty() {
        let (group, behind) = rest.split_at(part::fitting(rest.iter().map(|share| share.1), GROUP_MAX_BYTES));
        rest = behind;
        let ids = group.iter().map(|share| share.0).filter(|id| !broken.packs.contains_key(id)).collect();
        let mut entries = entries_of(index, &ids)?;
        for (id, size_bytes, round) in group {
            if (options.is_over)() {
                return Ok(());
            }
            report.read_until = Some(*id);
            report.came_round |= *round;
            if broken.packs.contains_key(id) {
                continue;
            }
            report.packs_read += 1;
            report.read_bytes += size_bytes;
            let at = object_key::pack(store.name(), *id);
            let bytes = store.wait(store.objects().get(&at, *size_bytes))?.unwrap_or_default();
            let is_whole = PackId::of(&bytes) == *id;
            if !is_whole {
                report.problem(&at, "does not have the hash that names it");
                broken.packs.insert(*id, format!("pack {id} is damaged"));
            }
            let entries = entries.remove(id).unwrap_or_default();
            let lost = find_broken_chunks(store, index, &bytes, &entries, broken)?;
            if is_whole && lost > 0 {
                report.problem(&at, format!("{lost} chunks are not at the place that the index names"));
            }
        }
    }
    Ok(())
}

/// Finds the chunks of a pack that cannot be read from these bytes; returns their number.
///
/// The index gives the pack's chunks.
fn find_broken_chunks(
    store: &Store,
    index: &Index,
    bytes: &Bytes,
    entries: &[(ChunkId, FrameLocation)],
    broken: &mut Broken,
) -> Result<u64, RepositoryError> {
    let mut sealers: HashMap<Sealing, Option<Sealer>> = HashMap::new();
    let mut lost = 0;
    for (chunk, location) in entries {
        let sealer = match sealers.entry(location.sealing) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(store.packs().sealer(&location.sealing)?),
        };
        let start = location.offset_bytes as usize;
        let end = start + location.length_bytes as usize;
        let decode = |bytes| crate::repository::chunks::decode(&bytes, *chunk, location, sealer.as_ref());
        let is_lost = end > bytes.len() || decode(bytes.slice(start..end)).is_err();
        // Another pack may have it as well.
        if is_lost && index.lookup(*chunk)?.as_ref() == Some(location) {
            broken.chunks.insert(*chunk);
            lost += 1;
        }
    }
    Ok(lost)
}

/// Returns the index entries of some packs, in one pass over the index.
fn entries_of(
    index: &Index,
    packs: &BTreeSet<PackId>,
) -> Result<HashMap<PackId, Vec<(ChunkId, FrameLocation)>>, RepositoryError> {
    let mut found: HashMap<_, Vec<_>> = HashMap::new();
    for segment in index.segments() {
        if !segment.header.packs.iter().any(|pack| packs.contains(&pack.id)) {
            continue;
        }
        for entry in segment.entries() {
            let (chunk, location) = entry?;
            if packs.contains(&location.pack) {
                found.entry(location.pack).or_default().push((chunk, location));
            }
        }
    }
    Ok(found)
}

/// A pack to read, its size in bytes, and whether it follows the end, in the next round.
type Share = (PackId, u64, bool);

/// Maximum size of packs that are checked together.
///
/// Their index entries are held in memory, some hundred bytes a chunk.
const GROUP_MAX_BYTES: u64 = 1 << 30;

/// Returns the packs to read: `percent` of them, in the order of their names after `after`, wrapping around.
///
/// Names are hashes, so any range is a random sample. Pure.
fn share(packs: &BTreeMap<PackId, u64>, percent: u8, after: Option<PackId>) -> Vec<Share> {
    let count = (packs.len() * usize::from(percent)).div_ceil(100);
    let behind =
        packs.iter().filter(|(id, _)| after.is_none_or(|after| **id > after)).map(|(id, s)| (*id, *s, false));
    let round = packs
        .iter()
        .filter(|(id, _)| after.is_some_and(|after| **id <= after))
        .map(|(id, s)| (*id, *s, true));
    behind.chain(round).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_by_share_come_round_and_leave_none_out() {
        let packs: BTreeMap<_, _> = (0..50u8).map(|n| (PackId::of(&[n]), 1)).collect();
        let (mut after, mut seen) = (None, Vec::new());
        for _ in 0..11 {
            let read = share(&packs, 10, after);
            assert_eq!(read.len(), 5);
            after = read.last().map(|r| r.0);
            seen.extend(read);
        }
        assert_eq!(seen[..50].iter().map(|r| r.0).collect::<BTreeSet<_>>().len(), 50);
        assert!(seen[..50].iter().all(|r| !r.2) && seen[50..].iter().all(|r| r.2));
        assert_eq!(share(&packs, 1, None).len(), 1);
        assert!(share(&packs, 0, None).is_empty());
    }
}
