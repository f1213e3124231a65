//! What holds automatic failovers back. Pure.
//!
//! A store that fails over again and again, and hosts that fail together, have a cause that another failover
//! does not remove. Then nothing is done without a person, and that is said once.

use crate::model::id::WriterId;
use crate::support::clock::{BootNanos, UnixNanos};
use std::collections::BTreeMap;
use std::time::Duration;

/// Maximum number of automatic failovers of a store within [`STORE_WITHIN`].
pub const STORE_MAX: usize = 2;
/// Time within which they are counted.
pub const STORE_WITHIN: Duration = Duration::from_hours(24);
/// Time after an automatic failover of a store before the next one.
pub const STORE_PAUSE: Duration = Duration::from_mins(10);
/// Time within which only one host is voted dead.
pub const HOSTS_WITHIN: Duration = Duration::from_mins(10);

/// Returns why a store is not failed over without a person; `automatic`: when it was, since a person last decided
/// something. The clocks of hosts differ: a time in the future counts as just now.
///
/// # Errors
/// The reason, and how a person ends it.
pub fn may_fail_over(automatic: &[UnixNanos], now: UnixNanos) -> Result<(), String> {
    let age = |at: &UnixNanos| now.since(*at);
    let held = |why: String| {
        Err(format!(
            "{why}; a person decides: `understudy failover`, or `understudy resume` to allow it again"
        ))
    };
    if automatic.iter().filter(|at| age(at) < STORE_WITHIN).count() >= STORE_MAX {
        return held(format!(
            "it has failed over {STORE_MAX} times by itself within {} h",
            STORE_WITHIN.as_secs() / 3600
        ));
    }
    match automatic.iter().map(age).min() {
        Some(age) if age < STORE_PAUSE => {
            held(format!("it failed over by itself less than {} min ago", STORE_PAUSE.as_secs() / 60))
        }
        _ => Ok(()),
    }
}

/// The hosts that a watcher has voted dead, for all stores that it watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadHosts {
    since: BTreeMap<WriterId, BootNanos>,
}

impl DeadHosts {
    /// Returns whether `host` may be voted dead, and remembers that it is. Votes about the stores of one host are
    /// about one host.
    ///
    /// # Errors
    /// Another host was voted dead a short time ago: they have something in common.
    pub fn may_vote(&mut self, host: &WriterId, now: BootNanos) -> Result<(), String> {
        self.since.retain(|_, since| now < since.plus(HOSTS_WITHIN));
        if let Some(other) = self.since.keys().find(|other| *other != host) {
            return Err(format!(
                "'{other}' was found dead less than {} min ago, and two hosts that fail together have a common cause; a person decides: `understudy failover`",
                HOSTS_WITHIN.as_secs() / 60
            ));
        }
        self.since.entry(host.clone()).or_insert(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn at(seconds: u64) -> UnixNanos {
        UnixNanos((1_000_000 + seconds) * 1_000_000_000)
    }

    #[test]
    fn a_store_fails_over_by_itself_twice_a_day_and_not_at_once_again() {
        assert_eq!(may_fail_over(&[], at(0)), Ok(()));
        assert!(may_fail_over(&[at(0)], at(599)).unwrap_err().contains("less than 10 min ago"));
        assert_eq!(may_fail_over(&[at(0)], at(600)), Ok(()));
        let twice = [at(0), at(HOUR)];
        assert!(may_fail_over(&twice, at(24 * HOUR - 1)).unwrap_err().contains("2 times"));
        assert_eq!(may_fail_over(&twice, at(24 * HOUR)), Ok(()));
        // One whose clock is ahead.
        assert!(may_fail_over(&[at(HOUR)], at(0)).is_err());
    }

    #[test]
    fn a_second_host_within_ten_minutes_is_a_person_s() {
        let (a, b) = (WriterId("a".into()), WriterId("b".into()));
        let boot = |seconds: u64| BootNanos(seconds * 1_000_000_000);
        let mut hosts = DeadHosts::default();
        assert_eq!(hosts.may_vote(&a, boot(0)), Ok(()));
        assert_eq!(hosts.may_vote(&a, boot(300)), Ok(()), "another store of the same host");
        assert!(hosts.may_vote(&b, boot(599)).unwrap_err().contains("'a'"));
        assert_eq!(hosts.may_vote(&b, boot(600)), Ok(()));
        assert!(hosts.may_vote(&a, boot(601)).is_err());
    }
}
