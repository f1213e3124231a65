//! A frame: one chunk as it lies in a pack, compressed where that helps.
//!
//! A pack is a magic and frames, nothing else, so that an index can be rebuilt from packs alone: a
//! chunk's id is the BLAKE3 of what its frame decodes to.

use super::wire::{FormatError, Reader};
use crate::model::entry::CHUNK_MAX_BYTES;
use crate::model::id::ChunkId;
use bytes::Bytes;

/// Begins every pack; the last byte is the version.
pub const PACK_MAGIC: [u8; 8] = *b"USPACK\0\x01";
/// Codec and seal, type, stored and raw length.
pub const FRAME_HEADER_BYTES: usize = 10;
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
/// No seal: the payload is not encrypted.
const SEAL_NONE: u8 = 0;

/// What a chunk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChunkType {
    /// A file's bytes.
    Data = 0,
    /// A page of a manifest.
    Page = 1,
    /// Block entries of a data chunk.
    Blocks = 2,
    /// A list of extents or of attributes.
    List = 3,
}

/// Compresses chunks; one a thread, since the state is reused.
pub struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Compressor {
    /// `level` as zstd counts it.
    pub fn new(level: i32) -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Compressor::new(level)?, buffer: Vec::new() })
    }

    /// Appends `raw` (at most 1 MiB) as a frame to `out`; returns the frame's length.
    pub fn append(&mut self, kind: ChunkType, raw: &[u8], out: &mut Vec<u8>) -> usize {
        assert!(raw.len() <= CHUNK_MAX_BYTES, "a chunk of {} bytes", raw.len());
        self.buffer.resize(zstd::zstd_safe::compress_bound(raw.len()), 0);
        let packed = if raw.len() < 16 || looks_random(raw) {
            None
        } else {
            self.zstd.compress_to_buffer(raw, &mut self.buffer[..]).ok().filter(|len| *len < raw.len())
        };
        let (codec, payload) = match packed {
            Some(len) => (CODEC_ZSTD, &self.buffer[..len]),
            None => (CODEC_RAW, raw),
        };
        out.reserve(FRAME_HEADER_BYTES + payload.len());
        out.push(codec | (SEAL_NONE << 4));
        out.push(kind as u8);
        out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
        out.extend_from_slice(payload);
        FRAME_HEADER_BYTES + payload.len()
    }
}

/// Whether a sample's bytes are spread so evenly that compressing it would be in vain: images, archives.
/// Counts ordered pairs of equal bytes in 2 KiB: random bytes give 16,376 ± 181, text several times that.
fn looks_random(raw: &[u8]) -> bool {
    if raw.len() < 16 << 10 {
        return false;
    }
    [raw.len() / 4, raw.len() / 2, raw.len() / 4 * 3].into_iter().all(|at| {
        let mut counts = [0u32; 256];
        for byte in &raw[at..at + 2048] {
            counts[usize::from(*byte)] += 1;
        }
        let pairs: u32 = counts.iter().map(|n| n * n.saturating_sub(1)).sum();
        pairs < 17_500
    })
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub codec: u8,
    pub kind: u8,
    pub stored_bytes: u32,
    pub raw_bytes: u32,
}

/// Parses a header and checks that its claims are within bounds.
pub fn parse_header(reader: &mut Reader) -> Result<FrameHeader, FormatError> {
    let flags = reader.u8("frame header")?;
    let kind = reader.u8("frame header")?;
    let stored_bytes = reader.u32_le("frame header")?;
    let raw_bytes = reader.u32_le("frame header")?;
    let (codec, seal) = (flags & 0x0f, flags >> 4);
    if seal != SEAL_NONE {
        return Err(FormatError::Seal(seal));
    }
    if codec != CODEC_RAW && codec != CODEC_ZSTD {
        return Err(FormatError::Codec(codec));
    }
    if raw_bytes as usize > CHUNK_MAX_BYTES || stored_bytes > raw_bytes || kind > ChunkType::List as u8 {
        return Err(FormatError::Range("frame header"));
    }
    if codec == CODEC_RAW && stored_bytes != raw_bytes {
        return Err(FormatError::Range("frame header"));
    }
    Ok(FrameHeader { codec, kind, stored_bytes, raw_bytes })
}

/// Decodes frames; one a thread, since the state is reused.
pub struct Decompressor(zstd::bulk::Decompressor<'static>);

impl Decompressor {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(zstd::bulk::Decompressor::new()?))
    }

    /// The raw bytes of the one frame that `frame` holds, checked against `id`.
    /// Takes at most 1 MiB, whatever the frame claims.
    pub fn decode(&mut self, frame: &Bytes, id: ChunkId) -> Result<Bytes, FormatError> {
        let mut reader = Reader(frame);
        let raw = self.decode_next(&mut reader, frame)?.1;
        reader.end()?;
        if ChunkId::of(&raw) == id { Ok(raw) } else { Err(FormatError::Hash) }
    }

    /// The next frame of `whole`, at which `reader` stands: its header and raw bytes, unchecked.
    pub fn decode_next(
        &mut self,
        reader: &mut Reader,
        whole: &Bytes,
    ) -> Result<(FrameHeader, Bytes), FormatError> {
        let header = parse_header(reader)?;
        let payload = reader.take(header.stored_bytes as usize, "frame")?;
        if header.codec == CODEC_RAW {
            return Ok((header, whole.slice_ref(payload)));
        }
        let raw = self
            .0
            .decompress(payload, header.raw_bytes as usize)
            .map_err(|e| FormatError::Text(format!("zstd: {e}")))?;
        if raw.len() != header.raw_bytes as usize {
            return Err(FormatError::Range("frame's raw length"));
        }
        Ok((header, raw.into()))
    }
}

/// Walks a whole pack: `(id, offset, length, header)` of every frame. Rebuilds an index, and verifies.
pub fn scan_pack(pack: &Bytes) -> Result<Vec<(ChunkId, u32, u32, FrameHeader)>, FormatError> {
    let mut reader = Reader(pack);
    if reader.array::<8>("pack magic")? != PACK_MAGIC {
        return Err(FormatError::Magic("a pack"));
    }
    let mut decompressor = Decompressor::new().map_err(|e| FormatError::Text(e.to_string()))?;
    let mut frames = Vec::new();
    while !reader.is_empty() {
        let offset = u32::try_from(pack.len() - reader.0.len()).map_err(|_| FormatError::Range("pack"))?;
        let (header, raw) = decompressor.decode_next(&mut reader, pack)?;
        frames.push((ChunkId::of(&raw), offset, FRAME_HEADER_BYTES as u32 + header.stored_bytes, header));
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame_of(raw: &[u8]) -> Bytes {
        let mut out = Vec::new();
        Compressor::new(1).unwrap().append(ChunkType::Data, raw, &mut out);
        out.into()
    }

    proptest! {
        #[test]
        fn a_chunk_comes_back(raw in prop::collection::vec(any::<u8>(), 0..5000), repeat in 1usize..40) {
            let raw = raw.repeat(repeat);
            let frame = frame_of(&raw);
            prop_assert!(frame.len() <= raw.len() + FRAME_HEADER_BYTES);
            let back = Decompressor::new().unwrap().decode(&frame, ChunkId::of(&raw)).unwrap();
            prop_assert_eq!(&back[..], &raw[..]);
        }

        #[test]
        fn a_flipped_bit_is_an_error(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let raw = b"some text that compresses, some text that compresses".repeat(20);
            let mut bad = frame_of(&raw).to_vec();
            let at = at.index(bad.len());
            // The type byte is not covered by the id: it only says what a chunk is for.
            prop_assume!(at != 1);
            bad[at] ^= 1 << bit;
            // A flip in zstd's own header may decode to the same bytes; then nothing is lost.
            if let Ok(back) = Decompressor::new().unwrap().decode(&bad.into(), ChunkId::of(&raw)) {
                prop_assert_eq!(&back[..], &raw[..]);
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = scan_pack(&bytes.into());
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_inflated() {
        let zeros = zstd::bulk::compress(&vec![0u8; 64 << 20], 1).unwrap();
        for raw_bytes in [1u32 << 20, u32::MAX] {
            let mut frame = vec![CODEC_ZSTD, 0];
            frame.extend_from_slice(&(zeros.len() as u32).to_le_bytes());
            frame.extend_from_slice(&raw_bytes.to_le_bytes());
            frame.extend_from_slice(&zeros);
            assert!(Decompressor::new().unwrap().decode(&frame.into(), ChunkId([0; 32])).is_err());
        }
    }

    #[test]
    fn random_bytes_are_told_from_text() {
        let mut random = vec![0u8; 64 << 10];
        blake3::Hasher::new().finalize_xof().fill(&mut random);
        assert!(looks_random(&random));
        assert!(!looks_random(&b"INSERT INTO t VALUES (1, 'a');\n".repeat(3000)));
    }
}
