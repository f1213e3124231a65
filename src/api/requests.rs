//! The requests of a run to the object store.

use serde::{Deserialize, Serialize};

/// Counts of requests, and of the bytes that they carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    pub put: u64,
    pub get: u64,
    pub head: u64,
    pub list: u64,
    /// Number of requests that were repeated after a failure.
    pub retried: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

impl Requests {
    /// Returns the difference to `before`.
    pub fn since(&self, before: &Requests) -> Requests {
        Requests {
            put: self.put - before.put,
            get: self.get - before.get,
            head: self.head - before.head,
            list: self.list - before.list,
            retried: self.retried - before.retried,
            sent_bytes: self.sent_bytes - before.sent_bytes,
            received_bytes: self.received_bytes - before.received_bytes,
        }
    }
}
