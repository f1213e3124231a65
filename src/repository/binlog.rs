//! The archive of a database's binary log: segments at `STORE/binlog/<epoch>/<number>`, each created once.
//!
//! Numbers have no gap within an epoch, from the first one that was not pruned; they are the only order, and no
//! record names a segment. The epoch in the name is the fence: what the host of an earlier epoch still puts lies
//! under that epoch. Where the next epoch goes on is said by its first segment, so that what lies behind belongs to
//! no history but that host's own ([`Line`]).
//!
//! What can race: two archivers of one epoch. Only one creates a number; the other one finds another segment there,
//! and reads anew where it stands.

use super::error::RepositoryError;
use super::object_key;
use super::objects::Creation;
use super::parts::Binlog;
use crate::format::binlog_segment::{
    self as format, Link, OBJECT_MAX_BYTES, Segment, SegmentPlace, SegmentRef,
};
use crate::model::gtid::GtidPosition;
use crate::model::id::{ContentHash, Epoch};
use crate::support::failure::{Failure, FailureKind};
use bytes::Bytes;
use object_store::PutPayload;
use std::ops::RangeInclusive;

/// The segments of an epoch that exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    pub first: u64,
    pub last: u64,
    /// Numbers in between that are missing.
    pub gaps: Vec<RangeInclusive<u64>>,
}

/// What lies in an epoch.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    pub numbers: Vec<u64>,
    /// The keys of what is no segment.
    pub others: Vec<String>,
}

/// A segment as it lies in the repository.
#[derive(Clone, Debug)]
pub struct Stored {
    pub segment: Segment,
    pub this: SegmentRef,
    pub size_bytes: u64,
    /// The data key that it is sealed with; 0 for none.
    pub generation: u32,
}

/// What became of putting a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    Mine(SegmentRef),
    /// Another segment has this number.
    Taken,
}

/// Consecutive segments of one epoch that belong to the history of the newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub epoch: Epoch,
    pub first: u64,
    pub last: u64,
}

/// The history of the newest epoch: its segments, and those of each earlier epoch up to where the next one went on.
/// The oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line(pub Vec<Span>);

impl Line {
    /// Returns the places from one on.
    pub fn from(&self, place: SegmentPlace) -> impl Iterator<Item = SegmentPlace> {
        let spans = self.0.iter().filter(move |span| span.epoch >= place.epoch);
        spans.flat_map(move |span| {
            let first = if span.epoch == place.epoch { place.number } else { span.first };
            (first..=span.last).map(|number| SegmentPlace { epoch: span.epoch, number })
        })
    }

    /// Returns the last segment.
    pub fn last(&self) -> Option<SegmentPlace> {
        self.0.last().map(|span| SegmentPlace { epoch: span.epoch, number: span.last })
    }

    /// Returns whether a segment belongs to this history.
    pub fn contains(&self, place: SegmentPlace) -> bool {
        self.0
            .iter()
            .any(|span| span.epoch == place.epoch && (span.first..=span.last).contains(&place.number))
    }
}

impl Binlog<'_> {
    /// Returns the epochs that have segments, the oldest first.
    pub fn epochs(&self) -> Result<Vec<Epoch>, RepositoryError> {
        let prefix = object_key::binlog_prefix(self.store.name());
        let names = self.store.wait(self.store.objects().names(Some(&prefix)))?;
        let mut epochs: Vec<_> = names.iter().filter_map(|name| object_key::parse_epoch(name)).collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// Returns which segments of an epoch exist; none if there are none. They are looked for from `hint` on, a
    /// number that is likely to be near the last one.
    ///
    /// Segments are many: this lists them not, but asks for single ones.
    pub fn ends(&self, epoch: Epoch, hint: u64) -> Result<Option<Ends>, RepositoryError> {
        let Some(first) = self.first_after(epoch, None)? else { return Ok(None) };
        let mut last = if hint > first && self.exists(epoch, hint)? { hint } else { first };
        let mut gaps = Vec::new();
        loop {
            last = self.last_of_run(epoch, last)?;
            match self.first_after(epoch, Some(last))? {
                None => return Ok(Some(Ends { first, last, gaps })),
                Some(next) => {
                    if next > last + 1 {
                        gaps.push(last + 1..=next - 1);
                    }
                    last = next;
                }
            }
        }
    }

    /// Returns the last number that is reached from `from`, which exists, without a gap, or one before it.
    fn last_of_run(&self, epoch: Epoch, from: u64) -> Result<u64, RepositoryError> {
        let (mut last, mut step) = (from, 1);
        while self.exists(epoch, last + step)? {
            last += step;
            step *= 2;
        }
        while step > 1 {
            step /= 2;
            if self.exists(epoch, last + step)? {
                last += step;
            }
        }
        Ok(last)
    }

    fn exists(&self, epoch: Epoch, number: u64) -> Result<bool, RepositoryError> {
        let key = object_key::segment(self.store.name(), epoch, number);
        Ok(self.store.wait(self.store.objects().head(&key))?.is_some())
    }

    fn first_after(&self, epoch: Epoch, after: Option<u64>) -> Result<Option<u64>, RepositoryError> {
        let prefix = object_key::epoch_prefix(self.store.name(), epoch);
        let after = after.map(|number| object_key::segment(self.store.name(), epoch, number));
        let found = self.store.wait(self.store.objects().first(&prefix, after.as_ref()))?;
        Ok(found.and_then(|object| object_key::parse_record(&object.location)).map(|number| number.0))
    }

    /// Lists the numbers of an epoch's segments.
    pub(crate) fn list(&self, epoch: Epoch) -> Result<Listed, RepositoryError> {
        let prefix = object_key::epoch_prefix(self.store.name(), epoch);
        let listed = self.store.wait(self.store.objects().list(Some(&prefix), None))?;
        let mut found = Listed::default();
        for object in listed {
            match object_key::parse_record(&object.location) {
                Some(number) => found.numbers.push(number.0),
                None => found.others.push(object.location.to_string()),
            }
        }
        Ok(found)
    }

    /// Returns the key of a segment, to be named in messages.
    pub fn key(&self, place: SegmentPlace) -> String {
        object_key::segment(self.store.name(), place.epoch, place.number).to_string()
    }

    /// Reads a segment.
    ///
    /// # Errors
    /// It is missing, or damaged, or does not belong there.
    pub fn read(&self, place: SegmentPlace) -> Result<Stored, RepositoryError> {
        let fetched = self.store.wait(self.fetch(place))?;
        self.decode(place, fetched)
    }

    async fn fetch(&self, place: SegmentPlace) -> Result<Option<Bytes>, RepositoryError> {
        let key = object_key::segment(self.store.name(), place.epoch, place.number);
        self.store.objects().get(&key, OBJECT_MAX_BYTES).await
    }

    /// Fetches several segments at once, for [`Self::decode`].
    pub fn fetch_all(&self, places: &[SegmentPlace]) -> Result<Vec<Option<Bytes>>, RepositoryError> {
        let fetches = places.iter().map(|place| self.fetch(*place));
        self.store.wait(futures::future::join_all(fetches)).into_iter().collect()
    }

    /// Decodes a segment that was fetched.
    pub fn decode(&self, place: SegmentPlace, fetched: Option<Bytes>) -> Result<Stored, RepositoryError> {
        let key = object_key::segment(self.store.name(), place.epoch, place.number);
        let decode = |fetched: Option<Bytes>| {
            let bytes = fetched.ok_or_else(|| RepositoryError::MissingObject {
                key: key.to_string(),
                what: "archived segment",
            })?;
            let generation = format::generation(&bytes);
            let keys = self.store.keyrings().keys_for(generation)?;
            let segment =
                format::decode(&bytes, place, keys.as_deref()).map_err(RepositoryError::format(&key))?;
            let this = SegmentRef { epoch: place.epoch, number: place.number, hash: ContentHash::of(&bytes) };
            Ok(Stored { segment, this, size_bytes: bytes.len() as u64, generation })
        };
        match decode(fetched) {
            // The transfer may have damaged it. Fetch it once more.
            Err(RepositoryError::Format { .. }) => decode(self.store.wait(self.fetch(place))?),
            other => other,
        }
    }

    /// Admits this process as a writer of the archive.
    pub fn admit(&self) -> Result<(), RepositoryError> {
        self.store.keyrings().admit_writer()
    }

    /// Returns a segment as it is put.
    pub fn seal(&self, segment: &Segment, place: SegmentPlace, level: i32) -> Result<Bytes, RepositoryError> {
        let key = object_key::segment(self.store.name(), place.epoch, place.number);
        let (sealing, keys) = self.store.keyrings().new_sealing()?;
        let bytes = format::encode(segment, level, &sealing, place, keys.as_deref());
        bytes.map(Bytes::from).map_err(RepositoryError::format(&key))
    }

    /// Puts a sealed segment. It may be put again, if it is not known whether it arrived.
    pub fn put(&self, place: SegmentPlace, bytes: &Bytes) -> Result<Put, RepositoryError> {
        let key = object_key::segment(self.store.name(), place.epoch, place.number);
        let this = SegmentRef { epoch: place.epoch, number: place.number, hash: ContentHash::of(bytes) };
        let objects = self.store.objects();
        self.store.wait(async {
            if objects.create(&key, PutPayload::from(bytes.clone())).await? == Creation::Created {
                return Ok(Put::Mine(this));
            }
            let there = match objects.get(&key, OBJECT_MAX_BYTES).await {
                Err(error) if error.kind() == FailureKind::Damaged => None,
                there => there?,
            };
            Ok(if there.as_ref() == Some(bytes) { Put::Mine(this) } else { Put::Taken })
        })
    }

    /// Deletes segments, in no order.
    pub(crate) fn delete_all(&self, places: &[SegmentPlace]) -> Result<(), RepositoryError> {
        let delete = |place: &SegmentPlace| {
            let key = object_key::segment(self.store.name(), place.epoch, place.number);
            async move { self.store.objects().delete(&key).await }
        };
        self.store.wait(futures::future::try_join_all(places.iter().map(delete))).map(drop)
    }

    /// Returns the next number that exists.
    pub(crate) fn next(&self, epoch: Epoch, number: u64) -> Result<Option<u64>, RepositoryError> {
        self.first_after(epoch, Some(number))
    }

    /// Returns the history of the newest epoch.
    pub fn line(&self) -> Result<Line, RepositoryError> {
        let mut spans = Vec::new();
        let mut next = None;
        for epoch in self.epochs()?.into_iter().rev() {
            let last = match next {
                // The newest.
                None => None,
                Some(SegmentRef { epoch: named, number, .. }) if named == epoch => Some(number),
                // A host of this epoch went on alone.
                Some(_) => continue,
            };
            let Some(ends) = self.ends(epoch, last.unwrap_or(0))? else { continue };
            spans.push(Span { epoch, first: ends.first, last: last.unwrap_or(ends.last) });
            let first = self.read(SegmentPlace { epoch, number: ends.first })?;
            match first.segment.header.link {
                Link::After(previous) | Link::BehindGap(previous) if previous.epoch < epoch => {
                    next = Some(previous);
                }
                // The first one ever, or what precedes it was pruned.
                _ => break,
            }
        }
        spans.reverse();
        Ok(Line(spans))
    }

    /// Returns the last segment of a history that begins at or before a position; none if all begin behind it.
    pub fn find(
        &self,
        line: &Line,
        position: &GtidPosition,
    ) -> Result<Option<SegmentPlace>, RepositoryError> {
        for span in line.0.iter().rev() {
            let begins = |number| self.begins(SegmentPlace { epoch: span.epoch, number }, position);
            if let Some(number) = last_where(span.first..=span.last, begins)? {
                return self.beginning(line, SegmentPlace { epoch: span.epoch, number }).map(Some);
            }
        }
        Ok(None)
    }

    /// Returns whether a segment begins at or before a position. One that is missing is judged by the next one.
    fn begins(&self, place: SegmentPlace, position: &GtidPosition) -> Result<bool, RepositoryError> {
        match self.read(place) {
            Ok(stored) => Ok(position.covers(&stored.segment.header.before)),
            Err(error @ RepositoryError::MissingObject { .. }) => {
                let next = self.next(place.epoch, place.number)?.ok_or(error)?;
                self.begins(SegmentPlace { number: next, ..place }, position)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the segment in which a transaction begins that goes on at the beginning of another one, or that one.
    fn beginning(&self, line: &Line, mut place: SegmentPlace) -> Result<SegmentPlace, RepositoryError> {
        let mut header = self.read(place)?.segment.header;
        while let Link::After(previous) = header.link {
            let before = SegmentPlace { epoch: previous.epoch, number: previous.number };
            if !line.contains(before) {
                break;
            }
            let stored = self.read(before)?;
            if format::Chain::after(stored.this, &stored.segment.header).begun_in(&header).is_none() {
                break;
            }
            (place, header) = (before, stored.segment.header);
        }
        Ok(place)
    }
}

/// Returns the last number for which `holds`, which holds for all before any for which it does not.
pub(crate) fn last_where<E>(
    numbers: RangeInclusive<u64>,
    holds: impl Fn(u64) -> Result<bool, E>,
) -> Result<Option<u64>, E> {
    let (mut low, mut high) = (*numbers.start(), *numbers.end());
    if low > high || !holds(low)? {
        return Ok(None);
    }
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if holds(middle)? { low = middle } else { high = middle - 1 }
    }
    Ok(Some(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_of_those_that_hold_is_found() {
        for count in 0..20u64 {
            for bound in 0..=count + 1 {
                let found = last_where(1..=count, |number| Ok::<_, ()>(number < bound)).unwrap();
                let wanted = (1..=count).rfind(|number| *number < bound);
                assert_eq!(found, wanted, "{count} {bound}");
            }
        }
    }

    #[test]
    fn a_line_goes_on_where_the_next_epoch_did() {
        let span = |epoch, first, last| Span { epoch: Epoch(epoch), first, last };
        let place = |epoch, number| SegmentPlace { epoch: Epoch(epoch), number };
        let line = Line(vec![span(1, 4, 6), span(3, 1, 2)]);
        let found: Vec<_> = line.from(place(1, 5)).collect();
        assert_eq!(found, [place(1, 5), place(1, 6), place(3, 1), place(3, 2)]);
        assert!(line.contains(place(1, 6)) && !line.contains(place(1, 7)) && !line.contains(place(2, 1)));
        assert_eq!(line.last(), Some(place(3, 2)));
    }
}
