//! The standby's side: following a store, mounting its snapshots, restoring one as plain files.

pub mod apply;
pub mod arrivals;
pub mod check;
mod contents;
pub mod depot;
pub mod directory;
pub mod error;
mod extents;
mod file;
pub mod follow;
mod large;
mod leaves;
pub mod live;
mod materialise;
pub mod mounted;
mod older;
pub mod pin;
mod place;
pub mod restore;
mod scattered;
mod special;
pub mod view;
