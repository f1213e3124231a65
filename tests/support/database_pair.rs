//! Two hosts whose daemons and servers fail the store `acme` over.

use super::command::ok;
use super::database_host::DatabaseHost;
use super::members::join;
use super::servers::free_port;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

/// Two hosts with daemons; the first one has files, and is the primary.
pub struct DatabasePair {
    pub one: DatabaseHost,
    pub two: DatabaseHost,
    _repository: tempfile::TempDir,
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
            let (path, daemon) = (host.host.path("understudy.toml"), host.host.port);
            let text = std::fs::read_to_string(&path).unwrap()
                + &format!(
                    "[store.member]\naddress = '127.0.0.1:{daemon}'\ndatabase = '127.0.0.1:{}'\n\
                     [service]\nlisten = '127.0.0.1:{daemon}'\nlook_seconds = 1\n",
                    host.port
                );
            let text = text.replace("[store.database]\n", &format!("[store.database]\n{more}"));
            let text = text.replace("role = 'standby'", "role = 'standby'\nschedule = '0 0 1 1 *'");
            let text = text.replace("role = 'primary'", "role = 'primary'\nschedule = '0 0 1 1 *'");
            std::fs::write(&path, text).unwrap();
        }
        // A mount of it would be seen by other tests.
        let path = two.host.path("understudy.toml");
        let text = std::fs::read_to_string(&path).unwrap().replace("path = 's0'\n", "");
        std::fs::write(&path, text).unwrap();
        one.found();
        ok(&mut one.host.command(&["member", "found", "acme"]));
        ok(&mut one.host.command(&["database", "seed", "acme", "--quiet"]));
        join(&one.host, &two.host, &[]);
        two.supervise();
        two.wait_for_state("following");
        one.host.start();
        two.host.start();
        let pair = Self { one, two, _repository: repository };
        pair.wait_for_primary(&pair.one, &pair.two);
        pair
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
