//! A checkpoint: the fold of a log up to a record, so that a reader need not begin with the first. Zstandard around JSON, under
//! a seal or with a hash. Nothing depends on one: the log says the same.

use super::seal::{self, Keys, Place, Sealing};
use super::wire::FormatError;
use crate::model::record::StoreState;

const MAGIC: [u8; 8] = *b"USCHECK\x01";
/// Refused above this, packed and unpacked.
pub const CHECKPOINT_MAX_BYTES: usize = 256 << 20;

/// Which data key the object needs to be opened; 0 for none.
pub fn generation(bytes: &[u8]) -> u32 {
    seal::generation_of(&MAGIC, bytes)
}

/// The bytes of `state`, whose head is `sequence`.
pub fn encode(
    state: &StoreState,
    sequence: u64,
    sealing: &Sealing,
    keys: Option<&Keys>,
) -> Result<Vec<u8>, FormatError> {
    let text = |e: &dyn std::fmt::Display| FormatError::Text(e.to_string());
    let body = serde_json::to_vec(state).map_err(|e| text(&e))?;
    let body = zstd::bulk::compress(&body, 3).map_err(|e| text(&e))?;
    seal::close(&MAGIC, sealing, Place::Checkpoint(sequence), keys, &body)
}

pub fn decode(bytes: &[u8], keys: Option<&Keys>, sequence: u64) -> Result<StoreState, FormatError> {
    let text = |e: &dyn std::fmt::Display| FormatError::Text(e.to_string());
    let body = seal::open(&MAGIC, "a checkpoint", Place::Checkpoint(sequence), keys, bytes)?;
    let unpacked = zstd::zstd_safe::get_frame_content_size(&body).ok().flatten().unwrap_or(0);
    if unpacked > CHECKPOINT_MAX_BYTES as u64 {
        return Err(FormatError::Range("a checkpoint"));
    }
    let body = zstd::bulk::decompress(&body, unpacked as usize).map_err(|e| text(&e))?;
    let state: StoreState = serde_json::from_slice(&body).map_err(|e| text(&e))?;
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

    #[test]
    fn a_state_comes_back() {
        let mut state = StoreState { head: Some((Sequence(9), ContentHash::of(b"9"))), ..Default::default() };
        state.pins.insert(Sequence(3), "release".into());
        state.doomed_packs.insert(PackId::of(b"p"), Doom { sequence: Sequence(8), ns: 5 });
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
