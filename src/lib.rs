//! understudy keeps a web store's filesystem replicated to a standby, through an object store.
//!
//! Layers, each importing only those to its right:
//! `cli → service → failover → mounts → {standby, database} → restore → {maintain, replicate, content} → {repository, delta, panel} →
//! {format, vfs, source, api, edge} → model → support`.

// Tests of the kernel and of files use the system's clocks.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod api;
pub mod cli;
pub mod content;
pub mod database;
pub mod delta;
pub mod edge;
pub mod failover;
pub mod format;
pub mod maintain;
pub mod model;
pub mod mounts;
pub mod panel;
pub mod replicate;
pub mod repository;
pub mod restore;
pub mod service;
pub mod source;
pub mod standby;
pub mod support;
pub mod vfs;
