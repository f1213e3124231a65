//! An index segment.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = understudy::format::index::check(bytes);
});
