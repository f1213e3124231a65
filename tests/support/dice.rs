//! Numbers that a seed decides. A change here changes what every recorded seed means.

/// A generator of pseudorandom numbers (xorshift64*), the same on every machine.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns other dice, whose numbers these decide.
    pub fn split(&mut self) -> Self {
        Self(self.roll() | 1)
    }

    /// Returns the number that all later ones follow from.
    pub fn state(&self) -> u64 {
        self.0
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number from 0 to `end - 1`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.roll() >> 20) % end
    }

    /// Returns an index into `length` items.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.index(all.len())]
    }
}
