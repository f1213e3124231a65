//! Joins the stretches that a file was matched in, and gathers their short literals into chunks.
//!
//! Stretches are matched independently, and each looks beyond its end, so that a block that lies across an
//! edge is found. Where one reaches into the next, the next is cut. The overlap is checked to be the same
//! bytes in both readings, since the hashed and the matched bytes must be the same.

use super::piece::{Piece, push_extent};
use crate::model::entry::{CHUNK_MAX_BYTES, Extent};
use crate::model::id::ChunkId;

/// A matched stretch of a file.
pub(crate) struct Stretch {
    /// The pieces in the order of the file, from the stretch's beginning on.
    pub pieces: Vec<Piece>,
    /// The bytes of all literal pieces, in order.
    pub literals: Vec<u8>,
    /// The stretch's first bytes, as many as the previous stretch may reach over.
    pub head: Vec<u8>,
    /// The bytes after the stretch's end that its last piece reaches over.
    pub overhang: Vec<u8>,
}

/// Names of a shipped chunk of literals: its id, and that of its block entries.
pub type Shipped = (ChunkId, Option<ChunkId>);

/// A file's extents under construction.
#[derive(Default)]
pub(crate) struct Assembly {
    extents: Vec<Extent>,
    /// Literals that no chunk holds yet, the lengths of their runs, and the numbers of the extents that will
    /// name the chunk.
    open: Vec<u8>,
    runs: Vec<u32>,
    waiting: Vec<usize>,
    overhang: Vec<u8>,
}

/// Reason why a stretch does not fit.
#[derive(Debug)]
pub(crate) enum Misfit<E> {
    /// The file was changed between two readings of the same bytes.
    Changed,
    /// A chunk could not be shipped.
    Ship(E),
}

impl Assembly {
    /// Appends the next stretch. `ship` stores a chunk of literals, and is given the lengths of the runs in
    /// it.
    pub fn push<E>(
        &mut self,
        stretch: Stretch,
        mut ship: impl FnMut(&[u8], &[u32]) -> Result<Shipped, E>,
    ) -> Result<(), Misfit<E>> {
        let overhang = std::mem::take(&mut self.overhang);
        if !stretch.head.starts_with(&overhang) {
            return Err(Misfit::Changed);
        }
        let mut skip = overhang.len() as u64;
        let mut literals = &stretch.literals[..];
        for mut piece in stretch.pieces {
            let length = piece.length_bytes();
            let skipped = skip.min(length);
            skip -= skipped;
            if let Piece::Literal(_) = piece {
                literals = literals.get(skipped as usize..).unwrap_or_default();
            }
            if skipped == length {
                continue;
            }
            if skipped > 0 {
                piece = piece.split_off(skipped);
            }
            match piece {
                Piece::Known(extent) => self.push_known(extent),
                Piece::Literal(length) => {
                    let (bytes, rest) = literals.split_at(literals.len().min(length as usize));
                    literals = rest;
                    self.push_literal(bytes, &mut ship).map_err(Misfit::Ship)?;
                }
            }
        }
        self.overhang = stretch.overhang;
        Ok(())
    }

    fn push_known(&mut self, extent: Extent) {
        // An extent that still waits for its chunk's name cannot be lengthened.
        if self.waiting.last().is_some_and(|last| last + 1 == self.extents.len()) {
            self.extents.push(extent);
        } else {
            push_extent(&mut self.extents, extent);
        }
    }

    fn push_literal<E>(
        &mut self,
        mut bytes: &[u8],
        ship: &mut impl FnMut(&[u8], &[u32]) -> Result<Shipped, E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let room = CHUNK_MAX_BYTES - self.open.len();
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            bytes = rest;
            let offset_bytes = self.open.len() as u32;
            self.open.extend_from_slice(now);
            self.runs.push(now.len() as u32);
            self.waiting.push(self.extents.len());
            let length_bytes = now.len() as u32;
            self.extents.push(Extent::Chunk {
                chunk: ChunkId([0; 32]),
                blocks: None,
                offset_bytes,
                length_bytes,
            });
            if self.open.len() == CHUNK_MAX_BYTES {
                self.close(ship)?;
            }
        }
        Ok(())
    }

    /// Ships the literals gathered so far, and names their chunk in the waiting extents.
    fn close<E>(&mut self, ship: &mut impl FnMut(&[u8], &[u32]) -> Result<Shipped, E>) -> Result<(), E> {
        if self.open.is_empty() {
            return Ok(());
        }
        let (id, entries) = ship(&self.open, &self.runs)?;
        for number in self.waiting.drain(..) {
            if let Some(Extent::Chunk { chunk, blocks, .. }) = self.extents.get_mut(number) {
                (*chunk, *blocks) = (id, entries);
            }
        }
        self.open.clear();
        self.runs.clear();
        Ok(())
    }

    /// Ships the remaining literals, and returns the extents of the whole file.
    pub fn finish<E>(
        mut self,
        mut ship: impl FnMut(&[u8], &[u32]) -> Result<Shipped, E>,
    ) -> Result<Vec<Extent>, Misfit<E>> {
        if !self.overhang.is_empty() {
            return Err(Misfit::Changed);
        }
        self.close(&mut ship).map_err(Misfit::Ship)?;
        Ok(self.extents)
    }
}
