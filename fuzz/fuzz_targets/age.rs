#![no_main]
//! An age file, as a key's holder opens it.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = understudy::format::age::open(bytes, &[understudy::format::age::Identity::new([1; 32])]);
});
