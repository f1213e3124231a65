//! Randomness, as it is passed in.

use std::sync::Arc;

/// Fills with random bytes. Cheap to clone.
#[derive(Clone)]
pub struct Random(Arc<Fill>);

type Fill = dyn Fn(&mut [u8]) + Send + Sync;

impl Random {
    pub fn new(fill: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    pub fn fill(&self, bytes: &mut [u8]) {
        (self.0)(bytes);
    }
}

impl Default for Random {
    /// The system's. Without it nothing is safe to write: a failure ends the process.
    fn default() -> Self {
        Self::new(|bytes| {
            getrandom::fill(bytes).unwrap_or_else(|error| panic!("no randomness: {error}"));
        })
    }
}
