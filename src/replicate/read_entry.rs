//! One entry of the live tree, read until it holds still, as an entry of the manifest.

use super::error::ResyncError;
use crate::format::attrs;
use crate::format::frame::{ChunkType, Compressor};
use crate::format::wire::Writer;
use crate::model::entry::{Attributes, CHUNK_MAX_BYTES, Entry, File, Fingerprint, Kind, Timestamp, Xattrs};
use crate::model::id::ChunkId;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::error::RepositoryError;
use crate::repository::packer::Packer;
use crate::source::read::{Attempt, read_special};
use crate::source::stat::Stat;
use crate::support::progress::Progress;
use rustix::fd::OwnedFd;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::ffi::CString;
use std::sync::Arc;

/// Attributes above this go into a chunk of their own.
const INLINE_ATTRIBUTES_BYTES: usize = 512;
/// A kernel's clock for timestamps may lag by one tick (10 ms at most). What changed so shortly before
/// it was read may change again within the same tick, unseen: such an entry is read again next time.
const TICK_NS: i128 = 50_000_000;

/// Tells the time: nanoseconds since 1970.
pub type Clock = dyn Fn() -> u64 + Send + Sync;

/// What one worker thread owns.
pub struct Worker<'a> {
    pub packer: &'a Packer,
    pub chunks: ChunkReader,
    pub progress: &'a Progress,
    pub clock: &'a Clock,
    pub compressor: Compressor,
    pub scratch: Vec<u8>,
    /// A segment's bytes.
    pub buffer: Vec<u8>,
    /// A piece of a segment.
    pub piece: Vec<u8>,
}

/// An entry to read.
pub struct Target {
    pub dir: Arc<OwnedFd>,
    pub name: CString,
    pub path: TreePath,
    pub stat: Stat,
    pub hardlink: Option<u64>,
}

impl<'a> Worker<'a> {
    pub fn new(
        packer: &'a Packer,
        chunks: ChunkReader,
        progress: &'a Progress,
        clock: &'a Clock,
        level: i32,
    ) -> Result<Self, ResyncError> {
        let compressor = Compressor::new(level).map_err(ResyncError::Compressor)?;
        Ok(Self {
            packer,
            chunks,
            progress,
            clock,
            compressor,
            scratch: Vec::new(),
            buffer: Vec::new(),
            piece: Vec::new(),
        })
    }

    /// Reads a file of at most [`SEGMENT_BYTES`](crate::source::content::SEGMENT_BYTES), or anything that is
    /// not a file. `old` are the files of the last manifest that it may be made of.
    pub fn read(&mut self, target: &Target, old: &[File]) -> Result<Attempt<Entry>, RepositoryError> {
        if target.stat.is_file() { self.read_file(target, old) } else { self.read_other(target) }
    }

    fn read_other(&mut self, target: &Target) -> Result<Attempt<Entry>, RepositoryError> {
        let special = match Attempt::from_result(read_special(&target.dir, &target.name, &target.stat)) {
            Attempt::Read(Some(special)) => special,
            Attempt::Read(None) | Attempt::Vanished => return Ok(Attempt::Vanished),
            Attempt::Unreadable(errno) => return Ok(Attempt::Unreadable(errno)),
        };
        let (major, minor) = target.stat.node;
        let kind = match target.stat.kind {
            FileType::Directory => Kind::Directory,
            FileType::Symlink if special.target.is_empty() => return Ok(Attempt::Vanished),
            FileType::Symlink => Kind::Symlink { target: special.target },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            _ => return Ok(Attempt::Unreadable(Errno::OPNOTSUPP)),
        };
        self.entry(target, &target.stat, kind, special.attributes)
    }

    pub(super) fn ship(&mut self, raw: &[u8]) -> Result<ChunkId, RepositoryError> {
        let id = ChunkId::of(raw);
        let added = self.packer.add(id, ChunkType::List, raw, &mut self.compressor, &mut self.scratch)?;
        Progress::add(&self.progress.shipped_bytes, added.shipped_bytes);
        Ok(id)
    }

    /// The entry, its attributes shipped where they are large.
    pub fn entry(
        &mut self,
        target: &Target,
        stat: &Stat,
        kind: Kind,
        attributes: Attributes,
    ) -> Result<Attempt<Entry>, RepositoryError> {
        let mut encoded = Writer::default();
        attrs::encode(&attributes, &mut encoded);
        let xattrs = match encoded.0.len() {
            _ if attributes.is_empty() => Xattrs::None,
            0..=INLINE_ATTRIBUTES_BYTES => Xattrs::Inline(attributes),
            length if length > CHUNK_MAX_BYTES => return Ok(Attempt::Unreadable(Errno::TOOBIG)),
            _ => Xattrs::Chunk(self.ship(&encoded.0)?),
        };
        let torn = matches!(&kind, Kind::File(file) if file.torn);
        let fingerprint = if torn || is_fresh(stat.fingerprint.ctime, (self.clock)()) {
            // No inode has this number: the next run sees a difference, and reads again.
            Fingerprint { inode: 0, ..stat.fingerprint }
        } else {
            stat.fingerprint
        };
        Ok(Attempt::Read(Entry {
            path: target.path.clone(),
            kind,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            xattrs,
            hardlink: target.hardlink,
            fingerprint,
        }))
    }
}

/// Whether a change at `ctime` may be followed by one that leaves the same `ctime`.
fn is_fresh(ctime: Timestamp, now_ns: u64) -> bool {
    let ctime_ns = i128::from(ctime.seconds) * 1_000_000_000 + i128::from(ctime.nanos);
    ctime_ns > i128::from(now_ns) - TICK_NS
}
