//! Checks the failover machine in a small world exhaustively: every order of messages, late and lost ones,
//! clocks that drift, agents that pause and die, within the bounds of a [`Model`].
//!
//! The machine is the one that the daemon runs. With a plain heartbeat in place of the lease that is broken
//! (`Mutant::NoBreak`) the checker finds two hosts that serve; with the lease it finds none.

use crate::support::failover_world::{Flight, World, name};
use stateright::{Checker, Model as _, Property};
use std::hash::{Hash, Hasher};
use std::time::Duration;
use understudy::failover::decide::input::Input;
use understudy::failover::decide::reason::why_not;
use understudy::failover::decide::timing::Timing;
use understudy::failover::decide::view::{Cause, Phase, Rules};
use understudy::support::mutant::{self, Mutant};

const fn ticks(ticks: u64) -> Duration {
    Duration::from_nanos(ticks)
}

/// A lease is valid for one tick, and waited for three: two clocks may differ by two ticks meanwhile.
const RULES: Rules = Rules {
    timing: Timing {
        renew_every: ticks(1),
        valid_for: ticks(1),
        close_within: ticks(0),
        ttl: ticks(3),
        hand_over_within: ticks(4),
        loosen_after: ticks(2),
        join_again: ticks(3),
        join_again_max: ticks(6),
        look_every: ticks(1),
        look_quiet: ticks(2),
    },
    has_lease: true,
    needs_set: true,
};

/// How far the checker goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    ticks: u8,
    losses: u8,
    /// Connections that are cut or mended.
    cuts: u8,
    drifts: u8,
    kills: u8,
    by_person: u8,
    by_watchers: u8,
    handovers: u8,
}

struct Model {
    begin: fn() -> World,
    budget: Budget,
    mutant: Option<Mutant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    world: World,
    left: Budget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// A tick passes; the clock of `fast` runs twice as fast during it, that of `slow` stands still.
    Pass {
        fast: Option<usize>,
        slow: Option<usize>,
    },
    Wake(usize),
    Advance(usize),
    LoseReply(usize),
    TakeOver(usize, Cause),
    HandOver,
    /// Cuts or mends the connection of a host to the object store.
    SwitchStore(usize),
    /// Cuts or mends the connection between the hosts.
    SwitchPeers,
    KillAgent(usize),
    Start(usize),
}

/// A lease that outlasts a tick, for a host that hands over meanwhile.
const HANDOVER_RULES: Rules = Rules {
    timing: Timing { valid_for: ticks(2), ttl: ticks(4), ..RULES.timing },
    has_lease: true,
    needs_set: true,
};

/// Returns a world in which the first host serves, and the second one follows it.
fn settled(rules: Rules) -> World {
    let mut world = World::new(2, rules);
    world.is_quick = true;
    world.objects.log.synced.insert(name(1));
    for _ in 0..5 {
        world.pass(&[1, 1]);
        for host in 0..2 {
            world.give(host, Input::Tick);
        }
        while !world.flights.is_empty() {
            world.advance(0, false);
        }
    }
    assert!(world.serves(0) && world.broken.is_none());
    assert_eq!(world.hosts[1].view.as_ref().unwrap().phase, Phase::Standby);
    world
}

/// Returns a world whose first host has paused for four ticks, while the second one watched it.
fn paused() -> World {
    let mut world = settled(RULES);
    for _ in 0..4 {
        world.pass(&[1, 1]);
        world.give(1, Input::Tick);
        while !world.flights.is_empty() {
            world.advance(0, false);
        }
    }
    world
}

impl stateright::Model for Model {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        mutant::choose(self.mutant);
        vec![State { world: (self.begin)(), left: self.budget }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        mutant::choose(self.mutant);
        let State { world, left } = state;
        if world.broken.is_some() {
            return;
        }
        if left.ticks > 0 {
            actions.push(Action::Pass { fast: None, slow: None });
            if left.drifts > 0 {
                actions.extend([
                    Action::Pass { fast: Some(1), slow: Some(0) },
                    Action::Pass { fast: Some(0), slow: Some(1) },
                ]);
            }
        }
        for (at, host) in world.hosts.iter().enumerate() {
            let Some(view) = &host.view else {
                actions.push(Action::Start(at));
                continue;
            };
            if view.looked != Some(host.clock) {
                actions.push(Action::Wake(at));
            }
            if left.kills > 0 {
                actions.push(Action::KillAgent(at));
            }
            for (cause, left) in [(Cause::Person, left.by_person), (Cause::Watchers, left.by_watchers)] {
                let is_standby = view.phase == Phase::Standby;
                if left > 0 && is_standby && why_not(view, cause, host.clock).is_empty() {
                    actions.push(Action::TakeOver(at, cause));
                }
            }
            if left.handovers > 0 && matches!(view.phase, Phase::Primary { .. }) && at == 0 {
                actions.push(Action::HandOver);
            }
        }
        if left.cuts > 0 {
            actions.extend([Action::SwitchStore(0), Action::SwitchStore(1), Action::SwitchPeers]);
        }
        for (at, flight) in world.flights.iter().enumerate() {
            actions.push(Action::Advance(at));
            if left.losses > 0 && flight.message.is_write() {
                actions.push(Action::LoseReply(at));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        mutant::choose(self.mutant);
        let mut next = last.clone();
        let State { world, left } = &mut next;
        match action {
            Action::Pass { fast, slow } => {
                let amount = |host| match (fast == Some(host), slow == Some(host)) {
                    (true, _) => 2,
                    (_, true) => 0,
                    _ => 1,
                };
                world.pass(&[amount(0), amount(1)]);
                left.ticks -= 1;
                left.drifts -= u8::from(fast.is_some());
            }
            Action::Wake(host) => world.give(host, Input::Tick),
            Action::Advance(at) => world.advance(at, false),
            Action::LoseReply(at) => {
                world.advance(at, true);
                left.losses -= 1;
            }
            Action::TakeOver(host, cause) => {
                match cause {
                    Cause::Person => left.by_person -= 1,
                    _ => left.by_watchers -= 1,
                }
                world.give(host, Input::TakeOver { cause });
            }
            Action::HandOver => {
                left.handovers -= 1;
                world.give(0, Input::HandOver { to: name(1) });
            }
            Action::SwitchStore(host) => {
                left.cuts -= 1;
                world.reaches_store[host] ^= true;
            }
            Action::SwitchPeers => {
                left.cuts -= 1;
                world.reach_each_other ^= true;
            }
            Action::KillAgent(host) => {
                left.kills -= 1;
                world.kill_agent(host);
                world.flights.retain(|flight| flight.host != host || flight.message.is_write());
            }
            Action::Start(host) => world.start(host),
        }
        // The order in which messages were sent is the order of nothing.
        next.world.flights.sort_by_cached_key(fingerprint);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one host serves", |_, state: &State| state.world.broken.is_none()),
            Property::sometimes("the other host serves", |_, state: &State| state.world.serves(1)),
        ]
    }
}

fn fingerprint(flight: &Flight) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    flight.hash(&mut hasher);
    hasher.finish()
}

/// Returns the steps to two hosts that serve, if there are any, and how many states were looked at.
fn check(begin: fn() -> World, budget: Budget, mutant: Option<Mutant>) -> (Option<Vec<Action>>, usize, bool) {
    let checker = Model { begin, budget, mutant }.checker().threads(1).spawn_dfs().join();
    let states = checker.unique_state_count();
    let is_taken_over = checker.discovery("the other host serves").is_some();
    let steps = checker.discovery("one host serves").map(|path| path.into_actions());
    (steps, states, is_taken_over)
}

const NOTHING: Budget =
    Budget { ticks: 0, losses: 0, cuts: 0, drifts: 0, kills: 0, by_person: 0, by_watchers: 0, handovers: 0 };

#[test]
fn a_plain_heartbeat_lets_two_hosts_serve() {
    let budget = Budget { ticks: 1, by_watchers: 1, ..NOTHING };
    let (steps, states, _) = check(paused, budget, Some(Mutant::NoBreak));
    println!("{states} states: {steps:?}");
    assert!(steps.is_some());
}

#[test]
fn a_handover_that_is_cancelled_at_once_ends_at_once() {
    let timing = Timing { hand_over_within: ticks(100), ..HANDOVER_RULES.timing };
    let mut world = settled(Rules { timing, ..HANDOVER_RULES });
    world.give(0, Input::HandOver { to: name(1) });
    assert!(!world.serves(0));
    world.give(0, Input::KeepServing);
    while !world.flights.is_empty() {
        world.advance(0, false);
    }
    assert!(world.serves(0) && world.objects.log.handover.is_none());
}

/// Checks a budget with the real machine: nothing goes wrong, and the other host gets to serve.
fn is_sound(begin: fn() -> World, budget: Budget) {
    let (steps, states, is_taken_over) = check(begin, budget, None);
    println!("{states} states, {budget:?}");
    assert_eq!((steps, is_taken_over), (None, true), "{budget:?}");
}

#[test]
fn a_lease_that_is_broken_lets_one_host_serve() {
    is_sound(paused, Budget { ticks: 1, by_watchers: 1, ..NOTHING });
}

#[test]
fn a_person_and_clocks_that_drift_let_one_host_serve() {
    is_sound(paused, Budget { ticks: 1, by_person: 1, drifts: 1, ..NOTHING });
}

/// These take minutes, and gigabytes: run them with `--run-ignored only`.
mod at_length {
    use super::*;

    #[test]
    #[ignore = "takes minutes"]
    fn watchers() {
        is_sound(paused, Budget { ticks: 2, by_watchers: 1, ..NOTHING });
    }

    #[test]
    #[ignore = "takes minutes"]
    fn lost_replies() {
        is_sound(paused, Budget { ticks: 1, by_person: 1, losses: 1, ..NOTHING });
    }

    #[test]
    #[ignore = "takes minutes"]
    fn agents_that_are_killed() {
        is_sound(paused, Budget { ticks: 1, by_person: 1, kills: 1, ..NOTHING });
    }

    #[test]
    #[ignore = "takes minutes"]
    fn two_persons() {
        is_sound(paused, Budget { ticks: 1, by_person: 2, ..NOTHING });
    }

    #[test]
    #[ignore = "takes minutes"]
    fn connections_that_are_cut() {
        is_sound(paused, Budget { ticks: 1, by_person: 1, cuts: 1, ..NOTHING });
    }

    #[test]
    #[ignore = "takes minutes"]
    fn handovers() {
        is_sound(|| settled(HANDOVER_RULES), Budget { ticks: 3, handovers: 1, ..NOTHING });
    }
}
