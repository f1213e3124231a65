//! The standby's side: following a store, checking a depot, and pins.

pub mod arrivals;
pub mod check;
pub mod depot;
pub mod error;
pub mod follow;
mod materialise;
pub mod pin;
mod published;
