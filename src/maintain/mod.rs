//! Maintenance of a repository: pruning, verification and repair.

mod binlog;
pub mod damage;
pub mod drops;
pub mod leftovers;
pub mod mark;
pub mod prune;
pub mod prune_plan;
pub mod repack;
pub mod repair;
pub mod verify;
pub mod walker;
