//! A store's gate: starts its guard, feeds it, and knows which of its fences were dealt with.
//!
//! A guard that was killed leaves services running that nothing would fence, so each order that finds no guard
//! starts another one. A guard of an older configuration is replaced while it is closed.

use crate::failover::agent::participants::{GateMode, GateOrder, GateOutcome};
use crate::failover::decide::view::Until;
use crate::failover::guard::client::{GuardClient, GuardError};
use crate::failover::guard::protocol::{Feed, GuardState, Mode, Refusal};
use crate::failover::guard::settings::Setup;
use crate::model::id::Epoch;
use crate::support::child::THIS;
use crate::support::env::Env;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Time between two looks whether a fence has ended, or requests have.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Maximum time that a gate's requests in flight have to end before a handover.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// The gate of one store on this host.
#[derive(Default)]
pub(crate) struct StoreGate {
    /// Number of the guard's fences after which everything was made ready again.
    fences_known: AtomicU64,
}

impl StoreGate {
    /// Returns the guard, started if there is none, and its state.
    fn guard(setup: &Setup) -> Result<(GuardClient, GuardState), GuardError> {
        let guard = GuardClient::new(setup);
        if let Some(state) = guard.ask()? {
            if state.setup == setup.hash() || state.mode != Mode::Closed {
                return Ok((guard, state));
            }
            guard.stop()?;
        }
        let guard = GuardClient::start(setup, Path::new(THIS))?;
        let state = guard.ask()?.ok_or_else(|| GuardError::NotBegun("it ended at once".into()))?;
        Ok((guard, state))
    }

    /// Carries out an order. `relay` is the gate of the new primary, if another host is.
    pub(crate) fn order(&self, setup: &Setup, order: GateOrder, relay: Option<String>) -> GateOutcome {
        let mut feed = Feed {
            epoch: order.epoch,
            mode: match order.mode {
                GateMode::Open => Mode::Open,
                GateMode::Hold => Mode::Hold,
                GateMode::Closed => relay.map_or(Mode::Closed, |address| Mode::Relay { address }),
            },
            until: match order.until {
                Until::Time(until) => Some(until),
                Until::Never | Until::Forever => None,
            },
            fences_known: self.fences_known.load(Ordering::SeqCst),
        };
        if order.mode == GateMode::Closed && feed.mode == Mode::Closed && setup.gate.ports.is_empty() {
            // Where no guard is, nothing takes a request. A host that stands by for many stores has no gate for
            // each.
            if let Ok(None) = GuardClient::new(setup).ask() {
                return GateOutcome::Done;
            }
        }
        let (guard, state) = match Self::guard(setup) {
            Ok(found) => found,
            Err(error) => return GateOutcome::Failed(error.to_string()),
        };
        if order.mode == GateMode::Closed {
            // After a start the machine does not know the epoch yet. Closing is right in any.
            feed.epoch = feed.epoch.max(state.epoch);
        }
        match guard.feed(&feed) {
            Err(GuardError::Refused(Refusal::Fenced { .. })) if order.mode == GateMode::Closed => {
                // It is closed, and stops what is behind it; there is no relay before that has ended.
                GateOutcome::Done
            }
            Err(error @ GuardError::Refused(Refusal::Fenced { .. })) => {
                GateOutcome::Fenced(error.to_string())
            }
            Err(error) => GateOutcome::Failed(error.to_string()),
            Ok(_) => GateOutcome::Done,
        }
    }

    /// Looks whether the gate could be opened here. A host that stands by has no guard, so the address is free for
    /// whoever takes it first.
    pub(crate) fn may_begin(setup: &Setup) -> Result<(), String> {
        if GuardClient::new(setup).ask().map_err(|error| error.to_string())?.is_some() {
            return Ok(());
        }
        let listen = setup.gate.listen;
        match TcpListener::bind(listen) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                Err(format!("the gate's address {listen} is taken by another program; see `ss -ltnp`"))
            }
            // Whatever else may be wrong with it now may be right by then.
            _ => Ok(()),
        }
    }

    /// Returns whether a guard of this setup is open; none if no guard is running.
    pub(crate) fn is_open(setup: &Setup) -> Result<Option<bool>, String> {
        let state = GuardClient::new(setup).ask().map_err(|error| error.to_string())?;
        Ok(state.map(|state| state.mode == Mode::Open && state.setup == setup.hash()))
    }

    /// Notes that what stood behind the gate was seen stopped: the guard's own fences are dealt with, as far as
    /// they have ended. Then a closed gate may relay to the new primary's.
    pub(crate) fn note_stopped(&self, setup: &Setup) {
        if let Ok(Some(state)) = GuardClient::new(setup).ask()
            && state.fence.is_none_or(|fence| fence.ended.is_some())
        {
            self.fences_known.store(state.fences, Ordering::SeqCst);
        }
    }

    /// Lets new requests wait while this host is made ready, after what an earlier fence stops has stopped.
    pub(crate) fn make_ready(
        &self,
        env: &Env,
        setup: &Setup,
        epoch: Epoch,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        let (guard, mut state) = Self::guard(setup).map_err(|error| error.to_string())?;
        while state.fence.as_ref().is_some_and(|fence| fence.ended.is_none()) {
            if stop() {
                return Err("given up, since this host has to close".into());
            }
            env.sleep(LOOK_EVERY);
            state = guard.ask().map_err(|error| error.to_string())?.ok_or("the guard has ended")?;
        }
        let fences_known = state.fences;
        // What an earlier process opened stays bound to its time; else nothing is in flight.
        let until = state.until.filter(|_| state.mode != Mode::Closed);
        let feed = Feed { epoch, mode: Mode::Hold, until, fences_known };
        guard.feed(&feed).map_err(|error| error.to_string())?;
        self.fences_known.store(fences_known, Ordering::SeqCst);
        Ok(())
    }

    /// Waits until the requests that are being forwarded have ended.
    ///
    /// # Errors
    /// They did not in time: what they still write would not be in the last snapshot.
    pub(crate) fn wait_until_idle(env: &Env, setup: &Setup, stop: &dyn Fn() -> bool) -> Result<(), String> {
        let guard = GuardClient::new(setup);
        let begun = env.stopwatch();
        loop {
            let state = guard.ask().map_err(|error| error.to_string())?.ok_or("the guard has ended")?;
            if state.mode == Mode::Closed {
                return Err("the gate has closed meanwhile".into());
            }
            if state.mode == Mode::Hold && state.in_flight == 0 {
                return Ok(());
            }
            if stop() {
                return Err("given up, since this host has to close".into());
            }
            if begun.elapsed() >= DRAIN_LIMIT {
                return Err(format!(
                    "{} requests or tunnels did not end within {} s",
                    state.in_flight,
                    DRAIN_LIMIT.as_secs()
                ));
            }
            env.sleep(LOOK_EVERY);
        }
    }
}
