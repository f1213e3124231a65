//! The object store: keys, the log, packs, the index, manifests, the probe, verification.
//!
//! Everything above [`objects`] is blocking and is called from plain threads; requests run on a tokio
//! runtime. Nothing is ever overwritten, so that a reader never races a writer: what a record names
//! existed before the record did.

mod cache;
pub mod changes;
pub mod checkpoints;
pub mod chunks;
pub mod cursor;
mod drops;
pub mod error;
pub mod index;
pub mod key;
pub mod keyrings;
pub mod keys;
mod leftovers;
pub mod location;
pub mod log;
pub mod manifest;
pub mod mark;
mod memory;
pub mod merge;
pub mod objects;
pub mod packer;
pub mod probe;
pub mod prune;
pub mod prune_plan;
mod reading;
pub mod rekey;
mod repack;
pub mod repair;
pub mod standbys;
pub mod store;
mod store_time;
mod trust;
pub mod upkeep;
pub mod verify;
mod walker;
