//! Encoding of log records: JSON under a seal, or with a hash.
//!
//! In stores whose keyring proves who made it, each record names that keyring, and has a version that readers
//! without that notion refuse. So has a record with a member's decision.

use super::seal::{self, Keys, SealContext, Sealing};
use super::wire::{FormatError, Reader};
use crate::model::hold::MOUNTS_MAX;
use crate::model::id::ContentHash;
use crate::model::record::{Event, Record};

/// Magic of a record with a decision.
const MAGIC_5: [u8; 8] = *b"USRECRD\x05";
/// Magic of a record that names a keyring.
const MAGIC_4: [u8; 8] = *b"USRECRD\x04";
/// Magic of a record that names no keyring.
const MAGIC_3: [u8; 8] = *b"USRECRD\x03";
/// Magic of the previous version, which had no seals: magic, length, JSON, BLAKE3.
const MAGIC_2: [u8; 8] = *b"USRECRD\x02";
/// Maximum size of a record; a larger one is refused. It bounds the memory that a reader takes.
pub(crate) const RECORD_MAX_BYTES: usize = 64 << 20;

/// Returns the generation of the data key that opens the object; 0 for none.
pub(crate) fn generation(bytes: &[u8]) -> u32 {
    seal::generation_of(magic_of(bytes), bytes)
}

fn magic_of(bytes: &[u8]) -> &'static [u8; 8] {
    let earlier = [&MAGIC_3, &MAGIC_4];
    earlier.into_iter().find(|magic| bytes.starts_with(*magic)).unwrap_or(&MAGIC_5)
}

/// Returns the only magic that this record may have.
fn magic_for(record: &Record) -> &'static [u8; 8] {
    match (&record.event, record.ring) {
        (Event::Decided(_), _) => &MAGIC_5,
        (_, Some(_)) => &MAGIC_4,
        (_, None) => &MAGIC_3,
    }
}

/// Encodes `record`.
pub fn encode(record: &Record, sealing: &Sealing, keys: Option<&Keys>) -> Result<Vec<u8>, FormatError> {
    if let Event::Snapshot(snapshot) = &record.event
        && snapshot.filesystem.mounts.as_ref().is_some_and(|mounts| mounts.len() > MOUNTS_MAX)
    {
        return Err(FormatError::Range("a store's mounts"));
    }
    let body = serde_json::to_vec(record).map_err(|e| FormatError::Text(e.to_string()))?;
    seal::close(magic_for(record), sealing, SealContext::Record(record.sequence.0), keys, &body)
}

/// Decodes the record stored in the log under `sequence`. Returns it with the hash by which the next record
/// names it.
pub fn decode(
    bytes: &[u8],
    keys: Option<&Keys>,
    sequence: u64,
) -> Result<(Record, ContentHash), FormatError> {
    let body = if bytes.starts_with(&MAGIC_2) {
        body_2(bytes)?.to_vec()
    } else {
        seal::open(magic_of(bytes), "a record", SealContext::Record(sequence), keys, bytes)?
    };
    let record: Record = serde_json::from_slice(&body).map_err(|e| FormatError::Text(e.to_string()))?;
    // A record of the first version counts as one of the next, which has the same content.
    let magic = if bytes.starts_with(&MAGIC_2) { &MAGIC_3 } else { magic_of(bytes) };
    if magic != magic_for(&record) {
        return Err(FormatError::Range("a record's keyring, or its event"));
    }
    Ok((record, ContentHash::of(bytes)))
}

fn body_2(bytes: &[u8]) -> Result<&[u8], FormatError> {
    let mut reader = Reader(bytes);
    reader.take(MAGIC_2.len(), "record magic")?;
    let length = reader.u32_le("record length")? as usize;
    let body = reader.take(length, "record")?;
    let hash = reader.array::<32>("record hash")?;
    reader.end()?;
    match *blake3::hash(&bytes[..bytes.len() - 32]).as_bytes() == hash {
        true => Ok(body),
        false => Err(FormatError::Hash),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{Epoch, Sequence, StoreName, WriterId};

    fn sample() -> Record {
        Record {
            store: StoreName::parse("acme").unwrap(),
            sequence: Sequence(7),
            epoch: Epoch(1),
            writer: WriterId("web-1".into()),
            nonce: u64::MAX,
            previous: Some(ContentHash::of(b"6")),
            ring: None,
            event: Event::Promoted { primary: WriterId("web-2".into()) },
        }
    }

    #[test]
    fn a_record_comes_back() {
        let keys = seal::tests::keys(1, 1);
        for (sealing, keys) in [
            (Sealing { generation: 0, salt: [1; 16] }, None),
            (Sealing { generation: 1, salt: [1; 16] }, Some(&keys)),
        ] {
            let bytes = encode(&sample(), &sealing, keys).unwrap();
            assert_eq!(decode(&bytes, keys, 7).unwrap(), (sample(), ContentHash::of(&bytes)));
            assert_eq!(decode(&bytes, keys, 8).is_ok(), keys.is_none());
        }
    }

    #[test]
    fn a_record_that_names_a_keyring_is_of_the_version_that_does() {
        let ring = Some(crate::model::record::RingRef { sequence: 2, hash: ContentHash::of(b"ring") });
        let named = encode(&Record { ring, ..sample() }, &Sealing::default(), None).unwrap();
        let plain = encode(&sample(), &Sealing::default(), None).unwrap();
        assert_eq!((named[7], plain[7]), (4, 3));
        assert_eq!(decode(&named, None, 7).unwrap().0.ring, ring);
        for (mut bytes, version) in [(named, 3), (plain, 4)] {
            bytes.truncate(bytes.len() - 32);
            bytes[7] = version;
            let hash = blake3::hash(&bytes);
            bytes.extend_from_slice(hash.as_bytes());
            assert_eq!(
                decode(&bytes, None, 7).unwrap_err(),
                FormatError::Range("a record's keyring, or its event")
            );
        }
    }

    #[test]
    fn a_decision_has_a_version_that_earlier_programs_refuse_by_name() {
        use crate::model::decision::Decided;
        use crate::support::signature::Signature;
        let (statement, member) = ("anything".to_owned(), WriterId("a".into()));
        let decided = Decided { statement, member, signature: Signature([7; 64]) };
        let ring = Some(crate::model::record::RingRef { sequence: 2, hash: ContentHash::of(b"ring") });
        for ring in [None, ring] {
            let record = Record { event: Event::Decided(Box::new(decided.clone())), ring, ..sample() };
            let bytes = encode(&record, &Sealing::default(), None).unwrap();
            assert_eq!((bytes[7], decode(&bytes, None, 7).unwrap().0), (5, record));
            // What earlier programs do with it.
            let refused = seal::open(&MAGIC_4, "a record", SealContext::Record(7), None, &bytes).unwrap_err();
            assert!(matches!(refused, FormatError::Version { .. }), "{refused:?}");
            // And it has no other version.
            for version in [3, 4] {
                let mut bad = bytes[..bytes.len() - 32].to_vec();
                bad[7] = version;
                let hash = blake3::hash(&bad);
                bad.extend_from_slice(hash.as_bytes());
                assert!(matches!(decode(&bad, None, 7), Err(FormatError::Range(_))));
            }
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let good = encode(&sample(), &Sealing::default(), None).unwrap();
        for at in 0..good.len() {
            assert!(decode(&good[..at], None, 7).is_err());
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(decode(&bad, None, 7).is_err(), "byte {at} bit {bit}");
            }
        }
    }
}
