//! Two hosts whose daemons and servers fail the store `acme` over.

use super::command::ok;
use super::database_host::{DatabaseHost, Writers};
use super::members::join;
use super::servers::free_port;
use super::wait::wait_until;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// Two hosts with daemons; the first one has files, and is the primary.
pub struct DatabasePair {
    pub one: DatabaseHost,
    pub two: DatabaseHost,
    repository: tempfile::TempDir,
}

/// Adds to a host's configuration what a member and its daemon need; `more` goes to its `[store.database]`.
fn configure(host: &DatabaseHost, more: &str) {
    let (path, daemon) = (host.host.path("understudy.toml"), host.host.port);
    let text = std::fs::read_to_string(&path).unwrap()
        + &format!(
            "[store.member]\naddress = '127.0.0.1:{daemon}'\ndatabase = '127.0.0.1:{}'\n\
             [service]\nlisten = '127.0.0.1:{daemon}'\nlook_seconds = 1\n",
            host.port
        );
    let text = text.replace("[store.database]\n", &format!("[store.database]\n{more}"));
    // What a standby mounts would be seen by other tests.
    let text = text.replace("path = 's0'\nrole = 'standby'", "role = 'standby'\nschedule = '0 0 1 1 *'");
    let text = text.replace("role = 'primary'", "role = 'primary'\nschedule = '0 0 1 1 *'");
    std::fs::write(&path, text).unwrap();
}

/// Returns the state of the failover on a host, as its daemon tells it.
pub fn status(host: &DatabaseHost) -> Value {
    let text = host.host.get("/api/v1/stores/acme/failover");
    text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
}

pub fn history(host: &DatabaseHost) -> Vec<Value> {
    let output = ok(&mut host.host.command(&["history", "acme", "--json"]));
    serde_json::from_slice(&output.stdout).unwrap()
}

impl DatabasePair {
    /// Starts them; `more` is added to both hosts' `[store.database]`.
    pub fn start(more: &str) -> Self {
        // What the daemons mount is theirs alone, and ends with them: other tests look at the machine's mounts.
        // SAFETY: only mounts are unshared, and no open file.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
        ok(Command::new("mount").args(["--make-rprivate", "/"]));
        let repository = tempfile::tempdir().unwrap();
        let location = repository.path().display().to_string();
        let (first, second) = (free_port(), free_port());
        // Nobody listens at the port that the configurations name: the log says whom to follow.
        let mut one = DatabaseHost::new(&location, "primary", first, 1);
        let mut two = DatabaseHost::new(&location, "standby", second, 1);
        for host in [&one, &two] {
            configure(host, more);
        }
        one.found();
        ok(&mut one.host.command(&["member", "found", "acme"]));
        ok(&mut one.host.command(&["database", "seed", "acme", "--quiet"]));
        join(&one.host, &two.host, &[]);
        two.supervise();
        two.wait_for_state("following");
        one.host.start();
        two.host.start();
        let pair = Self { one, two, repository };
        pair.wait_for_primary(&pair.one, &pair.two);
        pair
    }

    /// Starts one more host, whose server follows the first one's.
    pub fn add_standby(&self) -> DatabaseHost {
        let location = self.repository.path().display().to_string();
        let mut three = DatabaseHost::new(&location, "standby", free_port(), 1);
        configure(&three, "");
        join(&self.one.host, &three.host, &[]);
        three.supervise();
        three.wait_for_state("following");
        three.host.start();
        three
    }

    /// Exchanges the names of the hosts: the first one is the primary.
    pub fn swap(&mut self) {
        std::mem::swap(&mut self.one, &mut self.two);
    }

    pub fn wait_for_primary(&self, primary: &DatabaseHost, standby: &DatabaseHost) {
        let is = |host: &DatabaseHost, phase: &str| {
            let status = status(host);
            status["phase"] == phase && status["completed"] == true
        };
        let begun = Instant::now();
        while !(is(primary, "primary") && is(standby, "standby")) {
            if begun.elapsed().as_secs() > 60 {
                for host in [primary, standby] {
                    println!("{:#}\n{}\n{}", status(host), host.host.log(), host.log());
                }
                panic!("the roles are others");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Checks that a host has these orders.
pub fn has_all(host: &DatabaseHost, orders: &[String]) {
    let there = host.sql("SELECT id FROM shop.orders");
    let there: BTreeSet<&str> = there.lines().collect();
    let missing: Vec<&String> = orders.iter().filter(|order| !there.contains(order.as_str())).collect();
    assert!(missing.is_empty(), "{} of {}: {missing:?}", missing.len(), orders.len());
}

/// Two hosts whose servers replicate semi-synchronously.
pub fn start_synced() -> DatabasePair {
    let pair = DatabasePair::start("semi_sync = true\n");
    wait_for_set(&pair.one, &pair.two);
    pair
}

pub fn name(host: &DatabaseHost) -> String {
    format!("web-{}", host.host.port)
}

/// Waits until the log says that the standby has all that customers are told.
pub fn wait_for_set(primary: &DatabaseHost, standby: &DatabaseHost) {
    wait_for_set_within(primary, standby, Duration::from_secs(60));
}

pub fn wait_for_set_within(primary: &DatabaseHost, standby: &DatabaseHost, limit: Duration) {
    let wanted = json!([name(standby)]);
    let begun = Instant::now();
    while status(primary)["synced"] != wanted {
        if begun.elapsed() > limit {
            for host in [primary, standby] {
                println!("{:#}\n{:#}\n{}", status(host), host.status().1, host.log());
            }
            panic!("{wanted} is not the set:\n{}", primary.host.log());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Checks that two hosts have the same orders.
pub fn are_equal(one: &DatabaseHost, two: &DatabaseHost) {
    let rows = |host: &DatabaseHost| -> BTreeSet<String> {
        host.sql("SELECT id, note FROM shop.orders").lines().map(str::to_owned).collect()
    };
    let (ours, theirs) = (rows(one), rows(two));
    let (more, less): (Vec<_>, Vec<_>) =
        (ours.difference(&theirs).collect(), theirs.difference(&ours).collect());
    assert!(
        more.is_empty() && less.is_empty(),
        "only here: {more:?}; only there: {less:?}\n{}\n{}",
        one.log(),
        two.log()
    );
    assert_eq!(one.sql("CHECKSUM TABLE shop.orders"), two.sql("CHECKSUM TABLE shop.orders"));
}

pub fn start_writers(host: &DatabaseHost, count: u32) -> (Writers, Arc<AtomicU64>) {
    let port = Arc::new(AtomicU64::new(host.port.into()));
    let writers = Writers::start(count, &port);
    wait_until("they write", || writers.acknowledged() > 50);
    (writers, port)
}

pub fn kill_daemon(host: &mut DatabaseHost) {
    let mut daemon = host.host.daemon.take().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    std::fs::remove_file(host.host.socket().unwrap()).unwrap();
}

pub fn last<'a>(history: &'a [Value], kind: &str) -> &'a Value {
    history.iter().rev().find(|row| row["kind"] == kind).unwrap_or_else(|| panic!("{kind}: {history:#?}"))
}

pub fn fail_over(to: &DatabaseHost) {
    ok(&mut to.host.command(&["failover", "acme", "--yes", "--is-down", "--person", "ada"]));
    to.wait_for_state("serving");
}

/// Returns whether a host's server ends each time it is started.
pub fn crashes(host: &DatabaseHost) -> bool {
    host.status().1["replica"]["trouble"] == "crashing"
}

/// Begins a host's server again from a new seed of the primary's, as a person does.
pub fn reseed(primary: &DatabaseHost, host: &mut DatabaseHost) {
    ok(&mut primary.host.command(&["database", "seed", "acme", "--quiet"]));
    host.kill_supervisor();
    ok(&mut host.host.command(&["database", "rejoin", "acme", "--reseed", "--yes"]));
    host.supervise();
}
