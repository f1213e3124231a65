//! Resync: scan a store, ship what is new, commit. The repository's log decides every race; nothing
//! here takes a lock or leaves one.

pub mod commit;
pub mod error;
mod large_file;
mod old_version;
pub mod read_entry;
mod read_file;
mod relatives;
pub mod report;
pub mod resync;
pub mod scan;
