//! Compares the matcher with `fast_rsync`, on one core, in memory: `cargo bench --bench matcher`.
//!
//! Both know 64 MiB by blocks of 2 KiB, and get a new version. This program's matcher also gets the chaining
//! values of the new version's groups, which a resync has from hashing the file; computing them is not
//! measured.

// The program prints figures.
#![allow(clippy::disallowed_macros)]
// The time of this real process is measured.
#![allow(clippy::disallowed_methods)]

use std::collections::HashMap;
use std::time::Instant;
use understudy::delta::basis::Basis;
use understudy::delta::matcher::{Matcher, group_values, groups_in_place};
use understudy::delta::piece::Piece;
use understudy::delta::signature::{half, sign};
use understudy::format::blocks;
use understudy::model::entry::Extent;
use understudy::model::id::ChunkId;

const SIZE: usize = 64 << 20;
const MIB: usize = 1 << 20;

fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn basis(old: &[u8]) -> Basis {
    let mut entries = HashMap::new();
    let mut extents = Vec::new();
    for (number, raw) in old.chunks(MIB).enumerate() {
        let at = (number * MIB) as u64;
        let groups: Vec<_> = group_values(raw, at).iter().map(half).collect();
        let signed = sign(raw, &[raw.len() as u32], 11, Some((at, &groups)));
        let (chunk, id) = (ChunkId::of(raw), ChunkId::of(&signed));
        entries.insert(id, blocks::decode(&signed.into()).unwrap());
        extents.push(Extent::Chunk {
            chunk,
            blocks: Some(id),
            offset_bytes: 0,
            length_bytes: raw.len() as u32,
        });
    }
    Basis::new(0, &extents, &entries).unwrap()
}

/// Returns the speed in MiB per second, and the number of literal bytes.
fn ours(basis: &Basis, new: &[u8]) -> (f64, u64) {
    let groups: Vec<_> =
        new.chunks(4 * MIB).enumerate().map(|(n, s)| group_values(s, (n * 4 * MIB) as u64)).collect();
    let started = Instant::now();
    let mut literal = 0;
    // Number of bytes of this stretch that the last stretch's last piece covered.
    let mut overhang = 0;
    for (number, groups) in groups.iter().enumerate() {
        let start = number * 4 * MIB;
        let end = (start + 4 * MIB).min(new.len());
        let seen = (end + 2047).min(new.len());
        let matcher = Matcher { basis, bytes: &new[start..seen], at: start as u64 };
        let pieces = matcher.pieces(end - start, &groups_in_place(basis, groups, start as u64));
        let covered: u64 = pieces.iter().map(Piece::length_bytes).sum();
        for piece in pieces {
            let length = piece.length_bytes();
            let again = length.min(overhang);
            overhang -= again;
            literal += if let Piece::Literal(_) = piece { length - again } else { 0 };
        }
        overhang = covered - (end - start) as u64;
    }
    (new.len() as f64 / MIB as f64 / started.elapsed().as_secs_f64(), literal)
}

/// Returns the speed in MiB per second, and the length of the delta.
fn theirs(index: &fast_rsync::IndexedSignature, new: &[u8]) -> (f64, u64) {
    let started = Instant::now();
    let mut delta = Vec::new();
    fast_rsync::diff(index, new, &mut delta).unwrap();
    (new.len() as f64 / MIB as f64 / started.elapsed().as_secs_f64(), delta.len() as u64)
}

fn main() {
    let old = random(1, SIZE);
    let mut edited = old.clone();
    for number in 0..SIZE / 100 / 4096 {
        let at = (number * 7919 % (SIZE / 4096)) * 4096;
        edited[at..at + 4096].copy_from_slice(&random(number as u64, 4096));
    }
    let cases = [
        ("unchanged", old.clone()),
        ("1 % edited in place", edited),
        ("100 bytes inserted", [&old[..5000], &random(2, 100), &old[5000..]].concat()),
        ("wholly new", random(3, SIZE)),
    ];
    let basis = basis(&old);
    let options = fast_rsync::SignatureOptions { block_size: 2048, crypto_hash_size: 16 };
    let signature = fast_rsync::Signature::calculate(&old, options);
    let index = signature.index();
    println!("| 64 MiB, one core | understudy MiB/s | literal bytes | fast_rsync MiB/s | delta bytes |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (case, new) in cases {
        let ((our_speed, literal), (their_speed, delta)) = (ours(&basis, &new), theirs(&index, &new));
        println!("| {case} | {our_speed:.0} | {literal} | {their_speed:.0} | {delta} |");
    }
}
