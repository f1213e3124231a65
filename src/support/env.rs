//! Time, sleep and randomness, as they are passed in.
//!
//! All code that reads a clock, sleeps or draws random bytes does so through an [`Env`], so that a test or a
//! simulation replaces all of them at one place. `clippy.toml` forbids the calls below everywhere else. Two
//! kinds of waits do not use it: tokio's timers, which use tokio's own clock, and waits for an event (a
//! condition variable, `poll`) that have a limit.

use super::clock::{BootNanos, Now, UnixNanos};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Reads both clocks, and sleeps.
pub trait Clock: Send + Sync {
    fn now(&self) -> Now;
    fn sleep(&self, time: Duration);
}

/// Fills with random bytes.
pub trait Random: Send + Sync {
    fn fill(&self, bytes: &mut [u8]);
}

impl<F: Fn(&mut [u8]) + Send + Sync> Random for F {
    fn fill(&self, bytes: &mut [u8]) {
        self(bytes);
    }
}

/// An environment. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl Env {
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { clock, random }
    }

    /// Returns the system's clocks and randomness.
    pub fn system() -> Self {
        Self::new(Arc::new(System), Arc::new(System))
    }

    /// Returns this environment with another clock.
    pub fn with_clock(&self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self.clone() }
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Returns the time of the wall clock.
    pub fn wall(&self) -> UnixNanos {
        self.now().wall
    }

    /// Returns the time of the machine's clock.
    pub(crate) fn boot(&self) -> BootNanos {
        self.now().boot
    }

    pub fn sleep(&self, time: Duration) {
        self.clock.sleep(time);
    }

    pub(crate) fn random(&self) -> &dyn Random {
        &*self.random
    }

    pub(crate) fn fill(&self, bytes: &mut [u8]) {
        self.random.fill(bytes);
    }

    /// Draws a number that no other process draws.
    pub fn nonce(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Starts a stopwatch.
    pub(crate) fn stopwatch(&self) -> Stopwatch {
        Stopwatch { clock: self.clock.clone(), begun: self.boot() }
    }
}

impl Default for Env {
    fn default() -> Self {
        Self::system()
    }
}

/// Measures time by the machine's clock, which is never set.
#[derive(Clone)]
pub(crate) struct Stopwatch {
    clock: Arc<dyn Clock>,
    begun: BootNanos,
}

impl Stopwatch {
    pub(crate) fn elapsed(&self) -> Duration {
        self.clock.now().boot.since(self.begun)
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}

struct System;

impl Clock for System {
    #[allow(clippy::disallowed_methods)] // The one place.
    fn now(&self) -> Now {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (seconds, ns) = (u64::try_from(boot.tv_sec), u64::try_from(boot.tv_nsec));
        let boot_ns = seconds.unwrap_or(0).saturating_mul(1_000_000_000).saturating_add(ns.unwrap_or(0));
        Now { wall: SystemTime::now().into(), boot: BootNanos(boot_ns) }
    }

    #[allow(clippy::disallowed_methods)] // The one place.
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

impl Random for System {
    /// Without randomness it is not safe to write anything, so a failure ends the process.
    #[allow(clippy::disallowed_methods)] // The one place.
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).unwrap_or_else(|error| panic!("no randomness: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    struct Set(Mutex<Now>);

    impl Clock for Set {
        fn now(&self) -> Now {
            *self.0.lock().unwrap()
        }

        fn sleep(&self, time: Duration) {
            let mut now = self.0.lock().unwrap();
            now.boot = now.boot.plus(time);
            // The clock is set back meanwhile.
            now.wall = now.wall.minus(Duration::from_nanos(1));
        }
    }

    #[test]
    fn a_stopwatch_goes_by_the_clock_that_nobody_sets() {
        let env = Env::system()
            .with_clock(Arc::new(Set(Mutex::new(Now { wall: UnixNanos(100), boot: BootNanos(7) }))));
        let watch = env.stopwatch();
        env.sleep(Duration::from_secs(3));
        assert_eq!((watch.elapsed(), env.wall()), (Duration::from_secs(3), UnixNanos(99)));
    }

    #[test]
    fn the_system_draws_other_numbers_each_time_and_its_clocks_go_on() {
        let env = Env::system();
        assert_ne!(env.nonce(), env.nonce());
        let (before, after) = (env.now(), env.now());
        assert!(after.boot >= before.boot && before.wall > UnixNanos(1_700_000_000_000_000_000));
    }
}
