//! A manifest's page.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = understudy::format::page::decode(bytes);
});
