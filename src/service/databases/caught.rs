//! Work that may panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Does one store's work, whose panic concerns no other. An error is told in words.
pub(super) fn caught<T, E: std::fmt::Display>(work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("it panicked; this is a bug".to_owned()),
    }
}
