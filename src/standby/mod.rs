//! The standby's side: following a store, mounting its snapshots, restoring one as plain files.

pub mod arrivals;
pub mod check;
pub mod depot;
pub mod error;
pub mod follow;
mod materialise;
pub mod pin;
mod published;
