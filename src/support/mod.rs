//! What several layers use and none owns: worker threads, running totals. Imports nothing of this crate.

pub mod chain;
pub mod mutant;
pub mod pool;
pub mod progress;
pub mod random;
