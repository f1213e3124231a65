//! understudy keeps a web store's filesystem replicated to a standby, through an object store.
//!
//! Layers, each importing only those to its right:
//! `cli → service → {replicate, standby} → {repository, source, delta, mount} → format → model`.

pub mod cli;
pub mod delta;
pub mod format;
pub mod model;
pub mod mount;
pub mod replicate;
pub mod repository;
pub mod service;
pub mod source;
pub mod standby;
pub mod support;
