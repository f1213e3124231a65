//! Parts that several layers use and none owns: kinds of failure, worker threads, running totals, clocks,
//! small durable files, the ownership of files and directories, and runs of other programs. Imports no other module of this crate.

pub mod chain;
pub mod child;
pub mod clock;
pub(crate) mod configured;
pub mod durable;
pub mod env;
pub mod failure;
pub mod files;
pub(crate) mod kill_point;
pub mod listing;
pub mod local_socket;
pub mod lock;
pub mod lossy;
pub(crate) mod memory;
pub mod mountinfo;
pub mod mutant;
pub mod part;
pub mod pool;
pub mod private;
pub mod program;
pub mod progress;
pub mod signature;
pub mod trusted;
