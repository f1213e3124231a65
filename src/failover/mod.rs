//! Failover: a store continues on another host, and is never served in two places.

pub mod agent;
pub mod decide;
pub mod guard;
pub mod log_view;
pub mod peers;
pub mod place;
pub mod services;
pub mod stranded;
pub(crate) mod told;
pub mod watch;
