//! Merges index segments, so that a lookup reads few of them however many runs there were.

use super::error::RepositoryError;
use super::index::{Index, Segment};
use super::object_key;
use super::parts::Segments;
use crate::format::index as format;
use crate::format::index::{FrameLocation, PackEntry, SegmentEntry};
use crate::model::id::{IndexId, PackId};
use crate::model::record::ObjectRef;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Maximum number of entries in a merged segment, which bounds the memory of a merge (44 bytes each).
pub(crate) const ENTRIES_MAX: usize = 256 << 10;
/// Number of segments of one size that become one of the next size.
///
/// This is a log-structured merge tree (O'Neil et al., 1996): an entry is rewritten once for each size.
const FAN: usize = 8;

/// Chooses the segments to merge, given their entry counts. Pure.
///
/// It takes those of the first size (a power of [`FAN`]) that has enough of them, with all smaller ones.
pub fn plan(entries: &[usize]) -> Vec<usize> {
    let size = |entries: usize| entries.max(1).ilog(FAN);
    // A segment that is half full stays as it is.
    let open = |at: &usize| entries[*at] < ENTRIES_MAX / 2;
    for this in 0..=size(ENTRIES_MAX) {
        let run: Vec<usize> =
            (0..entries.len()).filter(|at| open(at) && size(entries[*at]) == this).collect();
        if run.len() < FAN {
            continue;
        }
        let mut run: Vec<usize> =
            (0..entries.len()).filter(|at| open(at) && size(entries[*at]) <= this).collect();
        run.sort_by_key(|at| entries[*at]);
        let mut sum = 0;
        run.retain(|at| {
            let fits = sum + entries[*at] <= ENTRIES_MAX;
            sum += if fits { entries[*at] } else { 0 };
            fits
        });
        run.sort_unstable();
        // Fewer than `FAN` are worth it if they fill half of a segment.
        let worth = run.len() >= FAN || (run.len() >= 2 && sum >= ENTRIES_MAX / 2);
        return if worth { run } else { Vec::new() };
    }
    Vec::new()
}

/// Returns the table of these segments' entries for packs that `keep` accepts; `None` if there are none.
///
/// If several segments have a chunk, the last one's location is used.
pub(crate) fn merge(
    segments: &[Arc<Segment>],
    keep: impl Fn(&PackId) -> bool,
) -> Result<Option<Vec<u8>>, RepositoryError> {
    let mut packs: Vec<PackEntry> = Vec::new();
    let mut numbers: HashMap<PackId, u32> = HashMap::new();
    let mut entries: Vec<(SegmentEntry, usize)> = Vec::new();
    for (age, segment) in segments.iter().enumerate() {
        for pack in segment.header.packs.iter().filter(|pack| keep(&pack.id)) {
            numbers.entry(pack.id).or_insert_with(|| {
                packs.push(*pack);
                packs.len() as u32 - 1
            });
        }
        for entry in segment.entries() {
            let (chunk, FrameLocation { pack, offset_bytes, length_bytes, .. }) = entry?;
            if let Some(number) = numbers.get(&pack) {
                entries.push((SegmentEntry { chunk, pack: *number, offset_bytes, length_bytes }, age));
            }
        }
    }
    entries.sort_unstable_by(|(a, x), (b, y)| a.chunk.cmp(&b.chunk).then(y.cmp(x)));
    entries.dedup_by_key(|(entry, _)| entry.chunk);
    let mut entries: Vec<_> = entries.into_iter().map(|(entry, _)| entry).collect();
    Ok((!entries.is_empty()).then(|| format::encode(&packs, &mut entries)))
}

/// The segments that are live after a rewrite, and those that were replaced.
pub(crate) type Rewritten = (Vec<ObjectRef<IndexId>>, Vec<IndexId>);

/// The segments that were merged, and the new one.
pub(crate) type Merged = (Vec<IndexId>, ObjectRef<IndexId>);

impl Segments<'_> {
    /// Merges the `live` segments that are worth it, and puts the result.
    ///
    /// Returns it with the ones that it replaces.
    pub(crate) fn merge(
        &self,
        index: &Index,
        live: &[ObjectRef<IndexId>],
    ) -> Result<Option<Merged>, RepositoryError> {
        let is_live = |segment: &Arc<Segment>| live.iter().any(|l| l.id == segment.reference.id);
        let segments: Vec<_> = index.segments().into_iter().filter(is_live).collect();
        let entries: Vec<_> = segments.iter().map(|s| s.header.entries as usize).collect();
        let chosen: Vec<_> = plan(&entries).into_iter().map(|at| segments[at].clone()).collect();
        if chosen.is_empty() {
            return Ok(None);
        }
        let Some(table) = merge(&chosen, |_| true)? else { return Ok(None) };
        let new = self.put(&table)?;
        self.store.check_arrived(&object_key::index(self.store.name(), new.id), new.size_bytes)?;
        Ok(Some((chosen.iter().map(|s| s.reference.id).collect(), new)))
    }

    /// Rewrites segments without the packs in `gone`. Returns the live segments and the replaced ones.
    pub(crate) fn rewrite(
        &self,
        before: &[Arc<Segment>],
        gone: &BTreeSet<PackId>,
        new: &[ObjectRef<IndexId>],
    ) -> Result<Rewritten, RepositoryError> {
        let (touched, untouched): (Vec<_>, Vec<_>) = before
            .iter()
            .cloned()
            .partition(|segment| segment.header.packs.iter().any(|pack| gone.contains(&pack.id)));
        // Small segments among the others are merged at the same time.
        let entries: Vec<_> = untouched.iter().map(|s| s.header.entries as usize).collect();
        let merged: BTreeSet<_> = plan(&entries).into_iter().collect();
        let mut live = Vec::new();
        let mut rewritten = touched;
        for (number, segment) in untouched.into_iter().enumerate() {
            match merged.contains(&number) {
                true => rewritten.push(segment),
                false => live.push(segment.reference.clone()),
            }
        }
        let replaced = rewritten.iter().map(|s| s.reference.id).collect();
        // Keep their old order: if several segments have a chunk, the last one's location is used.
        rewritten.sort_by_key(|s| before.iter().position(|b| b.reference.id == s.reference.id));
        let mut rest = &rewritten[..];
        while !rest.is_empty() {
            let mut sum = 0;
            let count = rest.iter().take_while(|s| {
                sum += s.header.entries as usize;
                sum <= ENTRIES_MAX
            });
            let (now, later) = rest.split_at(count.count().max(1));
            if let Some(table) = merge(now, |pack| !gone.contains(pack))? {
                let reference = self.put(&table)?;
                self.store.check_arrived(
                    &object_key::index(self.store.name(), reference.id),
                    reference.size_bytes,
                )?;
                live.push(reference);
            }
            rest = later;
        }
        live.extend_from_slice(new);
        Ok((live, replaced))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_years_of_hourly_segments_stay_few_and_each_entry_is_rewritten_seldom() {
        let (mut segments, mut written, mut added, mut most) = (Vec::new(), 0usize, 0usize, 0);
        for hour in 0..24 * 3653usize {
            let new = 5 + hour % 40;
            segments.push(new);
            added += new;
            let run = plan(&segments);
            if !run.is_empty() {
                let sum = run.iter().map(|at| segments[*at]).sum();
                written += sum;
                let mut at = 0;
                segments.retain(|_| {
                    at += 1;
                    !run.contains(&(at - 1))
                });
                segments.push(sum);
            }
            most = most.max(segments.len());
        }
        // Up to seven of each of six sizes, and those that are half full.
        let bound = 6 * (FAN - 1) + added / (ENTRIES_MAX / 2);
        assert!(most <= bound, "{most} segments of {bound}");
        assert!(written < added * 7, "{written} of {added}");
    }

    #[test]
    fn a_large_segment_is_not_rewritten_for_a_few_small_ones() {
        let mut sizes = vec![400_000];
        sizes.extend([10; 9]);
        assert_eq!(plan(&sizes), (1..10).collect::<Vec<_>>());
        assert_eq!(plan(&[10; 7]), Vec::<usize>::new());
        assert_eq!(plan(&[200_000; 20]), Vec::<usize>::new());
        assert_eq!(plan(&[33_000; 8]), (0..7).collect::<Vec<_>>());
    }
}
