//! Finds blocks by their weak checksum.
//!
//! The table uses open addressing over block numbers. A Bloom filter before it, whose bits for a checksum lie
//! in one word, rejects nearly all checksums that no block has.

/// Maximum number of slots looked at for one checksum, and of blocks that share one. Blocks with crafted
/// checksums are not found, and cause no work.
const PROBES_MAX: usize = 64;
const ALIKE_MAX: usize = 16;

/// Blocks by weak checksum. It takes about 14 bytes a block.
pub(crate) struct Table {
    filter: Vec<u64>,
    filter_shift: u32,
    /// Block number + 1; 0 is free.
    slots: Vec<u32>,
    slot_shift: u32,
    weak: Vec<u32>,
}

impl Table {
    /// Makes a table for up to `blocks` blocks.
    pub fn new(blocks: usize) -> Self {
        let slots = (blocks * 2).next_power_of_two().max(64);
        let words = (blocks / 4).next_power_of_two().clamp(64, 1 << 20);
        Self {
            filter: vec![0; words],
            filter_shift: 32 - words.trailing_zeros(),
            slots: vec![0; slots],
            slot_shift: 64 - slots.trailing_zeros(),
            weak: Vec::with_capacity(blocks),
        }
    }

    fn slot(&self, weak: u32) -> usize {
        (u64::from(weak).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.slot_shift) as usize
    }

    /// Adds the next block, unless `is_known` finds an equal one among those with its checksum, or those are
    /// too many.
    pub fn add(&mut self, weak: u32, mut is_known: impl FnMut(u32) -> bool) {
        let number = self.weak.len() as u32;
        self.weak.push(weak);
        let mask = self.slots.len() - 1;
        let mut at = self.slot(weak);
        let mut alike = 0;
        for _ in 0..PROBES_MAX {
            let Some(other) = self.slots[at].checked_sub(1) else {
                self.slots[at] = number + 1;
                self.filter[(weak >> self.filter_shift) as usize] |= bits(weak);
                return;
            };
            if self.weak[other as usize] == weak {
                alike += 1;
                if alike >= ALIKE_MAX || is_known(other) {
                    return;
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// Passes over a number: a block that is not of the usual size, or has no weak checksum.
    pub(crate) fn skip(&mut self) {
        self.weak.push(0);
    }

    /// Returns false when no block has this checksum; else probably true.
    #[inline(always)]
    pub(crate) fn may_have(&self, weak: u32) -> bool {
        let bits = bits(weak);
        self.filter[(weak >> self.filter_shift) as usize] & bits == bits
    }

    /// Returns the numbers of the blocks with this checksum, in the order of the file.
    pub fn find(&self, weak: u32) -> impl Iterator<Item = u32> {
        let mask = self.slots.len() - 1;
        let start = self.slot(weak);
        (0..PROBES_MAX)
            .map(move |step| self.slots[(start + step) & mask])
            .map_while(|slot| slot.checked_sub(1))
            .filter(move |number| self.weak[*number as usize] == weak)
    }
}

/// Returns two bits of a word. With four blocks a word, one in fifty checksums passes that no block has.
#[inline(always)]
fn bits(weak: u32) -> u64 {
    1 << (weak & 63) | 1 << (weak >> 6 & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_their_checksum() {
        let mut table = Table::new(1000);
        for n in 0..1000u32 {
            table.add(n.wrapping_mul(0x0101_0101), |_| false);
        }
        for n in 0..1000u32 {
            let weak = n.wrapping_mul(0x0101_0101);
            assert!(table.may_have(weak));
            assert!(table.find(weak).any(|found| found == n));
        }
        assert_eq!(table.find(12345).count(), 0);
        let passed = (0..100_000u32).filter(|n| table.may_have(n.wrapping_mul(0x9e37_79b9))).count();
        assert!(passed < 6_000, "{passed}");
    }

    #[test]
    fn blocks_that_are_all_alike_cost_a_few_looks_each() {
        let mut table = Table::new(100_000);
        let mut looks = 0;
        for _ in 0..100_000 {
            table.add(7, |_| {
                looks += 1;
                false
            });
        }
        assert_eq!(table.find(7).count(), ALIKE_MAX);
        assert!(looks <= 100_000 * ALIKE_MAX);
    }
}
