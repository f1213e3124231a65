//! The state of a gate, and how feeds, the time and fences change it. Pure: each function is given the time.
//!
//! Why it is safe: the time is judged before anything else, whatever comes first after it has passed. So a
//! guard that was stopped for a minute and goes on with a feed in its queue closes before it reads the feed,
//! and the feed opens nothing, since it does not know of the fence.
//!
//! What is forwarded has a *permit*: for one epoch and one target. A new one makes all that is in flight
//! invalid at once. `Open` and `Hold` share a permit, so that a hold lets what is in flight finish.

use super::protocol::{Feed, Fence, Mode, Refusal};
use crate::model::id::Epoch;
use crate::support::clock::BootNanos;
use hyper::http::uri::Authority;

/// Maximum number of failures of a fence that are kept, and of characters of each.
const FAILURES_MAX: usize = 64;
const FAILURE_MAX_CHARS: usize = 400;

/// The number of a permit; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permit(pub u64);

/// The state of a gate.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub epoch: Epoch,
    pub mode: Mode,
    pub until: Option<BootNanos>,
    pub fences: u64,
    pub fence: Option<Fence>,
    /// Number of fences that the daemon has dealt with: it made all ready again, or saw it stopped.
    fences_dealt_with: u64,
    /// Grows with each change.
    pub version: u64,
    permit: u64,
    /// Whether the last fence was begun by the thread that carries it out.
    fence_is_taken: bool,
}

/// What happens to a new request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is forwarded: to the store's web server, or to the address of another gate.
    Forward {
        permit: Permit,
        epoch: Epoch,
        relay: Option<String>,
    },
    Wait,
    Refuse,
}

impl State {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Epoch(0),
            mode: Mode::Closed,
            until: None,
            fences: 0,
            fence: None,
            fences_dealt_with: 0,
            version: 0,
            permit: 1,
            fence_is_taken: true,
        }
    }

    /// Returns the state after an earlier guard has ended whose fence nobody has dealt with.
    pub(crate) fn after_fence(number: u64, now: BootNanos) -> Self {
        let mut state = Self { fences: number, ..Self::new() };
        state.begin_fence("an earlier guard ended before its fence was dealt with", now);
        state
    }

    /// Returns the number of the last fence, unless the daemon has dealt with it.
    pub(crate) fn fence_to_deal_with(&self) -> Option<u64> {
        (self.fences > self.fences_dealt_with).then_some(self.fences)
    }

    /// Begins a fence if the time has passed. Returns whether it has begun one.
    pub(crate) fn tick(&mut self, now: BootNanos) -> bool {
        let is_over = self.until.is_some_and(|until| now >= until);
        if is_over {
            self.begin_fence("the daemon did not feed the guard in time", now);
        }
        is_over
    }

    /// Closes the gate and begins a fence, unless one is running.
    pub(crate) fn begin_fence(&mut self, reason: &str, now: BootNanos) {
        self.mode = Mode::Closed;
        self.until = None;
        self.permit += 1;
        self.version += 1;
        if self.fence.as_ref().is_some_and(|fence| fence.ended.is_none()) {
            return;
        }
        self.fences += 1;
        self.fence_is_taken = false;
        self.fence = Some(Fence {
            number: self.fences,
            reason: reason.chars().take(FAILURE_MAX_CHARS).collect(),
            at: now,
            ended: None,
            verified: false,
            failures: Vec::new(),
        });
    }

    /// Returns whether a fence has begun that nobody carries out yet.
    pub(crate) fn is_fence_due(&self) -> bool {
        !self.fence_is_taken
    }

    pub(crate) fn take_fence(&mut self) -> bool {
        !std::mem::replace(&mut self.fence_is_taken, true)
    }

    pub(crate) fn end_fence(&mut self, failures: Vec<String>, now: BootNanos) {
        self.version += 1;
        if let Some(fence) = &mut self.fence {
            fence.verified = failures.is_empty();
            let short = |text: String| text.chars().take(FAILURE_MAX_CHARS).collect();
            fence.failures = failures.into_iter().take(FAILURES_MAX).map(short).collect();
            fence.ended = Some(now);
        }
    }

    /// Takes a feed.
    ///
    /// # Errors
    /// [`Refusal`]; the mode and the time stay as they were.
    pub(crate) fn feed(&mut self, feed: &Feed, now: BootNanos) -> Result<(), Refusal> {
        self.tick(now);
        if feed.epoch < self.epoch {
            return Err(Refusal::Epoch { seen: self.epoch });
        }
        if feed.until.is_some_and(|until| now >= until) {
            return Err(Refusal::Late);
        }
        if let Mode::Relay { address } = &feed.mode
            && !is_address(address)
        {
            return Err(Refusal::Address { address: address.chars().take(FAILURE_MAX_CHARS).collect() });
        }
        let is_running = self.fence.as_ref().is_some_and(|fence| fence.ended.is_none());
        if feed.mode != Mode::Closed && (is_running || feed.fences_known < self.fences) {
            return Err(Refusal::Fenced { number: self.fences });
        }
        if target(&self.mode) != target(&feed.mode) || self.epoch != feed.epoch {
            self.permit += 1;
        }
        self.version += 1;
        self.epoch = feed.epoch;
        if feed.fences_known >= self.fences && !is_running {
            self.fences_dealt_with = self.fences;
        }
        self.mode = feed.mode.clone();
        self.until = feed.until;
        Ok(())
    }

    /// Returns what happens to a request that comes now.
    pub(crate) fn admit(&mut self, now: BootNanos) -> Admission {
        self.tick(now);
        let forward = |relay| Admission::Forward { permit: Permit(self.permit), epoch: self.epoch, relay };
        match &self.mode {
            Mode::Closed => Admission::Refuse,
            Mode::Hold => Admission::Wait,
            Mode::Open => forward(None),
            Mode::Relay { address } => forward(Some(address.clone())),
        }
    }

    /// Returns whether what has a permit may go on.
    pub(crate) fn goes_on(&self, permit: Permit, now: BootNanos) -> bool {
        permit.0 == self.permit && self.until.is_none_or(|until| now < until)
    }

    /// Returns the word for what the host is, as this gate knows it.
    pub(crate) fn role(&self) -> &'static str {
        match &self.mode {
            Mode::Open | Mode::Hold => "primary",
            Mode::Relay { .. } => "relay",
            Mode::Closed if self.fence.is_some() => "fenced",
            Mode::Closed => "closed",
        }
    }
}

/// Returns what is forwarded to in a mode; none for nothing.
fn target(mode: &Mode) -> Option<Option<&str>> {
    match mode {
        Mode::Closed => None,
        Mode::Open | Mode::Hold => Some(None),
        Mode::Relay { address } => Some(Some(address)),
    }
}

fn is_address(text: &str) -> bool {
    let parsed = text.parse::<Authority>();
    parsed.is_ok_and(|authority| authority.port_u16().is_some() && !text.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn feed(epoch: u64, mode: Mode, until: Option<u64>, fences_known: u64) -> Feed {
        Feed { epoch: Epoch(epoch), mode, until: until.map(BootNanos), fences_known }
    }

    #[test]
    fn a_feed_that_comes_after_its_time_opens_nothing() {
        let mut state = State::new();
        state.feed(&feed(7, Mode::Open, Some(100), 0), BootNanos(10)).unwrap();
        assert!(matches!(state.admit(BootNanos(99)), Admission::Forward { .. }));
        // It was sent in time, and is read late.
        let late = feed(7, Mode::Open, Some(500), 0);
        assert_eq!(state.feed(&late, BootNanos(100)), Err(Refusal::Fenced { number: 1 }));
        assert_eq!(state.admit(BootNanos(101)), Admission::Refuse);
        // The fence runs.
        let knowing = feed(7, Mode::Open, Some(500), 1);
        assert_eq!(state.feed(&knowing, BootNanos(102)), Err(Refusal::Fenced { number: 1 }));
        assert!(state.take_fence() && !state.take_fence());
        state.end_fence(vec!["web".into()], BootNanos(110));
        assert_eq!(state.feed(&late, BootNanos(111)), Err(Refusal::Fenced { number: 1 }));
        assert_eq!(state.feed(&knowing, BootNanos(112)), Ok(()));
        assert!(matches!(state.admit(BootNanos(113)), Admission::Forward { .. }));
    }

    #[test]
    fn a_hold_lets_what_is_in_flight_finish_and_nothing_else_does() {
        let forwarded = |state: &mut State| match state.admit(BootNanos(1)) {
            Admission::Forward { permit, .. } => permit,
            other => panic!("{other:?}"),
        };
        let relay = Mode::Relay { address: "10.0.0.2:80".into() };
        for (mode, epoch, goes_on) in [
            (Mode::Hold, 7, true),
            (Mode::Open, 7, true),
            (Mode::Open, 8, false),
            (Mode::Closed, 7, false),
            (relay, 7, false),
        ] {
            let mut state = State::new();
            state.feed(&feed(7, Mode::Open, None, 0), BootNanos(1)).unwrap();
            let permit = forwarded(&mut state);
            state.feed(&feed(epoch, mode.clone(), None, 0), BootNanos(1)).unwrap();
            assert_eq!(state.goes_on(permit, BootNanos(2)), goes_on, "{mode:?} {epoch}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in ["10.0.0.2:80", "[::1]:8080", "b.example:80"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "10.0.0.2", "a b:80", "user@host:80", "http://a:80", "a:80/x", "a:99999"] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[derive(Clone, Debug)]
    enum Input {
        Feed(Feed),
        Fence,
        Take,
        End,
        Request,
    }

    fn inputs() -> impl Strategy<Value = Vec<(u64, Input)>> {
        let mode = prop_oneof![
            Just(Mode::Closed),
            Just(Mode::Hold),
            Just(Mode::Open),
            Just(Mode::Relay { address: "b:80".into() }),
        ];
        let input = prop_oneof![
            4 => (0..4_u64, mode, proptest::option::of(1..40_u64), 0..4_u64)
                .prop_map(|(epoch, mode, until, known)| Input::Feed(feed(epoch, mode, until, known))),
            1 => Just(Input::Fence),
            2 => Just(Input::Take),
            2 => Just(Input::End),
            4 => Just(Input::Request),
        ];
        proptest::collection::vec((0..6_u64, input), 1..60)
    }

    proptest! {
        #[test]
        fn nothing_passes_after_its_time_nor_before_its_fence_is_known(inputs in inputs()) {
            let (mut state, mut now) = (State::new(), BootNanos(1));
            let (mut until, mut epoch, mut known) = (None::<BootNanos>, Epoch(0), 0);
            let mut in_flight: Vec<Permit> = Vec::new();
            for (step, input) in inputs {
                now = now.plus(Duration::from_nanos(step));
                match input {
                    Input::Feed(feed) => {
                        let later = |span: BootNanos| now.plus(Duration::from_nanos(span.0.saturating_sub(3)));
                        let feed = Feed { until: feed.until.map(later), ..feed };
                        if state.feed(&feed, now).is_ok() {
                            (until, known) = (feed.until, feed.fences_known);
                        }
                    }
                    Input::Fence => state.begin_fence("test", now),
                    Input::Take => { state.take_fence(); }
                    Input::End => state.end_fence(Vec::new(), now),
                    Input::Request => {
                        if let Admission::Forward { permit, epoch, .. } = state.admit(now) {
                            prop_assert!(until.is_none_or(|until| now < until));
                            prop_assert!(known >= state.fences && epoch == state.epoch);
                            prop_assert!(state.fence.as_ref().is_none_or(|f| f.ended.is_some()));
                            in_flight.push(permit);
                        }
                    }
                }
                prop_assert!(state.epoch >= epoch);
                prop_assert!(state.mode == Mode::Closed || state.fence_to_deal_with().is_none());
                epoch = state.epoch;
                for permit in &in_flight {
                    if state.goes_on(*permit, now) {
                        prop_assert!(until.is_none_or(|until| now < until));
                        prop_assert!(state.mode != Mode::Closed);
                    }
                }
            }
        }
    }
}
