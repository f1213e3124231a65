//! Conversion between bytes and the model. See `FORMAT.md`.
//!
//! It is pure: no I/O, bounded memory for any input, and every failure is an error.

pub mod age;
pub mod attrs;
pub mod blocks;
pub mod checkpoint;
pub mod extent_list;
pub mod frame;
pub mod holder;
pub mod index;
pub mod join;
pub mod keyring;
mod keyring1;
mod keyring2;
pub mod page;
pub mod passphrase;
pub mod record;
pub mod seal;
pub mod wire;

/// Decodes `bytes` as each of the formats and drops the result, for the fuzz targets and their seeds. It
/// returns normally for any input.
pub fn decode_anything(bytes: &[u8]) {
    let _ = page::decode(bytes);
    let _ = record::decode(bytes, None, 1);
    let _ = checkpoint::decode(bytes, None, 1);
    let _ = keyring::decode_ring(bytes);
    let _ = age::open(bytes, &[age::Identity::new([1; 32])]);
    let _ = index::check(bytes);
    let _ = index::open(bytes, None).map(|table| index::check(&table));
    let _ = extent_list::decode_chunk(bytes);
    let _ = blocks::decode(&bytes::Bytes::copy_from_slice(bytes));
    let _ = attrs::decode_chunk(bytes);
    let _ = frame::scan_pack(&bytes::Bytes::copy_from_slice(bytes), None);
}
