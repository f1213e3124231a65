//! A server that cannot start, because its data is damaged: it says so in its own words, a standby takes over without
//! loss, and it comes back from a seed. With real servers and daemons.

use crate::support::command::said;
use crate::support::database_host::DatabaseHost;
use crate::support::database_pair::{
    DatabasePair, are_equal, crashes, fail_over, has_all, history, kill_daemon, last, reseed, start_synced,
    start_writers, wait_for_set,
};
use crate::support::wait::wait_until;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of a page of the server's.
const PAGE_BYTES: usize = 16 << 10;

/// Writes over a part of a file of a host's server.
fn write_over(host: &DatabaseHost, name: &str, offset_bytes: usize, length_bytes: usize) {
    let file = File::options().write(true).open(host.host.path("database/data").join(name)).unwrap();
    file.write_all_at(&vec![0xA5; length_bytes], offset_bytes as u64).unwrap();
}

/// Waits until a host says that its server does not start, and returns its words.
fn wait_until_it_crashes(host: &DatabaseHost) -> String {
    wait_until("its server crashes", || crashes(host));
    let (code, status) = host.status();
    let server = &status["replica"];
    assert_eq!((code, &server["state"]), (6, &"down".into()), "{status:#}");
    let mend = status["mend"].as_str().unwrap();
    assert!(mend.contains("failover acme") && mend.contains("rejoin acme --reseed"), "{mend}");
    server["error"].as_str().unwrap().to_owned()
}

/// Has the damaged first host begin again from a seed, and checks that nothing is missing.
fn comes_back(pair: &mut DatabasePair, acknowledged: &[String]) {
    pair.two.customer("INSERT INTO shop.orders VALUES ('after', '')").unwrap();
    pair.wait_for_primary(&pair.two, &pair.one);
    reseed(&pair.two, &mut pair.one);
    pair.one.wait_for_state("following");
    let position = pair.two.sql("SELECT @@gtid_binlog_pos");
    wait_until("it has all", || pair.one.sql("SELECT @@gtid_slave_pos") == position);
    has_all(&pair.one, acknowledged);
    are_equal(&pair.one, &pair.two);
    wait_for_set(&pair.two, &pair.one);
}

#[test]
fn a_primary_whose_redo_log_is_torn_says_so_and_its_standby_takes_over_without_loss_and_a_seed_mends_it() {
    let mut pair = start_synced();
    let (writers, _) = start_writers(&pair.one, 3);
    pair.one.kill_supervisor();
    let acknowledged = writers.end();
    write_over(&pair.one, "ib_logfile0", 0, 3 * 4096);
    pair.one.supervise();
    let words = wait_until_it_crashes(&pair.one);
    assert!(words.contains("InnoDB") && words.contains("server.log"), "{words}");
    // Its daemon lives: the host closes by itself.
    fail_over(&pair.two);
    has_all(&pair.two, &acknowledged);
    assert_eq!(last(&history(&pair.two), "promoted")["decision"]["loss"]["transactions"], 0);
    comes_back(&mut pair, &acknowledged);
}

#[test]
fn a_host_whose_rollback_segments_are_damaged_is_followed_and_reseeded_though_all_of_it_had_died() {
    let mut pair = start_synced();
    let (writers, _) = start_writers(&pair.one, 3);
    pair.one.kill_supervisor();
    kill_daemon(&mut pair.one);
    let acknowledged = writers.end();
    // The system's transactions, and the first of their rollback segments.
    write_over(&pair.one, "ibdata1", 5 * PAGE_BYTES, 2 * PAGE_BYTES);
    fail_over(&pair.two);
    has_all(&pair.two, &acknowledged);
    pair.one.supervise();
    pair.one.host.start();
    wait_until_it_crashes(&pair.one);
    // A new replica would lose what this one has kept; it is begun again by the command that looks first.
    let refused = pair.one.host.command(&["database", "run", "acme", "--reseed"]).output().unwrap();
    assert!(!refused.status.success(), "{}", said(&refused));
    comes_back(&mut pair, &acknowledged);
}

#[test]
fn a_replica_whose_data_is_damaged_begins_again_from_a_seed() {
    let mut pair = start_synced();
    pair.two.kill_supervisor();
    write_over(&pair.two, "ib_logfile0", 0, 3 * 4096);
    pair.two.supervise();
    wait_until_it_crashes(&pair.two);
    // Customers wait for it no longer.
    pair.one.customer("INSERT INTO shop.orders VALUES ('on', '')").unwrap();
    reseed(&pair.one, &mut pair.two);
    pair.two.wait_for_state("following");
    assert!(!pair.two.place().join("stranded").exists(), "a replica has nothing that is stranded");
    wait_for_set(&pair.one, &pair.two);
    are_equal(&pair.one, &pair.two);
}
