//! Archived segments, and the events of a server's binary log.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    understudy::format::decode_binlog(bytes);
});
