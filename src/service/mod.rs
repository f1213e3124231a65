//! What the commands share (the configuration, this host), and the daemon: schedules, runs, HTTP.

pub mod board;
pub mod config;
pub mod daemon;
pub mod drill;
pub mod drill_place;
pub mod hooks;
pub mod host;
pub mod http;
pub mod metrics;
pub mod run;
pub mod schedule;
pub mod scheduler;
pub mod token;
pub mod upkeep;
pub mod watches;
