//! Resync: scan a store, ship what is new, commit. The repository's log decides every race; nothing
//! here takes a lock or leaves one.

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
