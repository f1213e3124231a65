//! The pieces of a stretch of a new file: extents of the old one, and literals.

use crate::model::entry::Extent;
use std::collections::{HashMap, HashSet};

/// A part of a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Content that is already known, or a hole.
    Known(Extent),
    /// Number of bytes that are to be shipped.
    Literal(u32),
}

impl Piece {
    pub fn length_bytes(&self) -> u64 {
        match self {
            Piece::Known(extent) => extent.length_bytes(),
            Piece::Literal(length) => u64::from(*length),
        }
    }

    /// Cuts off all after the first `at` bytes and returns it; `at` is inside.
    pub(crate) fn split_off(&mut self, at: u64) -> Piece {
        match self {
            Piece::Known(extent) => {
                let (head, tail) = extent.split_at(at);
                *extent = head;
                Piece::Known(tail)
            }
            Piece::Literal(length) => {
                let tail = *length - at as u32;
                *length = at as u32;
                Piece::Literal(tail)
            }
        }
    }
}

/// Lengthens `last` by `next` if `next` begins where `last` ends; returns whether it did.
fn lengthen(last: &mut Extent, next: &Extent) -> bool {
    match (last, next) {
        (Extent::Hole { length_bytes }, Extent::Hole { length_bytes: more }) => *length_bytes += more,
        (
            Extent::Chunk { chunk, blocks, offset_bytes, length_bytes },
            Extent::Chunk { chunk: next, blocks: next_blocks, offset_bytes: at, length_bytes: more },
        ) if (*chunk, *blocks, *offset_bytes + *length_bytes) == (*next, *next_blocks, *at) => {
            *length_bytes += more;
        }
        _ => return false,
    }
    true
}

/// Appends an extent, or lengthens the last one.
pub(crate) fn push_extent(extents: &mut Vec<Extent>, next: Extent) {
    if next.length_bytes() > 0 && !extents.last_mut().is_some_and(|last| lengthen(last, &next)) {
        extents.push(next);
    }
}

/// Appends a piece, or lengthens the last one, as [`push_extent`] does.
pub fn push(pieces: &mut Vec<Piece>, next: Piece) {
    let lengthened = match (pieces.last_mut(), &next) {
        _ if next.length_bytes() == 0 => true,
        (Some(Piece::Literal(length)), Piece::Literal(more)) => {
            *length += more;
            true
        }
        (Some(Piece::Known(last)), Piece::Known(extent)) => lengthen(last, extent),
        _ => false,
    };
    if !lengthened {
        pieces.push(next);
    }
}

/// Maximum number of extents in a MiB of a file; a MiB with more is shipped again.
///
/// Otherwise its list of extents, which every further version may have to ship, would soon be larger than its
/// content.
const EXTENTS_PER_MIB_MAX: usize = 256;
pub(crate) const MIB: u64 = 1 << 20;

/// Returns the numbers of a file's MiBs that consist of too many extents. The extents begin at `at`.
pub(crate) fn crowded(extents: &[Extent], mut at: u64) -> HashSet<u64> {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for extent in extents {
        let end = at + extent.length_bytes();
        if let Extent::Chunk { .. } = extent {
            for region in at / MIB..=(end - 1) / MIB {
                *counts.entry(region).or_default() += 1;
            }
        }
        at = end;
    }
    counts.retain(|_, count| *count > EXTENTS_PER_MIB_MAX);
    counts.into_keys().collect()
}

/// Replaces the pieces of a MiB by one literal where they are too many.
///
/// `pieces` begin at `at` in the file, and each MiB of the file is looked at on its own. Only a MiB whose
/// bytes are at hand is replaced: `is_at_hand` is asked by its number.
pub fn defragment(pieces: Vec<Piece>, mut at: u64, is_at_hand: impl Fn(u64) -> bool) -> Vec<Piece> {
    if pieces.len() <= EXTENTS_PER_MIB_MAX {
        return pieces;
    }
    let mut regions: Vec<(u64, Vec<Piece>)> = Vec::new();
    for mut piece in pieces {
        loop {
            let region = at / MIB;
            let room = (region + 1) * MIB - at;
            let rest = (piece.length_bytes() > room).then(|| piece.split_off(room));
            at += piece.length_bytes();
            match regions.last_mut() {
                Some((last, pieces)) if *last == region => pieces.push(piece),
                _ => regions.push((region, vec![piece])),
            }
            match rest {
                Some(rest) => piece = rest,
                None => break,
            }
        }
    }
    let mut whole = Vec::new();
    for (region, pieces) in regions {
        let holes = pieces.iter().any(|p| matches!(p, Piece::Known(Extent::Hole { .. })));
        if pieces.len() > EXTENTS_PER_MIB_MAX && !holes && is_at_hand(region) {
            push(&mut whole, Piece::Literal(pieces.iter().map(Piece::length_bytes).sum::<u64>() as u32));
        } else {
            pieces.into_iter().for_each(|piece| push(&mut whole, piece));
        }
    }
    whole
}
