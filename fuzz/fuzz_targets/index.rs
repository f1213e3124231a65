#![no_main]
//! An index segment: the object, and the table in it.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = understudy::format::index::check(bytes);
    let _ = understudy::format::index::open(bytes, None).map(|table| understudy::format::index::check(&table));
});
