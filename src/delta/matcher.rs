//! Finds an old version's blocks in new bytes, wherever they are now.
//!
//! The algorithm is rsync's (Tridgell and Mackerras, "The rsync algorithm", 1996), with two changes: a match
//! extends as long as the old file does, and blocks are looked for in place first.
//!
//! Work is bounded whatever the bytes are: each byte is rolled over once, and hashes that confirm nothing are
//! counted; when a run has spent its share of them, the rest of it is literal.

use super::basis::{Basis, BlockLocation};
use super::piece::{Piece, push};
use super::signature::{group_value, strong};
use super::weak::Rolling;
use crate::format::blocks::{GROUP_BYTES, Strong};
use crate::model::entry::Extent;
use crate::model::id::ChunkId;
use blake3::hazmat::ChainingValue;

/// Number of bytes without a match after which only samples are looked at.
const SPARSE_AFTER_BYTES: usize = 256 << 10;
/// Distance between samples, each one block long. A sample finds moved content, which is then followed back
/// to its beginning.
const SAMPLE_EVERY_BYTES: usize = 64 << 10;
/// Maximum length, in blocks, of an edit after which the old content is expected to continue.
const EDIT_BLOCKS: usize = 4;
/// Number of hashes that may confirm nothing in a run; one more is allowed for each `BYTES_PER_FAILURE`
/// bytes.
const FAILURES_FREE: usize = 256;
const BYTES_PER_FAILURE: usize = 1 << 10;

/// New bytes that lie at `at` of their file.
pub struct Matcher<'a> {
    pub basis: &'a Basis,
    pub bytes: &'a [u8],
    pub at: u64,
}

/// Returns the chaining values of the 64 KiB groups of a stretch that begins at a multiple of 64 KiB; the
/// last group may be shorter.
pub fn group_values(bytes: &[u8], at: u64) -> Vec<ChainingValue> {
    let groups = bytes.chunks(GROUP_BYTES as usize).enumerate();
    groups.map(|(number, group)| group_value(group, at + number as u64 * GROUP_BYTES)).collect()
}

/// Returns, for each of these groups, whether the old version has it in place; the first group lies at `at`.
pub fn groups_in_place(basis: &Basis, values: &[ChainingValue], at: u64) -> Vec<bool> {
    let places = (0..).map(|number| at + number * GROUP_BYTES);
    values.iter().zip(places).map(|(value, at)| basis.has_group(at, value)).collect()
}

impl Matcher<'_> {
    /// Returns the pieces that make up `bytes[..end]`. The last piece may reach further, but not beyond
    /// `bytes`.
    ///
    /// `in_place` says for each group of `bytes[..end]` whether the old version has it in place; a group
    /// without a value is not in place. If it is not empty, the bytes begin at a multiple of 64 KiB. Bytes of
    /// groups in place are read only where the group before is not in place.
    pub fn pieces(&self, end: usize, in_place: &[bool]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut done = 0;
        let mut number = 0;
        while done < end {
            let same = |number: usize| in_place.get(number).copied().unwrap_or(false);
            number = number.max(done / GROUP_BYTES as usize);
            let first = number;
            let is_same = same(number);
            while number * (GROUP_BYTES as usize) < end && same(number) == is_same {
                number += 1;
            }
            let until = (number * GROUP_BYTES as usize).min(end);
            if is_same {
                let from = done.max(first * GROUP_BYTES as usize);
                let mut extents = Vec::new();
                self.basis.slice(self.at + from as u64, self.at + until as u64, &mut extents);
                extents.into_iter().for_each(|extent| push(&mut pieces, Piece::Known(extent)));
                done = until;
            } else {
                done = self.run(done, until, &mut pieces);
            }
        }
        pieces
    }

    /// Matches `bytes[from..to]`, of which nothing is known; returns the end of the last piece.
    fn run(&self, from: usize, to: usize, pieces: &mut Vec<Piece>) -> usize {
        let mut literal = from;
        let mut at = from;
        // Offset in the new file less offset in the old file, at the last match.
        let mut shift = 0i64;
        let mut failures_left = FAILURES_FREE + (to - from) / BYTES_PER_FAILURE;
        let mut chunk_tries_left = 4 + (to - from) / (256 << 10);
        let mut place = Some(BlockLocation::File(self.at + from as u64));
        let mut searched = false;
        // The bytes after `to` are known, or belong to another segment: one block may reach into them.
        let seen = &self.bytes[..self.bytes.len().min(to + self.basis.block_bytes() - 1)];
        loop {
            if let Some(place) = place.take() {
                let mut extents = Vec::new();
                let length = self.follow(place, seen, at, &mut chunk_tries_left, &mut extents);
                if length > 0 {
                    if let BlockLocation::File(old) = place {
                        literal = self.go_back(literal, at, old, pieces);
                        shift = (self.at + at as u64) as i64 - old as i64;
                    }
                    push(pieces, Piece::Literal((at - literal) as u32));
                    push_known(pieces, extents);
                    at += length;
                    literal = at;
                } else if searched {
                    // Not reached as long as every place found holds a block; otherwise this line prevents an
                    // endless loop.
                    at += 1;
                }
            }
            if at >= to {
                push(pieces, Piece::Literal((at - literal) as u32));
                return at;
            }
            searched = true;
            let beyond = self.beyond_edit(at, to, shift);
            match beyond.or_else(|| self.search(at, to, shift, &mut failures_left)) {
                Some((found, found_place)) => (at, place) = (found, Some(found_place)),
                None => break,
            }
        }
        push(pieces, Piece::Literal((to - literal) as u32));
        to
    }

    /// Returns the number of bytes from `at` on that continue the old content at `place`.
    ///
    /// Whole chunks are compared where possible, since their hash is computed several times as fast as their
    /// blocks' hashes.
    fn follow(
        &self,
        place: BlockLocation,
        bytes: &[u8],
        mut at: usize,
        chunk_tries_left: &mut usize,
        out: &mut Vec<Extent>,
    ) -> usize {
        let start = at;
        let BlockLocation::File(mut old) = place else { return self.basis.follow(place, &bytes[at..], out) };
        loop {
            if *chunk_tries_left > 0
                && let Some((id, length)) = self.basis.whole_chunk_at(old)
                && let Some(chunk) = bytes.get(at..at + length as usize)
            {
                if ChunkId::of(chunk) == id {
                    self.basis.slice(old, old + u64::from(length), out);
                    at += length as usize;
                    old += u64::from(length);
                    continue;
                }
                *chunk_tries_left -= 1;
            }
            let limit = self.basis.next_whole_chunk(old).map_or(usize::MAX, |next| (next - old) as usize);
            let end = bytes.len().min(at.saturating_add(limit));
            let length = self.basis.follow(BlockLocation::File(old), &bytes[at..end], out);
            at += length;
            old += length as u64;
            if length < limit {
                return at - start;
            }
        }
    }

    /// Replaces the end of a literal before a match by the old content that precedes the match, as far as
    /// they agree.
    ///
    /// Returns where the remaining literal starts: at the match if old content was found.
    fn go_back(&self, literal: usize, at: usize, old: u64, pieces: &mut Vec<Piece>) -> usize {
        let length = self.basis.follow_back(old, &self.bytes[literal..at]);
        if length == 0 {
            return literal;
        }
        push(pieces, Piece::Literal((at - length - literal) as u32));
        let mut extents = Vec::new();
        self.basis.slice(old - length as u64, old, &mut extents);
        push_known(pieces, extents);
        at
    }

    /// Finds where the old content continues after a short edit: bytes written over bytes, as databases write
    /// pages.
    ///
    /// The overwritten blocks are looked for elsewhere only at multiples of a block, not at every byte.
    fn beyond_edit(&self, from: usize, to: usize, shift: i64) -> Option<(usize, BlockLocation)> {
        let block = self.basis.block_bytes();
        let old = |at: usize| u64::try_from((self.at + at as u64) as i64 - shift).ok();
        let mut end = None;
        for at in (1..=EDIT_BLOCKS).map(|blocks| from + blocks * block).take_while(|at| *at < to) {
            let (bytes, old) = (self.bytes.get(at..at + block)?, old(at)?);
            if self.basis.is_block_at(old, bytes) {
                end = Some((at, BlockLocation::File(old)));
                break;
            }
        }
        let (end_at, _) = end?;
        let moved = (from..end_at).step_by(block).find_map(|at| {
            let bytes = self.bytes.get(at..at + block)?;
            let weak = super::weak::weak(bytes);
            let may_have = self.basis.may_have(weak) && self.basis.has_weak(weak);
            may_have.then(|| self.basis.lookup(weak, &strong(bytes))).flatten().map(|place| (at, place))
        });
        moved.or(end)
    }

    /// Finds the next block of the old version that begins at or after `from` and before `to`.
    fn search(
        &self,
        from: usize,
        to: usize,
        shift: i64,
        failures_left: &mut usize,
    ) -> Option<(usize, BlockLocation)> {
        let block = self.basis.block_bytes();
        let last = self.bytes.len().checked_sub(block)?.min(to - 1);
        let dense_end = (from + SPARSE_AFTER_BYTES).min(last + 1);
        if let Some(found) = self.roll(from, dense_end, shift, failures_left) {
            return Some(found);
        }
        let mut at = dense_end;
        while at <= last {
            // A window of two blocks' length contains one whole block of any moved content.
            if let Some(found) = self.roll(at, (at + block).min(last + 1), shift, failures_left) {
                return Some(found);
            }
            at += SAMPLE_EVERY_BYTES.max(block);
        }
        None
    }

    /// Looks at every window that begins in `from..end`.
    fn roll(
        &self,
        from: usize,
        end: usize,
        shift: i64,
        failures_left: &mut usize,
    ) -> Option<(usize, BlockLocation)> {
        let block = self.basis.block_bytes();
        if from >= end || *failures_left == 0 {
            return None;
        }
        let mut rolling = Rolling::new(&self.bytes[from..from + block]);
        let leaving = &self.bytes[from..end];
        let coming = &self.bytes[from + block..(end + block).min(self.bytes.len())];
        for (step, leaves) in leaving.iter().enumerate() {
            let weak = rolling.value();
            if self.basis.may_have(weak)
                && let Some(place) = self.confirm(from + step, weak, shift, failures_left)
            {
                return Some((from + step, place));
            }
            match coming.get(step) {
                Some(comes) if *failures_left > 0 => rolling.roll(*leaves, *comes),
                _ => return None,
            }
        }
        None
    }

    /// Finds the old block that equals the one at `at`: in place if possible, else at the distance of the
    /// last match, else anywhere.
    #[cold]
    fn confirm(&self, at: usize, weak: u32, shift: i64, failures_left: &mut usize) -> Option<BlockLocation> {
        if !self.basis.has_weak(weak) {
            return None;
        }
        let hash: Strong = strong(&self.bytes[at..at + self.basis.block_bytes()]);
        let here = self.at + at as u64;
        let shifted = u64::try_from(here as i64 - shift).ok();
        let found = [Some(here), shifted]
            .into_iter()
            .flatten()
            .find(|old| self.basis.has_block(*old, &hash))
            .map(BlockLocation::File)
            .or_else(|| self.basis.lookup(weak, &hash));
        if found.is_none() {
            *failures_left -= 1;
        }
        found
    }
}

fn push_known(pieces: &mut Vec<Piece>, extents: Vec<Extent>) {
    extents.into_iter().for_each(|extent| push(pieces, Piece::Known(extent)));
}
