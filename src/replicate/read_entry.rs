//! One entry of the live tree, read until it holds still, as an entry of the manifest.
//!
//! What has a name is read as what it is by now, whatever it was when its directory was listed. Whether a name that is gone has
//! really gone, and its directory is still the one of that path, is asked by the scan, behind all readings (see `leave`).

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
use crate::support::env::Env;
use crate::support::progress::Progress;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::ffi::CString;
use std::sync::Arc;

/// Attributes above this go into a chunk of their own.
const INLINE_ATTRIBUTES_BYTES: usize = 512;
/// A kernel's clock for timestamps may lag by one tick (10 ms at most). What changed so shortly before
/// it was read may change again within the same tick, unseen: such an entry is read again next time.
pub const TICK_NS: u64 = 50_000_000;

/// What one worker thread owns.
pub struct Worker<'a> {
    pub packer: &'a Packer,
    pub chunks: ChunkReader,
    pub progress: &'a Progress,
    pub env: &'a Env,
    pub compressor: Compressor,
    pub scratch: Vec<u8>,
    /// A segment's bytes.
    pub buffer: Vec<u8>,
    /// A piece of a segment.
    pub piece: Vec<u8>,
}

/// So often a name is looked at that is something else each time.
const KINDS_MAX: u32 = 5;

/// An entry to read.
pub struct Target {
    pub dir: Arc<Node>,
    pub name: CString,
    pub path: TreePath,
    /// As the directory's listing found it.
    pub stat: Stat,
}

/// An entry that was read.
#[derive(Debug)]
pub struct Read {
    pub entry: Entry,
    /// Of the inode that was read.
    pub stat: Stat,
    /// Why its attributes are not all there.
    pub attributes_failed: Option<Errno>,
}

/// What an attempt to read an entry came to.
#[derive(Debug)]
pub enum Attempt {
    Read(Box<Read>),
    /// Nothing has its name.
    Absent,
    /// A directory has its name by now, or it is something else each time: it has to be walked again.
    Unsettled,
    /// It is there and cannot be read.
    Unreadable(Errno),
}

/// What one reading came to.
pub(super) enum Reading {
    Done(Attempt),
    /// Another thing has the name by now, or none: it is looked at again.
    Other,
}

impl Reading {
    /// Of a call that failed.
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

    /// Reads what has the target's name, unless it is a directory. `old` are the files of the last manifest that it may be
    /// made of. A file that grew meanwhile beyond [`SEGMENT_BYTES`](crate::source::content::SEGMENT_BYTES) is read to there, and torn.
    pub fn read(&mut self, target: &Target, old: &[File]) -> Result<Attempt, RepositoryError> {
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

    /// Reads the attributes of what is otherwise as it was; `None` when it is not.
    pub fn read_attributes(
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

    /// The entry, its attributes shipped where they are large.
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
        let fingerprint = if torn || is_fresh(stat.fingerprint.ctime, self.env.wall_ns()) {
            // No inode has this number: the next run sees a difference, and reads again.
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
            // Which names are one inode's is known when all were read.
            hardlink: None,
            fingerprint,
        };
        Ok(Read { entry, stat, attributes_failed })
    }
}

/// What has the target's name now, if that is not a directory.
pub(super) fn look_again(target: &Target) -> Result<Stat, Attempt> {
    match target.dir.handle().and_then(|dir| dir.stat_at(&target.name)) {
        Ok(stat) if stat.is_directory() => Err(Attempt::Unsettled),
        Ok(stat) => Ok(stat),
        Err(Errno::NOENT) => Err(Attempt::Absent),
        // Its directory itself may be another's by now.
        Err(errno) if is_in_motion(errno) => Err(Attempt::Unsettled),
        Err(errno) => Err(Attempt::Unreadable(errno)),
    }
}

/// Whether a change at `ctime` may be followed by one that leaves the same `ctime`.
fn is_fresh(ctime: Timestamp, now_ns: u64) -> bool {
    let ctime_ns = i128::from(ctime.seconds) * 1_000_000_000 + i128::from(ctime.nanos);
    ctime_ns > i128::from(now_ns) - i128::from(TICK_NS)
}
