//! One entry of the live tree, read until it holds still, as an entry of the manifest.

use super::error::ResyncError;
use crate::format::frame::{ChunkType, Compressor};
use crate::format::wire::Writer;
use crate::format::{attrs, extent_list};
use crate::model::entry::{
    Attributes, CHUNK_MAX_BYTES, Content, Entry, Extent, File, Fingerprint, Kind, Timestamp, Xattrs,
};
use crate::model::id::{ChunkId, ContentHash};
use crate::model::tree_path::TreePath;
use crate::repository::error::RepositoryError;
use crate::repository::packer::Packer;
use crate::source::content::{DataMap, SEGMENT_BYTES, SegmentError, SegmentHash, read_segment};
use crate::source::read::{Attempt, open_file, read_special};
use crate::source::stat::Stat;
use crate::source::xattr;
use crate::support::progress::Progress;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::ffi::CString;
use std::sync::Arc;

/// After so many readings that met a change, a file is taken as torn.
pub const ATTEMPTS: u32 = 3;
/// A file that shrinks under every reading is given up.
const SHRINK_ATTEMPTS: u32 = 10;
/// Attributes above this go into a chunk of their own.
const INLINE_ATTRIBUTES_BYTES: usize = 512;
/// Extents above this go into lists of their own.
const INLINE_EXTENTS: usize = 8;
/// A kernel's clock for timestamps may lag by one tick (10 ms at most). What changed so shortly before
/// it was read may change again within the same tick, unseen: such an entry is read again next time.
const TICK_NS: i128 = 50_000_000;

/// Tells the time: nanoseconds since 1970.
pub type Clock = dyn Fn() -> u64 + Send + Sync;

/// What one worker thread owns.
pub struct Worker<'a> {
    pub packer: &'a Packer,
    pub progress: &'a Progress,
    pub clock: &'a Clock,
    pub compressor: Compressor,
    pub scratch: Vec<u8>,
    pub buffer: Vec<u8>,
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
        progress: &'a Progress,
        clock: &'a Clock,
        level: i32,
    ) -> Result<Self, ResyncError> {
        let compressor = Compressor::new(level).map_err(ResyncError::Compressor)?;
        Ok(Self { packer, progress, clock, compressor, scratch: Vec::new(), buffer: Vec::new() })
    }

    /// Reads a file of at most [`SEGMENT_BYTES`], or anything that is not a file.
    pub fn read(&mut self, target: &Target) -> Result<Attempt<Entry>, RepositoryError> {
        if target.stat.is_file() { self.read_file(target) } else { self.read_other(target) }
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

    fn read_file(&mut self, target: &Target) -> Result<Attempt<Entry>, RepositoryError> {
        let mut stat = target.stat;
        for attempt in 1..=SHRINK_ATTEMPTS {
            let handle = match Attempt::from_result(open_file(&target.dir, &target.name)) {
                Attempt::Read(handle) => handle,
                Attempt::Vanished => return Ok(Attempt::Vanished),
                Attempt::Unreadable(errno) => return Ok(Attempt::Unreadable(errno)),
            };
            if attempt > 1 {
                std::thread::sleep(std::time::Duration::from_millis(1 << attempt.min(6)));
                match Stat::of(&handle) {
                    Ok(now) => stat = now,
                    Err(errno) => return Ok(Attempt::Unreadable(errno)),
                }
            }
            if !stat.is_file() {
                return Ok(Attempt::Vanished);
            }
            // Grown past what one worker reads alone meanwhile: read its beginning, and call it torn.
            let size_bytes = stat.size_bytes.min(SEGMENT_BYTES);
            let read = self.read_handle(&handle, &stat, size_bytes)?;
            let (kind, attributes) = match read {
                Ok(Some(read)) => read,
                Ok(None) => continue,
                Err(errno) => return Ok(Attempt::from_result(Err(errno))),
            };
            match Stat::of(&handle) {
                Ok(after) if after.same_moment(&stat) && size_bytes == stat.size_bytes => {
                    return self.entry(target, &stat, Kind::File(kind), attributes);
                }
                Ok(after) if !after.is_file() => return Ok(Attempt::Vanished),
                Ok(_) if attempt >= ATTEMPTS => {
                    let torn = Kind::File(File { torn: true, ..kind });
                    return self.entry(target, &stat, torn, attributes);
                }
                Ok(_) => {}
                Err(errno) => return Ok(Attempt::Unreadable(errno)),
            }
        }
        Ok(Attempt::Unreadable(Errno::AGAIN))
    }

    /// One reading of a file in one segment; `Ok(None)` when it ended early.
    #[allow(clippy::type_complexity)]
    fn read_handle(
        &mut self,
        handle: &OwnedFd,
        stat: &Stat,
        size_bytes: u64,
    ) -> Result<Result<Option<(File, Attributes)>, Errno>, RepositoryError> {
        let attributes = match xattr::read(handle) {
            Ok(attributes) => attributes,
            Err(errno) => return Ok(Err(errno)),
        };
        if size_bytes == 0 {
            let file = File { size_bytes, hash: ContentHash::of(b""), content: Content::Empty, torn: false };
            return Ok(Ok(Some((file, attributes))));
        }
        let map = match data_map(handle, stat, size_bytes) {
            Ok(map) => map,
            Err(errno) => return Ok(Err(errno)),
        };
        let segment = match self.segment(handle, (0, size_bytes, size_bytes), &map)? {
            Ok(segment) => segment,
            Err(None) => return Ok(Ok(None)),
            Err(Some(errno)) => return Ok(Err(errno)),
        };
        let SegmentHash::Whole(hash) = segment.hash else { return Ok(Ok(None)) };
        let content = self.content(segment.extents)?;
        Ok(Ok(Some((File { size_bytes, hash, content, torn: false }, attributes))))
    }

    /// Reads and ships one segment. `Err(None)`: the file ended early.
    #[allow(clippy::type_complexity)]
    pub fn segment(
        &mut self,
        handle: &OwnedFd,
        range: (u64, u64, u64),
        map: &DataMap,
    ) -> Result<Result<crate::source::content::Segment, Option<Errno>>, RepositoryError> {
        let Self { packer, progress, compressor, scratch, buffer, .. } = self;
        let ship = |id: ChunkId, raw: &[u8]| {
            let added = packer.add(id, ChunkType::Data, raw, compressor, scratch)?;
            if added.shipped_bytes > 0 {
                Progress::add(&progress.new_bytes, raw.len() as u64);
                Progress::add(&progress.shipped_bytes, added.shipped_bytes);
            }
            Ok(())
        };
        match read_segment(handle.as_fd(), range, map, buffer, ship) {
            Ok(segment) => {
                Progress::add(&progress.read_bytes, segment.read_bytes);
                Ok(Ok(segment))
            }
            Err(SegmentError::Changed) => Ok(Err(None)),
            Err(SegmentError::Read(errno)) => Ok(Err(Some(errno))),
            Err(SegmentError::Ship(error)) => Err(error),
        }
    }

    /// How a file's extents are written down: in the entry, or in lists of their own.
    pub fn content(&mut self, extents: Vec<Extent>) -> Result<Content, RepositoryError> {
        if let [Extent::Chunk { offset_bytes: 0, .. }] = extents[..] {
            return Ok(Content::Whole);
        }
        if extents.len() <= INLINE_EXTENTS {
            return Ok(Content::Extents(extents));
        }
        let lists =
            extent_list::cut(&extents).into_iter().map(|list| self.ship(&extent_list::encode_chunk(list)));
        Ok(Content::Lists(lists.collect::<Result<_, _>>()?))
    }

    fn ship(&mut self, raw: &[u8]) -> Result<ChunkId, RepositoryError> {
        let id = ChunkId::of(raw);
        let added = self.packer.add(id, ChunkType::Data, raw, &mut self.compressor, &mut self.scratch)?;
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

/// Where the data of an open file is; asked only when holes are possible.
pub fn data_map(handle: &OwnedFd, stat: &Stat, size_bytes: u64) -> Result<DataMap, Errno> {
    if stat.may_have_holes() {
        DataMap::of(handle.as_fd(), size_bytes)
    } else {
        Ok(DataMap::full(size_bytes))
    }
}

/// Whether a change at `ctime` may be followed by one that leaves the same `ctime`.
fn is_fresh(ctime: Timestamp, now_ns: u64) -> bool {
    let ctime_ns = i128::from(ctime.seconds) * 1_000_000_000 + i128::from(ctime.nanos);
    ctime_ns > i128::from(now_ns) - TICK_NS
}
