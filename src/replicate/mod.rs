//! Resync: scans a store, ships new content, and commits a snapshot.
//!
//! The repository's log decides every race. A resync takes no lock and leaves none.

mod baseline;
pub mod decide;
pub mod error;
mod large_file;
mod lease;
mod ledger;
mod links;
mod mounts;
mod old_version;
mod own;
pub mod read_entry;
mod read_file;
mod relatives;
pub mod resync;
mod rounds;
mod scan;
pub mod warnings;
