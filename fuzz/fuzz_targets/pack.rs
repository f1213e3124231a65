//! A pack and its frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = understudy::format::frame::scan_pack(&bytes::Bytes::copy_from_slice(bytes), None);
});
