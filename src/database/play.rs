//! Reads an archive from a seed on, up to a target: which events of which segments are applied, and that all of them
//! are what they should be.
//!
//! A segment is applied after it was checked: its seal, its place, the hash by which the next one names it, each
//! event's checksum, and that its transactions go on from those before. A time decides about a transaction by its
//! last event, so the end of a transaction that goes on in other segments is looked up before it is begun.

use super::error::DatabaseError;
use super::target::{Target, Verdict};
use crate::format::binlog_event::{Ended, Step};
use crate::format::binlog_segment::{Chain, ChainError, Link, Part, SegmentPlace};
use crate::model::gtid::{Gtid, GtidPosition};
use crate::repository::binlog::{Line, Stored};
use crate::repository::parts::Binlog;
use std::ops::Range;

/// Number of segments that are fetched at once.
const AT_ONCE: usize = 16;

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Played {
    pub segments: u64,
    pub transactions: u64,
    /// When the last of them was committed, in seconds since 1970; 0 without any.
    pub last_s: u32,
}

/// Takes the events that are to be applied; the flag says that they end a transaction.
pub type Feed<'a> = dyn FnMut(&Part, &[u8], bool) -> Result<(), DatabaseError> + 'a;

/// A part of a segment's events that belongs to one transaction, or to none.
struct Group {
    part: usize,
    events: Range<usize>,
    /// The transaction; none between two.
    gtid: Option<Gtid>,
    ended: Option<Ended>,
}

/// A reading of an archive.
pub struct Play<'a> {
    binlog: Binlog<'a>,
    line: &'a Line,
    target: Target,
    /// The seed's position.
    seed: GtidPosition,
    /// Where the data is: the seed's position, and then that of the last transaction.
    pub position: GtidPosition,
    pub played: Played,
    /// Where the reading is, until it comes to the seed's position.
    at: GtidPosition,
    has_begun: bool,
    /// What was decided about the transaction that goes on in the next segment.
    carried: Option<Verdict>,
    is_done: bool,
}

impl<'a> Play<'a> {
    pub fn new(binlog: Binlog<'a>, line: &'a Line, target: Target, seed: GtidPosition) -> Self {
        Self {
            binlog,
            line,
            target,
            position: seed.clone(),
            seed,
            played: Played::default(),
            at: GtidPosition::default(),
            has_begun: false,
            carried: None,
            is_done: false,
        }
    }

    /// Reads from the segment in which the seed's position is, and feeds what follows it.
    pub fn run(
        &mut self,
        first: SegmentPlace,
        feed: &mut Feed,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), DatabaseError> {
        let places: Vec<SegmentPlace> = self.line.from(first).collect();
        let mut chain: Option<(Chain, u32)> = None;
        for places in places.chunks(AT_ONCE) {
            let fetched = self.binlog.fetch_all(places)?;
            for (place, fetched) in places.iter().zip(fetched) {
                if stop() {
                    return Err(DatabaseError::Stopped);
                }
                let stored = self.binlog.decode(*place, fetched)?;
                let (reading, generation) = match chain.take() {
                    Some(chain) => chain,
                    None => (self.enter(&stored)?, 0),
                };
                if stored.generation < generation {
                    let text = format!(
                        "it is sealed with data key {}, and the segment before it with {generation}: it was exchanged",
                        stored.generation
                    );
                    return Err(DatabaseError::Archive { key: self.binlog.key(*place), text });
                }
                chain = Some((self.segment(*place, &stored, reading, feed)?, stored.generation));
                if self.is_done {
                    return self.end();
                }
            }
        }
        self.end()
    }

    /// Returns the state before the first segment. Of a transaction that goes on in it, the seed has the beginning.
    fn enter(&self, stored: &Stored) -> Result<Chain, DatabaseError> {
        let header = &stored.segment.header;
        let carried = match header.link {
            Link::After(previous)
                if self.line.contains(SegmentPlace { epoch: previous.epoch, number: previous.number }) =>
            {
                let place = SegmentPlace { epoch: previous.epoch, number: previous.number };
                Some(self.binlog.read(place)?).filter(|before| before.this == previous)
            }
            _ => None,
        };
        Ok(Chain::before(header, carried.as_ref().map(|before| &before.segment.header)))
    }

    /// Checks that the target was met.
    fn end(&self) -> Result<(), DatabaseError> {
        if !self.has_begun {
            return Err(DatabaseError::Missing(format!(
                "the seed at {} is not in the archive's history",
                self.seed
            )));
        }
        match &self.target {
            Target::Gtid(gtid) if self.position.of(gtid.domain) != Some(*gtid) => {
                Err(DatabaseError::Missing(format!(
                    "transaction {gtid} is not in the archive: its history has {} there. A host that was the primary before may have committed it alone",
                    self.position
                )))
            }
            Target::Position(wanted) if self.position != *wanted => Err(DatabaseError::Missing(format!(
                "the position {wanted} is not in the archive: its history has {} there. A host that was the primary before may have committed it alone",
                self.position
            ))),
            _ => Ok(()),
        }
    }

    /// Checks one segment, and feeds what is wanted of it.
    fn segment(
        &mut self,
        place: SegmentPlace,
        stored: &Stored,
        mut chain: Chain,
        feed: &mut Feed,
    ) -> Result<Chain, DatabaseError> {
        let header = &stored.segment.header;
        let key = || self.binlog.key(place);
        if self.has_begun && matches!(header.link, Link::BehindGap(_)) {
            return Err(DatabaseError::Archive {
                key: key(),
                text: format!(
                    "what was committed between {} and {} is not archived: restore to {} at most, or from a seed behind the gap",
                    self.position, header.before, self.position
                ),
            });
        }
        if !chain.goes_on_in(header) {
            self.carried = None;
        }
        if !self.has_begun {
            self.at = header.before.clone();
            self.has_begun = self.at == self.seed;
        }
        let groups =
            groups(&mut chain, stored).map_err(|source| DatabaseError::Segment { key: key(), source })?;
        self.played.segments += 1;
        for group in &groups {
            if self.is_done {
                break;
            }
            if !self.has_begun {
                self.pass(group)?;
                continue;
            }
            let verdict = match (group.gtid, group.ended, self.carried.take()) {
                (_, _, Some(verdict)) => verdict,
                (None, _, None) => Verdict::Apply,
                (Some(_), Some(ended), None) => self.target.judge(&ended),
                (Some(_), None, None) => match self.look_ahead(place, &chain)? {
                    Some(ended) => self.target.judge(&ended),
                    // It was never committed.
                    None => continue,
                },
            };
            if verdict == Verdict::Stop {
                self.is_done = true;
                break;
            }
            let is_whole = group.ended.is_some() || group.gtid.is_none();
            feed(&header.parts[group.part], &stored.segment.events[group.events.clone()], is_whole)?;
            match group.ended {
                Some(ended) => self.applied(&ended, verdict),
                None if group.gtid.is_some() => self.carried = Some(verdict),
                None => {}
            }
        }
        Ok(chain)
    }

    fn applied(&mut self, ended: &Ended, verdict: Verdict) {
        // The chain has seen that it follows.
        let _ = self.position.advance(ended.gtid);
        self.played.transactions += 1;
        self.played.last_s = ended.committed_s;
        self.is_done = verdict == Verdict::ApplyAndStop;
    }

    /// Passes a transaction that the seed has.
    fn pass(&mut self, group: &Group) -> Result<(), DatabaseError> {
        let Some(Ended { gtid, .. }) = group.ended else { return Ok(()) };
        let is_ours = self.seed.of(gtid.domain).is_some_and(|last| gtid.number <= last.number);
        if gtid.domain.is_store() && !is_ours {
            return Err(DatabaseError::Missing(format!(
                "the seed at {} is not in the archive's history, which has {gtid} there",
                self.seed
            )));
        }
        // The chain has seen that it follows.
        let _ = self.at.advance(gtid);
        self.has_begun = self.at == self.seed;
        Ok(())
    }

    /// Finds the end of a transaction that goes on behind `place`; none if it has none.
    fn look_ahead(&self, place: SegmentPlace, chain: &Chain) -> Result<Option<Ended>, DatabaseError> {
        let mut chain = chain.clone();
        for place in self.line.from(place).skip(1) {
            let stored = self.binlog.read(place)?;
            if !chain.goes_on_in(&stored.segment.header) {
                return Ok(None);
            }
            let wrong = |source| DatabaseError::Segment { key: self.binlog.key(place), source };
            let groups = groups(&mut chain, &stored).map_err(wrong)?;
            if let Some(ended) = groups.first().and_then(|group| group.ended) {
                return Ok(Some(ended));
            }
        }
        Ok(None)
    }
}

/// Reads a segment, and returns its transactions.
fn groups(chain: &mut Chain, stored: &Stored) -> Result<Vec<Group>, ChainError> {
    let parts = &stored.segment.header.parts;
    let mut groups: Vec<Group> = Vec::new();
    let (mut at, mut part) = (0, 0);
    let mut open = chain.begun_in(&stored.segment.header);
    let mut begins = true;
    chain.read(stored.this, &stored.segment, &mut |told| {
        if !std::ptr::eq(told.part, &parts[part]) {
            part = parts.iter().position(|other| std::ptr::eq(other, told.part)).unwrap_or(part);
            begins = true;
        }
        let end = at + told.bytes.len();
        let mut ended = None;
        match told.step {
            Step::Begins(gtid) => (open, begins) = (Some(gtid), true),
            Step::Ends(done) => ended = Some(done),
            Step::File(_) | Step::Inside => {}
        }
        match groups.last_mut() {
            Some(group) if !begins => group.events.end = end,
            _ => groups.push(Group { part, events: at..end, gtid: open, ended: None }),
        }
        begins = ended.is_some();
        if let (Some(done), Some(group)) = (ended, groups.last_mut()) {
            (group.ended, open) = (Some(done), None);
        }
        at = end;
    })?;
    Ok(groups)
}
