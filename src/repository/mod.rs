//! Access to the object store: keys, the log, packs, the index, manifests and the probe.
//!
//! All functions above [`objects`] block and are called from plain threads; requests run on a tokio runtime.
//! Only notes and damaged objects are overwritten, so a reader never races a writer: an object that a record
//! names existed before the record.

pub mod append;
pub mod binlog;
pub mod cache;
pub mod checkpoints;
pub mod chunks;
pub mod compact;
pub mod cursor;
pub mod decide;
pub mod diff;
pub mod distrust;
pub mod error;
pub mod extents;
pub mod history;
pub mod index;
pub mod joins;
pub mod key_cache;
pub mod key_change;
pub mod key_source;
pub mod keyrings;
pub mod leases;
pub mod location;
pub mod log;
pub mod manifest;
pub mod memory;
pub mod object_key;
pub mod objects;
pub mod packer;
pub mod parts;
pub mod probe;
pub mod reading;
pub mod rekey;
pub mod session;
pub mod standbys;
pub mod statements;
pub mod store;
pub mod store_time;
pub mod trust;
pub mod upkeep;
pub mod votes;
