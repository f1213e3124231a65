//! Resync: scan a store, ship what is new, commit. The repository's log decides every race; nothing
//! here takes a lock or leaves one.

pub mod error;
pub mod read_entry;
pub mod report;
pub mod resync;
pub mod scan;
