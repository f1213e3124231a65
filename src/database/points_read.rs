//! Reads what decides about a store's points: its snapshots, its primaries, the seeds, and what the archive has.
//!
//! Of the archive only single segments are read: the first and the last of each epoch, and those at which it went on
//! behind a gap. An archive goes on behind a gap at nothing but a seed, so that each is found by the seeds.
//!
//! What can race: a pruning, or an archiver that goes on. What was read before is what is shown; a restore looks
//! again, and says what is not there any more.

use super::error::DatabaseError;
use super::points::{Gap, History, Point, Seed, Stretch, Taken, point, points};
use crate::format::binlog_segment::{Link, SegmentHeader, SegmentPlace, SegmentRef};
use crate::model::decision::Decision;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, Sequence};
use crate::model::record::{Event, SnapshotRecord, StoreState};
use crate::model::snapshot_ref::Moment;
use crate::repository::binlog::{Line, Span};
use crate::repository::error::RepositoryError;
use crate::repository::parts::Binlog;
use crate::repository::store::Store;
use crate::support::clock::UnixNanos;
use std::collections::BTreeMap;

/// Maximum number of segments of an epoch that are listed, to see whether one is missing.
const LISTED_MAX: u64 = 100_000;

/// A store's files, and its database.
pub(crate) struct Site<'a> {
    pub files: &'a Store,
    /// The store of the seeds and of the archive.
    pub database: &'a Store,
}

/// The reign of a primary.
struct Reign {
    epoch: Epoch,
    /// The record by which it began.
    since: Sequence,
    at: UnixNanos,
    branch: Option<GtidPosition>,
}

/// What decides about points.
struct Read {
    reigns: Vec<Reign>,
    seeds: Vec<Seed>,
    history: History,
    state: StoreState,
}

impl Site<'_> {
    /// Returns the points of a store, the newest first.
    ///
    /// # Errors
    /// The repository cannot be read, or something in it is damaged.
    pub(crate) fn points(&self) -> Result<Vec<Point>, DatabaseError> {
        let read = self.read()?;
        if read.state.snapshots.is_empty() {
            return Err(RepositoryError::NoStore(self.files.name().clone()).into());
        }
        let taken: Vec<Taken> =
            read.state.snapshots.iter().map(|(at, record)| read.taken(*at, record)).collect();
        Ok(points(&taken, &read.seeds, &read.history))
    }

    /// Returns the point of one snapshot, whether or not the database can be brought to it.
    ///
    /// # Errors
    /// There is no such snapshot, or as for [`Self::points`].
    pub(crate) fn point(&self, moment: Moment) -> Result<Point, DatabaseError> {
        let read = self.read()?;
        let (snapshot, record) = self.files.log().find(&read.state, moment)?;
        Ok(point(&read.taken(snapshot, &record), &read.seeds, &read.history))
    }

    /// Returns a point to which the database can be brought, and its position.
    ///
    /// # Errors
    /// It cannot be brought there; or as for [`Self::point`].
    pub(crate) fn reachable(&self, moment: Moment) -> Result<(Point, GtidPosition), DatabaseError> {
        let point = self.point(moment)?;
        let (name, snapshot) = (self.files.name(), point.taken.snapshot);
        match (&point.position, &point.hindrance) {
            (Some(position), None) => {
                let position = position.clone();
                Ok((point, position))
            }
            (_, hindrance) => {
                let why = hindrance.as_ref().map(ToString::to_string).unwrap_or_default();
                Err(DatabaseError::Missing(format!(
                    "{name}@{snapshot}: the database cannot be brought to it: {why}; `understudy points {name}` lists what can"
                )))
            }
        }
    }

    fn read(&self) -> Result<Read, DatabaseError> {
        let state = self.files.log().state()?;
        let reigns = reigns(self.files, &state)?;
        let of_database = match self.database.log().is_empty()? {
            true => StoreState::default(),
            false => self.database.log().state()?,
        };
        let (seeds, dropped) = seeds(self.database, &of_database, &reigns)?;
        let binlog = self.database.binlog();
        let line = binlog.line()?;
        let history = Archive { binlog, line: &line, reigns: &reigns }.history(&seeds, &dropped)?;
        Ok(Read { reigns, seeds, history, state })
    }
}

impl Read {
    fn taken(&self, snapshot: Sequence, record: &SnapshotRecord) -> Taken {
        let position = |text: Option<&String>| {
            let position: GtidPosition = text?.parse().ok()?;
            Some(position.of_store()).filter(|position| !position.is_empty())
        };
        let of_record = self.reigns.iter().rfind(|reign| reign.since < snapshot);
        Taken {
            snapshot,
            scan_start: record.scan_start,
            scan_end: record.scan_end,
            epoch: of_record.map_or(Epoch(0), |reign| reign.epoch),
            start: position(record.database_position.as_ref()),
            end: position(record.statistics.database_end.as_ref()),
        }
    }
}

/// Returns the primaries of a store, the first one first.
fn reigns(files: &Store, state: &StoreState) -> Result<Vec<Reign>, DatabaseError> {
    let mut reigns: Vec<Reign> = Vec::new();
    if state.epoch == Epoch(0) {
        // Nobody was promoted, so that the log need not be read.
        return Ok(reigns);
    }
    let mut branches: BTreeMap<Sequence, GtidPosition> = BTreeMap::new();
    for happened in files.log().history()?.into_iter().filter(|happened| happened.irregular.is_none()) {
        let record = happened.record;
        let (mut at, mut decision) = (UnixNanos::EPOCH, None);
        if let Event::Decided(decided) = &record.event
            && let Some(statement) = decided.statement()
        {
            (at, decision) = (statement.at, Some(statement.decision));
        }
        if let Some(Decision::Completed { promotion, database: Some(branch), .. }) = decision {
            branches.insert(promotion, branch.of_store());
        }
        if reigns.last().is_none_or(|last| record.epoch > last.epoch) && record.epoch > Epoch(0) {
            reigns.push(Reign { epoch: record.epoch, since: record.sequence, at, branch: None });
        }
    }
    for reign in &mut reigns {
        reign.branch = branches.remove(&reign.since);
    }
    Ok(reigns)
}

/// Returns the seeds that say their position, the oldest first, and the positions of those that were dropped.
fn seeds(
    database: &Store,
    state: &StoreState,
    reigns: &[Reign],
) -> Result<(Vec<Seed>, Vec<GtidPosition>), DatabaseError> {
    let position = |record: &SnapshotRecord| {
        let position: GtidPosition = record.database_position.as_ref()?.parse().ok()?;
        Some(position.of_store())
    };
    let of = |(seed, record): (&Sequence, &SnapshotRecord)| {
        let reign = reigns.iter().rfind(|reign| reign.at <= record.scan_start);
        let epoch = reign.map_or(Epoch(0), |reign| reign.epoch);
        Some(Seed { seed: *seed, position: position(record)?, epoch })
    };
    let mut dropped = Vec::new();
    for sequence in state.dropped.keys() {
        if let Event::Snapshot(record) = database.log().record_at(*sequence)?.event {
            dropped.extend(position(&record));
        }
    }
    Ok((state.snapshots.iter().filter_map(of).collect(), dropped))
}

/// An archive that is read.
struct Archive<'a> {
    binlog: Binlog<'a>,
    line: &'a Line,
    reigns: &'a [Reign],
}

impl Archive<'_> {
    fn history(&self, seeds: &[Seed], dropped: &[GtidPosition]) -> Result<History, DatabaseError> {
        let mut history = History::default();
        for span in &self.line.0 {
            let (first, last) = (self.header(span.epoch, span.first)?, self.header(span.epoch, span.last)?);
            // The first one of the line has nothing before it that is known, whatever it names.
            if !history.stretches.is_empty() {
                history.gaps.extend(self.gap_before(&first)?);
            }
            history.gaps.extend(self.holes(span)?);
            let reign = self.reigns.iter().find(|reign| reign.epoch == span.epoch);
            let branch = reign.and_then(|reign| reign.branch.clone());
            let (before, after) = (first.before, last.after);
            history.stretches.push(Stretch { epoch: span.epoch, before, after, branch });
        }
        for position in seeds.iter().map(|seed| &seed.position).chain(dropped) {
            if let Some(gap) = self.gap_at(position)?
                && !history.gaps.contains(&gap)
            {
                history.gaps.push(gap);
            }
        }
        // Within one history a position is behind another one if more was committed.
        let committed = |gap: &Gap| gap.to.gtids().fold(0u64, |sum, gtid| sum.saturating_add(gtid.number));
        history.gaps.sort_by_key(committed);
        Ok(history)
    }

    fn header(&self, epoch: Epoch, number: u64) -> Result<SegmentHeader, RepositoryError> {
        Ok(self.binlog.read(SegmentPlace { epoch, number })?.segment.header)
    }

    /// Returns the gap that a segment goes on behind.
    fn gap_before(&self, header: &SegmentHeader) -> Result<Option<Gap>, RepositoryError> {
        let Link::BehindGap(SegmentRef { epoch, number, .. }) = header.link else { return Ok(None) };
        match self.header(epoch, number) {
            Ok(previous) => Ok(Some(Gap { from: previous.after, to: header.before.clone() })),
            // It was pruned, with all that comes before the gap.
            Err(RepositoryError::MissingObject { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the gap behind which the archive goes on at this position.
    fn gap_at(&self, position: &GtidPosition) -> Result<Option<Gap>, RepositoryError> {
        let Some(place) = self.binlog.find(self.line, position)? else { return Ok(None) };
        let header = self.header(place.epoch, place.number)?;
        match header.before == *position {
            true => self.gap_before(&header),
            false => Ok(None),
        }
    }

    /// Returns what is missing of an epoch since somebody deleted it.
    fn holes(&self, span: &Span) -> Result<Vec<Gap>, RepositoryError> {
        // More are not listed only to be shown: `verify` names what is missing of them, and a restore does.
        if span.last - span.first > LISTED_MAX {
            return Ok(Vec::new());
        }
        let numbers = self.binlog.list(span.epoch)?.numbers;
        let gaps = numbers.windows(2).filter(|pair| pair[1] > pair[0] + 1);
        let within = gaps.map(|pair| pair[0] + 1..=pair[1] - 1).filter(|gap| *gap.end() < span.last);
        let hole = |gap: std::ops::RangeInclusive<u64>| {
            let from = self.header(span.epoch, gap.start() - 1)?.after;
            Ok(Gap { from, to: self.header(span.epoch, gap.end() + 1)?.before })
        };
        within.map(hole).collect()
    }
}
