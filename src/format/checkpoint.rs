//! A checkpoint: the fold of a log up to a record, so that a reader need not begin with the first record.
//!
//! It is Zstandard around JSON, under a seal or with a hash. Nothing depends on a checkpoint: the log says
//! the same.

use super::seal::{self, Keys, SealContext, Sealing};
use super::wire::FormatError;
use crate::model::record::StoreState;

const MAGIC: [u8; 8] = *b"USCHECK\x01";
/// Magic of a checkpoint with decisions, which readers without that notion must not continue from.
const MAGIC_2: [u8; 8] = *b"USCHECK\x02";
/// Maximum size of a checkpoint, packed and unpacked; a larger one is refused.
pub(crate) const CHECKPOINT_MAX_BYTES: usize = 64 << 20;
/// Maximum ratio of unpacked to stored size, unless the unpacked size is at most `SMALL_BYTES`.
///
/// So the memory that a reader takes is a small multiple of the bytes that a writer had to store.
const RATIO_MAX: usize = 64;
const SMALL_BYTES: usize = 1 << 20;

fn is_in_range(packed_bytes: usize, unpacked_bytes: u64) -> bool {
    let by_ratio = packed_bytes.saturating_mul(RATIO_MAX).max(SMALL_BYTES);
    packed_bytes <= CHECKPOINT_MAX_BYTES && unpacked_bytes <= by_ratio.min(CHECKPOINT_MAX_BYTES) as u64
}

/// Returns the generation of the data key that opens the object; 0 for none.
pub(crate) fn generation(bytes: &[u8]) -> u32 {
    seal::generation_of(magic_of(bytes), bytes)
}

fn magic_of(bytes: &[u8]) -> &'static [u8; 8] {
    if bytes.starts_with(&MAGIC_2) { &MAGIC_2 } else { &MAGIC }
}

/// Returns the only magic that a checkpoint of this state may have.
fn magic_for(state: &StoreState) -> &'static [u8; 8] {
    if state.authority.is_blank() { &MAGIC } else { &MAGIC_2 }
}

/// Encodes `state`, whose head is `sequence`.
pub fn encode(
    state: &StoreState,
    sequence: u64,
    sealing: &Sealing,
    keys: Option<&Keys>,
) -> Result<Vec<u8>, FormatError> {
    let text = |e: &dyn std::fmt::Display| FormatError::Text(e.to_string());
    let body = serde_json::to_vec(state).map_err(|e| text(&e))?;
    let unpacked = body.len() as u64;
    let body = zstd::bulk::compress(&body, 3).map_err(|e| text(&e))?;
    if !is_in_range(body.len(), unpacked) {
        return Err(FormatError::Range("a checkpoint"));
    }
    seal::close(magic_for(state), sealing, SealContext::Checkpoint(sequence), keys, &body)
}

pub fn decode(bytes: &[u8], keys: Option<&Keys>, sequence: u64) -> Result<StoreState, FormatError> {
    let text = |e: &dyn std::fmt::Display| FormatError::Text(e.to_string());
    let body = seal::open(magic_of(bytes), "a checkpoint", SealContext::Checkpoint(sequence), keys, bytes)?;
    let unpacked = zstd::zstd_safe::get_frame_content_size(&body).ok().flatten().unwrap_or(0);
    if !is_in_range(body.len(), unpacked) {
        return Err(FormatError::Range("a checkpoint"));
    }
    let body = zstd::bulk::decompress(&body, unpacked as usize).map_err(|e| text(&e))?;
    let state: StoreState = serde_json::from_slice(&body).map_err(|e| text(&e))?;
    if magic_of(bytes) != magic_for(&state) {
        return Err(FormatError::Range("a checkpoint's decisions"));
    }
    // A program that did not know of reigns made it. Whoever may still serve is read from the log.
    if state.authority.is_founded() && state.authority.reigns.is_empty() {
        return Err(FormatError::Range("a checkpoint's reigns"));
    }
    match state.head {
        Some((head, _)) if head.0 == sequence => Ok(state),
        _ => Err(FormatError::Range("a checkpoint's head")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{ContentHash, PackId, Sequence};
    use crate::model::record::Doom;
    use crate::support::clock::UnixNanos;

    #[test]
    fn a_checkpoint_unpacks_to_no_more_than_a_multiple_of_what_is_stored() {
        let head = format!(
            "{{\"head\":[9,\"{}\"],\"epoch\":0,\"primary\":null,\"snapshots\":{{}},\"index\":[],\"doomed_packs\":{{}},\"doomed_index\":{{}},\"pins\":{{}},\"dropped\":{{}},\"moved\":null,\"lost\":null,\"pruned_ns\":null,\"unknown\":[",
            ContentHash::of(b"9")
        );
        for (elements, is_taken) in [(1000, true), (SMALL_BYTES, false)] {
            let body = format!("{head}{}0]}}", "\"a\",".repeat(elements));
            let body = zstd::bulk::compress(body.as_bytes(), 3).unwrap();
            let bytes =
                seal::close(&MAGIC, &Sealing::default(), SealContext::Checkpoint(9), None, &body).unwrap();
            let decoded = decode(&bytes, None, 9).map(|_| ());
            assert_eq!(decoded, if is_taken { Ok(()) } else { Err(FormatError::Range("a checkpoint")) });
        }
        assert!(is_in_range(2 << 20, 64 << 20) && !is_in_range(2 << 20, (64 << 20) + 1));
    }

    #[test]
    fn a_checkpoint_with_decisions_has_a_version_that_earlier_programs_pass_over() {
        let head = Some((Sequence(9), ContentHash::of(b"9")));
        let plain = StoreState { head, ..Default::default() };
        let mut decided = plain.clone();
        decided.authority.irregular.count = 1;
        let encoded = |state| encode(state, 9, &Sealing::default(), None).unwrap();
        for (state, version) in [(&plain, 1), (&decided, 2)] {
            let bytes = encoded(state);
            assert_eq!((bytes[7], decode(&bytes, None, 9).as_ref()), (version, Ok(state)));
            let mut other = bytes[..bytes.len() - 32].to_vec();
            other[7] = 3 - version;
            let hash = blake3::hash(&other);
            other.extend_from_slice(hash.as_bytes());
            assert_eq!(decode(&other, None, 9), Err(FormatError::Range("a checkpoint's decisions")));
        }
        // What earlier programs do with it.
        let place = SealContext::Checkpoint(9);
        let refused = seal::open(&MAGIC, "a checkpoint", place, None, &encoded(&decided)).unwrap_err();
        assert!(matches!(refused, FormatError::Version { .. }), "{refused:?}");
    }

    #[test]
    fn a_state_comes_back() {
        let mut state = StoreState { head: Some((Sequence(9), ContentHash::of(b"9"))), ..Default::default() };
        state.pins.insert(Sequence(3), "release".into());
        state.doomed_packs.insert(PackId::of(b"p"), Doom { sequence: Sequence(8), at: UnixNanos(5) });
        let bytes = encode(&state, 9, &Sealing::default(), None).unwrap();
        assert_eq!(decode(&bytes, None, 9).unwrap(), state);
        assert!(decode(&bytes, None, 8).is_err());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(decode(&bad, None, 9).is_err(), "byte {at}");
        }
    }
}
