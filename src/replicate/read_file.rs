//! Reads a regular file until it is stable, matches it against its old version, and ships it.
//!
//! The hashed, matched and shipped bytes come from one reading into one buffer. A file is read in segments,
//! each by one worker. Short literals are left to the file's [`Assembly`], which gathers them.

use super::lease::open_patiently;
use super::old_version::OldVersion;
use super::read_entry::{Attempt, Reading, Target, Worker};
use crate::delta::assembly::{Assembly, Misfit, Shipped, Stretch};
use crate::delta::basis::Basis;
use crate::delta::matcher::{Matcher, group_values, groups_in_place};
use crate::delta::piece::{MIB, Piece, defragment, push};
use crate::delta::signature::{SIGNED_MIN_BYTES, block_log2, half, sign};
use crate::format::blocks::{GROUP_BYTES, Strong};
use crate::format::extent_list;
use crate::format::frame::ChunkType;
use crate::model::entry::{CHUNK_MAX_BYTES, Content, Extent, File, Kind};
use crate::model::id::{ChunkId, ContentHash};
use crate::repository::error::RepositoryError;
use crate::source::content::{HashTree, SEGMENT_BYTES, SegmentHash, read_range};
use crate::source::data_map::DataMap;
use crate::source::stat::Stat;
use crate::source::tree::{self, AttributesRead, ReadError};
use crate::support::progress::Progress;
use blake3::hazmat::ChainingValue;
use rustix::io::Errno;
use std::time::Duration;

/// Number of readings that met a change after which a file is taken as torn.
pub(crate) const ATTEMPTS: u32 = 3;
/// Number of readings after which a file that shrinks during each of them is given up.
const SHRINK_ATTEMPTS: u32 = 10;
/// Maximum number of extents that are stored in the entry. More are stored in lists of their own.
const INLINE_EXTENTS: usize = 8;
/// Minimum size of a literal that the worker that read it ships as chunks of its own.
const OWN_CHUNK_BYTES: u64 = 128 << 10;

/// Number of bytes that are read and hashed at a time: four groups, which fit a core's cache.
const PIECE_BYTES: usize = 4 * GROUP_BYTES as usize;

/// A part of a file, with the corresponding part of its old version.
pub struct Segment<'a> {
    pub start: u64,
    pub end: u64,
    pub size_bytes: u64,
    pub map: &'a DataMap,
    pub basis: Option<&'a Basis>,
}

/// The reason for which a file, or a segment of it, was not read and shipped.
pub(crate) enum FileError {
    /// It changed during the reading: it ended early, or two readings of the same bytes differ.
    Changed,
    System(Errno),
    Repository(RepositoryError),
}

impl From<ReadError> for FileError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::EndsEarly => Self::Changed,
            ReadError::System(errno) => Self::System(errno),
        }
    }
}

impl From<RepositoryError> for FileError {
    fn from(error: RepositoryError) -> Self {
        Self::Repository(error)
    }
}

impl From<Misfit<RepositoryError>> for FileError {
    fn from(misfit: Misfit<RepositoryError>) -> Self {
        match misfit {
            Misfit::Changed => Self::Changed,
            Misfit::Ship(error) => Self::Repository(error),
        }
    }
}

/// A segment that was read and matched.
pub(crate) struct Matched {
    pub stretch: Stretch,
    pub hash: SegmentHash,
}

impl Segment<'_> {
    /// Returns the block size for shipped chunks; `None` for a file too small to be signed.
    fn block_log2(&self) -> Option<u32> {
        let usual = self.basis.map(|basis| basis.block_log2);
        (self.size_bytes >= SIGNED_MIN_BYTES).then(|| usual.unwrap_or_else(|| block_log2(self.size_bytes)))
    }

    /// Returns how far a match may reach beyond the end: less than one block, and nothing if there is a hole.
    fn look_ahead(&self) -> u64 {
        let block = self.basis.map_or(0, |basis| basis.block_bytes() as u64 - 1);
        let beyond = self.end.saturating_add(block).min(self.size_bytes);
        match self.map.stretches(self.end, beyond)[..] {
            [(_, to, true)] if to == beyond => beyond - self.end,
            _ => 0,
        }
    }
}

impl<'a> Worker<'a> {
    pub(super) fn read_file(
        &mut self,
        target: &Target,
        found: &Stat,
        old: &[File],
    ) -> Result<Reading, RepositoryError> {
        for attempt in 1..=SHRINK_ATTEMPTS {
            let handle = match open_patiently(&target.dir, &target.name, self.env, self.progress) {
                Ok(handle) => handle,
                Err(errno) => return Ok(Reading::failed(errno)),
            };
            // The first attempt uses the listing's `statx`. If the file is another by now, the check after
            // the reading fails.
            let mut stat = *found;
            if attempt > 1 {
                self.env.sleep(Duration::from_millis(1 << attempt.min(6)));
                stat = match handle.stat() {
                    Ok(stat) if stat.is_file() => stat,
                    Ok(_) => return Ok(Reading::Other),
                    Err(errno) => return Ok(Reading::failed(errno)),
                };
            }
            // A file that has grown beyond what one worker reads alone is read up to there, and marked as
            // torn.
            let size_bytes = stat.size_bytes.min(SEGMENT_BYTES);
            let read = self.read_handle(&*handle, &stat, size_bytes, old);
            let after = handle.stat();
            let (file, attributes) = match read {
                Err(FileError::Repository(error)) => return Err(error),
                _ if after.is_ok_and(|after| !after.is_file()) => return Ok(Reading::Other),
                Ok(read) => read,
                Err(FileError::Changed) => continue,
                Err(FileError::System(errno)) => return Ok(Reading::failed(errno)),
            };
            let file = match after {
                Ok(after) if after.same_moment(&stat) && size_bytes == stat.size_bytes => file,
                Ok(_) if attempt >= ATTEMPTS => File { torn: true, ..file },
                Ok(_) => continue,
                Err(errno) => return Ok(Reading::failed(errno)),
            };
            let read = self.entry(&target.path, stat, Kind::File(file), attributes)?;
            return Ok(Reading::Done(Attempt::Read(Box::new(read))));
        }
        Ok(Reading::Done(Attempt::Unreadable(Errno::AGAIN)))
    }

    /// Reads a file of one segment once.
    fn read_handle(
        &mut self,
        handle: &dyn tree::File,
        stat: &Stat,
        size_bytes: u64,
        old: &[File],
    ) -> Result<(File, AttributesRead), FileError> {
        let attributes = handle.attributes();
        if size_bytes == 0 {
            let file = File { size_bytes, hash: ContentHash::of(b""), content: Content::Empty, torn: false };
            return Ok((file, attributes));
        }
        let map = data_map(handle, stat, size_bytes).map_err(FileError::System)?;
        let mut basis = None;
        if size_bytes >= SIGNED_MIN_BYTES
            && let Some(version) = OldVersion::choose(&self.chunks, handle, old)?
        {
            basis = version.basis(&self.chunks, 0, u64::MAX)?;
        }
        let segment = Segment { start: 0, end: size_bytes, size_bytes, map: &map, basis: basis.as_ref() };
        let matched = self.segment(handle, &segment)?;
        let SegmentHash::Whole(hash) = matched.hash else { return Err(FileError::Changed) };
        let block_log2 = segment.block_log2();
        let mut assembly = Assembly::default();
        let mut ship = |raw: &[u8], runs: &[u32]| self.ship_chunk((raw, runs), None, block_log2, None);
        assembly.push(matched.stretch, &mut ship)?;
        let extents = assembly.finish(&mut ship)?;
        let content = self.content(extents, hash, size_bytes)?;
        Ok((File { size_bytes, hash, content, torn: false }, attributes))
    }

    /// Reads, hashes and matches one segment, and ships its long literals.
    pub(crate) fn segment(
        &mut self,
        handle: &dyn tree::File,
        segment: &Segment,
    ) -> Result<Matched, FileError> {
        self.packer.go_on()?;
        let (mut buffer, mut piece) = (std::mem::take(&mut self.buffer), std::mem::take(&mut self.piece));
        let result = match read_segment(handle, segment, &mut buffer, &mut piece) {
            Ok(groups) => {
                Progress::add(&self.progress.read_bytes, groups.read_bytes);
                self.matched(segment, &buffer, &groups).map_err(FileError::from)
            }
            Err(error) => Err(error.into()),
        };
        (self.buffer, self.piece) = (buffer, piece);
        result
    }

    fn matched(
        &mut self,
        segment: &Segment,
        bytes: &[u8],
        groups: &Groups,
    ) -> Result<Matched, RepositoryError> {
        let Segment { start, end, map, basis, .. } = *segment;
        let length = (end - start) as usize;
        let hash = groups.hash;
        let whole = map.stretches(start, end);
        let mut pieces = Vec::new();
        let mut reach = 0;
        for (from, to, is_data) in whole.iter().copied() {
            let (from_at, to_at) = ((from - start) as usize, (to - start) as usize);
            if !is_data {
                push(&mut pieces, Piece::Known(Extent::Hole { length_bytes: to - from }));
                reach = to_at;
                continue;
            }
            let Some(basis) = basis else {
                push(&mut pieces, Piece::Literal((to - from) as u32));
                reach = to_at;
                continue;
            };
            // The last run sees the bytes after the segment. A run that ends at a hole ends there.
            let seen = if to == end { &bytes[from_at..] } else { &bytes[from_at..to_at] };
            let matcher = Matcher { basis, bytes: seen, at: from };
            let found = matcher.pieces(to_at - from_at, &groups.in_place);
            reach = from_at + found.iter().map(Piece::length_bytes).sum::<u64>() as usize;
            found.into_iter().for_each(|piece| push(&mut pieces, piece));
        }
        // Bytes that lie in place may be missing in the buffer.
        let pieces = defragment(pieces, start, |region| {
            let first = (region * MIB).saturating_sub(start) / GROUP_BYTES;
            let groups = groups.in_place.iter().skip(first as usize);
            groups.take((MIB / GROUP_BYTES) as usize).all(|known| !known)
        });
        let mut stretch = Stretch {
            pieces: Vec::with_capacity(pieces.len()),
            literals: Vec::new(),
            head: bytes[..length.min(basis.map_or(0, Basis::block_bytes))].to_vec(),
            overhang: bytes[length..reach.max(length)].to_vec(),
        };
        let mut at = 0;
        for piece in pieces {
            let next = at + piece.length_bytes() as usize;
            match piece {
                // A file without an old version is cut at the same offsets wherever it is found.
                Piece::Literal(count) if basis.is_none() || u64::from(count) >= OWN_CHUNK_BYTES => {
                    self.ship_long(segment, (bytes, groups), (at, next), &mut stretch.pieces)?;
                }
                Piece::Literal(_) => {
                    stretch.literals.extend_from_slice(&bytes[at..next]);
                    stretch.pieces.push(piece);
                }
                Piece::Known(_) => stretch.pieces.push(piece),
            }
            at = next;
        }
        Ok(Matched { stretch, hash })
    }

    /// Ships `bytes[from..to]` of a segment, cut at multiples of 1 MiB of the file.
    fn ship_long(
        &mut self,
        segment: &Segment,
        (bytes, groups): (&[u8], &Groups),
        (from, to): (usize, usize),
        pieces: &mut Vec<Piece>,
    ) -> Result<(), RepositoryError> {
        const GROUP: usize = GROUP_BYTES as usize;
        let block_log2 = segment.block_log2();
        let mut at = from;
        while at < to {
            let file_at = segment.start + at as u64;
            let room = CHUNK_MAX_BYTES - (file_at % CHUNK_MAX_BYTES as u64) as usize;
            let next = to.min(at + room);
            let raw = &bytes[at..next];
            // If a chunk lies at a multiple of 64 KiB, its groups are those that make up the file's hash.
            let first = at / GROUP;
            let values: Vec<_> = groups.values.iter().skip(first).take(raw.len() / GROUP).map(half).collect();
            let origin = (block_log2.is_some()
                && file_at.is_multiple_of(GROUP_BYTES)
                && values.len() == raw.len() / GROUP)
                .then_some((file_at, &values[..]));
            let known = match groups.hash {
                SegmentHash::Whole(hash) if raw.len() as u64 == segment.size_bytes => Some(ChunkId(hash.0)),
                _ => None,
            };
            let (chunk, blocks) = self.ship_chunk((raw, &[raw.len() as u32]), known, block_log2, origin)?;
            let length_bytes = raw.len() as u32;
            push(pieces, Piece::Known(Extent::Chunk { chunk, blocks, offset_bytes: 0, length_bytes }));
            at = next;
        }
        Ok(())
    }

    /// Ships a chunk of a file, which consists of runs of these lengths.
    ///
    /// With a block size, also ships its block entries.
    pub(crate) fn ship_chunk(
        &mut self,
        (raw, runs): (&[u8], &[u32]),
        known: Option<ChunkId>,
        block_log2: Option<u32>,
        origin: Option<(u64, &[Strong])>,
    ) -> Result<Shipped, RepositoryError> {
        let id = known.unwrap_or_else(|| ChunkId::of(raw));
        let Self { packer, progress, compressor, scratch, .. } = self;
        let added = packer.add(id, ChunkType::Data, raw, compressor, scratch)?;
        if added.shipped_bytes > 0 {
            Progress::add(&progress.new_bytes, raw.len() as u64);
            Progress::add(&progress.shipped_bytes, added.shipped_bytes);
        }
        let Some(block_log2) = block_log2 else { return Ok((id, None)) };
        let entries = sign(raw, runs, block_log2, origin);
        let blocks = ChunkId::of(&entries);
        let added = packer.add(blocks, ChunkType::Blocks, &entries, compressor, scratch)?;
        Progress::add(&progress.shipped_bytes, added.shipped_bytes);
        Ok((id, Some(blocks)))
    }

    /// Stores a file's extents in the entry, or in lists of their own.
    pub(crate) fn content(
        &mut self,
        extents: Vec<Extent>,
        hash: ContentHash,
        size_bytes: u64,
    ) -> Result<Content, RepositoryError> {
        match extents[..] {
            [Extent::Chunk { chunk, blocks, .. }] if chunk.0 == hash.0 => {
                return Ok(Content::Whole { blocks });
            }
            _ if extents.len() <= INLINE_EXTENTS => return Ok(Content::Extents(extents)),
            _ => {}
        }
        let lists = extent_list::cut(&extents, size_bytes);
        let lists = lists.into_iter().map(|list| self.ship(&extent_list::encode_chunk(list)));
        Ok(Content::Lists(lists.collect::<Result<_, _>>()?))
    }
}

/// The hashes of a segment's bytes.
struct Groups {
    /// The chaining values of its groups of 64 KiB. Empty if they are of no use.
    values: Vec<ChainingValue>,
    /// For each group, whether the old version has it in place. Empty if the segment has holes.
    in_place: Vec<bool>,
    hash: SegmentHash,
    read_bytes: u64,
}

/// Reads a segment, and the bytes after it as far as a match may reach, into `buffer`; hashes it.
///
/// Bytes that are known to lie in place are not kept in `buffer`: if the last piece lay in place, the next is
/// read into `piece`, which stays in the processor's cache.
fn read_segment(
    file: &dyn tree::File,
    segment: &Segment,
    buffer: &mut Vec<u8>,
    piece: &mut Vec<u8>,
) -> Result<Groups, ReadError> {
    let Segment { start, end, size_bytes, map, basis } = *segment;
    let all = start == 0 && end == size_bytes;
    let length = (end - start) as usize;
    let until = end + segment.look_ahead();
    let has_holes = !matches!(map.stretches(start, end)[..], [(_, _, true)]);
    let mut groups = Groups {
        values: Vec::new(),
        in_place: Vec::new(),
        hash: SegmentHash::Whole(ContentHash([0; 32])),
        read_bytes: 0,
    };
    if has_holes || size_bytes < SIGNED_MIN_BYTES {
        groups.read_bytes = read_range(file, (start, until), map, buffer)? - (until - end);
        if !(all && size_bytes < SIGNED_MIN_BYTES) {
            groups.values = group_values(&buffer[..length], start);
        }
    } else {
        buffer.resize((until - start) as usize, 0);
        piece.resize(PIECE_BYTES, 0);
        let mut elsewhere = basis.is_some();
        let mut at = 0;
        while at < length {
            let next = (at + PIECE_BYTES).min(length);
            // The last match of the previous segment may end in the first piece, so that is kept.
            let beside = elsewhere && at > 0;
            let bytes = if beside { &mut piece[..next - at] } else { &mut buffer[at..next] };
            file.read_exact(bytes, start + at as u64)?;
            let values = group_values(bytes, start + at as u64);
            if let Some(basis) = basis {
                let in_place = groups_in_place(basis, &values, start + at as u64);
                let known = in_place.iter().all(|known| *known);
                if beside && !known {
                    buffer[at..next].copy_from_slice(&piece[..next - at]);
                } else if beside && cfg!(debug_assertions) {
                    // A debug build makes any use of the bytes left out visible.
                    buffer[at..next].fill(0xdd);
                }
                elsewhere = known;
                groups.in_place.extend(in_place);
            }
            groups.values.extend(values);
            at = next;
        }
        file.read_exact(&mut buffer[length..], end)?;
        groups.read_bytes = length as u64;
    }
    let mut tree = HashTree::default();
    groups.values.iter().for_each(|value| tree.push(*value));
    let joined =
        if all { tree.finish().map(SegmentHash::Whole) } else { tree.finish_part().map(SegmentHash::Part) };
    // Fewer than two groups make no tree, so the hash is that of the whole file.
    groups.hash = joined.unwrap_or_else(|| SegmentHash::Whole(ContentHash::of(&buffer[..length])));
    if has_holes {
        groups.values.clear();
    }
    Ok(groups)
}

/// Returns the data map of an open file. The kernel is asked only if holes are possible.
pub(crate) fn data_map(handle: &dyn tree::File, stat: &Stat, size_bytes: u64) -> Result<DataMap, Errno> {
    if stat.may_have_holes() { handle.data_map(size_bytes) } else { Ok(DataMap::full(size_bytes)) }
}
