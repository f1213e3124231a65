//! The set of standbys that have every acknowledged transaction, under standbys that come and go: leaving is never
//! delayed, joining is bounded.

use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;
use understudy::failover::decide::input::{Input, Outcome};
use understudy::failover::decide::log_view::{Event, LogView, Reign};
use understudy::failover::decide::output::Output;
use understudy::failover::decide::step::step;
use understudy::failover::decide::timing::Timing;
use understudy::failover::decide::view::{Phase, Rules, View};
use understudy::model::id::{Epoch, Sequence, WriterId};
use understudy::support::clock::BootNanos;

const TIMING: Timing = Timing::DEFAULT;

fn name(number: u8) -> WriterId {
    WriterId(format!("web-{number}"))
}

/// A primary, whose database and log do at once what they are told.
struct Primary {
    view: View,
    now: BootNanos,
    /// When the set changed, and to what.
    changes: Vec<(BootNanos, BTreeSet<WriterId>)>,
}

impl Primary {
    fn new() -> Self {
        let now = BootNanos(0).plus(Duration::from_secs(1000));
        let mut view = View::new(name(1), Rules { timing: TIMING, has_lease: false, needs_set: true }, now);
        view.log = LogView {
            head: Sequence(3),
            epoch: Epoch(1),
            primary: Some(name(1)),
            serving: [name(1), name(2)].into(),
            reigns: vec![Reign { host: name(1), since: Sequence(1) }],
            is_completed: true,
            ..LogView::default()
        };
        view.log_asked = Some(now);
        view.phase = Phase::Primary { epoch: Epoch(1), is_verified: true };
        Self { view, now, changes: Vec::new() }
    }

    /// A second passes in which the standby acknowledges, or does not.
    fn second(&mut self, is_connected: bool) {
        self.now = self.now.plus(Duration::from_secs(1));
        let mut inputs = vec![Input::Standby { host: name(2), is_connected }, Input::Tick];
        while let Some(input) = inputs.pop() {
            let (view, outputs) = step(&self.view, input, self.now);
            self.view = view;
            for output in outputs {
                match output {
                    // It is seen again behind that.
                    Output::WaitFor { standbys } => {
                        inputs.insert(0, Input::Standby { host: name(2), is_connected });
                        inputs.push(Input::WaitsFor { standbys });
                    }
                    Output::Append { after, event } => {
                        let mut log = self.view.log.clone();
                        log.apply(&name(1), &event);
                        if let Event::Synced { standbys } = event {
                            self.changes.push((self.now, standbys));
                        }
                        inputs.push(Input::Log { log, asked: self.now });
                        inputs.push(Input::Appended { after, outcome: Outcome::Won });
                    }
                    _ => {}
                }
            }
        }
    }

    fn is_in(&self) -> bool {
        self.view.log.synced.contains(&name(2))
    }
}

#[test]
fn a_standby_joins_at_once_and_again_after_ten_seconds_and_leaves_after_five() {
    let mut primary = Primary::new();
    primary.second(true);
    assert!(primary.is_in());
    for _ in 0..6 {
        primary.second(false);
    }
    assert!(!primary.is_in());
    let mut waited = 0;
    while !primary.is_in() {
        primary.second(true);
        waited += 1;
    }
    assert!((4..=6).contains(&waited), "{waited} s");
}

#[test]
fn a_standby_that_comes_and_goes_joins_later_each_time_and_at_once_after_a_quiet_time() {
    let mut primary = Primary::new();
    for second in 0..24 * 3600 {
        primary.second(second % 10 < 4);
    }
    let per_hour = primary.changes.len() / 24;
    println!("{per_hour} records an hour");
    assert!((4..=24).contains(&per_hour), "{per_hour}");
    // It stays.
    for _ in 0..1800 {
        primary.second(true);
    }
    assert!(primary.is_in());
    for _ in 0..6 {
        primary.second(false);
    }
    let before = primary.now;
    while !primary.is_in() {
        primary.second(true);
    }
    assert!(primary.now.since(before) <= Duration::from_secs(6), "{:?}", primary.now.since(before));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a standby does, an hour has a bounded number of records, and one that stays away is out of the set as
    /// soon as it may be.
    #[test]
    fn records_are_bounded_and_leaving_is_never_delayed(spans in proptest::collection::vec(1..90_u64, 100..400)) {
        let (mut primary, mut away) = (Primary::new(), 0);
        let mut is_connected = true;
        for span in spans {
            for _ in 0..span {
                primary.second(is_connected);
                away = if is_connected { 0 } else { away + 1 };
                // It is seen away for the first time at the first of these seconds.
                prop_assert!(away <= TIMING.loosen_after.as_secs() || !primary.is_in(), "{away} s");
            }
            is_connected = !is_connected;
        }
        for (at, _) in &primary.changes {
            let hour = primary.changes.iter().filter(|(other, _)| {
                *other >= *at && *other < at.plus(Duration::from_secs(3600))
            });
            prop_assert!(hour.count() <= 36);
        }
    }
}
