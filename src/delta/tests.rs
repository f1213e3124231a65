//! Tests over a file's history in memory: each version is matched against the one before, and must come back
//! from its extents.
//!
//! `fast_rsync`, which is given the whole old content, measures how much can be found.

use super::assembly::{Assembly, Shipped, Stretch};
use super::basis::Basis;
use super::matcher::{Matcher, group_values, groups_in_place};
use super::piece::{Piece, defragment};
use super::signature::{half, sign};
use crate::format::blocks::{self, BlockEntries, GROUP_BYTES, Strong};
use crate::model::entry::{CHUNK_MAX_BYTES, Extent};
use crate::model::id::ChunkId;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::ops::Range;

const BLOCK: u32 = 11;
/// Size of a matched stretch: small, so that there are many seams.
const SEGMENT: usize = 192 << 10;

/// The shipped chunks, and the extents of the last version.
#[derive(Default)]
struct History {
    chunks: HashMap<ChunkId, Vec<u8>>,
    entries: HashMap<ChunkId, BlockEntries>,
    extents: Vec<Extent>,
    /// Bytes of chunks shipped by the last version.
    shipped: usize,
}

impl History {
    fn ship(&mut self, raw: &[u8], runs: &[u32], origin: Option<(u64, &[Strong])>) -> Shipped {
        let id = ChunkId::of(raw);
        if self.chunks.insert(id, raw.to_vec()).is_none() {
            self.shipped += raw.len();
        }
        let signed = sign(raw, runs, BLOCK, origin);
        let blocks = ChunkId::of(&signed);
        self.entries.insert(blocks, blocks::decode(&signed.into()).unwrap());
        (id, Some(blocks))
    }

    /// Stores the first version, in chunks of 256 KiB.
    fn first(&mut self, bytes: &[u8]) {
        for (number, raw) in bytes.chunks(256 << 10).enumerate() {
            let at = (number as u64) * (256 << 10);
            let groups: Vec<Strong> = group_values(raw, at).iter().map(half).collect();
            let whole = &groups[..raw.len() / GROUP_BYTES as usize];
            let (chunk, blocks) = self.ship(raw, &[raw.len() as u32], Some((at, whole)));
            let length_bytes = raw.len() as u32;
            self.extents.push(Extent::Chunk { chunk, blocks, offset_bytes: 0, length_bytes });
        }
        self.shipped = 0;
    }

    /// Stores the next version.
    fn next(&mut self, bytes: &[u8]) {
        self.shipped = 0;
        let basis = Basis::new(0, &self.extents, &self.entries).expect("entries");
        let mut assembly = Assembly::default();
        for start in (0..bytes.len()).step_by(SEGMENT) {
            let end = (start + SEGMENT).min(bytes.len());
            let seen = (end + (1 << BLOCK) - 1).min(bytes.len());
            let groups = group_values(&bytes[start..end], start as u64);
            let matcher = Matcher { basis: &basis, bytes: &bytes[start..seen], at: start as u64 };
            let in_place = groups_in_place(&basis, &groups, start as u64);
            let pieces = defragment(matcher.pieces(end - start, &in_place), start as u64, |_| true);
            let mut at = start;
            let mut literals = Vec::new();
            for piece in &pieces {
                let next = at + piece.length_bytes() as usize;
                if let Piece::Literal(_) = piece {
                    literals.extend_from_slice(&bytes[at..next]);
                }
                at = next;
            }
            assert!(at >= end && at <= seen);
            let head = bytes[start..end.min(start + (1 << BLOCK))].to_vec();
            let stretch = Stretch { pieces, literals, head, overhang: bytes[end..at].to_vec() };
            assembly.push(stretch, |raw, runs| Ok::<_, Infallible>(self.ship(raw, runs, None))).unwrap();
        }
        self.extents = assembly.finish(|raw, runs| Ok::<_, Infallible>(self.ship(raw, runs, None))).unwrap();
    }

    fn content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        for extent in &self.extents {
            let Extent::Chunk { chunk, offset_bytes, length_bytes, .. } = extent else { panic!("a hole") };
            let range = *offset_bytes as usize..(*offset_bytes + *length_bytes) as usize;
            content.extend_from_slice(&self.chunks[chunk][range]);
        }
        content
    }

    /// Returns the total size of the chunks that a restore reads.
    fn read_bytes(&self) -> usize {
        let ids: HashSet<ChunkId> = self
            .extents
            .iter()
            .filter_map(|e| match e {
                Extent::Chunk { chunk, .. } => Some(*chunk),
                Extent::Hole { .. } => None,
            })
            .collect();
        ids.iter().map(|id| self.chunks[id].len()).sum()
    }
}

/// Returns the number of bytes that `fast_rsync` ships literally.
fn oracle_bytes(old: &[u8], new: &[u8]) -> usize {
    let options = fast_rsync::SignatureOptions { block_size: 1 << BLOCK, crypto_hash_size: 16 };
    let signature = fast_rsync::Signature::calculate(old, options);
    let mut delta = Vec::new();
    fast_rsync::diff(&signature.index(), new, &mut delta).unwrap();
    let copied = copied_bytes(&delta);
    new.len() - copied
}

/// Sums the COPY commands of an rsync delta (as librsync writes it).
fn copied_bytes(mut delta: &[u8]) -> usize {
    fn take<'a>(delta: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (head, rest) = delta.split_at(count);
        *delta = rest;
        head
    }
    fn number(delta: &mut &[u8], width: usize) -> usize {
        take(delta, width).iter().fold(0, |n, b| n << 8 | usize::from(*b))
    }
    let mut copied = 0;
    take(&mut delta, 4);
    loop {
        match take(&mut delta, 1)[0] {
            0 => return copied,
            short @ 1..=64 => drop(take(&mut delta, short as usize)),
            wide @ 0x41..=0x44 => {
                let count = number(&mut delta, 1 << (wide - 0x41));
                take(&mut delta, count);
            }
            copy @ 0x45..=0x54 => {
                let kind = copy - 0x45;
                number(&mut delta, 1 << (kind / 4));
                copied += number(&mut delta, 1 << (kind % 4));
            }
            other => panic!("command {other}"),
        }
    }
}

fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// An edit; its position is a fraction of the file's length.
#[derive(Clone, Debug)]
enum Edit {
    Insert(f64, u64, usize),
    Delete(f64, usize),
    Overwrite(f64, u64, usize),
    Move(f64, usize, f64),
    Truncate(f64),
    Grow(u64, usize),
    Zeros(f64, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = || 0.0f64..1.0;
    let short = || prop_oneof![1usize..300, 1usize..40_000];
    prop_oneof![
        4 => (at(), any::<u64>(), short()).prop_map(|(a, s, n)| Edit::Insert(a, s, n)),
        4 => (at(), short()).prop_map(|(a, n)| Edit::Delete(a, n)),
        4 => (at(), any::<u64>(), short()).prop_map(|(a, s, n)| Edit::Overwrite(a, s, n)),
        2 => (at(), 1usize..200_000, at()).prop_map(|(a, n, b)| Edit::Move(a, n, b)),
        1 => (0.3f64..1.0).prop_map(Edit::Truncate),
        2 => (any::<u64>(), 1usize..300_000).prop_map(|(s, n)| Edit::Grow(s, n)),
        1 => (at(), 1usize..100_000).prop_map(|(a, n)| Edit::Zeros(a, n)),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    let place = |at: f64| (bytes.len() as f64 * at) as usize;
    let range = |at: f64, n: usize| place(at)..(place(at) + n).min(bytes.len());
    match *edit {
        Edit::Insert(at, seed, n) => drop(bytes.splice(place(at)..place(at), random(seed, n))),
        Edit::Delete(at, n) => drop(bytes.drain(range(at, n))),
        Edit::Overwrite(at, seed, n) => {
            let range: Range<usize> = range(at, n);
            let new = random(seed, range.len());
            bytes[range].copy_from_slice(&new);
        }
        Edit::Move(at, n, to) => {
            let moved: Vec<u8> = bytes.drain(range(at, n)).collect();
            let to = (bytes.len() as f64 * to) as usize;
            bytes.splice(to..to, moved);
        }
        Edit::Truncate(at) => bytes.truncate(place(at).max(1)),
        Edit::Grow(seed, n) => bytes.extend(random(seed, n)),
        Edit::Zeros(at, n) => {
            let range = range(at, n);
            bytes[range].fill(0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_version_comes_back(
        length in 300_000usize..1_500_000,
        versions in prop::collection::vec(prop::collection::vec(edit(), 0..6), 1..5),
    ) {
        let mut bytes = random(1, length);
        let mut history = History::default();
        history.first(&bytes);
        for edits in versions {
            edits.iter().for_each(|edit| apply(&mut bytes, edit));
            prop_assume!(!bytes.is_empty());
            history.next(&bytes);
            prop_assert!(history.content() == bytes);
            prop_assert!(history.read_bytes() <= bytes.len() * 13 / 10 + (1 << 20));
        }
    }

    #[test]
    fn no_more_is_literal_than_rsync_finds(
        length in 300_000usize..1_500_000,
        edits in prop::collection::vec(edit(), 0..8),
    ) {
        let old = random(2, length);
        let mut new = old.clone();
        edits.iter().for_each(|edit| apply(&mut new, edit));
        let mut history = History::default();
        history.first(&old);
        history.next(&new);
        prop_assert!(history.content() == new);
        // A block may lie across an edge that exists only here (a chunk's), and the samples may miss moved
        // content within a stretch that is otherwise new.
        let oracle = oracle_bytes(&old, &new);
        prop_assert!(history.shipped <= oracle + 16384, "{} and {oracle}", history.shipped);
    }
}

#[test]
fn an_edit_costs_a_block_and_an_insertion_no_more() {
    let old = random(3, 3 << 20);
    for (what, edit, most) in [
        ("touched", Edit::Overwrite(0.0, 0, 0), 0),
        ("overwritten", Edit::Overwrite(0.5, 9, 20), 4096),
        ("inserted", Edit::Insert(0.0001, 9, 100), 2048 + 100),
        ("deleted", Edit::Delete(0.3, 100), 2048),
        ("appended", Edit::Grow(9, 10_000), 10_000),
        ("truncated", Edit::Truncate(0.7), 2048),
    ] {
        let mut history = History::default();
        history.first(&old);
        let mut new = old.clone();
        apply(&mut new, &edit);
        history.next(&new);
        assert!(history.content() == new, "{what}");
        assert!(history.shipped <= most, "{what}: {}", history.shipped);
    }
}

#[test]
fn an_earlier_edit_is_not_shipped_again() {
    let mut bytes = random(12, 2 << 20);
    let mut history = History::default();
    history.first(&bytes);
    for version in 0..30u64 {
        // With 37 inserted bytes, no block of the gathered chunk lies at a multiple of 2 KiB.
        for at in [0.11, 0.37, 0.73] {
            apply(&mut bytes, &Edit::Insert(at + version as f64 / 500.0, version, 37));
        }
        history.next(&bytes);
        assert!(history.shipped <= 3 * (2048 + 37), "version {version}: {}", history.shipped);
        assert!(history.content() == bytes);
    }
}

#[test]
fn what_is_put_back_ships_nothing() {
    let old = random(4, 1 << 20);
    let mut history = History::default();
    history.first(&old);
    let mut new = old.clone();
    apply(&mut new, &Edit::Overwrite(0.5, 5, 10_000));
    history.next(&new);
    assert!(history.shipped > 0);
    history.next(&old);
    assert_eq!(history.shipped, 0);
    assert!(history.content() == old);
}

#[test]
fn many_versions_stay_readable_and_in_few_pieces() {
    let mut bytes = random(5, 2 << 20);
    let mut history = History::default();
    history.first(&bytes);
    for version in 0..150u64 {
        for edit in 0..6 {
            let at = blake3::hash(&[version as u8, edit]).as_bytes()[0];
            let edit = match edit % 3 {
                0 => Edit::Insert(f64::from(at) / 256.0, version, 30),
                1 => Edit::Delete(f64::from(at) / 256.0, 40),
                _ => Edit::Overwrite(f64::from(at) / 256.0, version + 7, 50),
            };
            apply(&mut bytes, &edit);
        }
        history.next(&bytes);
        assert!(history.content() == bytes, "version {version}");
        assert!(history.read_bytes() < bytes.len() * 13 / 10 + (1 << 20), "version {version}");
        assert!(history.extents.len() < 3 * 280, "version {version}");
    }
}

#[test]
fn zeros_and_repeated_blocks_stay_in_few_pieces() {
    for block in [vec![0u8; 2048], random(6, 2048), random(6, 4096), random(7, 777)] {
        let old = block.repeat((2 << 20) / block.len());
        let mut history = History::default();
        history.first(&old);
        for edit in [Edit::Insert(0.4, 1, 100), Edit::Delete(0.2, 10_000), Edit::Overwrite(0.7, 2, 3000)] {
            let mut new = old.clone();
            apply(&mut new, &edit);
            let mut next = History { extents: history.extents.clone(), ..History::default() };
            (next.chunks, next.entries) = (history.chunks.clone(), history.entries.clone());
            next.next(&new);
            assert!(next.content() == new);
            assert!(next.shipped < 12_000, "{} {edit:?} {}", block.len(), next.shipped);
            assert!(next.extents.len() < 60, "{} {edit:?} {}", block.len(), next.extents.len());
        }
    }
}

/// The weak checksums of these entries are those of the new content everywhere, and their hashes never match.
#[test]
fn entries_that_promise_everything_cost_little_and_give_nothing() {
    let new = random(8, 4 << 20);
    let mut history = History::default();
    let old = random(9, 1 << 20);
    history.first(&old);
    // All checksums of four chunks are those of windows of the new content.
    let mut number = 0;
    let forged: HashMap<ChunkId, BlockEntries> = history
        .entries
        .iter()
        .map(|(id, entries)| {
            let weak: Vec<u32> = (0..entries.blocks())
                .map(|_| {
                    number += 1;
                    super::weak::weak(&new[number * 100..number * 100 + 2048])
                })
                .collect();
            let strong: Vec<Strong> = (0..entries.blocks()).map(|b| [b as u8; 16]).collect();
            let shape = blocks::Shape { runs: &[entries.length_bytes], block_log2: BLOCK, origin: None };
            let bytes = blocks::encode(shape, &[], &weak, &strong);
            (*id, blocks::decode(&bytes.into()).unwrap())
        })
        .collect();
    history.entries = forged;
    history.next(&new);
    assert!(history.content() == new);
    assert_eq!(history.shipped, new.len());
}

/// Thue and Morse's sequence and its complement have the same polynomial sum modulo 2^64, so that all blocks
/// made of them have the same weak checksum.
#[test]
fn crafted_collisions_are_confirmed_or_shipped() {
    let half_block: Vec<u8> = (0..1024u32).map(|n| (n.count_ones() & 1) as u8).collect();
    let other: Vec<u8> = half_block.iter().map(|b| 1 - b).collect();
    let made_of = |bits: u64, blocks: usize| -> Vec<u8> {
        (0..blocks * 2)
            .flat_map(|n| if bits >> (n % 61) & 1 == 1 { half_block.clone() } else { other.clone() })
            .collect()
    };
    let (old, new) = (made_of(0x1234_5678_9abc_def1, 512), made_of(0x0fed_cba9_8765_4321, 512));
    let weak = |b: &[u8]| super::weak::weak(b);
    assert_eq!(weak(&half_block.repeat(2)), weak(&other.repeat(2)), "the collision is one");
    let mut history = History::default();
    history.first(&old);
    history.next(&new);
    assert!(history.content() == new);
    assert!(history.chunks.values().all(|chunk| chunk.len() <= CHUNK_MAX_BYTES));
}

#[test]
fn a_basis_of_a_part_of_the_file_matches_what_lies_near() {
    let old = random(13, 3 << 20);
    let mut history = History::default();
    history.first(&old);
    // Chunks 4 to 8 of 256 KiB.
    let (from, to) = (4 << 18, 9 << 18);
    let basis = Basis::new(from as u64, &history.extents[4..9], &history.entries).unwrap();
    let new = [&old[..from + 1000], &random(14, 50)[..], &old[from + 1000..]].concat();
    let groups = group_values(&new[from..to], from as u64);
    let pieces = Matcher { basis: &basis, bytes: &new[from..to], at: from as u64 }
        .pieces(to - from, &groups_in_place(&basis, &groups, from as u64));
    let literal: u64 =
        pieces.iter().filter(|p| matches!(p, Piece::Literal(_))).map(Piece::length_bytes).sum();
    assert!(literal <= 2048 + 50 + 2048, "{literal}");
    history.extents = vec![];
    let mut at = from;
    for piece in &pieces {
        let next = at + piece.length_bytes() as usize;
        if let Piece::Known(extent) = piece {
            history.extents = vec![*extent];
            assert!(history.content() == new[at..next]);
        }
        at = next;
    }
    assert_eq!(at, to);
}
