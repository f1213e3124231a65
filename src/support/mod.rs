//! What several layers use and none owns: worker threads, running totals, clocks, small files that must be there. Imports nothing of this
//! crate.

pub mod chain;
pub mod clock;
pub mod durable;
pub mod lossy;
pub mod mutant;
pub mod pool;
pub mod progress;
pub mod random;
