//! rsync's deltas without the old content: what a file's old version was is known by the block entries
//! that were stored with its chunks. Pure: from bytes and entries to extents.

pub mod assembly;
pub mod basis;
pub mod matcher;
pub mod piece;
pub mod signature;
mod table;
#[cfg(test)]
mod tests;
pub mod weak;
