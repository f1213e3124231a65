//! The failover of a store's database, with the real daemons, the real servers and no command configured.

use crate::support::command::{ok, said};
use crate::support::database_host::{DatabaseHost, Writers};
use crate::support::database_pair::{DatabasePair, has_all, history};
use crate::support::servers::free_port;
use crate::support::wait::wait_until;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use understudy::failover::guard::client::GuardClient;
use understudy::failover::guard::settings::{DatabaseSettings, GateSettings, Setup};
use understudy::model::id::StoreName;

#[test]
fn a_switchover_takes_the_database_along_and_the_log_says_where_it_went_on() {
    let pair = DatabasePair::start("mode = 'both'\n");
    let (one, two) = (&pair.one, &pair.two);
    assert_eq!(one.state(), "serving", "the daemon has closed nothing");
    let port = Arc::new(AtomicU64::new(one.port.into()));
    let writers = Writers::start(2, &port);
    wait_until("they write", || writers.acknowledged() > 50);
    ok(&mut one.host.command(&["switchover", "acme"]));
    port.store(two.port.into(), Ordering::SeqCst);
    pair.wait_for_primary(two, one);
    let before = writers.acknowledged();
    wait_until("they write on", || writers.acknowledged() > before + 50);
    let acknowledged = writers.end();
    one.wait_for_state("following");
    has_all(two, &acknowledged);
    let position = two.sql("SELECT @@gtid_binlog_pos");
    wait_until("the old primary has all", || one.sql("SELECT @@gtid_slave_pos") == position);
    assert_eq!(one.sql("CHECKSUM TABLE shop.orders"), two.sql("CHECKSUM TABLE shop.orders"));
    let history = history(two);
    let said = |kind: &str| {
        let row = history.iter().rev().find(|row| row["kind"] == kind).unwrap();
        let what = row["what"].as_str().unwrap();
        what.split_once("the database at ").unwrap_or_else(|| panic!("{what}")).1.to_owned()
    };
    // It went on exactly where the old primary had ended.
    assert_eq!(said("handover"), said("completed"));
    assert_eq!(two.status().1["replica"]["branch"], said("completed").as_str());
    assert_eq!(two.note()["epoch"], 2);
    // The new primary's daemon archives from then on, without a gap, and the former one's does not.
    let archive = |host: &DatabaseHost| host.host.store("acme")["database"]["archive"].clone();
    wait_until(&format!("the new primary archives: {:#}", archive(two)), || {
        let archive = archive(two);
        archive["running"] == true && archive["position"] == position.as_str() && archive["epoch"] == 2
    });
    wait_until("the former one does not", || archive(one).is_null());
    let into = two.host.path("restored");
    let mut restore = two.host.command(&["database", "restore", "acme", "--to", &position, "--into"]);
    ok(restore.arg(&into));
}

#[test]
fn a_dead_hosts_database_is_taken_over_and_it_comes_back_as_a_replica() {
    let mut pair = DatabasePair::start("");
    let port = Arc::new(AtomicU64::new(pair.one.port.into()));
    let writers = Writers::start(2, &port);
    wait_until("they write", || writers.acknowledged() > 50);
    let acknowledged = writers.end();
    let position = pair.one.sql("SELECT @@gtid_binlog_pos");
    wait_until("they are replicated", || pair.two.sql("SELECT @@gtid_slave_pos") == position);
    // The host dies.
    let mut daemon = pair.one.host.daemon.take().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    std::fs::remove_file(pair.one.host.socket().unwrap()).unwrap();
    pair.one.kill_supervisor();
    let two = &pair.two;
    let shown = said(&ok(&mut two.host.command(&["failover", "acme", "--dry-run"])));
    assert!(shown.contains("database: understudy database promote acme"), "{shown}");
    assert!(shown.contains("transactions that its replica here has not received; it is"), "{shown}");
    ok(&mut two.host.command(&["failover", "acme", "--yes", "--is-down", "--person", "ada"]));
    two.wait_for_state("serving");
    has_all(two, &acknowledged);
    two.customer("INSERT INTO shop.orders VALUES ('after', '')").unwrap();
    // It comes back, and its supervisor does not take it for the primary.
    pair.one.supervise();
    pair.one.wait_for_state("fenced");
    assert!(pair.one.customer("SELECT 1").is_err());
    pair.one.host.start();
    pair.wait_for_primary(&pair.two, &pair.one);
    pair.one.wait_for_state("following");
    wait_until("it has all", || pair.one.sql("SELECT COUNT(*) FROM shop.orders WHERE id = 'after'") == "1");
}

#[test]
fn a_host_whose_replica_is_broken_is_not_handed_over_to_unless_a_person_says_so() {
    let pair = DatabasePair::start("");
    let (one, two) = (&pair.one, &pair.two);
    one.customer("INSERT INTO shop.orders VALUES ('row', '')").unwrap();
    wait_until("it is replicated", || two.sql("SELECT COUNT(*) FROM shop.orders") == "1");
    two.sql("SET sql_log_bin=0; DELETE FROM shop.orders");
    one.customer("UPDATE shop.orders SET note = 'changed'").unwrap();
    two.wait_for_state("broken");
    let refused = one.host.command(&["switchover", "acme"]).output().unwrap();
    assert!(!refused.status.success() && said(&refused).contains("conflict"), "{}", said(&refused));
    assert!(said(&refused).contains("--accept-loss"), "{}", said(&refused));
    assert_eq!(one.state(), "serving");
    assert!(two.ordered(&["promote", "--accept-loss"], &[]).contains("noted"));
    ok(&mut two.host.command(&["failover", "acme", "--yes", "--person", "ada"]));
    two.wait_for_state("serving");
}

#[test]
fn a_guard_that_fences_by_itself_ends_the_database() {
    let repository = tempfile::tempdir().unwrap();
    let mut one =
        DatabaseHost::new(&repository.path().display().to_string(), "primary", free_port(), free_port());
    one.found();
    let place = one.place().display().to_string();
    let fence = ["/proc/self/exe", "database", "fence", "acme", "--directory", &place];
    let setup = Setup {
        store: StoreName::parse("acme").unwrap(),
        gate: GateSettings {
            listen: ([127, 0, 0, 1], free_port()).into(),
            upstream: ([127, 0, 0, 1], free_port()).into(),
            ports: Vec::new(),
            socket: None,
            last_resort: Vec::new(),
        },
        services: Vec::new(),
        database: DatabaseSettings { fence: fence.map(str::to_owned).into(), ..Default::default() },
        socket: one.host.path("run/guard.socket"),
        socket_is_default: true,
        edge_tells_epoch: false,
    };
    let guard = GuardClient::start(&setup, Path::new(env!("CARGO_BIN_EXE_understudy"))).unwrap();
    one.customer("SELECT 1").unwrap();
    guard.fence("a test").unwrap();
    wait_until("the fence ends", || {
        guard.ask().unwrap().unwrap().fence.is_some_and(|fence| fence.ended.is_some())
    });
    let fence = guard.ask().unwrap().unwrap().fence.unwrap();
    assert!(fence.verified, "{fence:?}");
    assert!(one.customer("SELECT 1").is_err());
    wait_until("it is told", || one.state() == "fenced");
    guard.stop().unwrap();
}
