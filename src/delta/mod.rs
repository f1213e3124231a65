//! rsync's deltas without the old content.
//!
//! A file's old version is known by the block entries that were stored with its chunks. The module is pure:
//! from bytes and entries to extents.

pub mod assembly;
pub mod basis;
pub mod matcher;
pub mod piece;
pub mod signature;
mod table;
#[cfg(test)]
mod tests;
pub mod weak;
