//! The binary logs of a server on this host, read as files.
//!
//! Only what the server says is written (`SHOW MASTER STATUS`, which it answers when what it says is on the disk) is
//! read of its newest file, so no event is met half written. An older file may end with a transaction that a crash
//! cut off: the server has undone it, and the next file begins where the last whole one ended.
//!
//! What can race: the server deletes old files, and begins anew with the same names (`RESET MASTER`). A file is
//! therefore known by its first event, which says when it was made, and a place in it by the transaction before.

use super::error::DatabaseError;
use crate::format::binlog_event::{
    Begun, EVENT_HEADER_BYTES, Event, EventError, FILE_MAGIC, Format, Step, Walk, event_bytes,
};
use crate::model::gtid::{Gtid, GtidPosition};
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Number of bytes that are read at once.
const READ_BYTES: usize = 256 << 10;
/// Maximum number of events that precede the list of transactions in a file.
const LIST_WITHIN: usize = 8;

/// The end of what a server has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenEnd {
    pub file: String,
    pub offset_bytes: u64,
}

/// A place between two events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub file: String,
    pub offset_bytes: u64,
    pub format: Format,
    pub begun: Option<Begun>,
}

/// An open file, and where the next event is read.
pub struct BinlogFile {
    pub path: PathBuf,
    pub format: Format,
    reader: BufReader<File>,
    offset_bytes: u64,
}

impl BinlogFile {
    /// Opens a file; none if there is none of this name.
    pub fn open(path: &Path) -> Result<Option<Self>, DatabaseError> {
        let wrong = |source| DatabaseError::File { path: path.to_owned(), source };
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(wrong)?,
        };
        let mut reader = BufReader::with_capacity(READ_BYTES, file);
        let mut magic = [0; FILE_MAGIC.len()];
        let mut first = Vec::new();
        let whole = reader.read_exact(&mut magic).and_then(|()| read_event(&mut reader, &mut first));
        let format = match whole {
            Ok(Ok(())) if magic == FILE_MAGIC => Format::parse(&first),
            Ok(Err(error)) => Err(error),
            _ => Err(EventError::Format),
        };
        let format = format.map_err(|source| DatabaseError::Binlog { path: path.to_owned(), source })?;
        let offset_bytes = format.end();
        Ok(Some(Self { path: path.to_owned(), format, reader, offset_bytes }))
    }

    pub fn seek(&mut self, offset_bytes: u64) -> Result<(), DatabaseError> {
        let sought = self.reader.seek(SeekFrom::Start(offset_bytes));
        sought.map_err(|source| DatabaseError::File { path: self.path.clone(), source })?;
        self.offset_bytes = offset_bytes;
        Ok(())
    }

    /// Appends the next event that ends at or before `end`; returns its length, none if there is none.
    pub fn next(&mut self, end: u64, into: &mut Vec<u8>) -> Result<Option<usize>, DatabaseError> {
        if self.offset_bytes >= end {
            return Ok(None);
        }
        let before = into.len();
        match read_event(&mut self.reader, into) {
            Ok(Ok(())) => {}
            // What a crash left.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                into.truncate(before);
                return Ok(None);
            }
            Err(source) => return Err(DatabaseError::File { path: self.path.clone(), source }),
            Ok(Err(source)) => return Err(DatabaseError::Binlog { path: self.path.clone(), source }),
        }
        let length = into.len() - before;
        self.offset_bytes += length as u64;
        Ok(Some(length))
    }

    /// Returns the last transactions before this file, of the store's own domains.
    pub fn begins_after(&mut self) -> Result<GtidPosition, DatabaseError> {
        let wrong = |path: &Path, source| DatabaseError::Binlog { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        for _ in 0..LIST_WITHIN {
            bytes.clear();
            if self.next(u64::MAX, &mut bytes)?.is_none() {
                break;
            }
            let event =
                Event::parse(&bytes, self.format.checksum).map_err(|source| wrong(&self.path, source))?;
            if let Some(list) = event.list().map_err(|source| wrong(&self.path, source))? {
                self.seek(self.format.end())?;
                return Ok(list.of_store());
            }
        }
        Err(wrong(&self.path, EventError::Format))
    }
}

/// Reads one event.
pub(super) fn read_event(reader: &mut impl Read, into: &mut Vec<u8>) -> io::Result<Result<(), EventError>> {
    let mut header = [0; EVENT_HEADER_BYTES];
    reader.read_exact(&mut header)?;
    let length = match event_bytes(&header) {
        Ok(length) => length,
        Err(error) => return Ok(Err(error)),
    };
    into.extend_from_slice(&header);
    let wanted = (length - EVENT_HEADER_BYTES) as u64;
    // Memory is taken for what is there, and not for what a header says.
    if reader.by_ref().take(wanted).read_to_end(into)? as u64 != wanted {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(Ok(()))
}

/// Where a position is in a server's binary logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    At(Box<Cursor>),
    /// They begin behind it.
    Gone(GtidPosition),
    /// The server has other transactions there, or never came so far.
    Diverged(GtidPosition),
}

/// Finds the place behind a position.
///
/// `names` are the server's files, the oldest first.
pub fn locate(
    dir: &Path,
    names: &[String],
    end: &WrittenEnd,
    position: &GtidPosition,
) -> Result<Located, DatabaseError> {
    let mut oldest = GtidPosition::default();
    for (at, name) in names.iter().enumerate().rev() {
        // Deleted meanwhile, and all before it.
        let Some(mut file) = BinlogFile::open(&dir.join(name))? else { break };
        let begins_after = file.begins_after()?;
        if position.covers(&begins_after) {
            let limit = if *name == end.file { end.offset_bytes } else { u64::MAX };
            let search = Search { position, may_assume: at == 0, found: None, now: begins_after };
            return search.run(file, name, limit);
        }
        oldest = begins_after;
    }
    Ok(if oldest.has_other_history(position) { Located::Diverged(oldest) } else { Located::Gone(oldest) })
}

/// The search for a position in one file.
struct Search<'a> {
    position: &'a GtidPosition,
    /// Whether nothing may be known of a domain: a server that was seeded begins its first file without a list.
    may_assume: bool,
    found: Option<u64>,
    now: GtidPosition,
}

impl Search<'_> {
    /// Returns whether what was read so far ends exactly at the position.
    fn is_there(&self) -> bool {
        self.position.gtids().all(|wanted| match self.now.of(wanted.domain) {
            Some(last) => last == wanted,
            None => self.may_assume,
        })
    }

    fn run(mut self, mut file: BinlogFile, name: &str, limit: u64) -> Result<Located, DatabaseError> {
        let mut walk = Walk { checksum: file.format.checksum, offset_bytes: file.format.end(), begun: None };
        if self.is_there() {
            self.found = Some(walk.offset_bytes);
        }
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            // A file that a crash cut off ends before what is no event.
            let step = match file.next(limit, &mut bytes) {
                Ok(None) | Err(DatabaseError::Binlog { .. }) => break,
                Ok(Some(_)) => walk.take(&bytes),
                Err(error) => return Err(error),
            };
            match step {
                Err(_) => break,
                Ok(Step::Begins(gtid)) if self.is_behind(gtid) => break,
                Ok(Step::Ends(ended)) => {
                    if self.now.advance(ended.gtid).is_err() {
                        break;
                    }
                    if self.is_there() {
                        self.found.get_or_insert(walk.offset_bytes);
                    }
                }
                Ok(_) => {}
            }
        }
        Ok(match self.found {
            Some(offset_bytes) => Located::At(Box::new(Cursor {
                file: name.to_owned(),
                offset_bytes,
                format: file.format,
                begun: None,
            })),
            None => Located::Diverged(self.now),
        })
    }

    /// Takes note of a transaction that begins; returns whether it lies behind the position.
    fn is_behind(&mut self, gtid: Gtid) -> bool {
        let Some(wanted) = self.position.of(gtid.domain) else { return gtid.domain.is_store() };
        let is_assumed = self.now.of(gtid.domain).is_none();
        let is_behind = gtid.number > wanted.number;
        if is_assumed && (!is_behind || gtid.number > wanted.number + 1) {
            // The domain is known from here on, and what was assumed was wrong.
            self.found = None;
        }
        is_behind
    }
}
