//! Snapshots as directories of this host: mounted, unmounted, moved on to the next one.

pub mod changes;
pub mod chunk_cache;
pub mod error;
pub mod leaves;
pub mod live;
pub mod mount;
pub(crate) mod paths;
pub mod served;
pub mod table;
pub mod tree;
pub mod unmount;
