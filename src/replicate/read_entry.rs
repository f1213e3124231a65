//! Reads one entry of the live tree until it is stable, and turns it into an entry of the manifest.
//!
//! An entry is read as what it is at the time of reading, whatever its directory's listing said. Whether a
//! missing name is really gone, and its directory is still the one of that path, is checked by the scan after
//! all readings (see `leave`).

use super::error::ResyncError;
use super::lease::open_patiently;
use crate::format::attrs;
use crate::format::frame::{ChunkType, Compressor};
use crate::format::wire::Writer;
use crate::model::entry::{CHUNK_MAX_BYTES, Entry, File, Fingerprint, Kind, Timestamp, Xattrs};
use crate::model::id::ChunkId;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::packer::Packer;
use crate::source::node::Node;
use crate::source::stat::Stat;
use crate::source::tree::{AttributesRead, is_in_motion};
use crate::support::clock::UnixNanos;
use crate::support::env::Env;
use crate::support::progress::Progress;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

/// Maximum size of attributes that are stored in the entry. Larger ones are stored in a chunk of their own.
const INLINE_ATTRIBUTES_BYTES: usize = 512;
/// Time within which a change may be followed by another one with the same timestamp.
///
/// The kernel's clock for timestamps may lag by one tick (10 ms at most). An entry that changed this shortly
/// before it was read is therefore read again by the next run.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// The state of one worker thread.
pub(crate) struct Worker<'a> {
    pub packer: &'a Packer,
    pub chunks: ChunkReader,
    pub progress: &'a Progress,
    pub env: &'a Env,
    pub compressor: Compressor,
    pub scratch: Vec<u8>,
    /// The bytes of a segment.
    pub buffer: Vec<u8>,
    /// The bytes of a piece of a segment.
    pub piece: Vec<u8>,
}

/// Maximum number of looks at a name that is another kind of entry each time.
const KINDS_MAX: u32 = 5;

/// An entry to read.
pub(crate) struct Target {
    pub dir: Arc<Node>,
    pub name: CString,
    pub path: TreePath,
    /// Its `statx` at the time of listing.
    pub stat: Stat,
}

/// An entry that was read.
#[derive(Debug)]
pub(crate) struct Read {
    pub entry: Entry,
    /// The `statx` of the inode that was read.
    pub stat: Stat,
    /// The error due to which its attributes are incomplete.
    pub attributes_failed: Option<Errno>,
}

/// The result of trying to read an entry.
#[derive(Debug)]
pub(crate) enum Attempt {
    Read(Box<Read>),
    /// The name no longer exists.
    Absent,
    /// The name is now a directory, or another kind of entry at each look: it has to be walked again.
    Unsettled,
    /// The entry exists and cannot be read.
    Unreadable(Errno),
}

/// The result of one reading.
pub(super) enum Reading {
    Done(Attempt),
    /// The name is now another entry, or none: it is looked up again.
    Other,
}

impl Reading {
    /// Returns the result for a call that failed.
    pub(super) fn failed(errno: Errno) -> Self {
        if is_in_motion(errno) { Self::Other } else { Self::Done(Attempt::Unreadable(errno)) }
    }
}

impl<'a> Worker<'a> {
    pub fn new(
        packer: &'a Packer,
        chunks: ChunkReader,
        progress: &'a Progress,
        env: &'a Env,
        level: i32,
    ) -> Result<Self, ResyncError> {
        let compressor = Compressor::new(level).map_err(ResyncError::Compressor)?;
        Ok(Self {
            packer,
            chunks,
            progress,
            env,
            compressor,
            scratch: Vec::new(),
            buffer: Vec::new(),
            piece: Vec::new(),
        })
    }

    /// Reads the entry that has the target's name now, unless it is a directory.
    ///
    /// `old` are the files of the last manifest that it may be made of. A file that grew meanwhile beyond
    /// [`SEGMENT_BYTES`](crate::source::content::SEGMENT_BYTES) is read up to there, and marked as torn.
    pub(crate) fn read(&mut self, target: &Target, old: &[File]) -> Result<Attempt, RepositoryError> {
        let mut stat = target.stat;
        for _ in 0..KINDS_MAX {
            let reading = match stat.kind {
                FileType::RegularFile => self.read_file(target, &stat, old)?,
                FileType::Directory => return Ok(Attempt::Unsettled),
                _ => self.read_special(target)?,
            };
            match reading {
                Reading::Done(attempt) => return Ok(attempt),
                Reading::Other => match look_again(target) {
                    Ok(now) => stat = now,
                    Err(attempt) => return Ok(attempt),
                },
            }
        }
        Ok(Attempt::Unsettled)
    }

    fn read_special(&mut self, target: &Target) -> Result<Reading, RepositoryError> {
        let special = match target.dir.handle().and_then(|dir| dir.special(&target.name)) {
            Ok(special) => special,
            Err(errno) => return Ok(Reading::failed(errno)),
        };
        let (major, minor) = special.stat.node;
        let kind = match special.stat.kind {
            FileType::RegularFile | FileType::Directory => return Ok(Reading::Other),
            FileType::Symlink if special.target.is_empty() => return Ok(Reading::Other),
            FileType::Symlink => Kind::Symlink { target: special.target },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            _ => return Ok(Reading::Done(Attempt::Unreadable(Errno::OPNOTSUPP))),
        };
        let read = self.entry(&target.path, special.stat, kind, special.attributes)?;
        Ok(Reading::Done(Attempt::Read(Box::new(read))))
    }

    /// Reads the attributes of an entry that is otherwise unchanged; returns `None` if it is not.
    pub(crate) fn read_attributes(
        &mut self,
        target: &Target,
        old: &Entry,
    ) -> Result<Option<Attempt>, RepositoryError> {
        let read = if target.stat.is_file() {
            let opened = open_patiently(&target.dir, &target.name, self.env, self.progress);
            opened.and_then(|file| Ok((file.stat()?, file.attributes())))
        } else {
            let special = target.dir.handle().and_then(|dir| dir.special(&target.name));
            special.map(|special| (special.stat, special.attributes))
        };
        match read {
            Ok((stat, attributes)) if stat.same_moment(&target.stat) => {
                let read = self.entry(&target.path, stat, old.kind.clone(), attributes)?;
                Ok(Some(Attempt::Read(Box::new(read))))
            }
            Ok(_) => Ok(None),
            Err(errno) if is_in_motion(errno) => Ok(None),
            Err(errno) => Ok(Some(Attempt::Unreadable(errno))),
        }
    }

    pub(super) fn ship(&mut self, raw: &[u8]) -> Result<ChunkId, RepositoryError> {
        let id = ChunkId::of(raw);
        let added = self.packer.add(id, ChunkType::List, raw, &mut self.compressor, &mut self.scratch)?;
        Progress::add(&self.progress.shipped_bytes, added.shipped_bytes);
        Ok(id)
    }

    /// Builds the entry, shipping its attributes if they are large.
    pub fn entry(
        &mut self,
        path: &TreePath,
        stat: Stat,
        kind: Kind,
        read: AttributesRead,
    ) -> Result<Read, RepositoryError> {
        let AttributesRead { mut attributes, failed: mut attributes_failed } = read;
        let mut encoded = Writer::default();
        attrs::encode(&attributes, &mut encoded);
        if encoded.0.len() > CHUNK_MAX_BYTES {
            attributes.clear();
            attributes_failed = Some(Errno::TOOBIG);
        }
        let xattrs = match encoded.0.len() {
            _ if attributes.is_empty() => Xattrs::None,
            0..=INLINE_ATTRIBUTES_BYTES => Xattrs::Inline(attributes),
            _ => Xattrs::Chunk(self.ship(&encoded.0)?),
        };
        let torn = matches!(&kind, Kind::File(file) if file.torn);
        let fingerprint = if torn || is_fresh(stat.fingerprint.ctime, self.env.wall()) {
            // No inode has this number, so the next run sees a difference and reads the entry again.
            Fingerprint { inode: 0, ..stat.fingerprint }
        } else if attributes_failed.is_some() {
            stat.fingerprint.attributes_unread()
        } else {
            stat.fingerprint
        };
        let entry = Entry {
            path: path.clone(),
            kind,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            xattrs,
            // The groups are known only when all names were read.
            hardlink: None,
            fingerprint,
        };
        Ok(Read { entry, stat, attributes_failed })
    }
}

/// Looks up the target's name again; returns its `statx` unless it is a directory.
pub(super) fn look_again(target: &Target) -> Result<Stat, Attempt> {
    match target.dir.handle().and_then(|dir| dir.stat_at(&target.name)) {
        Ok(stat) if stat.is_directory() => Err(Attempt::Unsettled),
        Ok(stat) => Ok(stat),
        Err(Errno::NOENT) => Err(Attempt::Absent),
        // Its directory may itself be another one by now.
        Err(errno) if is_in_motion(errno) => Err(Attempt::Unsettled),
        Err(errno) => Err(Attempt::Unreadable(errno)),
    }
}

/// Returns whether a change at `ctime` may be followed by one that leaves the same `ctime`.
fn is_fresh(ctime: Timestamp, now: UnixNanos) -> bool {
    let ctime_ns = i128::from(ctime.seconds) * 1_000_000_000 + i128::from(ctime.nanos);
    ctime_ns > i128::from(now.minus(TICK).0)
}
