#![no_main]
//! A checkpoint of a log.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = understudy::format::checkpoint::decode(bytes, None, 1);
});
