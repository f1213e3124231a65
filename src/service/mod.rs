//! The parts that the commands share (configuration, this host), and the daemon: schedules, runs, HTTP.

pub mod admission;
pub mod agents;
pub mod alert;
pub mod api_error;
pub mod board;
pub mod config;
pub mod daemon;
pub mod door;
pub mod drill;
pub mod drill_look;
pub mod drill_place;
pub mod ending;
pub mod failover_http;
pub mod hooks;
pub mod host;
pub mod http;
pub mod listen;
pub mod metrics;
pub mod repair;
pub mod run;
pub mod schedule;
pub mod scheduler;
pub mod socket;
pub mod token;
pub mod upkeep;
pub mod watches;
