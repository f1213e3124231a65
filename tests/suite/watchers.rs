//! Watchers and automatic failover: two hosts, an edge, customers, a repository on a machine of its own, and machines
//! that only watch.

use crate::support::command::said;
use crate::support::namespaces::{Lab, WebHost};
use crate::support::wait::wait_until;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time for which another host waits until it takes a lease for run out.
const TTL: Duration = Duration::from_secs(20);

fn private(_: &WebHost, text: String) -> String {
    text.replace("plan = \"standard\"", "plan = \"private\"")
}

/// Starts a lab with machines that watch, and customers.
fn watched(watchers: usize) -> Lab {
    let mut lab = Lab::with_watchers(watchers);
    lab.configure(private);
    lab.serve();
    for watcher in &lab.watch {
        wait_until("it watches", || verdict(watcher).as_deref() == Some("healthy"));
    }
    wait_until("the standby watches, too", || verdict(&lab.web[1]).as_deref() == Some("healthy"));
    lab.start_customers();
    lab
}

/// Returns what a host's watcher concludes.
fn verdict(host: &WebHost) -> Option<String> {
    host.failover()?["watch"]["verdict"].as_str().map(str::to_owned)
}

/// Returns the last promotion by the log.
fn promotion(host: &WebHost) -> Value {
    let output = host.run(&["history", "shop", "--json"]);
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    rows.into_iter().rev().find(|row| row["kind"] == "promoted").unwrap()
}

fn epoch(lab: &Lab, host: usize) -> u64 {
    lab.role(host).unwrap()["epoch"].as_u64().unwrap()
}

/// Returns where a file of the first host's store is.
fn of_tree(lab: &Lab, name: &str) -> std::path::PathBuf {
    lab.web[0].seen(&Path::new("/srv/shop").join(name)).unwrap()
}

fn kill_shop(lab: &Lab) {
    let pid = std::fs::read_to_string(lab.web[0].dir.join("shop.pid")).unwrap();
    let mut kill = lab.web[0].inside();
    assert!(kill.args(["kill", "-KILL", pid.trim()]).status().unwrap().success());
}

#[test]
fn a_dead_host_is_replaced_by_the_votes_of_all_watchers_and_by_no_person() {
    let mut lab = watched(1);
    let status = lab.watch[0].run(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let shop = &status[0];
    assert!(shop["last_error"].is_null() && shop["held"].is_null() && shop["last_run"].is_null(), "{shop:#}");
    lab.power_off(0);
    let begun = Instant::now();
    wait_until("customers are served again", || lab.serves(1));
    let took = begun.elapsed();
    println!("served again after {took:?}");
    assert!(took >= TTL - Duration::from_millis(7500), "before the lease had run out: {took:?}");
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    let promoted = promotion(&lab.web[1]);
    let what = promoted["what"].as_str().unwrap();
    assert!(what.contains("automatic") && what.contains("2 of 2 watchers found 'web-1' dead"), "{what}");
    lab.power_on(0);
    lab.web[0].start_daemon();
    wait_until("the old primary follows, and watches now", || {
        let is_standby = lab.web[0].phase().as_deref() == Some("standby");
        is_standby && verdict(&lab.web[0]).as_deref() == Some("healthy")
    });
    lab.check(1);
}

#[test]
fn a_shop_that_was_killed_is_started_again_where_it_was() {
    let mut lab = watched(0);
    kill_shop(&lab);
    wait_until("it is seen", || !lab.web[0].shop_runs());
    wait_until("it is started again", || lab.web[0].shop_runs());
    lab.wait_for_orders(20);
    assert_eq!((epoch(&lab, 0), lab.serves(1)), (1, false));
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
fn a_shop_that_does_not_start_again_goes_on_elsewhere_without_loss() {
    let mut lab = watched(1);
    // The programs of this host are broken: what starts the shop ends with an error.
    let broken = lab.web[0].dir.join("shop.py");
    let sound = std::fs::read_to_string(&broken).unwrap();
    let no_start = sound.replacen(
        "import json",
        "import sys\nif sys.argv[1] == 'start': sys.exit('the disk is broken')\nimport json",
        1,
    );
    assert_ne!(no_start, sound);
    std::fs::write(&broken, no_start).unwrap();
    kill_shop(&lab);
    let begun = Instant::now();
    wait_until("customers are served again", || lab.serves(1));
    println!("served again after {:?}", begun.elapsed());
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    let promoted = promotion(&lab.web[1]);
    assert!(promoted["what"].as_str().unwrap().contains("handover"), "{promoted}");
    let history = said(&lab.web[1].run(&["history", "shop"]));
    assert!(history.contains("with snapshot") && history.contains("not ready: "), "{history}");
    assert_eq!(lab.check(1), BTreeSet::new(), "nothing is stranded");
}

#[test]
fn a_host_whose_disk_hangs_is_replaced_though_its_network_works() {
    let mut lab = Lab::with_watchers(1);
    lab.configure(private);
    // Its state, its caches and the store are there.
    lab.web[0].put_on_disk(&lab.web[0].dir, 256 << 20);
    lab.serve();
    wait_until("it watches", || verdict(&lab.watch[0]).as_deref() == Some("healthy"));
    lab.start_customers();
    let mut frozen = lab.web[0].freeze(&lab.web[0].dir, 110);
    let begun = Instant::now();
    wait_until("its gate is closed", || !lab.serves(0));
    wait_until("customers are served again", || lab.serves(1));
    println!("served again after {:?}", begun.elapsed());
    assert!(!lab.serves(0), "its gate is closed by its clock");
    frozen.wait().unwrap();
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    wait_until("the old primary follows", || lab.web[0].phase().as_deref() == Some("standby"));
    lab.check(1);
}

#[test]
fn a_store_in_maintenance_is_left_alone() {
    let mut lab = watched(0);
    let flag = of_tree(&lab, "var/.maintenance.flag");
    std::fs::create_dir_all(flag.parent().unwrap()).unwrap();
    std::fs::write(&flag, "").unwrap();
    kill_shop(&lab);
    std::thread::sleep(Duration::from_secs(12));
    assert!(!lab.web[0].shop_runs() && !lab.serves(1), "nobody did anything");
    std::fs::remove_file(&flag).unwrap();
    wait_until("it is started again", || lab.web[0].shop_runs());
    lab.wait_for_orders(20);
    assert_eq!(epoch(&lab, 0), 1);
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
fn a_watcher_that_is_cut_off_and_a_repository_that_is_away_change_nothing() {
    let mut lab = watched(1);
    for other in ["web-1", "web-2", "edge", "storage"] {
        lab.cut("watch-1", other);
    }
    lab.cut("web-1", "storage");
    lab.cut("web-2", "storage");
    wait_until("the watcher sees nobody", || {
        lab.watch[0].failover().is_some_and(|now| now["watch"]["verdict"] == "unreachable")
    });
    let begun = Instant::now();
    while begun.elapsed() < TTL + Duration::from_secs(8) {
        assert!(lab.serves(0) && !lab.serves(1));
        std::thread::sleep(Duration::from_millis(500));
    }
    for other in ["web-1", "web-2", "edge", "storage"] {
        lab.join("watch-1", other);
    }
    lab.join("web-1", "storage");
    lab.join("web-2", "storage");
    wait_until("it is healthy again", || verdict(&lab.watch[0]).as_deref() == Some("healthy"));
    lab.wait_for_orders(20);
    assert_eq!(epoch(&lab, 0), 1);
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
fn nobody_takes_over_while_failover_is_paused_and_the_reason_is_told() {
    let mut lab = watched(1);
    lab.web[1].run(&["pause", "shop", "--reason", "maintenance"]);
    lab.power_off(0);
    wait_until("the watchers know", || verdict(&lab.watch[0]).as_deref() == Some("dead"));
    std::thread::sleep(Duration::from_secs(3));
    assert!(!lab.serves(1));
    lab.web[1].run(&["resume", "shop"]);
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    lab.power_on(0);
    lab.web[0].start_daemon();
    wait_until("the old primary follows", || lab.web[0].phase().as_deref() == Some("standby"));
    lab.check(1);
}

/// Returns the keys of the votes about the first host.
fn votes(lab: &Lab) -> Vec<String> {
    lab.objects("stores/shop/votes/web-1/")
}

#[test]
fn votes_in_the_bucket_count_only_by_the_keys_of_a_majority() {
    let mut lab = watched(1);
    // Of the two who may vote, one is gone.
    lab.watch[0].kill_daemon();
    lab.power_off(0);
    wait_until("the standby has voted", || !votes(&lab).is_empty());
    let own = votes(&lab).into_iter().find(|key| key.ends_with("/web-2")).unwrap();
    let vote = lab.object(&own);
    let at = |name: &str| own.replace("/web-2", &format!("/{name}"));
    // The standby's vote at the other watcher's place and at nobody's; with the other one's name; and no vote at all.
    lab.put_object(&at("watch-1"), &vote);
    lab.put_object(&at("watch-9"), &vote.replace("\"web-2\"", "\"watch-9\""));
    lab.put_object(&at("web-3"), "{}");
    std::thread::sleep(Duration::from_secs(5));
    assert!(!lab.serves(1), "one vote of two is no majority");
    lab.put_object(&at("watch-1"), &vote.replace("\"web-2\"", "\"watch-1\""));
    std::thread::sleep(Duration::from_secs(5));
    assert!(!lab.serves(1), "a forged vote counts for nothing");
    // The other watcher writes its own over what was put at its place.
    lab.watch[0].start_daemon();
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    lab.power_on(0);
    lab.web[0].start_daemon();
    wait_until("the old primary follows", || lab.web[0].phase().as_deref() == Some("standby"));
    lab.check(1);
}
