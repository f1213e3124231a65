//! A log record's bytes: magic, length, JSON, BLAKE3.

use super::wire::{FormatError, Reader};
use crate::model::id::ContentHash;
use crate::model::record::Record;

const MAGIC: &[u8; 7] = b"USRECRD";
const VERSION: u8 = 2;
/// A record is refused above this; it bounds what a reader takes into memory.
pub const RECORD_MAX_BYTES: usize = 64 << 20;

/// The bytes of `record`.
pub fn encode(record: &Record) -> Vec<u8> {
    let body = serde_json::to_vec(record).expect("a record has no maps with other keys than text");
    let mut out = Vec::with_capacity(body.len() + 44);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&body);
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    out
}

/// The record in `bytes`, and the hash that the next record names it by.
pub fn decode(bytes: &[u8]) -> Result<(Record, ContentHash), FormatError> {
    let mut reader = Reader(bytes);
    if reader.take(MAGIC.len(), "record magic")? != MAGIC {
        return Err(FormatError::Magic("a record"));
    }
    let found = reader.u8("record version")?;
    if found != VERSION {
        return Err(FormatError::Version { found, known: VERSION });
    }
    let length = reader.u32_le("record length")? as usize;
    let body = reader.take(length, "record")?;
    let hash = reader.array::<32>("record hash")?;
    reader.end()?;
    if *blake3::hash(&bytes[..bytes.len() - 32]).as_bytes() != hash {
        return Err(FormatError::Hash);
    }
    let record = serde_json::from_slice(body).map_err(|e| FormatError::Text(e.to_string()))?;
    Ok((record, ContentHash::of(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{Epoch, Sequence, StoreName, WriterId};
    use crate::model::record::Event;

    fn sample() -> Record {
        Record {
            store: StoreName::parse("acme").unwrap(),
            sequence: Sequence(7),
            epoch: Epoch(1),
            writer: WriterId("web-1".into()),
            nonce: u64::MAX,
            previous: Some(ContentHash::of(b"6")),
            event: Event::Promoted { primary: WriterId("web-2".into()) },
        }
    }

    #[test]
    fn a_record_comes_back() {
        let bytes = encode(&sample());
        assert_eq!(decode(&bytes).unwrap(), (sample(), ContentHash::of(&bytes)));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let good = encode(&sample());
        for at in 0..good.len() {
            assert!(decode(&good[..at]).is_err());
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(decode(&bad).is_err(), "byte {at} bit {bit}");
            }
        }
    }
}
