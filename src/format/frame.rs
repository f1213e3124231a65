//! A frame: one chunk as it lies in a pack, compressed where that helps.
//!
//! A pack is a head and frames, nothing else, so that an index can be rebuilt from packs alone: a chunk's id
//! is the BLAKE3 of its frame's decoded bytes. In a sealed pack, a frame's header and its payload each have a
//! tag of their own, so that not even a frame's length is visible without the key.

use super::seal::{self, HEAD_BYTES, Keys, SealContext, Sealer, Sealing, TAG_BYTES};
use super::wire::{FormatError, Reader};
use crate::model::entry::CHUNK_MAX_BYTES;
use crate::model::id::ChunkId;
use bytes::Bytes;

/// First bytes of every pack; the last one is the version.
pub(crate) const PACK_MAGIC: [u8; 8] = *b"USPACK\0\x02";
/// First bytes of a pack of the first version; the frames follow immediately.
const PACK_MAGIC_1: [u8; 8] = *b"USPACK\0\x01";
/// Size of a frame's header: codec and seal, type, stored and raw length.
pub(crate) const FRAME_HEADER_BYTES: usize = 10;
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
/// The payload is not encrypted.
const SEAL_NONE: u8 = 0;

/// Purpose of a chunk.
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

/// Compresses chunks. Each thread has its own, since the state is reused.
pub struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

impl Compressor {
    /// Makes a compressor of zstd's `level`.
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

/// Returns whether samples of the bytes are spread so evenly that compression would be in vain: images,
/// archives.
///
/// It counts ordered pairs of equal bytes in 2 KiB: random bytes give 16,376 ± 181, text several times that.
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
pub(crate) fn parse_header(reader: &mut Reader) -> Result<FrameHeader, FormatError> {
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

/// Decodes frames. Each thread has its own, since the state is reused.
pub struct Decompressor(zstd::bulk::Decompressor<'static>);

impl Decompressor {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(zstd::bulk::Decompressor::new()?))
    }

    /// Returns the raw bytes of the one frame in `frame`, `offset` bytes into its pack, checked against `id`.
    ///
    /// It takes at most 1 MiB of memory, whatever the frame claims.
    pub fn decode(
        &mut self,
        frame: &Bytes,
        id: ChunkId,
        offset: u32,
        sealer: Option<&Sealer>,
    ) -> Result<Bytes, FormatError> {
        let opened = match sealer {
            Some(sealer) => Some(open_frame(sealer, frame, offset)?),
            None => None,
        };
        let frame = opened.as_ref().unwrap_or(frame);
        let mut reader = Reader(frame);
        let raw = self.decode_next(&mut reader, frame)?.1;
        reader.end()?;
        if ChunkId::of(&raw) == id { Ok(raw) } else { Err(FormatError::Hash) }
    }

    /// Decodes the next frame of `whole`, at the position of `reader`: its header and raw bytes, unchecked.
    pub(crate) fn decode_next(
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

/// Returns a frame as it was before it was sealed.
pub(crate) fn open_frame(sealer: &Sealer, sealed: &[u8], offset: u32) -> Result<Bytes, FormatError> {
    let (header, payload) =
        sealed.split_at_checked(FRAME_HEADER_BYTES + TAG_BYTES).ok_or(FormatError::Truncated("frame"))?;
    let mut plain = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
    let mut opened = [0; FRAME_HEADER_BYTES + TAG_BYTES];
    opened.copy_from_slice(header);
    let length = sealer.open_in_place(nonce(offset, 0), &[], &mut opened)?;
    plain.extend_from_slice(&opened[..length]);
    plain.extend_from_slice(payload);
    let end = length + sealer.open_in_place(nonce(offset, 1), &[], &mut plain[length..])?;
    plain.truncate(end);
    Ok(plain.into())
}

/// Returns the nonce of a part, header or payload, of the frame at `offset`. No two parts of one pack share a
/// nonce.
fn nonce(offset: u32, part: u128) -> u128 {
    u128::from(offset) << 8 | part
}

/// A pack under construction: each frame is sealed when it is appended.
pub(crate) struct PackWriter {
    pub sealing: Sealing,
    sealer: Option<Sealer>,
    pub bytes: Vec<u8>,
}

impl PackWriter {
    pub fn new(sealing: Sealing, keys: Option<&Keys>) -> Result<Self, FormatError> {
        let sealer = seal::sealer(&sealing, SealContext::Pack, keys)?;
        Ok(Self { sealing, sealer, bytes: seal::head(&PACK_MAGIC, &sealing).to_vec() })
    }

    /// Appends a frame. Returns its offset and its length in the pack.
    pub fn append(&mut self, frame: &[u8]) -> Result<(u32, u32), FormatError> {
        let offset = self.bytes.len();
        match &self.sealer {
            None => self.bytes.extend_from_slice(frame),
            Some(sealer) => {
                let parts = [&frame[..FRAME_HEADER_BYTES], &frame[FRAME_HEADER_BYTES..]];
                for (part, bytes) in parts.into_iter().enumerate() {
                    let start = self.bytes.len();
                    self.bytes.extend_from_slice(bytes);
                    let nonce = nonce(offset as u32, part as u128);
                    let tag = sealer.seal(nonce, &[], &mut self.bytes[start..])?;
                    self.bytes.extend_from_slice(&tag);
                }
            }
        }
        Ok((offset as u32, (self.bytes.len() - offset) as u32))
    }

    /// Returns an appended frame as it was before it was sealed.
    pub(crate) fn frame(&self, offset: u32, length: u32) -> Result<Bytes, FormatError> {
        let bytes = &self.bytes[offset as usize..(offset + length) as usize];
        match &self.sealer {
            None => Ok(Bytes::copy_from_slice(bytes)),
            Some(sealer) => open_frame(sealer, bytes, offset),
        }
    }
}

/// Parses the start of a pack: its sealing, and the offset of its first frame.
pub(crate) fn pack_head(pack: &[u8]) -> Result<(Sealing, usize), FormatError> {
    if pack.starts_with(&PACK_MAGIC_1) {
        return Ok((Sealing::default(), PACK_MAGIC_1.len()));
    }
    let sealing = seal::parse_head(&mut Reader(pack), &PACK_MAGIC, "a pack")?;
    Ok((sealing, HEAD_BYTES))
}

/// A frame of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackFrame {
    pub chunk: ChunkId,
    pub offset_bytes: u32,
    /// Length of the frame, including its header.
    pub length_bytes: u32,
    pub header: FrameHeader,
}

/// Reads all frames of a pack, to rebuild an index or to verify. It ends after the first unreadable frame,
/// with the error.
pub fn scan_pack(pack: &Bytes, keys: Option<&Keys>) -> (Vec<PackFrame>, Option<FormatError>) {
    let mut frames = Vec::new();
    let error = scan(pack, keys, &mut frames).err();
    (frames, error)
}

fn scan(pack: &Bytes, keys: Option<&Keys>, frames: &mut Vec<PackFrame>) -> Result<(), FormatError> {
    let (sealing, mut at) = pack_head(pack)?;
    let sealer = seal::sealer(&sealing, SealContext::Pack, keys)?;
    let mut decompressor = Decompressor::new().map_err(|e| FormatError::Text(e.to_string()))?;
    while at < pack.len() {
        let offset = u32::try_from(at).map_err(|_| FormatError::Range("pack"))?;
        let (header, length, frame) = match &sealer {
            None => {
                let header = parse_header(&mut Reader(&pack[at..]))?;
                (header, FRAME_HEADER_BYTES + header.stored_bytes as usize, None)
            }
            Some(sealer) => {
                let mut reader = Reader(&pack[at..]);
                let sealed = reader.take(FRAME_HEADER_BYTES + TAG_BYTES, "frame header")?;
                let header = parse_header(&mut Reader(&sealer.open(nonce(offset, 0), &[], sealed)?))?;
                let length = FRAME_HEADER_BYTES + header.stored_bytes as usize + 2 * TAG_BYTES;
                let sealed = Reader(&pack[at..]).take(length, "frame")?;
                (header, length, Some(open_frame(sealer, sealed, offset)?))
            }
        };
        let frame = frame.unwrap_or_else(|| pack.slice(at..));
        let raw = decompressor.decode_next(&mut Reader(&frame), &frame)?.1;
        let (chunk, length_bytes) = (ChunkId::of(&raw), length as u32);
        frames.push(PackFrame { chunk, offset_bytes: offset, length_bytes, header });
        at += length;
    }
    Ok(())
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
            let back = Decompressor::new().unwrap().decode(&frame, ChunkId::of(&raw), 0, None).unwrap();
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
            if let Ok(back) = Decompressor::new().unwrap().decode(&bad.into(), ChunkId::of(&raw), 0, None) {
                prop_assert_eq!(&back[..], &raw[..]);
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = scan_pack(&bytes.into(), None);
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
            assert!(Decompressor::new().unwrap().decode(&frame.into(), ChunkId([0; 32]), 0, None).is_err());
        }
    }

    #[test]
    fn random_bytes_are_told_from_text() {
        let mut random = vec![0u8; 64 << 10];
        blake3::Hasher::new().finalize_xof().fill(&mut random);
        assert!(looks_random(&random));
        assert!(!looks_random(&b"INSERT INTO t VALUES (1, 'a');\n".repeat(3000)));
    }

    #[test]
    fn a_sealed_pack_shows_neither_content_nor_lengths_and_refuses_every_change() {
        let keys = seal::tests::keys(3, 1);
        let sealing = Sealing { generation: 1, salt: [5; 16] };
        let raws: Vec<Vec<u8>> = (0..5u8).map(|n| vec![n; 3000 * (usize::from(n) + 1)]).collect();
        let mut chunks = Vec::new();
        let mut compressor = Compressor::new(1).unwrap();
        let mut pack = PackWriter::new(sealing, Some(&keys)).unwrap();
        for raw in &raws {
            let mut frame = Vec::new();
            compressor.append(ChunkType::Data, raw, &mut frame);
            let (at, length) = pack.append(&frame).unwrap();
            assert_eq!(pack.frame(at, length).unwrap(), frame);
            chunks.push((ChunkId::of(raw), at, length));
        }
        let pack = Bytes::from(pack.bytes);
        let (found, error) = scan_pack(&pack, Some(&keys));
        assert_eq!(error, None);
        assert_eq!(
            found.iter().map(|f| (f.chunk, f.offset_bytes, f.length_bytes)).collect::<Vec<_>>(),
            chunks
        );
        let sealer = seal::sealer(&sealing, SealContext::Pack, Some(&keys)).unwrap();
        let decode = |pack: &Bytes, n: usize| {
            let (id, at, length) = chunks[n];
            let frame = pack.slice(at as usize..(at + length) as usize);
            Decompressor::new().unwrap().decode(&frame, id, at, sealer.as_ref())
        };
        assert!((0..5).all(|n| decode(&pack, n).unwrap() == raws[n]));
        for at in HEAD_BYTES..pack.len() {
            let mut bad = pack.to_vec();
            bad[at] ^= 1;
            let n = chunks.iter().rposition(|c| c.1 as usize <= at).unwrap();
            assert_eq!(decode(&bad.into(), n), Err(FormatError::Tampered), "byte {at}");
        }
        assert_eq!(scan_pack(&pack, None), (Vec::new(), Some(FormatError::Generation(1))));
    }
}
