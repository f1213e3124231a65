//! The types that the daemon and its clients exchange as JSON, and that the commands print with `--json`.
//! Data only.
//!
//! Both sides share one set of types: the daemon serialises what a client deserialises. Different versions
//! understand each other: an unknown field is ignored, so no type here denies unknown fields, and a field
//! that is added later is an `Option` or has a default, so that an older daemon's response can be read as
//! well. A field is never renamed and never changes its unit.
//!
//! Times are seconds since 1970 where a fraction suffices, and nanoseconds (`_ns`) where they identify a
//! scan. `openapi.json` describes all of it for other clients; a test checks that the two agree.

pub mod change;
pub mod database;
pub mod error;
pub mod failover;
pub mod follow;
pub mod history;
pub mod progress;
pub mod requests;
pub mod resync;
pub mod run;
pub mod snapshot;
pub mod store;
pub mod stranded;
pub mod upkeep;

/// The description of the HTTP API, as OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");
