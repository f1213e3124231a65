//! What is told is told once, whatever happens when, and however often the daemon is started again.

use super::event::Event;
use super::ledger::{Context, Ledger};
use super::message::{Item, State};
use super::settings::NotifySettings;
use super::trouble::{Seen, Sight, sights};
use crate::api::database::{DatabaseArchive, DatabaseDrill, DatabaseSeeds, DatabaseServer, DatabaseStatus};
use crate::api::failover::{FailoverStatus, ReadyItem, WatchStatus};
use crate::api::store::StoreStatus;
use crate::api::upkeep::UpkeepStatus;
use crate::model::id::{Sequence, StoreName, WriterId};
use crate::model::role::Role;
use crate::service::agents::status::without_agent;
use crate::support::clock::{BootNanos, DAY, Now, UnixNanos};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const ALL_CLEAR: Duration = Duration::from_secs(60);

fn name(store: &str) -> StoreName {
    StoreName::parse(store).unwrap()
}

/// Returns a store that is well, and has run.
fn well(store: &str) -> Seen {
    let status = json!({
        "store": store, "role": "primary", "log_role": "primary", "plan": "private", "schedule": "every hour",
        "objective_seconds": 4500, "snapshot": 1, "lag_seconds": 10.0, "clock_skew_seconds": 0.0, "clock": null,
        "running": false, "next_run": null, "last_run": 1.0, "failures": 0, "last_error": null,
        "last_error_kind": null, "held": null, "fenced": false, "rivals": null,
        "totals": {
            "runs_done": 1, "runs_held": 0, "runs_failed": 0, "sent_bytes": 0, "received_bytes": 0,
            "torn_files": 0, "unreadable_files": 0,
        },
        "upkeep": null, "last_report": null, "progress": null,
    });
    let mut status: StoreStatus = serde_json::from_value(status).unwrap();
    status.last_report = Some(crate::api::run::RunReport::Follow(Box::default()));
    status.upkeep = Some(UpkeepStatus::default());
    Seen { status, failover: None }
}

fn held(store: &str) -> Seen {
    let mut seen = well(store);
    seen.status.held = Some("the root is empty".into());
    seen
}

/// Returns a store of which nothing is known since the daemon started.
fn unknown(store: &str) -> Seen {
    let mut seen = well(store);
    (seen.status.last_report, seen.status.last_run, seen.status.upkeep) = (None, None, None);
    seen
}

fn hook(name: &str, more: &str) -> NotifySettings {
    toml::from_str(&format!("kind = 'webhook'\nname = '{name}'\nurl = 'https://a.example'\n{more}")).unwrap()
}

/// Returns a well standby with a database, that would take over by itself.
fn well_standby() -> Seen {
    let mut seen = failover("standby", 1, "web-1", true);
    seen.status.watch = Some(WatchStatus { verdict: "healthy".into(), reasons: Vec::new() });
    seen.status.failover.as_mut().unwrap().ready = Some(true);
    let server = DatabaseServer {
        state: "following".into(),
        supervised: true,
        lag_seconds: Some(1.0),
        ..Default::default()
    };
    let archive = DatabaseArchive { state: "following".into(), running: true, ..Default::default() };
    let seeds = DatabaseSeeds { snapshot: Some(Sequence(1)), age_seconds: Some(1.0), ..Default::default() };
    seen.status.database = Some(DatabaseStatus {
        server: Some(server),
        archive: Some(archive),
        seeds: Some(seeds),
        drill: Some(DatabaseDrill::default()),
    });
    seen
}

/// Returns what is seen as wrong.
fn troubles(seen: &Seen) -> Vec<(Event, String)> {
    let sights = sights(seen).into_iter();
    sights
        .filter_map(
            |(event, sight)| if let Sight::Present(text) = sight { Some((event, text)) } else { None },
        )
        .collect()
}

/// Spoils one thing.
fn spoil(event: Event, seen: &mut Seen) {
    let status = &mut seen.status;
    let red = || ReadyItem {
        item: "pause".into(),
        level: "red".into(),
        why: "it is paused".into(),
        remedy: String::new(),
    };
    match event {
        Event::Behind => status.lag_seconds = Some(4501.0),
        Event::Held => status.held = Some("the root is empty".into()),
        Event::Fenced => status.log_role = Role::Unassigned,
        Event::Rivals => status.rivals = Some("two daemons".into()),
        Event::Failing => (status.failures, status.last_error) = (4, Some("no space".into())),
        Event::Clock => (status.clock, status.lag_seconds) = (Some("it lies in the future".into()), None),
        Event::NotReady => {
            status.failover.as_mut().unwrap().ready = Some(false);
            seen.failover.as_mut().unwrap().ready = vec![red()];
        }
        Event::NotServed => status.watch.as_mut().unwrap().verdict = "unreachable".into(),
        Event::Degraded => {
            status.watch = Some(WatchStatus { verdict: "degraded".into(), reasons: vec!["disk".into()] });
        }
        Event::FailoverFailing => status.failover.as_mut().unwrap().failing = vec!["gate: no answer".into()],
        Event::Drill => status.upkeep.as_mut().unwrap().drill_error = Some("a file differs".into()),
        Event::Damage => status.upkeep.as_mut().unwrap().problems = 3,
        Event::Database => spoiled_server(seen).supervised = false,
        Event::DatabaseBehind => spoiled_server(seen).lag_seconds = Some(301.0),
        Event::Archive => status.database.as_mut().unwrap().archive.as_mut().unwrap().state = "broken".into(),
        Event::Seed => status.database.as_mut().unwrap().seeds.as_mut().unwrap().age_seconds = Some(1e6),
        Event::DatabaseDrill => {
            status.database.as_mut().unwrap().drill.as_mut().unwrap().fault =
                Some("a table is broken".into());
        }
        Event::Failover | Event::Refused => unreachable!("they are no troubles"),
    }
}

fn spoiled_server(seen: &mut Seen) -> &mut DatabaseServer {
    seen.status.database.as_mut().unwrap().server.as_mut().unwrap()
}

#[test]
fn each_trouble_is_seen_by_one_thing_in_the_status_and_is_gone_without_it() {
    let well = well_standby();
    assert_eq!(troubles(&well), []);
    let absent: Vec<_> = sights(&well).into_iter().filter(|(_, sight)| *sight == Sight::Unknown).collect();
    assert_eq!(absent, [], "of a store that has run all is known");
    for event in Event::ALL.into_iter().filter(|event| ![Event::Failover, Event::Refused].contains(event)) {
        let mut seen = well_standby();
        spoil(event, &mut seen);
        let found = troubles(&seen);
        assert!(found.len() == 1 && found[0].0 == event && !found[0].1.is_empty(), "{event:?}: {found:?}");
        // What a restarted daemon does not know is not over.
        let is_known = |event| {
            sights(&unknown("shop")).iter().any(|(other, sight)| *other == event && *sight == Sight::Absent)
        };
        let of_runs =
            [Event::Held, Event::Fenced, Event::Rivals, Event::Failing, Event::Drill, Event::Damage];
        assert!(!of_runs.contains(&event) || !is_known(event), "{event:?}");
    }
}

/// A daemon that is started again and again, and its receivers, which have what was delivered.
struct World {
    ledger: Ledger,
    receivers: Vec<NotifySettings>,
    seconds: u64,
    /// How much the machine's clock is behind: it begins anew with the machine.
    booted: u64,
    messages: u64,
    left_out: u64,
    got: BTreeMap<String, Vec<Item>>,
}

impl World {
    fn new(receivers: Vec<NotifySettings>) -> Self {
        let (ledger, got) = (Ledger::default(), BTreeMap::new());
        Self { ledger, receivers, seconds: 1000, booted: 0, messages: 0, left_out: 0, got }
    }

    fn now(&self) -> Now {
        let wall = UnixNanos((1_800_000_000 + self.seconds) * 1_000_000_000);
        Now { wall, boot: BootNanos((self.seconds - self.booted) * 1_000_000_000) }
    }

    /// Looks at the stores after some time; whoever `reaches` is told.
    fn look(&mut self, seconds: u64, seen: &[Seen], reaches: impl Fn(&str) -> bool) {
        self.seconds += seconds;
        let now = self.now();
        let context = Context { now, receivers: &self.receivers, all_clear: ALL_CLEAR };
        self.ledger.step(seen, &context);
        for queue in self.ledger.queues() {
            self.messages += 1;
            let id = format!("msg_{}", self.messages);
            queue.make(now.boot, now.wall, "web-1", || id);
        }
        for receiver in self.receivers.iter().map(NotifySettings::name).filter(|name| reaches(name)) {
            if let Some(message) = self.ledger.queue(receiver).and_then(|queue| queue.outgoing()).cloned() {
                self.left_out += message.left_out;
                self.got.entry(receiver.to_owned()).or_default().extend(message.items);
                self.ledger.delivered(receiver, &message.id, now.boot);
            }
        }
    }

    /// Kills the daemon and starts it again: it has what is on the disk.
    fn restart(&mut self, with_machine: bool) {
        let text = serde_json::to_string(&self.ledger).unwrap();
        self.ledger = serde_json::from_str(&text).unwrap();
        if with_machine {
            self.booted = self.seconds;
        }
    }

    fn got(&self, receiver: &str) -> Vec<(State, Event)> {
        let got = self.got.get(receiver).into_iter().flatten();
        got.map(|item| (item.state, item.event)).collect()
    }

    /// Looks until everything is told and over.
    fn settle(&mut self, seen: &[Seen]) {
        for _ in 0..40 {
            self.look(31, seen, |_| true);
        }
    }
}

#[test]
fn a_trouble_is_told_once_and_its_end_once_it_lasts() {
    let mut world =
        World::new(vec![hook("a", ""), hook("b", "events = ['drill']"), hook("c", "stores = ['x']")]);
    world.look(1, &[well("shop")], |_| true);
    for _ in 0..100 {
        world.look(5, &[held("shop")], |_| true);
    }
    assert_eq!(world.got("a"), [(State::Begun, Event::Held)]);
    // It goes and comes back: no end.
    for _ in 0..10 {
        world.look(30, &[well("shop")], |_| true);
        world.look(5, &[held("shop")], |_| true);
    }
    assert_eq!(world.got("a").len(), 1);
    world.settle(&[well("shop")]);
    assert_eq!(world.got("a"), [(State::Begun, Event::Held), (State::Ended, Event::Held)]);
    assert!(world.got("b").is_empty() && world.got("c").is_empty(), "they want to hear of other things");
}

#[test]
fn what_goes_on_is_told_again_after_a_day_and_to_a_new_receiver() {
    let mut world = World::new(vec![hook("a", "")]);
    for _ in 0..25 {
        world.look(3600, &[held("shop")], |_| true);
        world.look(5, &[held("shop")], |_| true);
    }
    assert_eq!(world.got("a"), [(State::Begun, Event::Held), (State::Continues, Event::Held)]);
    world.receivers.push(hook("new", ""));
    world.look(5, &[held("shop")], |_| true);
    world.look(5, &[held("shop")], |_| true);
    assert_eq!(world.got("new"), [(State::Begun, Event::Held)]);
}

#[test]
fn a_daemon_that_does_not_know_yet_tells_no_end() {
    let mut world = World::new(vec![hook("a", "")]);
    world.look(5, &[held("shop")], |_| true);
    world.look(5, &[held("shop")], |_| true);
    world.restart(true);
    for _ in 0..100 {
        world.look(31, &[unknown("shop")], |_| true);
    }
    assert_eq!(world.got("a"), [(State::Begun, Event::Held)]);
    world.settle(&[well("shop")]);
    assert_eq!(world.got("a").len(), 2);
    // A store that is taken out of the configuration has no troubles here.
    world.settle(&[held("shop")]);
    world.settle(&[]);
    assert_eq!(world.got("a").len(), 4);
    assert!(world.got["a"][3].text.contains("configuration"));
}

#[test]
fn fifty_stores_in_trouble_are_one_message() {
    let mut world = World::new(vec![hook("a", "")]);
    let stores = |make: fn(&str) -> Seen| (0..50).map(|n| make(&format!("s{n}"))).collect::<Vec<_>>();
    world.look(1, &stores(held), |_| false);
    world.look(4, &stores(held), |_| false);
    let message = world.ledger.queue("a").unwrap().outgoing().unwrap().clone();
    assert_eq!(message.items.len(), 50);
    // Nobody takes it for a week, and the stores go in and out of trouble.
    for _ in 0..60 {
        for make in [well, well, held] {
            world.look(1200, &stores(make), |_| false);
        }
    }
    let queue = world.ledger.queue("a").unwrap();
    assert_eq!(queue.outgoing(), Some(&message), "it stays the same");
    assert!(queue.len() <= 600, "{}", queue.len());
    world.settle(&stores(well));
    let got = &world.got["a"];
    assert!(message.left_out == 0 && world.left_out > 1000, "{}", world.left_out);
    let of = |store: &str| {
        got.iter().filter(|item| item.store == name(store)).map(|item| item.state).collect::<Vec<_>>()
    };
    for n in 0..50 {
        let states = of(&format!("s{n}"));
        assert_eq!((states.first(), states.last()), (Some(&State::Begun), Some(&State::Ended)), "{states:?}");
        assert!(states.chunks(2).all(|two| two == [State::Begun, State::Ended]), "{states:?}");
    }
}

fn failover(phase: &str, epoch: u64, primary: &str, completed: bool) -> Seen {
    let mut seen = well("shop");
    let empty = without_agent(&name("shop"), WriterId("web-2".into()), String::new());
    let status = FailoverStatus {
        no_agent: None,
        phase: phase.into(),
        epoch,
        primary: Some(WriterId(primary.into())),
        completed,
        ..empty
    };
    seen.status.failover = Some(crate::api::failover::FailoverBrief {
        phase: phase.into(),
        epoch,
        primary: status.primary.clone(),
        failing: Vec::new(),
        ready: None,
        loss_files_seconds: None,
        loss_database_seconds: None,
    });
    seen.failover = Some(status);
    seen
}

fn texts(world: &World) -> Vec<(State, String)> {
    world.got.get("a").into_iter().flatten().map(|item| (item.state, item.text.clone())).collect()
}

#[test]
fn a_failover_is_told_when_it_begins_and_when_it_ends_and_a_start_is_none() {
    let mut world = World::new(vec![hook("a", "")]);
    world.look(40, &[failover("standby", 1, "web-1", true)], |_| true);
    world.look(40, &[failover("promoting", 1, "web-1", true)], |_| true);
    world.look(40, &[failover("taking over", 2, "web-2", false)], |_| true);
    world.look(40, &[failover("primary", 2, "web-2", false)], |_| true);
    world.look(40, &[failover("primary", 2, "web-2", true)], |_| true);
    world.look(40, &[failover("primary", 2, "web-2", true)], |_| true);
    let told = texts(&world);
    assert_eq!(told[0], (State::Begun, "'web-2' is about to take over from 'web-1'".into()));
    assert_eq!(told[1], (State::Ended, "'web-2' is the primary in epoch 2, after 'web-1'".into()));
    // The daemon starts again, and serves in its epoch.
    world.restart(false);
    for phase in ["starting", "taking over", "primary"] {
        world.look(40, &[failover(phase, 2, "web-2", true)], |_| true);
    }
    world.settle(&[failover("primary", 2, "web-2", true)]);
    assert_eq!(texts(&world).len(), 2);
    // While no daemon ran, another host took over.
    world.restart(true);
    world.settle(&[failover("standby", 3, "web-1", true)]);
    assert_eq!(texts(&world)[2].0, State::Begun);
    assert_eq!(texts(&world)[3], (State::Ended, "'web-1' is the primary in epoch 3, after 'web-2'".into()));
    assert_eq!(texts(&world).len(), 4);
}

#[test]
fn a_handover_that_is_cancelled_and_a_refusal_say_why() {
    let mut world = World::new(vec![hook("a", "")]);
    world.settle(&[failover("primary", 1, "web-2", true)]);
    world.look(40, &[failover("handing over", 1, "web-2", true)], |_| true);
    let mut kept = failover("primary", 1, "web-2", true);
    kept.failover.as_mut().unwrap().refused = vec!["'web-1' was not handed over to: no room".into()];
    world.settle(&[kept.clone()]);
    let told = texts(&world);
    let why = "'web-1' was not handed over to: no room".to_owned();
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[1], (State::Happened, why.clone()));
    assert_eq!(told[2], (State::Ended, format!("'web-2' is still the primary in epoch 1: {why}")));
}

#[test]
fn a_watcher_that_sees_nobody_served_says_why_nobody_takes_over() {
    let mut world = World::new(vec![hook("a", "")]);
    let mut seen = failover("standby", 1, "web-1", true);
    seen.status.watch = Some(WatchStatus { verdict: "dead".into(), reasons: vec!["no answer".into()] });
    seen.failover.as_mut().unwrap().why_not_automatic = vec!["automatic failover is paused".into()];
    world.look(1, std::slice::from_ref(&seen), |_| true);
    world.look(30, std::slice::from_ref(&seen), |_| true);
    assert!(texts(&world).is_empty(), "for a moment it may be so");
    world.settle(&[seen]);
    let text = "the primary is dead: no answer; this host does not take over: automatic failover is paused";
    assert_eq!(texts(&world), [(State::Begun, text.to_owned())]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Each receiver hears begin, end, begin, end…, whatever comes and goes, whoever is down, and whenever the daemon
    /// or the machine is started again; and in the end everything has an end.
    #[test]
    fn every_trouble_that_is_told_has_one_end_at_each_receiver(
        steps in proptest::collection::vec((1_u64..90, 0_u8..3, 0_u8..3, 0_u8..4, 0_u8..12), 1..120)
    ) {
        let mut world = World::new(vec![hook("a", ""), hook("b", "")]);
        let see = |store: &str, how: u8| match how {
            0 => well(store),
            1 => held(store),
            _ => unknown(store),
        };
        for (seconds, one, two, reaches, restart) in steps {
            world.look(seconds, &[see("s1", one), see("s2", two)], |name| match reaches {
                0 => true,
                1 => name == "a",
                2 => name == "b",
                _ => false,
            });
            if restart < 2 {
                world.restart(restart == 0);
            }
        }
        world.settle(&[well("s1"), well("s2")]);
        for receiver in ["a", "b"] {
            for store in ["s1", "s2"] {
                let got = world.got.get(receiver).into_iter().flatten();
                let states: Vec<_> = got.filter(|item| item.store == name(store)).map(|item| item.state).collect();
                for two in states.chunks(2) {
                    prop_assert_eq!(two, [State::Begun, State::Ended]);
                }
            }
        }
        prop_assert_eq!(world.got("a"), world.got("b"), "both are told the same");
        prop_assert!(world.ledger.queue("a").unwrap().len() == 0);
    }

    /// What lasts is told, however often the daemon is started again.
    #[test]
    fn what_lasts_is_told_whatever_happens(restarts in proptest::collection::vec(0_u8..6, 20..40)) {
        let mut world = World::new(vec![hook("a", "")]);
        for restart in restarts {
            world.look(4, &[held("shop")], |_| true);
            if restart == 0 {
                world.restart(true);
            }
        }
        world.look(31, &[held("shop")], |_| true);
        world.look(31, &[held("shop")], |_| true);
        prop_assert_eq!(world.got("a"), [(State::Begun, Event::Held)]);
        prop_assert!(DAY > Duration::from_secs(200));
    }
}
