//! Failover: a store continues on another host, and is never served in two places.

pub mod decide;
pub mod guard;
pub mod services;
