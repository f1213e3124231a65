//! Arbitrary block entries and arbitrary content: the pieces always cover the content, in bounded time.
#![no_main]
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;
use understudy::delta::basis::Basis;
use understudy::delta::matcher::{Matcher, group_values, groups_in_place};
use understudy::delta::piece::{Piece, defragment};
use understudy::format::blocks;
use understudy::model::entry::Extent;
use understudy::model::id::ChunkId;

fuzz_target!(|input: (&[u8], &[u8], Vec<(u32, u32)>)| {
    let (entries, content, parts) = input;
    let Ok(decoded) = blocks::decode(&Bytes::copy_from_slice(entries)) else { return };
    let (chunk, blocks) = (ChunkId([1; 32]), ChunkId([2; 32]));
    let mut extents = vec![Extent::Chunk { chunk, blocks: Some(blocks), offset_bytes: 0, length_bytes: decoded.length_bytes }];
    for (offset, length) in parts {
        let offset_bytes = offset % (1 << 20);
        let length_bytes = 1 + length % ((1 << 20) - offset_bytes);
        extents.push(Extent::Chunk { chunk, blocks: Some(blocks), offset_bytes, length_bytes });
    }
    let Some(basis) = Basis::new(0, &extents, &HashMap::from([(blocks, decoded)])) else { return };
    let content = content.repeat(1 + 100_000 / (content.len() + 1));
    let end = content.len() - content.len() / 9;
    let matcher = Matcher { basis: &basis, bytes: &content, at: 0 };
    let pieces = defragment(matcher.pieces(end, &groups_in_place(&basis, &group_values(&content[..end], 0), 0)), 0, |_| true);
    let sum: u64 = pieces.iter().map(Piece::length_bytes).sum();
    assert!(sum >= end as u64 && sum <= content.len() as u64);
});
