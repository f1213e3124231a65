#![no_main]
//! A keyring, and the age file in it.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let identity = understudy::format::age::Identity::new([1; 32]);
    let _ = understudy::format::age::open(bytes, std::slice::from_ref(&identity));
    if let Ok(ring) = understudy::format::keyring::decode_ring(bytes) {
        let _ = ring.open(&understudy::format::keyring::Secrets { identities: vec![identity], passphrase: None });
    }
});
