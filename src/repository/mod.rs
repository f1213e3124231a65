//! The object store: keys, the log, packs, the index, manifests, the probe, verification.
//!
//! Everything above [`objects`] is blocking and is called from plain threads; requests run on a tokio
//! runtime. Nothing is ever overwritten, so that a reader never races a writer: what a record names
//! existed before the record did.

pub mod append;
pub mod cache;
pub mod checkpoints;
pub mod chunks;
pub mod compact;
pub mod cursor;
pub mod diff;
pub mod distrust;
pub mod error;
pub mod extents;
pub mod index;
pub mod key_cache;
pub mod key_change;
pub mod key_source;
pub mod keyrings;
pub mod location;
pub mod log;
pub mod manifest;
pub mod memory;
pub mod object_key;
pub mod objects;
pub mod packer;
pub mod probe;
pub mod reading;
pub mod rekey;
pub mod session;
pub mod standbys;
pub mod store;
pub mod store_time;
pub mod trust;
pub mod upkeep;
