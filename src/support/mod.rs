//! Tools that several layers use and none owns: worker threads, running totals, clocks, small durable files,
//! checks of the owners of files and directories. Imports nothing of this crate.

pub mod chain;
pub mod clock;
pub mod durable;
pub mod env;
pub mod files;
pub mod lossy;
pub mod mountinfo;
pub mod mutant;
pub mod part;
pub mod pool;
pub mod private;
pub mod progress;
pub mod trusted;
