//! The types that the daemon and its clients exchange as JSON, and that the commands print with `--json`. Data only.
//!
//! One set for both sides: the daemon serialises what a client deserialises. Two versions understand each other: a field
//! that is not known is passed over, so no type here denies unknown fields, and a field that is added later is an `Option` or
//! has a default, so that an older daemon's answer is read as well. A field is never renamed, and never changes its unit.
//!
//! Times are seconds since 1970 where a fraction will do, and nanoseconds (`_ns`) where they name a scan.
//! `openapi.json` describes all of it for others; a test holds the two together.

pub mod change;
pub mod error;
pub mod follow;
pub mod progress;
pub mod requests;
pub mod resync;
pub mod run;
pub mod snapshot;
pub mod store;
pub mod upkeep;

/// Description of the HTTP API, as OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");
