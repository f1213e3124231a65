//! The failover of a store's database, with the real daemons, the real servers and no command configured.

use crate::support::command::{ok, said};
use crate::support::database_host::{DatabaseHost, Writers};
use crate::support::database_pair::{DatabasePair, has_all, history, kill_daemon, status};
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

/// Changes a host's configuration, and starts its daemon again.
fn reconfigure(host: &mut DatabaseHost, change: impl FnOnce(String) -> String) {
    let path = host.host.path("understudy.toml");
    let text = change(std::fs::read_to_string(&path).unwrap());
    std::fs::write(&path, text).unwrap();
    kill_daemon(host);
    host.host.start();
}

#[test]
fn a_store_goes_back_to_a_point_with_files_and_database_and_what_came_after_is_kept() {
    let mut pair = DatabasePair::start("mode = 'both'\n");
    let rule = "[[store.database.media]]\nschema = 'shop'\nquery = 'SELECT note FROM orders'\npath = 'media/{value}'\n";
    reconfigure(&mut pair.two, |text| text.replace("name = 'acme'\n", "name = 'acme'\npath = 's1'\n") + rule);
    std::fs::remove_dir_all(pair.two.host.path("s1")).ok();
    pair.wait_for_primary(&pair.one, &pair.two);
    let (one, two) = (&pair.one, &pair.two);
    let media = one.host.path("s0/media");
    std::fs::create_dir(&media).unwrap();
    let order = |name: &str| {
        std::fs::write(media.join(name), name).unwrap();
        one.customer(&format!("INSERT INTO shop.orders VALUES ('{name}', '{name}')")).unwrap();
    };
    ["a", "b", "c"].into_iter().for_each(order);
    let position = one.sql("SELECT @@gtid_binlog_pos");
    let resynced = ok(&mut one.host.command(&["resync", "acme", "--json"]));
    let resynced: serde_json::Value = serde_json::from_slice(&resynced.stdout).unwrap();
    let snapshot = resynced["snapshot"].as_u64().unwrap();
    let point = format!("@{snapshot}");
    // It is emptied, and defaced, and the standby replicates that as well.
    one.customer("DELETE FROM shop.orders").unwrap();
    ["a", "b"].iter().for_each(|name| std::fs::remove_file(media.join(name)).unwrap());
    order("defaced");
    ok(&mut one.host.command(&["resync", "acme", "--accept", "--quiet"]));
    let last = one.sql("SELECT @@gtid_binlog_pos");
    wait_until("it is replicated", || two.sql("SELECT @@gtid_slave_pos").contains(&last));
    let reachable = || {
        let points = ok(&mut two.host.command(&["points", "acme", "--json"]));
        let points: serde_json::Value = serde_json::from_slice(&points.stdout).unwrap();
        let of = points.as_array().unwrap().iter().find(|of| of["snapshot"] == snapshot).unwrap().clone();
        of["reachable"] == true && of["position"] == position.as_str()
    };
    wait_until("it is archived", reachable);
    let shown = said(&ok(&mut two.host.command(&["failover", "acme", "--at", &point, "--dry-run"])));
    assert!(shown.contains(&format!("it goes back to {position}; 2 transactions behind")), "{shown}");
    assert!(shown.contains(&format!("since snapshot {snapshot} was taken")), "{shown}");
    // Nothing was done: the replica follows on.
    assert_eq!(two.sql("SELECT id FROM shop.orders"), "defaced");
    let unconfirmed = two.host.command(&["failover", "acme", "--at", &point]).output().unwrap();
    assert!(!unconfirmed.status.success(), "{}", said(&unconfirmed));
    ok(&mut two.host.command(&["failover", "acme", "--at", &point, "--yes", "--person", "ada"]));
    two.wait_for_state("serving");
    assert_eq!(two.sql("SELECT id FROM shop.orders ORDER BY id"), "a\nb\nc");
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&two.host.path("s1/media")), ["a", "b", "c"]);
    two.customer("INSERT INTO shop.orders VALUES ('after', 'a')").unwrap();
    std::fs::write(two.host.path("s1/media/after"), "after").unwrap();
    // The decision says what was lost, and where the database went on.
    let history = history(two);
    let promoted = history.iter().rev().find(|row| row["kind"] == "promoted").unwrap();
    assert!(
        promoted["what"].as_str().unwrap().contains(&format!("the database to {position}")),
        "{promoted:#}"
    );
    assert_eq!(promoted["decision"]["loss"]["transactions"], 2, "{promoted:#}");
    assert_eq!(two.status().1["replica"]["branch"], position.as_str());
    // The replica's data is kept, whole, with all that was replicated.
    let kept = names(&two.host.path("."));
    let kept: Vec<&String> = kept.iter().filter(|name| name.starts_with("database.stranded-")).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(two.host.path(kept[0]).join("data/ibdata1").exists());
    assert!(!two.host.path(&format!("database.at-{snapshot}")).exists());
    // The former primary has closed, and what only it has is listed as stranded.
    pair.wait_for_primary(two, one);
    assert!(one.customer("SELECT 1").is_err());
    let stranded = said(&ok(&mut one.host.command(&["database", "stranded", "acme"])));
    assert!(stranded.contains("shop.orders"), "{stranded}");
    let listed = said(&ok(&mut two.host.command(&["stranded", "list", "acme"])));
    assert!(listed.contains("1 added") || listed.contains("media") || listed.contains('1'), "{listed}");
    // What the database names is compared with the files, once customers are served.
    wait_until("media were compared", || status(two)["media"]["named"] == 3);
    assert_eq!(status(two)["media"]["missing"], 0);
    // The daemon starts again, and goes back to nothing any more.
    kill_daemon(&mut pair.two);
    pair.two.host.start();
    pair.wait_for_primary(&pair.two, &pair.one);
    assert!(pair.two.sql("SELECT id FROM shop.orders").contains("after"));
    // With a seed, the archive goes on; what was cut off is no point any more, and is said to be that.
    ok(&mut pair.two.host.command(&["database", "seed", "acme", "--quiet"]));
    let archive = || pair.two.host.store("acme")["database"]["archive"].clone();
    wait_until(&format!("the new primary archives: {:#}", archive()), || archive()["epoch"] == 2);
    pair.two.customer("INSERT INTO shop.orders VALUES ('later', 'a')").unwrap();
    wait_until("what was cut off is said to be that", || {
        let points = said(&ok(&mut pair.two.host.command(&["points", "acme"])));
        points.contains("cut off: the primary of epoch 2 never had it")
    });
}
