//! Daemons that are killed at every step of a switchover and of a failover, and before and after every record
//! that they append, while customers order. The steps are those that a run without a kill notes.
//!
//! After each: one host serves, the other one stands by, and no acknowledged order is missing.

use crate::support::command::said;
use crate::support::namespaces::{Lab, WebHost};
use crate::support::wait::wait_until;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

const KILL_AT: &str = "UNDERSTUDY_TEST_KILL_AT";
const STEPS: &str = "UNDERSTUDY_TEST_STEPS";

/// A lab whose hosts swap their roles again and again.
struct Swaps {
    lab: Lab,
    primary: usize,
}

/// What a host is during a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

impl Swaps {
    fn start() -> Self {
        let mut lab = Lab::serving(|_, text| text);
        lab.web[0].run(&["resync", "shop"]);
        lab.start_customers();
        Self { lab, primary: 0 }
    }

    fn host(&self, side: Side) -> usize {
        if side == Side::Old { self.primary } else { 1 - self.primary }
    }

    /// Starts a host's daemon again, with this variable. Returns whether it lives on: some steps are those of a start
    /// as well, and then it was killed there.
    fn restart(&mut self, side: Side, name: &'static str, value: impl Into<PathBuf>) -> bool {
        let host = self.host(side);
        let web = &mut self.lab.web[host];
        web.kill_daemon();
        web.variables = vec![(name, value.into())];
        web.start_daemon();
        web.variables.clear();
        let mut nsenter = web.daemon.take().unwrap();
        let is_dead = |nsenter: &mut Child| nsenter.try_wait().unwrap().is_some();
        wait_until("it has started", || {
            is_dead(&mut nsenter) || web.phase().is_some_and(|now| now != "starting")
        });
        std::thread::sleep(Duration::from_millis(500));
        let lives = !is_dead(&mut nsenter);
        web.daemon = Some(nsenter);
        if !lives {
            web.start_daemon();
        }
        self.settle();
        lives
    }

    /// Waits until one host serves and the other one stands by, and notes which.
    fn settle(&mut self) {
        let phase = |host: usize| self.lab.web[host].phase();
        let is_settled = || {
            let phases = [phase(0), phase(1)];
            let phases: BTreeSet<_> = phases.iter().flatten().map(String::as_str).collect();
            phases == BTreeSet::from(["primary", "standby"])
        };
        wait_until("one host serves and the other one stands by", is_settled);
        self.primary = usize::from(phase(0).as_deref() != Some("primary"));
        assert!(!self.lab.serves(1 - self.primary));
        self.lab.wait_for_primary(self.primary);
        self.lab.wait_for_orders(3);
    }

    /// Waits until the daemon of a side has killed itself, and starts it again.
    fn revive(&mut self, side: Side, step: &str, meanwhile: impl FnOnce(&mut Lab)) {
        let host = self.host(side);
        let web = &mut self.lab.web[host];
        let mut nsenter = web.daemon.take().unwrap();
        wait_until(&format!("{side:?} reaches '{step}'"), || nsenter.try_wait().unwrap().is_some());
        meanwhile(&mut self.lab);
        self.lab.web[host].start_daemon();
    }

    fn switch_over(&mut self, from: Side) -> Child {
        let mut command = self.lab.web[self.host(from)].understudy(&["switchover", "shop"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Returns the steps of one switchover on a side.
    fn steps_of_a_switchover(&mut self, side: Side) -> Vec<String> {
        let path = self.lab.web[self.host(side)].dir.join("steps");
        self.restart(side, STEPS, path.clone());
        let (host, before) = (self.host(side), noted(&path).len());
        let output = self.switch_over(Side::Old).wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        self.settle();
        self.forget(host);
        distinct(noted(&path).split_off(before))
    }

    /// Starts a daemon without the variables of an earlier start.
    fn forget(&mut self, host: usize) {
        self.lab.web[host].kill_daemon();
        self.lab.web[host].start_daemon();
        self.settle();
    }

    /// Takes the store over from the host that serves, which loses its power and comes back; returns the steps
    /// of the new primary.
    fn steps_of_a_failover(&mut self) -> Vec<String> {
        let path = self.lab.web[self.host(Side::New)].dir.join("steps");
        self.restart(Side::New, STEPS, path.clone());
        let (old, new, before) = (self.host(Side::Old), self.host(Side::New), noted(&path).len());
        self.lab.power_off(old);
        self.lab.web[new].run(&["failover", "shop", "--yes", "--is-down"]);
        let steps = noted(&path).split_off(before);
        self.power_on(old);
        self.settle();
        self.forget(new);
        distinct(steps)
    }

    fn power_on(&mut self, host: usize) {
        self.lab.power_on(host);
        self.lab.web[host].start_daemon();
    }
}

fn noted(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // Those without a colon are a resync's, which runs whenever it likes as well.
    text.lines().filter(|step| step.contains(": ")).map(str::to_owned).collect()
}

/// Returns each step once.
fn distinct(steps: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    steps.into_iter().filter(|step| seen.insert(step.clone())).collect()
}

/// Kills each side at every `stride`-th step of a switchover.
fn kill_in_switchovers(stride: usize) {
    let mut swaps = Swaps::start();
    for side in [Side::Old, Side::New] {
        let steps = swaps.steps_of_a_switchover(side);
        println!("{side:?}: {steps:?}");
        assert!(steps.len() > 8, "{side:?}: {steps:?}");
        for step in steps.iter().skip(stride / 2).step_by(stride) {
            println!("{side:?} is killed at '{step}'");
            if !swaps.restart(side, KILL_AT, step) {
                continue;
            }
            let other = if side == Side::Old { Side::New } else { Side::Old };
            let mut switching = swaps.switch_over(other);
            swaps.revive(side, step, |_| ());
            // Some are completed by then, and some cancelled; the command tells which, or that its daemon is away.
            wait_until("the command ends", || switching.try_wait().unwrap().is_some());
            swaps.settle();
        }
    }
    assert_eq!(swaps.lab.check(swaps.primary), BTreeSet::new(), "a switchover loses nothing");
}

/// Kills the new primary at every `stride`-th step of a failover; every other time the old one comes back before
/// it does.
fn kill_in_failovers(stride: usize) {
    let mut swaps = Swaps::start();
    let steps = swaps.steps_of_a_failover();
    println!("{steps:?}");
    assert!(steps.len() > 6, "{steps:?}");
    for (at, step) in steps.iter().enumerate().skip(stride / 2).step_by(stride) {
        println!("it is killed at '{step}'");
        if !swaps.restart(Side::New, KILL_AT, step) {
            continue;
        }
        let (old, is_early) = (swaps.host(Side::Old), (at / stride).is_multiple_of(2));
        swaps.lab.power_off(old);
        let mut taking_over = begin(&swaps.lab.web[swaps.host(Side::New)]);
        swaps.revive(Side::New, step, |lab| {
            if is_early {
                lab.power_on(old);
                lab.web[old].start_daemon();
                wait_until("the old primary knows what it is", || {
                    lab.web[old].phase().is_some_and(|phase| phase != "starting")
                });
            }
        });
        wait_until("the command ends", || taking_over.try_wait().unwrap().is_some());
        if !is_early {
            swaps.power_on(old);
        }
        swaps.settle();
    }
    swaps.lab.check(swaps.primary);
}

fn begin(host: &WebHost) -> Child {
    let mut command = host.understudy(&["failover", "shop", "--yes", "--is-down"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_switchover_survives_the_death_of_either_side_at_some_steps() {
    kill_in_switchovers(6);
}

#[test]
fn a_failover_survives_the_death_of_the_new_primary_at_some_steps() {
    kill_in_failovers(6);
}

#[test]
#[ignore = "takes minutes"]
fn at_length_a_switchover_survives_the_death_of_either_side_at_every_step() {
    kill_in_switchovers(1);
}

#[test]
#[ignore = "takes minutes"]
fn at_length_a_failover_survives_the_death_of_the_new_primary_at_every_step() {
    kill_in_failovers(1);
}
