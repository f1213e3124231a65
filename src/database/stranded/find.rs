//! Where the stranded transactions lie in a server's binary logs.
//!
//! The server may run or not. While it runs, only what it says is written is read of its newest file; otherwise the
//! file is read to its end, where a crash may have cut off a transaction that the server undoes when it starts.
//!
//! What can race: the server deletes old files. Then a file is missing when it is opened, and that is an error.

use crate::database::binlog_files::{BinlogFile, Located, WrittenEnd, locate};
use crate::database::error::DatabaseError;
use crate::database::server::Server;
use crate::format::binlog_event::{Step, Walk};
use crate::model::gtid::{Gtid, GtidPosition, ServerId};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What our own servers' binary logs are called.
const OWN_NAME: &str = "binlog";

/// A server's binary logs on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    pub dir: PathBuf,
    /// The files, the oldest first.
    pub names: Vec<String>,
    /// The end of what is written, where the server says it.
    pub end: Option<WrittenEnd>,
}

impl Logs {
    /// Returns those of a server that does not run. `log_bin` is their path, where they are not our own.
    ///
    /// # Errors
    /// Their index cannot be read.
    pub fn of_data(data: &Path, log_bin: Option<&str>) -> Result<Self, DatabaseError> {
        let base = data.join(log_bin.unwrap_or(OWN_NAME));
        let (dir, index) = (base.parent().unwrap_or(data).to_owned(), base.with_extension("index"));
        let text = std::fs::read_to_string(&index)
            .map_err(|source| DatabaseError::File { path: index.clone(), source })?;
        let names = text.lines().filter_map(|line| line.rsplit('/').next()).filter(|name| !name.is_empty());
        Ok(Self { dir, names: names.map(str::to_owned).collect(), end: None })
    }

    /// Returns those of a server that runs.
    ///
    /// # Errors
    /// Those of the server.
    pub fn of_server(server: &Server) -> Result<Self, DatabaseError> {
        let end = server.written_end()?;
        Ok(Self { dir: server.binlog_place()?.dir, names: server.binlog_names()?, end: Some(end) })
    }
}

/// A stranded transaction, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranded {
    pub gtid: Gtid,
    /// When it was committed, in seconds since 1970, by the server's clock.
    pub committed_s: u32,
    /// Number of its file.
    pub file: usize,
    pub offset_bytes: u64,
    pub length_bytes: u64,
}

/// What was found behind a branch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub branch: GtidPosition,
    pub files: Vec<PathBuf>,
    pub transactions: Vec<Stranded>,
    /// Whether the new primary's own transactions are there as well: this server has followed it since.
    pub has_followed: bool,
}

impl Found {
    pub fn bytes(&self) -> u64 {
        self.transactions.iter().map(|transaction| transaction.length_bytes).sum()
    }
}

/// Finds what lies behind a branch; none if the branch is not in the binary logs. `promoted` are the servers of the
/// hosts that were promoted there and later: what they wrote is not stranded.
///
/// # Errors
/// A file cannot be read, or is damaged.
pub fn find(
    logs: &Logs,
    branch: &GtidPosition,
    promoted: &BTreeSet<ServerId>,
) -> Result<Option<Found>, DatabaseError> {
    let Some(newest) = logs.names.last() else { return Ok(None) };
    let end = logs.end.clone().unwrap_or_else(|| WrittenEnd { file: newest.clone(), offset_bytes: u64::MAX });
    let cursor = match locate(&logs.dir, &logs.names, &end, branch)? {
        Located::At(cursor) => cursor,
        Located::Gone(_) | Located::Diverged(_) => return Ok(None),
    };
    let first = logs.names.iter().position(|name| *name == cursor.file).unwrap_or(0);
    let mut reading = Reading { promoted, position: branch.clone(), found: Found::default() };
    reading.found.branch = branch.clone();
    for name in &logs.names[first..] {
        let limit = if *name == end.file { end.offset_bytes } else { u64::MAX };
        let offset = (*name == cursor.file).then_some(cursor.offset_bytes);
        reading.file(&logs.dir.join(name), offset, limit)?;
        if *name == end.file {
            break;
        }
    }
    Ok(Some(reading.found))
}

/// A promotion after which this server may have been ahead of the new primary's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// All that the new primary had applied when it stopped being a replica.
    pub branch: GtidPosition,
    /// The servers of the hosts that were promoted then and later.
    pub servers: BTreeSet<ServerId>,
}

/// Finds what lies behind the newest of these promotions whose branch is in the binary logs; `promotions` are the
/// newest first. A server that has a branch exactly has all the history before it.
///
/// # Errors
/// Those of [`find`].
pub fn find_newest(logs: &Logs, promotions: &[Promotion]) -> Result<Option<Found>, DatabaseError> {
    for promotion in promotions {
        if let Some(found) = find(logs, &promotion.branch, &promotion.servers)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Finds the transactions in files that were kept: all of them are stranded.
///
/// # Errors
/// A file cannot be read, or is damaged.
pub fn find_kept(files: &[PathBuf], branch: &GtidPosition) -> Result<Found, DatabaseError> {
    let promoted = BTreeSet::new();
    let mut reading = Reading { promoted: &promoted, position: branch.clone(), found: Found::default() };
    reading.found.branch = branch.clone();
    for path in files {
        reading.file(path, None, u64::MAX)?;
    }
    Ok(reading.found)
}

struct Reading<'a> {
    promoted: &'a BTreeSet<ServerId>,
    /// The last transaction that was read.
    position: GtidPosition,
    found: Found,
}

impl Reading<'_> {
    /// Reads a file from an offset on, or from its beginning.
    fn file(&mut self, path: &Path, offset: Option<u64>, limit: u64) -> Result<(), DatabaseError> {
        let gone = || DatabaseError::Gone(format!("{}: the server has deleted it meanwhile", path.display()));
        let mut file = BinlogFile::open(path)?.ok_or_else(gone)?;
        match offset {
            Some(offset) => file.seek(offset)?,
            None => self.follows(&mut file)?,
        }
        self.found.files.push(path.to_owned());
        let offset_bytes = offset.unwrap_or_else(|| file.format.end());
        let mut walk = Walk { checksum: file.format.checksum, offset_bytes, begun: None };
        let (mut bytes, mut begin) = (Vec::new(), offset_bytes);
        while file.next(limit, &mut bytes)?.is_some() {
            let wrong = |source| DatabaseError::Binlog { path: path.to_owned(), source };
            let at = walk.offset_bytes;
            match walk.take(&bytes).map_err(wrong)? {
                Step::Begins(_) => begin = at,
                Step::Ends(ended) => {
                    self.take(Stranded {
                        gtid: ended.gtid,
                        committed_s: ended.committed_s,
                        file: self.found.files.len() - 1,
                        offset_bytes: begin,
                        length_bytes: walk.offset_bytes - begin,
                    });
                }
                Step::File(_) | Step::Inside => {}
            }
            bytes.clear();
        }
        Ok(())
    }

    /// Refuses a file that does not go on where the one before it ended.
    fn follows(&self, file: &mut BinlogFile) -> Result<(), DatabaseError> {
        let begins_after = file.begins_after()?;
        match self.position.covers(&begins_after) {
            true => Ok(()),
            false => Err(DatabaseError::Content {
                path: file.path.clone(),
                text: format!(
                    "it goes on behind {begins_after}, and the binary log before it ends at {}: transactions are missing",
                    self.position
                ),
            }),
        }
    }

    fn take(&mut self, stranded: Stranded) {
        let Gtid { domain, server, number } = stranded.gtid;
        let is_behind = self.found.branch.of(domain).is_none_or(|last| number > last.number);
        let _ = self.position.advance(stranded.gtid);
        if !domain.is_store() || !is_behind {
            return;
        }
        match self.promoted.contains(&server) {
            true => self.found.has_followed = true,
            false => self.found.transactions.push(stranded),
        }
    }
}
