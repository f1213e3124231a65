//! The weak checksum: a polynomial over a block's bytes that rolls by one byte in a few cycles.
//!
//! It is Rabin's and Karp's fingerprint modulo 2^64, of which the upper half is kept: unlike rsync's sum it
//! spreads text well. Only speed depends on it: crafted collisions cause work, which the matcher limits, but
//! no wrong match, since every match is confirmed by its BLAKE3.

/// Multiplier; it is 5 modulo 8, and so has the greatest order.
const M: u64 = 0x9e37_79b9_7f4a_7c15;
const POWERS: [u64; 9] = powers();

const fn powers() -> [u64; 9] {
    let mut powers = [1u64; 9];
    let mut at = 1;
    while at < 9 {
        powers[at] = powers[at - 1].wrapping_mul(M);
        at += 1;
    }
    powers
}

/// The weak checksum of a window of fixed length that moves byte by byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rolling {
    sum: u64,
    /// M to the power of the window's length.
    leaving: u64,
}

impl Rolling {
    /// Computes the checksum of all of `window`.
    pub fn new(window: &[u8]) -> Self {
        let mut leaving = 1u64;
        let (mut power, mut length) = (M, window.len());
        while length > 0 {
            if length & 1 == 1 {
                leaving = leaving.wrapping_mul(power);
            }
            power = power.wrapping_mul(power);
            length >>= 1;
        }
        Self { sum: sum(window), leaving }
    }

    /// Moves the window by one byte: it loses its first byte and gains one after its last.
    #[inline(always)]
    pub(crate) fn roll(&mut self, leaves: u8, comes: u8) {
        let change = u64::from(comes).wrapping_sub(u64::from(leaves).wrapping_mul(self.leaving));
        self.sum = self.sum.wrapping_add(change).wrapping_mul(M);
    }

    #[inline(always)]
    pub(crate) fn value(&self) -> u32 {
        (self.sum >> 32) as u32
    }
}

/// Sums the bytes: byte i of n is multiplied by M^(n-i). It takes eight bytes at a time, so that the
/// multiplications overlap.
fn sum(bytes: &[u8]) -> u64 {
    let (eights, rest) = bytes.as_chunks::<8>();
    let mut sum = 0u64;
    for eight in eights {
        let mut part = 0u64;
        for (at, byte) in eight.iter().enumerate() {
            part = part.wrapping_add(u64::from(*byte).wrapping_mul(POWERS[8 - at]));
        }
        sum = sum.wrapping_mul(POWERS[8]).wrapping_add(part);
    }
    for byte in rest {
        sum = sum.wrapping_add(u64::from(*byte)).wrapping_mul(M);
    }
    sum
}

/// Returns the weak checksum of a block.
pub fn weak(block: &[u8]) -> u32 {
    (sum(block) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rolled_window_has_the_sum_of_its_bytes(bytes in prop::collection::vec(any::<u8>(), 1..300), share in 0.0f64..1.0) {
            let length = 1 + ((bytes.len() - 1) as f64 * share) as usize;
            let mut rolling = Rolling::new(&bytes[..length]);
            for at in 0..=bytes.len() - length {
                prop_assert_eq!(rolling.value(), weak(&bytes[at..at + length]));
                if at + length < bytes.len() {
                    rolling.roll(bytes[at], bytes[at + length]);
                }
            }
        }

        #[test]
        fn one_changed_byte_changes_the_sum(at in 0usize..2048, from in any::<u8>(), to in any::<u8>()) {
            prop_assume!(from != to);
            let (mut a, mut b) = (vec![7u8; 2048], vec![7u8; 2048]);
            (a[at], b[at]) = (from, to);
            prop_assert_ne!(weak(&a), weak(&b));
        }
    }
}
