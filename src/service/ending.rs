//! Decides when a daemon that was asked to end does so: once nothing is running, or at its limits. Pure; the
//! machine's clock is passed in.

use crate::support::clock::BootNanos;
use std::time::Duration;

/// Maximum time from being asked to end until running work is abandoned, which loses nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndLimits {
    pub runs: Duration,
    /// Limit for upkeep, counted from the end of the runs; a drill needs it to remove its mount.
    pub upkeep: Duration,
}

/// Which work of a daemon is running.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    pub runs: bool,
    pub upkeep: bool,
}

/// The state of a daemon that was asked to end, by the machine's clock.
pub(crate) struct Ending {
    limits: EndLimits,
    since: BootNanos,
    /// When all runs had ended or were abandoned.
    runs_over: Option<BootNanos>,
}

impl Ending {
    pub fn new(limits: EndLimits, since: BootNanos) -> Self {
        Self { limits, since, runs_over: None }
    }

    /// Returns how long running work may still take; none when the daemon ends now.
    pub fn wait(&mut self, running: Running, now: BootNanos) -> Option<Duration> {
        let left = |limit: Duration, since: BootNanos| {
            let passed = now.since(since);
            limit.checked_sub(passed).filter(|left| !left.is_zero())
        };
        if self.runs_over.is_none() {
            match left(self.limits.runs, self.since) {
                Some(left) if running.runs => return Some(left),
                _ => self.runs_over = Some(now),
            }
        }
        left(self.limits.upkeep, self.runs_over?).filter(|_| running.upkeep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_ends_once_nothing_goes_on_and_at_its_limits_whatever_does() {
        const SECOND: u64 = 1_000_000_000;
        let limits = EndLimits { runs: Duration::from_secs(30), upkeep: Duration::from_secs(10) };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let running = |runs, upkeep| Running { runs, upkeep };
        let new = || Ending::new(limits, BootNanos(100 * SECOND));
        assert_eq!(new().wait(running(false, false), BootNanos(100 * SECOND)), None);
        let mut ending = new();
        assert_eq!(ending.wait(running(true, true), BootNanos(100 * SECOND)), seconds(30));
        assert_eq!(ending.wait(running(true, true), BootNanos(120 * SECOND)), seconds(10));
        // The upkeep's time begins when the runs' time is over, and only once.
        assert_eq!(ending.wait(running(false, true), BootNanos(121 * SECOND)), seconds(10));
        assert_eq!(ending.wait(running(true, true), BootNanos(125 * SECOND)), seconds(6));
        assert_eq!(ending.wait(running(false, false), BootNanos(125 * SECOND)), None);
        assert_eq!(ending.wait(running(false, true), BootNanos(131 * SECOND)), None);
        let mut ending = new();
        assert_eq!(ending.wait(running(true, true), BootNanos(130 * SECOND)), seconds(10));
        assert_eq!(ending.wait(running(true, true), BootNanos(140 * SECOND)), None);
        assert_eq!(new().wait(running(true, false), BootNanos(130 * SECOND)), None);
    }
}
