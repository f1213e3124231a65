//! The gate's state, shared by the guard's threads: each reading of it reads the clock as well.
//!
//! What can race: between the moment in which a piece of an answer is allowed and the system call that sends
//! it the process may be stopped. That piece, which the upstream gave before the time had passed, is sent when
//! the process goes on; nothing after it is. A customer's write is covered by the fence of the database.

use super::mark::Mark;
use super::protocol::{Feed, GuardState, Mode, PortsState, Refusal};
use super::settings::Setup;
use super::state::{Admission, Permit, State};
use crate::model::id::Epoch;
use crate::support::clock::BootNanos;
use crate::support::env::Env;
use crate::support::lock::lock;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::watch;

/// The gate of a store.
pub(crate) struct Gate {
    pub env: Env,
    pub setup: Setup,
    state: Mutex<State>,
    mark: Mark,
    ports: Mutex<PortsState>,
    /// Number of changes that connections and waiting requests have to look at.
    changes: watch::Sender<u64>,
    /// Wakes the keeper; by the clock that goes on while the machine sleeps.
    timer: OwnedFd,
    in_flight: AtomicUsize,
    pub memory_is_locked: AtomicBool,
}

/// What the keeper has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    Fence,
    Ports { pass: bool },
    None,
}

/// What an answer tells of the gate.
pub(crate) struct Told {
    pub epoch: Epoch,
    pub mode: &'static str,
    pub role: &'static str,
}

/// A request that is being forwarded, counted as long as this value.
pub(crate) struct InFlight(std::sync::Arc<Gate>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    pub(crate) fn new(setup: Setup, env: &Env) -> io::Result<Self> {
        let (mark, found) = Mark::find(&setup);
        let state = found.map_or_else(State::new, |number| State::after_fence(number, env.boot()));
        Ok(Self {
            env: env.clone(),
            setup,
            state: Mutex::new(state),
            mark,
            ports: Mutex::default(),
            changes: watch::Sender::new(0),
            timer: timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?,
            in_flight: AtomicUsize::new(0),
            memory_is_locked: AtomicBool::new(false),
        })
    }

    /// Changes the state and tells those who wait for a change.
    fn change<T>(&self, how: impl FnOnce(&mut State, BootNanos) -> T) -> T {
        let mut state = lock(&self.state);
        let before = state.version;
        let done = how(&mut state, self.env.boot());
        if state.version != before {
            self.set_timer(&state);
            self.mark.set(state.fence_to_deal_with());
            drop(state);
            self.changes.send_modify(|count| *count += 1);
        }
        done
    }

    /// Wakes the keeper at the time until which the gate may be open, or now if it has something to do.
    fn set_timer(&self, state: &State) {
        let at_ns = match self.duty(state) {
            Duty::None => state.until.map_or(0, |until| until.0),
            _ => 1,
        };
        let at = Timespec {
            tv_sec: i64::try_from(at_ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (at_ns % 1_000_000_000) as i64,
        };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Itimerspec { it_interval: never, it_value: at };
        // It fails only for values that are no time. The clock is read for each request in any case.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value);
    }

    /// Waits until the timer says that there may be something to do.
    pub(crate) fn wait(&self) {
        let mut count = [0; 8];
        while rustix::io::read(&self.timer, &mut count) == Err(Errno::INTR) {}
    }

    fn duty(&self, state: &State) -> Duty {
        let pass = state.mode == Mode::Open;
        match *lock(&self.ports) {
            _ if state.is_fence_due() => Duty::Fence,
            PortsState::None if !self.setup.gate.ports.is_empty() => Duty::Ports { pass },
            PortsState::Passed if !pass => Duty::Ports { pass },
            PortsState::Rejected if pass => Duty::Ports { pass },
            _ => Duty::None,
        }
    }

    /// Returns what the keeper has to do now; a fence is returned once.
    pub(crate) fn next_duty(&self) -> Duty {
        self.change(|state, now| {
            state.tick(now);
            let duty = self.duty(state);
            state.take_fence();
            duty
        })
    }

    pub(crate) fn set_ports(&self, ports: PortsState) {
        *lock(&self.ports) = ports;
        self.set_timer(&lock(&self.state));
    }

    pub(crate) fn feed(&self, feed: &Feed) -> Result<(), Refusal> {
        self.change(|state, now| state.feed(feed, now))
    }

    pub(crate) fn begin_fence(&self, reason: &str) {
        self.change(|state, now| state.begin_fence(reason, now));
    }

    pub(crate) fn end_fence(&self, failures: Vec<String>) {
        self.change(|state, now| state.end_fence(failures, now));
    }

    pub(crate) fn admit(&self) -> Admission {
        self.change(|state, now| state.admit(now))
    }

    pub(crate) fn goes_on(&self, permit: Permit) -> bool {
        let now = self.env.boot();
        lock(&self.state).goes_on(permit, now)
    }

    pub(crate) fn fences(&self) -> u64 {
        lock(&self.state).fences
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn begin(self: &std::sync::Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    pub(crate) fn told(&self) -> Told {
        self.change(|state, now| {
            state.tick(now);
            Told { epoch: state.epoch, mode: state.mode.name(), role: state.role() }
        })
    }

    pub(crate) fn state(&self) -> GuardState {
        let ports = lock(&self.ports).clone();
        self.change(|state, now| {
            state.tick(now);
            GuardState {
                store: self.setup.store.clone(),
                setup: self.setup.hash(),
                process: std::process::id(),
                epoch: state.epoch,
                mode: state.mode.clone(),
                until: state.until,
                in_flight: self.in_flight.load(Ordering::Relaxed),
                fences: state.fences,
                fence: state.fence.clone(),
                ports,
                memory_is_locked: self.memory_is_locked.load(Ordering::Relaxed),
            }
        })
    }
}
