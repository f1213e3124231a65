//! Finds where an archive goes on: behind its last segment, where the server's files have the same history; on a new
//! primary behind the last segment of an earlier epoch whose history it shares; else at the newest seed.
//!
//! Nothing but the repository and the server's files is asked, so that it does not matter who archived before.

use super::binlog_files::{BinlogFile, Cursor, Located, WrittenEnd, locate};
use super::error::DatabaseError;
use super::server::{BinlogPlace, Server};
use crate::format::binlog_segment::{Link, SegmentPlace};
use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, Sequence, StoreName};
use crate::model::record::StoreState;
use crate::repository::binlog::{Stored, last_where};
use crate::repository::parts::Binlog;
use crate::repository::store::Store;
use std::path::Path;

/// Where an archive goes on.
pub(super) struct Start {
    pub link: Link,
    pub number: u64,
    pub position: GtidPosition,
    pub cursor: Cursor,
}

pub(super) fn gone(store: &StoreName, text: &str) -> DatabaseError {
    DatabaseError::Gone(format!(
        "{text}; what was committed in between is not archived. A new seed begins anew, and the archive goes on from it: understudy database seed {store}"
    ))
}

/// Finds where an archive goes on.
pub(super) struct Opening<'a> {
    /// The store whose database it is, to be named in messages.
    pub name: &'a StoreName,
    pub server: &'a Server,
    pub place: &'a BinlogPlace,
    pub store: &'a Store,
    pub epoch: Epoch,
}

impl Opening<'_> {
    fn binlog(&self) -> Binlog<'_> {
        self.store.binlog()
    }

    pub fn start(&self, hint: u64) -> Result<Start, DatabaseError> {
        let names = self.server.binlog_names()?;
        let end = self.server.written_end()?;
        let files = Files { dir: &self.place.dir, names: &names, end: &end };
        if let Some(ends) = self.binlog().ends(self.epoch, hint)? {
            if ends.last < hint || !ends.gaps.is_empty() {
                self.store.notice().say(&format!(
                    "warning: store '{}': segments of its archive are missing in epoch {}, behind {}: somebody deleted them; run `understudy verify {}`",
                    self.store.name(), self.epoch.0, ends.gaps.first().map_or(ends.last, |gap| gap.start() - 1), self.store.name()
                ));
            }
            let last = self.binlog().read(SegmentPlace { epoch: self.epoch, number: ends.last })?;
            return self.behind(last, ends.last + 1, &files);
        }
        let epochs = self.binlog().epochs()?;
        for epoch in epochs.into_iter().rev().filter(|epoch| *epoch < self.epoch) {
            let Some(ends) = self.binlog().ends(epoch, 0)? else { continue };
            return self.join(epoch, ends.first..=ends.last, &files);
        }
        self.begin_at_seed(None, 1, &files, None)
    }

    /// Goes on behind the last segment of this epoch.
    fn behind(&self, last: Stored, number: u64, files: &Files) -> Result<Start, DatabaseError> {
        let header = &last.segment.header;
        let link = Link::After(last.this);
        let position = header.after.clone();
        if let Some(part) = header.parts.last()
            && files.has(&part.file, &part.format.bytes, part.offset_bytes + part.length_bytes)?
        {
            let cursor = Cursor {
                file: part.file.clone(),
                offset_bytes: part.offset_bytes + part.length_bytes,
                format: part.format.clone(),
                begun: header.unfinished,
            };
            return Ok(Start { link, number, position, cursor });
        }
        match files.locate(&position)? {
            Located::At(cursor) => Ok(Start { link, number, position, cursor: *cursor }),
            Located::Gone(oldest) => self.begin_at_seed(Some(&last), number, files, Some(oldest)),
            // A person has looked, and seeded.
            Located::Diverged(_) if self.has_seed_behind(&position)? => {
                self.begin_at_seed(Some(&last), number, files, None)
            }
            Located::Diverged(there) => Err(DatabaseError::Diverged(format!(
                "{}: the archive has transactions up to {position}, and the server has {there} there: it lost what was archived, or another one took its place. Find out which is right; a new seed begins anew: understudy database seed {}",
                self.server.address(),
                self.name
            ))),
        }
    }

    /// Returns whether there is a seed that is not in what is archived.
    fn has_seed_behind(&self, archived: &GtidPosition) -> Result<bool, DatabaseError> {
        Ok(newest_seed(&self.store.log().state()?).is_some_and(|(_, seed)| !archived.covers(&seed)))
    }

    /// Goes on behind the last segment of an earlier epoch that has only what this server has, too.
    fn join(
        &self,
        epoch: Epoch,
        numbers: std::ops::RangeInclusive<u64>,
        files: &Files,
    ) -> Result<Start, DatabaseError> {
        let read = |number| self.binlog().read(SegmentPlace { epoch, number });
        let last = read(*numbers.end())?;
        let located = files.locate(&last.segment.header.after)?;
        if let Located::Gone(oldest) = located {
            return self.begin_at_seed(Some(&last), 1, files, Some(oldest));
        }
        let has = |number| {
            let located = files.locate(&read(number)?.segment.header.after)?;
            // The server has what is older than its logs: it was seeded with it.
            Ok::<_, DatabaseError>(!matches!(located, Located::Diverged(_)))
        };
        let joined = match located {
            Located::At(_) => Some(last.this.number),
            _ => last_where(numbers, has)?,
        };
        // None of it is this server's history: what the log of this epoch names would be taken for that.
        let Some(number) = joined else { return self.begin_at_seed(None, 1, files, None) };
        let stored = read(number)?;
        let position = stored.segment.header.after.clone();
        match files.locate(&position)? {
            Located::At(cursor) => {
                Ok(Start { link: Link::After(stored.this), number: 1, position, cursor: *cursor })
            }
            Located::Gone(oldest) => self.begin_at_seed(Some(&stored), 1, files, Some(oldest)),
            Located::Diverged(_) => self.begin_at_seed(Some(&stored), 1, files, None),
        }
    }

    /// Begins at the newest seed, behind a gap if something was archived before.
    fn begin_at_seed(
        &self,
        previous: Option<&Stored>,
        number: u64,
        files: &Files,
        oldest: Option<GtidPosition>,
    ) -> Result<Start, DatabaseError> {
        let name = self.name;
        let state = self.store.log().state()?;
        let archived = previous.map(|previous| &previous.segment.header.after);
        let why = match (archived, &oldest) {
            (Some(archived), Some(oldest)) => format!(
                "{}: the archive ends at {archived}, and the server's binary logs begin after {oldest}",
                self.server.address()
            ),
            _ => format!("{}: its binary logs do not go on from the archive", self.server.address()),
        };
        let Some((_, position)) = newest_seed(&state) else {
            return Err(match previous {
                None => DatabaseError::Unseeded(format!(
                    "store '{name}': the archive waits for its first seed; the primary's daemon makes it, or: understudy database seed {name}"
                )),
                Some(_) => DatabaseError::Held(format!(
                    "{why}; it begins anew with a seed, and there is none: understudy database seed {name}"
                )),
            });
        };
        if archived.is_some_and(|archived| archived.covers(&position)) {
            return Err(gone(name, &why));
        }
        match files.locate(&position)? {
            Located::At(cursor) => {
                let link = previous.map_or(Link::First, |previous| Link::BehindGap(previous.this));
                Ok(Start { link, number, position, cursor: *cursor })
            }
            Located::Gone(oldest) => Err(gone(
                name,
                &format!(
                    "{}: the newest seed is at {position}, and the server's binary logs begin after {oldest}",
                    self.server.address()
                ),
            )),
            Located::Diverged(there) => Err(DatabaseError::Diverged(format!(
                "{}: the newest seed is at {position}, and the server has {there} there; seed anew: understudy database seed {name}",
                self.server.address()
            ))),
        }
    }
}

/// Returns the newest seed and its position, of those that say it.
pub fn newest_seed(state: &StoreState) -> Option<(Sequence, GtidPosition)> {
    seeds(state).next_back()
}

/// Returns the seeds that say their position, the oldest first.
pub fn seeds(state: &StoreState) -> impl DoubleEndedIterator<Item = (Sequence, GtidPosition)> {
    state.snapshots.iter().filter_map(|(sequence, record)| {
        let position: GtidPosition = record.database_position.as_ref()?.parse().ok()?;
        Some((*sequence, position.of_store()))
    })
}

/// The server's files, as they were when it was asked.
struct Files<'a> {
    dir: &'a Path,
    names: &'a [String],
    end: &'a WrittenEnd,
}

impl Files<'_> {
    fn locate(&self, position: &GtidPosition) -> Result<Located, DatabaseError> {
        locate(self.dir, self.names, self.end, position)
    }

    /// Returns whether there is this very file, written as far as that.
    fn has(&self, name: &str, format: &[u8], offset_bytes: u64) -> Result<bool, DatabaseError> {
        if !self.names.iter().any(|there| there == name) {
            return Ok(false);
        }
        let path = self.dir.join(name);
        let Some(file) = BinlogFile::open(&path)? else { return Ok(false) };
        let size_bytes = match name == self.end.file {
            true => self.end.offset_bytes,
            false => std::fs::metadata(&path).map_or(0, |meta| meta.len()),
        };
        Ok(file.format.bytes == format && offset_bytes <= size_bytes)
    }
}
