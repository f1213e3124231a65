//! Compares the matcher with `fast_rsync`, on one core, in memory: `cargo bench --bench matcher`.
//!
//! Both know 64 MiB by blocks of 2 KiB, and get a new version. This program's matcher also gets the chaining
//! values of the new version's groups, which a resync has from hashing the file; computing them is not
//! measured.
//!
//! Speeds are by the thread's CPU time. The second table is for two versions at hand, whole and in windows of
//! 4 MiB: it includes the making of what is matched against (block entries and their table, or a signature and
//! its index).

// The program prints figures.
#![allow(clippy::disallowed_macros)]

#[path = "support/cpu.rs"]
mod cpu;

use cpu::cpu_seconds;
use rustix::time::ClockId;
use std::collections::HashMap;
use understudy::delta::basis::Basis;
use understudy::delta::matcher::{Matcher, group_values, groups_in_place};
use understudy::delta::piece::Piece;
use understudy::delta::signature::{half, sign};
use understudy::format::blocks;
use understudy::model::entry::Extent;
use understudy::model::id::ChunkId;

const SIZE: usize = 64 << 20;
const MIB: usize = 1 << 20;
const OPTIONS: fast_rsync::SignatureOptions =
    fast_rsync::SignatureOptions { block_size: 2048, crypto_hash_size: 16 };

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
    let started = cpu_seconds(ClockId::ThreadCPUTime);
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
    (new.len() as f64 / MIB as f64 / (cpu_seconds(ClockId::ThreadCPUTime) - started), literal)
}

/// Returns the speed in MiB per second, and the length of the delta.
fn theirs(index: &fast_rsync::IndexedSignature, new: &[u8]) -> (f64, u64) {
    let started = cpu_seconds(ClockId::ThreadCPUTime);
    let mut delta = Vec::new();
    fast_rsync::diff(index, new, &mut delta).unwrap();
    (new.len() as f64 / MIB as f64 / (cpu_seconds(ClockId::ThreadCPUTime) - started), delta.len() as u64)
}

/// Matches each window of `new` against that of `old` at the same place, of which nothing is known before: MiB a second and the literal
/// bytes of ours, MiB a second and the length of the delta of theirs.
fn both_at_hand(old: &[u8], new: &[u8], window: usize) -> [(f64, u64); 2] {
    let (mut seconds, mut shipped) = ([0.0; 2], [0; 2]);
    // What is left of a new version that is longer belongs to the last window.
    let count = old.len() / window;
    for number in 0..count {
        let (start, end) = (number * window, (number + 1) * window);
        let new = &new[start..if number + 1 == count { new.len() } else { end }];
        let begun = cpu_seconds(ClockId::ThreadCPUTime);
        let basis = basis(&old[start..end]);
        let made = cpu_seconds(ClockId::ThreadCPUTime) - begun;
        let (speed, literal) = ours(&basis, new);
        seconds[0] += made + new.len() as f64 / MIB as f64 / speed;
        shipped[0] += literal;
        let begun = cpu_seconds(ClockId::ThreadCPUTime);
        let signature = fast_rsync::Signature::calculate(&old[start..end], OPTIONS);
        let (_, delta) = theirs(&signature.index(), new);
        seconds[1] += cpu_seconds(ClockId::ThreadCPUTime) - begun;
        shipped[1] += delta;
    }
    [0, 1].map(|who| (new.len() as f64 / MIB as f64 / seconds[who], shipped[who]))
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
    let signature = fast_rsync::Signature::calculate(&old, OPTIONS);
    let index = signature.index();
    println!("| 64 MiB, one core | understudy MiB/s | literal bytes | fast_rsync MiB/s | delta bytes |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (case, new) in &cases {
        let ((our_speed, literal), (their_speed, delta)) = (ours(&basis, new), theirs(&index, new));
        println!("| {case} | {our_speed:.0} | {literal} | {their_speed:.0} | {delta} |");
    }
    println!(
        "\n| both at hand, one core | understudy MiB/s | literal bytes | fast_rsync MiB/s | delta bytes |"
    );
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (window, name) in [(SIZE, "whole"), (4 * MIB, "by 4 MiB")] {
        for (case, new) in &cases {
            let [(our_speed, literal), (their_speed, delta)] = both_at_hand(&old, new, window);
            println!("| {case}, {name} | {our_speed:.0} | {literal} | {their_speed:.0} | {delta} |");
        }
    }
}
