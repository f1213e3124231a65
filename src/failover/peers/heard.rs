//! Which requests of persons were heard: each counts once, and only while it is new. Pure.
//!
//! The wall clocks of two hosts may differ by up to a minute. What was asked before this process started may
//! have been heard by the one before it, and does not count.

use crate::model::id::{StoreName, WriterId};
use crate::support::clock::UnixNanos;
use std::collections::BTreeMap;
use std::time::Duration;

/// Time for which a request counts, and maximum difference of two hosts' clocks.
pub(crate) const FRESH: Duration = Duration::from_secs(60);
/// Maximum number of requests that are remembered.
const HEARD_MAX: usize = 1024;

/// A request, told apart from all others.
pub(crate) type Request = (StoreName, WriterId, u64);

/// The reason why a request does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotNew {
    /// It is too old, or of a clock that is ahead.
    Time,
    Again,
    /// Too many were heard within a minute.
    TooMany,
}

/// What was heard.
#[derive(Debug)]
pub(crate) struct Heard {
    started: UnixNanos,
    /// When each request was asked.
    requests: BTreeMap<Request, UnixNanos>,
}

impl Heard {
    pub(crate) fn new(started: UnixNanos) -> Self {
        Self { started, requests: BTreeMap::new() }
    }

    /// Takes a request that was asked at `at`.
    pub(crate) fn take(&mut self, request: Request, at: UnixNanos, now: UnixNanos) -> Result<(), NotNew> {
        // A clock that was ahead when this process started was set back.
        self.started = self.started.min(now);
        let is_new = |at: UnixNanos| now.since(at) <= FRESH;
        if !is_new(at) || at.since(now) > FRESH || at < self.started {
            return Err(NotNew::Time);
        }
        self.requests.retain(|_, at| is_new(*at));
        if self.requests.contains_key(&request) {
            return Err(NotNew::Again);
        }
        if self.requests.len() >= HEARD_MAX {
            return Err(NotNew::TooMany);
        }
        self.requests.insert(request, at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_while_it_is_new() {
        let at = |seconds: u64| UnixNanos(seconds * 1_000_000_000);
        let request = |nonce| (StoreName::parse("shop").unwrap(), WriterId("a".into()), nonce);
        let mut heard = Heard::new(at(100));
        assert_eq!(heard.take(request(1), at(99), at(110)), Err(NotNew::Time), "before the start");
        assert_eq!(heard.take(request(1), at(110), at(110)), Ok(()));
        assert_eq!(heard.take(request(1), at(110), at(170)), Err(NotNew::Again));
        assert_eq!(heard.take(request(1), at(110), at(171)), Err(NotNew::Time));
        // One whose clock is ahead is remembered until it is old.
        assert_eq!(heard.take(request(2), at(261), at(200)), Err(NotNew::Time));
        assert_eq!(heard.take(request(2), at(260), at(200)), Ok(()));
        assert_eq!(heard.take(request(2), at(260), at(320)), Err(NotNew::Again));
        assert_eq!(heard.take(request(2), at(260), at(321)), Err(NotNew::Time));
        let mut ahead = Heard::new(at(9000));
        assert_eq!(ahead.take(request(1), at(99), at(100)), Err(NotNew::Time));
        assert_eq!(ahead.take(request(2), at(101), at(101)), Ok(()), "the clock was set back");
        for nonce in 0..HEARD_MAX as u64 {
            assert_eq!(heard.take(request(nonce), at(400), at(400)), Ok(()));
        }
        assert_eq!(heard.take(request(5000), at(400), at(400)), Err(NotNew::TooMany));
        assert_eq!(heard.take(request(5000), at(461), at(461)), Ok(()));
    }
}
