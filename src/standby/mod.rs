//! The standby's side: restoring a snapshot as plain files.

pub mod apply;
pub mod directory;
pub mod error;
mod extents;
mod file;
mod place;
pub mod restore;
mod scattered;
mod special;
