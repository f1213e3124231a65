//! What the commands share: the configuration.

pub mod config;
