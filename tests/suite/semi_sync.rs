//! Semi-synchronous replication: a customer is told that a transaction is done only once the standby has it, and the
//! log says for which standby that is so. With the real daemons and servers, killed by SIGKILL.

use crate::support::command::said;
use crate::support::database_host::{DatabaseHost, Writers, customer};
use crate::support::database_pair::{
    DatabasePair, are_equal, crashes, fail_over, has_all, history, kill_daemon, last, reseed, start_synced,
    start_writers, status, wait_for_set, wait_for_set_within,
};
use crate::support::dice::Dice;
use crate::support::mariadb::MariaDb;
use crate::support::wait::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[test]
fn a_primary_that_dies_while_it_writes_loses_nothing_and_comes_back_without_being_ahead() {
    let mut pair = start_synced();
    let (writers, _) = start_writers(&pair.one, 4);
    // No time is left for what was committed to travel.
    pair.one.kill_supervisor();
    kill_daemon(&mut pair.one);
    let acknowledged = writers.end();
    fail_over(&pair.two);
    has_all(&pair.two, &acknowledged);
    assert_eq!(last(&history(&pair.two), "promoted")["decision"]["loss"]["transactions"], 0);
    pair.two.customer("INSERT INTO shop.orders VALUES ('after', '')").unwrap();
    pair.one.supervise();
    pair.one.host.start();
    pair.wait_for_primary(&pair.two, &pair.one);
    pair.one.wait_for_state("following");
    wait_until("it has all", || pair.one.sql("SELECT COUNT(*) FROM shop.orders WHERE id = 'after'") == "1");
    are_equal(&pair.one, &pair.two);
    // The roles are the other way around.
    wait_for_set(&pair.two, &pair.one);
}

#[test]
fn commits_wait_for_a_standby_that_is_gone_until_the_log_has_let_go_of_it() {
    let mut pair = start_synced();
    pair.two.kill_supervisor();
    let port = pair.one.port;
    let waiting = std::thread::spawn(move || customer(port, "INSERT INTO shop.orders VALUES ('waits', '')"));
    std::thread::sleep(Duration::from_secs(2));
    assert!(!waiting.is_finished(), "the customer was told that it is done");
    waiting.join().unwrap().unwrap();
    // Whoever reads the log from now on knows that the standby may lack it.
    let decided = history(&pair.one);
    assert_eq!(last(&decided, "synced")["decision"]["standbys"], json!([]), "{decided:#?}");
    pair.one.customer("INSERT INTO shop.orders VALUES ('goes on', '')").unwrap();
    pair.two.supervise();
    wait_for_set(&pair.one, &pair.two);
    assert_eq!(pair.two.sql("SELECT COUNT(*) FROM shop.orders"), "2");
    // A server that is started again waits from its first commit on.
    pair.one.kill_supervisor();
    pair.one.supervise();
    pair.one.wait_for_state("serving");
    assert_eq!(pair.one.sql("SELECT @@rpl_semi_sync_master_enabled"), "1");
}

#[test]
fn a_paused_primary_that_wakes_up_tells_nobody_that_anything_is_done() {
    let mut pair = start_synced();
    let (writers, port) = start_writers(&pair.one, 4);
    let server = Pid::from_raw(pair.one.server()).unwrap();
    let supervisor = Pid::from_raw(pair.one.supervisor.as_ref().unwrap().id() as i32).unwrap();
    let daemon = Pid::from_raw(pair.one.host.daemon.as_ref().unwrap().id() as i32).unwrap();
    for process in [daemon, supervisor, server] {
        kill_process(process, Signal::STOP).unwrap();
    }
    fail_over(&pair.two);
    kill_process(server, Signal::CONT).unwrap();
    // What the standby acknowledged before the server read it is told now, and is there.
    let old = pair.one.port;
    let late = std::thread::spawn(move || customer(old, "INSERT INTO shop.orders VALUES ('late', '')"));
    std::thread::sleep(Duration::from_secs(2));
    assert!(!late.is_finished(), "the old primary's server answered: {:?}", late.join());
    for process in [daemon, supervisor] {
        kill_process(process, Signal::CONT).unwrap();
    }
    assert!(late.join().unwrap().is_err(), "the customer was told that it is done");
    let before = writers.acknowledged();
    port.store(pair.two.port.into(), Ordering::SeqCst);
    wait_until("they write to the new primary", || writers.acknowledged() > before + 50);
    has_all(&pair.two, &writers.end());
    pair.wait_for_primary(&pair.two, &pair.one);
    pair.one.wait_for_state("following");
    pair.one.kill_supervisor();
}

#[test]
fn a_second_server_that_acknowledges_ends_what_the_log_says_of_the_standby() {
    let pair = start_synced();
    let mut other = MariaDb::start("server-id=77\nrpl-semi-sync-slave-enabled=1\n");
    other.sql(&format!(
        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='understudy', MASTER_PASSWORD='secret', \
         MASTER_USE_GTID=slave_pos; START SLAVE",
        pair.one.port
    ));
    wait_until("the set is empty", || status(&pair.one)["synced"] == json!([]));
    let failing = status(&pair.one)["failing"].to_string();
    assert!(failing.contains("2 servers acknowledge"), "{failing}");
    pair.one.customer("INSERT INTO shop.orders VALUES ('goes on', '')").unwrap();
    other.kill();
    // The server notices that a connection is gone when it sends something.
    for id in ["one", "two", "three"] {
        pair.one.customer(&format!("INSERT INTO shop.orders VALUES ('{id}', '')")).unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    wait_for_set(&pair.one, &pair.two);
    // A person does not end it behind the log's back.
    let refused = pair.one.order(&["semi-sync", "off"], &[]);
    assert!(!refused.status.success() && said(&refused).contains("the log says"), "{}", said(&refused));
}

/// A session on a host that keeps the replica from applying anything.
fn hold_applier(host: &DatabaseHost) -> Child {
    let socket = host.place().join("socket");
    let mut child = Command::new("mariadb")
        .args(["--no-defaults", "-uroot", "--socket", socket.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let statements = "FLUSH TABLES WITH READ LOCK; SELECT SLEEP(600);\n";
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), statements.as_bytes()).unwrap();
    let is_held = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP(600)%'";
    wait_until("it holds the applier", || host.sql(is_held) == "1");
    child
}

#[test]
fn what_a_replica_acknowledged_outlives_its_server_though_the_primary_is_gone() {
    let mut pair = start_synced();
    let mut holder = hold_applier(&pair.two);
    let (writers, _) = start_writers(&pair.one, 4);
    pair.one.kill_supervisor();
    pair.two.kill_supervisor();
    kill_daemon(&mut pair.one);
    holder.wait().unwrap();
    let acknowledged = writers.end();
    // Its server has ended twice before it is promoted.
    pair.two.supervise();
    wait_until("it runs", || pair.two.try_sql("SELECT 1").is_ok());
    let applied = pair.two.sql("SELECT COUNT(*) FROM shop.orders").parse::<usize>().unwrap();
    assert!(applied < acknowledged.len(), "{applied} of {}", acknowledged.len());
    pair.two.kill_supervisor();
    pair.two.supervise();
    wait_until("it runs", || pair.two.try_sql("SELECT 1").is_ok());
    fail_over(&pair.two);
    has_all(&pair.two, &acknowledged);
    assert!(!pair.two.place().join("received").exists(), "it is kept no longer than it is needed");
    pair.two.customer("INSERT INTO shop.orders VALUES ('after', '')").unwrap();
    pair.one.supervise();
    pair.one.host.start();
    pair.wait_for_primary(&pair.two, &pair.one);
    pair.one.wait_for_state("following");
    let position = pair.two.sql("SELECT @@gtid_binlog_pos");
    wait_until("it has all", || pair.one.sql("SELECT @@gtid_slave_pos") == position);
    are_equal(&pair.one, &pair.two);
}

/// Time for a standby that left the set often to be in it again.
const SET_LIMIT: Duration = Duration::from_secs(400);

/// Waits until a host's server is what it is to be; returns whether it is, or ends each time it is started.
fn becomes(host: &DatabaseHost, state: &str) -> bool {
    let mut is_so = false;
    wait_until(&format!("its server is {state}: {}", host.log()), || {
        is_so = host.state() == state;
        is_so || crashes(host)
    });
    is_so
}

fn take_over(pair: &mut DatabasePair) {
    wait_until("its replica runs", || pair.two.try_sql("SELECT 1").is_ok());
    wait_until("its daemon knows the log", || {
        status(&pair.two)["phase"] == "standby" && status(&pair.two)["refused"] == json!([])
    });
    fail_over(&pair.two);
}

/// Waits until both servers are what they are to be. MariaDB does not always come back from a recovery of its own that
/// was killed (docs/how-to/replicate-a-database.md): then a person does what `database status` says. Returns how often.
fn mend(pair: &mut DatabasePair, port: &AtomicU64) -> u32 {
    let mut seeds = 0;
    if !becomes(&pair.one, "serving") {
        println!("{}", pair.one.status().1["replica"]["error"]);
        take_over(pair);
        pair.swap();
        port.store(pair.one.port.into(), Ordering::SeqCst);
    }
    while !becomes(&pair.two, "following") {
        println!("{}", pair.two.status().1["replica"]["error"]);
        reseed(&pair.one, &mut pair.two);
        seeds += 1;
    }
    seeds
}

/// Kills of parts of both hosts under load, in an order that the dice say; after each round nothing is missing.
fn rounds_of_kills(rounds: u32, seed: u64) {
    let mut pair = start_synced();
    let mut dice = Dice::new(seed);
    let port = Arc::new(AtomicU64::new(pair.one.port.into()));
    let (mut acknowledged, mut seeds) = (0, 0);
    for round in 0..rounds {
        // Names of orders begin anew with each round.
        pair.one.sql("SET sql_log_bin=1; DELETE FROM shop.orders");
        let writers = Writers::start(3, &port);
        wait_until("they write", || writers.acknowledged() > 30);
        std::thread::sleep(Duration::from_millis(dice.below(400)));
        let what = dice.below(5);
        match what {
            0 => pair.two.kill_supervisor(),
            1 => kill_daemon(&mut pair.one),
            2 => pair.one.kill_supervisor(),
            3 => {
                pair.one.kill_supervisor();
                pair.two.kill_supervisor();
            }
            _ => {
                pair.one.kill_supervisor();
                kill_daemon(&mut pair.one);
                pair.two.kill_supervisor();
                kill_daemon(&mut pair.two);
            }
        }
        if what != 1 && what != 0 {
            std::thread::sleep(Duration::from_millis(dice.below(300)));
        }
        let orders = writers.end();
        let is_taken_over = what >= 2 && dice.below(2) == 0;
        if pair.two.supervisor.is_none() {
            pair.two.supervise();
        }
        if pair.two.host.daemon.is_none() {
            pair.two.host.start();
        }
        if is_taken_over {
            if pair.one.host.daemon.is_some() {
                kill_daemon(&mut pair.one);
            }
            take_over(&mut pair);
        }
        if pair.one.supervisor.is_none() {
            pair.one.supervise();
        }
        if pair.one.host.daemon.is_none() {
            pair.one.host.start();
        }
        if is_taken_over {
            pair.swap();
            port.store(pair.one.port.into(), Ordering::SeqCst);
        }
        seeds += mend(&mut pair, &port);
        has_all(&pair.one, &orders);
        wait_for_set_within(&pair.one, &pair.two, SET_LIMIT);
        let position = pair.one.sql("SELECT @@gtid_binlog_pos");
        wait_until("the standby has all", || pair.two.sql("SELECT @@gtid_slave_pos") == position);
        println!("round {round}: kill {what}, taken over: {is_taken_over}");
        are_equal(&pair.one, &pair.two);
        acknowledged += orders.len();
    }
    println!("{rounds} rounds: {acknowledged} acknowledged, {seeds} servers begun again from a seed");
    assert!(acknowledged > 0);
}

#[test]
fn kills_of_any_part_under_load_lose_nothing_that_was_acknowledged() {
    rounds_of_kills(4, 7);
}

#[test]
#[ignore = "an hour; docs/explanation/testing.md"]
fn at_length_a_hundred_rounds_of_kills_lose_nothing() {
    rounds_of_kills(100, 1);
}
