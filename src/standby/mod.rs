//! The standby's side: restoring a snapshot as plain files.

pub mod apply;
pub mod directory;
pub mod error;
pub mod restore;
