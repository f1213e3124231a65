//! A log record.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = understudy::format::record::decode(bytes, None, 1);
});
