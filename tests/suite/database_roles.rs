//! The roles of a store's server on two hosts, with real servers and the real binary: who takes writes, what a
//! promotion and a switchover keep, and that a fence holds whatever was killed.

use crate::support::command::{ok, said};
use crate::support::database_host::{DatabaseDuo, DatabaseHost, Writers, customer};
use crate::support::mariadb::MariaDb;
use crate::support::servers::free_port;
use crate::support::wait::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn is_there(id: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    // One that nobody waits for has ended all the same.
    status.starts_with("Name:\tmariadbd") && !status.contains("\nState:\tZ")
}

fn insert(host: &DatabaseHost, name: &str) -> Result<String, String> {
    host.customer(&format!("INSERT INTO shop.orders VALUES ('{name}', '')"))
}

/// Returns which of these orders a host does not have.
fn missing(host: &DatabaseHost, orders: &[String]) -> Vec<String> {
    let there = host.sql("SELECT id FROM shop.orders");
    let there: std::collections::BTreeSet<&str> = there.lines().collect();
    orders.iter().filter(|order| !there.contains(order.as_str())).cloned().collect()
}

#[test]
fn a_promoted_replica_has_all_that_it_received_and_the_old_primary_follows_it() {
    let duo = DatabaseDuo::start();
    let (one, two) = (&duo.one, &duo.two);
    assert_eq!(one.status().1["replica"]["state"], "serving");
    for number in 0..50 {
        insert(one, &format!("first-{number}")).unwrap();
    }
    one.sql("CREATE EVENT shop.tick ON SCHEDULE EVERY 1 HOUR DO DO 1");
    duo.wait_until_equal(one, two);
    // Customers do not reach the replica.
    assert!(insert(two, "nobody").unwrap_err().contains("2002"));
    assert_eq!(two.sql("SELECT STATUS FROM information_schema.EVENTS"), "SLAVESIDE_DISABLED");
    let server = one.server();
    assert!(one.ordered(&["fence"], &[("UNDERSTUDY_EPOCH", "2")]).contains("was ended"));
    assert!(!is_there(server) && insert(one, "late").is_err());
    let begun = Instant::now();
    let printed = two.ordered(&["promote"], &[("UNDERSTUDY_EPOCH", "2")]);
    let promoted = begun.elapsed();
    insert(two, "second").unwrap();
    println!("promoted after {promoted:?}, first write after {:?}", begun.elapsed());
    assert!(printed.lines().last().unwrap().starts_with("position "), "{printed}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let variables = "SELECT @@read_only, @@event_scheduler, @@sync_binlog, @@innodb_flush_log_at_trx_commit, @@gtid_domain_id < 900";
    assert_eq!(two.sql(variables), "0\tON\t1\t1\t1");
    assert_eq!(two.sql("SELECT STATUS FROM information_schema.EVENTS"), "ENABLED");
    assert_eq!(two.sql("SELECT COUNT(*) FROM shop.orders"), "51");
    // Again is done already, and an older epoch does nothing.
    let again = two.ordered(&["promote"], &[("UNDERSTUDY_EPOCH", "2")]);
    assert_eq!(again.lines().last(), printed.lines().last());
    let old = two.order(&["promote"], &[("UNDERSTUDY_EPOCH", "1")]);
    assert!(old.status.code() == Some(5) && said(&old).contains("has seen epoch 2"), "{old:?}");
    // The old primary stays down until it is told what it is.
    assert_eq!((one.state().as_str(), one.status().0), ("fenced", 5));
    let old = one.order(&["promote"], &[("UNDERSTUDY_EPOCH", "1")]);
    assert_eq!(old.status.code(), Some(5), "{old:?}");
    one.ordered(&["demote"], &[("UNDERSTUDY_EPOCH", "2")]);
    one.wait_for_state("following");
    insert(two, "third").unwrap();
    duo.wait_until_equal(two, one);
    assert_eq!(one.sql("SELECT @@read_only, @@event_scheduler"), "1\tOFF");
    wait_until("nothing of it is there alone", || one.note()["was_primary"] == false);
    // And back.
    two.ordered(&["fence"], &[("UNDERSTUDY_EPOCH", "3")]);
    one.ordered(&["promote"], &[("UNDERSTUDY_EPOCH", "3")]);
    insert(one, "fourth").unwrap();
    two.ordered(&["demote"], &[("UNDERSTUDY_EPOCH", "3")]);
    two.wait_for_state("following");
    duo.wait_until_equal(one, two);
}

#[test]
fn a_switchover_under_writers_loses_nothing() {
    let duo = DatabaseDuo::start();
    let (one, two) = (&duo.one, &duo.two);
    let port = Arc::new(AtomicU64::new(one.port.into()));
    let writers = Writers::start(4, &port);
    wait_until("they write", || writers.acknowledged() > 200);
    let begun = Instant::now();
    let printed = one.ordered(&["fence"], &[("UNDERSTUDY_EPOCH", "1"), ("UNDERSTUDY_FENCE", "planned")]);
    let position = printed.lines().last().unwrap().strip_prefix("position ").unwrap().to_owned();
    let fenced = begun.elapsed();
    // It says no to whoever is still there.
    assert!(insert(one, "late").unwrap_err().contains("1290"));
    two.ordered(&["wait", &position], &[]);
    two.ordered(&["promote", "--position", &position], &[("UNDERSTUDY_EPOCH", "2")]);
    let closed = begun.elapsed();
    port.store(two.port.into(), Ordering::SeqCst);
    let before = writers.acknowledged();
    wait_until("they write on", || writers.acknowledged() > before + 200);
    one.ordered(&["fence"], &[("UNDERSTUDY_EPOCH", "2")]);
    one.ordered(&["demote"], &[("UNDERSTUDY_EPOCH", "2")]);
    let acknowledged = writers.end();
    println!("fenced after {fenced:?}, open again after {closed:?}, {} acknowledged", acknowledged.len());
    assert_eq!(missing(two, &acknowledged), Vec::<String>::new());
    assert!(!missing(two, &["late".into()]).is_empty());
    one.wait_for_state("following");
    duo.wait_until_equal(two, one);
}

#[test]
fn a_handover_that_is_cancelled_leaves_the_server_writable() {
    let duo = DatabaseDuo::start();
    let one = &duo.one;
    one.ordered(&["fence", "--planned"], &[]);
    assert!(insert(one, "held").unwrap_err().contains("1290"));
    assert_eq!(one.state(), "fenced");
    one.ordered(&["promote"], &[]);
    insert(one, "on").unwrap();
    duo.wait_until_equal(one, &duo.two);
    // Nothing is promoted before it has what a handover names.
    let position = format!("{}-1-999999", one.sql("SELECT @@gtid_domain_id"));
    let refused = duo.two.order(&["promote", "--position", &position], &[("UNDERSTUDY_EPOCH", "2")]);
    assert!(
        refused.status.code() == Some(4) && said(&refused).contains("the handover ends at"),
        "{refused:?}"
    );
    insert(one, "still").unwrap();
    duo.wait_until_equal(one, &duo.two);
}

#[test]
fn whatever_is_killed_in_a_promotion_the_next_try_ends_it() {
    let mut duo = DatabaseDuo::start();
    let port = Arc::new(AtomicU64::new(duo.one.port.into()));
    let writers = Writers::start(2, &port);
    wait_until("they write", || writers.acknowledged() > 50);
    duo.one.ordered(&["fence", "--planned"], &[]);
    let acknowledged = writers.end();
    let position = duo.one.sql("SELECT @@gtid_binlog_pos");
    let two = &mut duo.two;
    for (round, pause) in [0, 20, 60, 120, 200, 300, 450, 700].into_iter().enumerate() {
        let mut command = two.host.command(&["database", "promote", "acme", "--position", &position]);
        let mut order =
            command.env("UNDERSTUDY_EPOCH", "2").stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        match round % 2 {
            0 => {
                two.kill_supervisor();
                let id = two.server();
                wait_until("its server ends", || !is_there(id));
                two.supervise();
            }
            _ => {
                let id = two.server();
                if is_there(id) {
                    let _ = kill_process(Pid::from_raw(id).unwrap(), Signal::KILL);
                }
            }
        }
        let _ = order.kill();
        let _ = order.wait();
    }
    wait_until("an order is taken", || {
        two.order(&["promote", "--position", &position], &[("UNDERSTUDY_EPOCH", "2")]).status.success()
    });
    insert(two, "on").unwrap();
    assert_eq!(missing(two, &acknowledged), Vec::<String>::new());
    assert_eq!(two.sql("SHOW ALL SLAVES STATUS"), "");
    duo.one.ordered(&["fence"], &[]);
    duo.one.ordered(&["demote"], &[("UNDERSTUDY_EPOCH", "2")]);
    duo.one.wait_for_state("following");
    duo.wait_until_equal(&duo.two, &duo.one);
}

#[test]
fn a_fence_needs_no_supervisor_and_nothing_opens_after_it() {
    let mut duo = DatabaseDuo::start();
    let one = &mut duo.one;
    // A supervisor that hangs.
    let id = one.server();
    one.signal(Signal::STOP);
    let begun = Instant::now();
    one.ordered(&["fence"], &[]);
    println!("fenced after {:?}", begun.elapsed());
    assert!(!is_there(id) && begun.elapsed() < Duration::from_secs(3));
    one.signal(Signal::CONT);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((one.state().as_str(), insert(one, "no").is_err()), ("fenced", true));
    one.ordered(&["promote"], &[]);
    insert(one, "yes").unwrap();
    // A server that has lost its supervisor, and what would have ended it.
    let id = one.server();
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    one.signal(Signal::STOP);
    kill_process(Pid::from_raw(parent).unwrap(), Signal::KILL).unwrap();
    one.kill_supervisor();
    assert!(is_there(id));
    insert(one, "orphan").unwrap();
    one.ordered(&["fence"], &[]);
    assert!(!is_there(id) && insert(one, "no").is_err());
    // Fenced stays fenced, whoever starts a supervisor.
    one.supervise();
    one.wait_for_state("fenced");
    assert!(!is_there(one.server()));
    // A replica is closed already, and goes on.
    let replica = duo.two.server();
    assert!(duo.two.ordered(&["fence"], &[]).contains("takes no writes"));
    assert!(is_there(replica) && duo.two.server() == replica);
}

#[test]
fn a_supervisor_that_starts_again_serves_on_only_in_the_same_boot() {
    let mut duo = DatabaseDuo::start();
    let one = &mut duo.one;
    insert(one, "before").unwrap();
    one.kill_supervisor();
    one.supervise();
    one.wait_for_state("serving");
    insert(one, "after").unwrap();
    one.kill_supervisor();
    let path = one.place().join("role.json");
    let mut note = one.note();
    note["boot"] = "another".into();
    std::fs::write(&path, note.to_string()).unwrap();
    one.supervise();
    one.wait_for_state("fenced");
    let said = one.status().1["replica"]["error"].as_str().unwrap().to_owned();
    assert!(said.contains("was started since"), "{said}");
    assert!(insert(one, "no").is_err() && !is_there(one.server()));
    one.ordered(&["promote"], &[]);
    insert(one, "yes").unwrap();
    duo.wait_until_equal(&duo.one, &duo.two);
}

#[test]
fn an_old_primary_that_is_ahead_is_named_and_nothing_of_it_is_thrown_away() {
    let duo = DatabaseDuo::start();
    let (one, two) = (&duo.one, &duo.two);
    insert(one, "both").unwrap();
    duo.wait_until_equal(one, two);
    two.ordered(&["promote"], &[("UNDERSTUDY_EPOCH", "2")]);
    // Nobody has fenced it yet.
    for number in 0..5 {
        insert(one, &format!("stranded-{number}")).unwrap();
    }
    insert(two, "new").unwrap();
    one.ordered(&["fence"], &[("UNDERSTUDY_EPOCH", "2")]);
    let printed = one.ordered(&["demote"], &[("UNDERSTUDY_EPOCH", "2")]);
    one.wait_for_state("broken");
    let again = one.ordered(&["demote"], &[("UNDERSTUDY_EPOCH", "2")]);
    assert!(again.contains("diverged") && again.contains("--reseed"), "{printed}{again}");
    let (code, status) = one.status();
    assert_eq!((code, &status["replica"]["trouble"]), (4, &"diverged".into()), "{status:#}");
    assert_eq!(one.sql("SELECT COUNT(*) FROM shop.orders WHERE id LIKE 'stranded%'"), "5");
    // It is no primary again by accident.
    let refused = one.order(&["promote"], &[("UNDERSTUDY_EPOCH", "3")]);
    assert!(refused.status.code() == Some(4) && said(&refused).contains("diverged"), "{refused:?}");
    assert!(said(&refused).contains("--accept-loss"), "{refused:?}");
}

#[test]
fn a_broken_replica_is_promoted_only_with_its_loss_accepted() {
    let duo = DatabaseDuo::start();
    let (one, two) = (&duo.one, &duo.two);
    insert(one, "row").unwrap();
    duo.wait_until_equal(one, two);
    two.sql("SET sql_log_bin=0; DELETE FROM shop.orders WHERE id = 'row'");
    one.sql("UPDATE shop.orders SET note = 'changed' WHERE id = 'row'");
    two.wait_for_state("broken");
    let refused = two.order(&["promote"], &[("UNDERSTUDY_EPOCH", "2")]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    assert!(said(&refused).contains("conflict") && said(&refused).contains("--reseed"), "{refused:?}");
    assert_eq!((two.state().as_str(), insert(two, "no").is_err()), ("broken", true));
    two.ordered(&["promote", "--accept-loss"], &[("UNDERSTUDY_EPOCH", "2")]);
    insert(two, "yes").unwrap();
}

#[test]
fn the_data_of_a_server_that_there_was_is_taken_over_with_its_history() {
    let mut server = MariaDb::primary();
    server.orders(30);
    let position = server.sql("SELECT @@gtid_binlog_pos");
    let repository = tempfile::tempdir().unwrap();
    let mut one =
        DatabaseHost::new(&repository.path().display().to_string(), "primary", free_port(), free_port());
    let path = one.host.path("understudy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let datadir = one.host.path("database").display().to_string();
    let text = text.replace(&datadir, &server.datadir().display().to_string());
    let socket = format!("[store.database]\nsocket = '{}'", server.socket().display());
    std::fs::write(&path, text.replace("[store.database]", &socket)).unwrap();
    // The account is the server's root here.
    std::fs::write(one.host.path("account.cnf"), "[client]\nuser=root\n").unwrap();
    ok(&mut one.host.command(&["resync", "acme", "--quiet"]));
    ok(&mut one.host.command(&["database", "found", "acme"]));
    // While it runs, nothing else is started on its data.
    one.supervise();
    let begun = Instant::now();
    while !one.log().contains("another server") {
        assert!(begun.elapsed().as_secs() < 60, "{}", one.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.sql("SELECT COUNT(*) FROM shop.orders"), "30");
    server.kill();
    wait_until("its supervisor has started it", || one.try_sql("SELECT 1").is_ok());
    one.ordered(&["promote"], &[]);
    one.sql("INSERT INTO shop.orders (total) VALUES (7)");
    assert_eq!(one.sql("SELECT COUNT(*) FROM shop.orders"), "31");
    // Its transactions go on where they were.
    let number = |position: &str| position.rsplit('-').next().unwrap().parse::<u64>().unwrap();
    let now = one.sql("SELECT @@gtid_binlog_pos");
    assert_eq!(number(&now), number(&position) + 1, "{position} {now}");
}

#[test]
fn only_the_supervisor_s_user_and_root_give_orders() {
    let duo = DatabaseDuo::start();
    let one = &duo.one;
    let (place, id) = (one.place(), one.server());
    assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
    // The way there is open, and so is the directory, by somebody's mistake.
    for path in place.ancestors().take_while(|path| path.starts_with(one.host.dir.path())) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let socket = place.join("orders.socket");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o777)).unwrap();
    let ask = format!(
        "import os, socket\nos.setgid(65534); os.setuid(65534)\ns = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect('{}')\n\
         try: s.sendall(b'{{\"what\": \"hand\", \"fences\": 0}}\\n'); print('answered', s.recv(1000))\nexcept ConnectionError: print('answered', b'')",
        socket.display()
    );
    let output = std::process::Command::new("python3").args(["-c", &ask]).output().unwrap();
    assert!(said(&output).contains("answered b''"), "{output:?}");
    // Nor does a command of another user's end it.
    let fence = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_understudy")])
        .args(["database", "fence", "acme", "--directory", place.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!fence.status.success(), "{fence:?}");
    insert(one, "on").unwrap();
    assert_eq!((one.state().as_str(), one.server(), is_there(id)), ("serving", id, true));
    // The replica's rows are read by nobody who may not.
    assert!(customer(duo.two.port, "SELECT 1").is_err());
}

#[test]
fn a_server_that_takes_no_row_does_not_serve_and_one_that_is_locked_for_a_backup_does() {
    let duo = DatabaseDuo::start();
    let one = &duo.one;
    let position = one.sql("SELECT @@gtid_binlog_pos");
    let beat = || one.sql("SELECT beat FROM mysql.understudy_heartbeat");
    let first = beat();
    wait_until("another row is written", || beat() != first);
    assert_eq!(one.sql("SELECT @@gtid_binlog_pos"), position, "and nothing is logged for it");
    one.sql("SET GLOBAL read_only=1");
    one.wait_for_state("waiting");
    let (_, status) = one.status();
    assert!(status["replica"]["error"].as_str().unwrap().contains("SET GLOBAL read_only=0"), "{status:#}");
    one.sql("SET GLOBAL read_only=0");
    one.wait_for_state("serving");
    let locked = beat();
    std::thread::scope(|scope| {
        let backup = scope.spawn(|| one.sql("FLUSH TABLES WITH READ LOCK; SELECT SLEEP(12)"));
        while !backup.is_finished() {
            assert_eq!(one.state(), "serving", "{:#}", one.status().1);
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    wait_until("another row is written", || beat() != locked);
}
