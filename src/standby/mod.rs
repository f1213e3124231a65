//! The standby's side: following a store, mounting its snapshots, restoring one as plain files.

pub mod access;
pub mod apply;
mod beside;
pub mod check;
mod contents;
pub mod depot;
pub mod directory;
pub mod error;
mod extents;
mod file;
mod filesystem;
pub mod follow;
mod large;
mod leaves;
pub mod live;
mod materialise;
pub mod mounted;
mod older;
pub mod pin;
mod place;
mod remove;
pub mod restore;
mod salvage;
mod scattered;
pub mod shortfall;
mod special;
pub mod view;
