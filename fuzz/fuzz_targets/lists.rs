//! Lists of extents and of attributes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = understudy::format::extent_list::decode_chunk(bytes);
    let _ = understudy::format::attrs::decode_chunk(bytes);
});
