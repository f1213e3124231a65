//! The archive of a database and its restore to any moment, with real MariaDB servers and the real binary.
//!
//! In the table `shop.counter` each transaction adds one, so that a database at the n-th transaction says so.

use crate::support::archived::{Archived, PLAIN, counting, host, segments};
use crate::support::command::{ok, said};
use crate::support::dice::Dice;
use crate::support::mariadb::{FIT, GRANTS, MariaDb};
use crate::support::rig;
use crate::support::wait::wait_until;
use object_store::ObjectStore;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use understudy::format::binlog_event::{FILE_MAGIC, Step};
use understudy::format::binlog_segment::{Chain, Link, SegmentPlace};
use understudy::model::gtid::Gtid;
use understudy::model::id::{Epoch, StoreName, WriterId};
use understudy::model::record::Event;
use understudy::repository::append::Appended;
use understudy::repository::binlog::Line;
use understudy::repository::key_source::KeySource;
use understudy::repository::store::{Repository, RepositoryOptions, Store};

/// Returns a store of an unencrypted repository, opened by the library.
fn store(repository: &Path, name: &str) -> Store {
    let local = object_store::local::LocalFileSystem::new_with_prefix(repository).unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::new(local);
    let options = RepositoryOptions { keys: KeySource::none(), ..Default::default() };
    Repository::over(objects, "test", options, rig::runtime()).store(&StoreName::parse(name).unwrap())
}

/// Reads a whole history, checks it, and returns its transactions and the files that its events make.
fn read_all(store: &Store) -> (Line, Vec<Gtid>, BTreeMap<String, Vec<u8>>) {
    let line = store.binlog().line().unwrap();
    let first = &line.0[0];
    let mut chain: Option<Chain> = None;
    let (mut gtids, mut files) = (Vec::new(), BTreeMap::<String, Vec<u8>>::new());
    for place in line.from(SegmentPlace { epoch: first.epoch, number: first.first }) {
        let stored = store.binlog().read(place).unwrap();
        let chain = chain.get_or_insert_with(|| Chain::before(&stored.segment.header, None));
        chain
            .read(stored.this, &stored.segment, &mut |told| {
                let file = files
                    .entry(told.part.file.clone())
                    .or_insert_with(|| [&FILE_MAGIC[..], &told.part.format.bytes].concat());
                file.extend(told.bytes);
                if let Step::Ends(ended) = told.step {
                    gtids.push(ended.gtid);
                }
            })
            .unwrap_or_else(|error| panic!("{place:?}: {error}"));
    }
    (line, gtids, files)
}

fn check_consecutive(gtids: &[Gtid], after: u64) {
    let numbers: Vec<u64> = gtids.iter().map(|gtid| gtid.number).collect();
    let wanted: Vec<u64> = (after + 1..=after + numbers.len() as u64).collect();
    assert_eq!(numbers, wanted);
}

#[test]
fn archived_files_are_those_of_the_server_byte_for_byte_and_mariadb_binlog_reads_them() {
    let mut archived = Archived::new(PLAIN, "");
    archived.start();
    archived.count(50);
    archived.wait_until_archived();
    archived.server.sql("FLUSH BINARY LOGS");
    archived.count(30);
    archived.server.sql(
        "CREATE TABLE shop.kinds (id INT PRIMARY KEY) ENGINE=MyISAM; INSERT INTO shop.kinds VALUES (1), (2); \
         CREATE TABLE shop.copy AS SELECT * FROM shop.kinds; XA START 'a'; INSERT INTO shop.copy VALUES (9); XA END 'a'; \
         XA PREPARE 'a'; XA COMMIT 'a'; BEGIN; INSERT INTO shop.kinds VALUES (3); INSERT INTO shop.copy VALUES (3); ROLLBACK; \
         CREATE USER one@two; ALTER TABLE shop.copy ADD COLUMN x INT; TRUNCATE shop.kinds; FLUSH BINARY LOGS;",
    );
    archived.count(3);
    archived.wait_until_archived();
    assert_eq!(archived.signal(Signal::TERM), Some(0));
    let (_, gtids, files) = read_all(&store(archived.repository.path(), "acme.database"));
    check_consecutive(&gtids, archived.base);
    assert_eq!(gtids.last().unwrap().number, archived.number());
    let raw = tempfile::tempdir().unwrap();
    ok(Command::new("mariadb-binlog")
        .args(["--no-defaults", "-uroot", "--read-from-remote-server", "--raw", "--to-last-log"])
        .arg(format!("--socket={}", archived.server.socket().display()))
        .arg(format!("--result-file={}/", raw.path().display()))
        .arg("bin.000001"));
    let mut compared = 0;
    for (name, ours) in &files {
        let theirs = std::fs::read(archived.server.datadir().join(name)).unwrap();
        // The first one begins with the seed, in mid-file.
        if compared == 0 {
            let tail = &ours[260..];
            assert!(theirs.ends_with(tail) && tail.len() > 10_000, "{name}");
        }
        for theirs in [theirs, std::fs::read(raw.path().join(name)).unwrap()] {
            let mut theirs = theirs;
            // The mark that the server has not closed it.
            theirs[21] &= !1;
            assert!(compared == 0 || *ours == theirs, "{name}: {} {}", ours.len(), theirs.len());
        }
        let file = raw.path().join(format!("ours-{name}"));
        std::fs::write(&file, ours).unwrap();
        let read = ok(Command::new("mariadb-binlog").arg("--no-defaults").arg(&file));
        let read = String::from_utf8_lossy(&read.stdout).into_owned();
        assert!(!read.contains("Heartbeat") && read.contains("GTID 1-11-"), "{read}");
        compared += 1;
    }
    assert_eq!(compared, 3, "{:?}", files.keys());
}

#[test]
fn an_idle_server_costs_nothing_and_a_busy_one_a_segment_a_second() {
    let mut archived = Archived::new("", "");
    archived.start();
    archived.wait_for("it follows", |report| report["state"] == "following");
    assert_eq!(archived.segments(0).len(), 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        archived.count(2);
        std::thread::sleep(Duration::from_millis(50));
    }
    archived.wait_until_archived();
    let count = archived.segments(0).len();
    assert!((3..=7).contains(&count), "{count}");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(archived.segments(0).len(), count);
    let report = archived.report();
    assert_eq!((&report["lag_seconds"], &report["number"]), (&0.0.into(), &count.into()), "{report:#}");
}

#[test]
fn an_archiver_that_is_killed_at_any_step_goes_on_without_a_gap_or_a_duplicate() {
    let mut archived = Archived::new(PLAIN, "");
    let steps = ["opened", "asked", "sealed", "put", "next file", "full"];
    for step in steps {
        archived.start_with(step);
        let begun = Instant::now();
        while archived.archiver.as_mut().unwrap().try_wait().unwrap().is_none() {
            archived.count(3);
            if step == "full" {
                archived.server.sql(
                    "INSERT INTO shop.orders (total, note) SELECT seq, REPEAT('y', 190) FROM shop.seq_1_to_40000",
                );
            }
            archived.server.sql("FLUSH BINARY LOGS");
            assert!(begun.elapsed().as_secs() < 30, "{step}: {}", archived.host.log());
        }
    }
    let mut dice = Dice::new(5);
    for round in 0..8u64 {
        archived.start();
        archived.count(20);
        std::thread::sleep(Duration::from_millis(dice.below(1500)));
        archived.count(20);
        match round % 4 {
            0 => {
                archived.server.kill();
                archived.server.begin();
            }
            1 => {
                archived.server.kill();
                archived.signal(Signal::KILL);
                archived.server.begin();
                continue;
            }
            _ => {}
        }
        archived.signal(Signal::KILL);
    }
    archived.archive_all();
    let (line, gtids, _) = read_all(&store(archived.repository.path(), "acme.database"));
    check_consecutive(&gtids, archived.base);
    assert_eq!(gtids.last().unwrap().number, archived.number());
    assert_eq!(line.0.len(), 1);
    let segments = archived.segments(0);
    assert_eq!(line.0[0].last, segments.len() as u64, "{segments:?}");
}

#[test]
fn while_the_repository_is_away_nothing_is_lost_and_a_second_archiver_is_refused() {
    let mut archived = Archived::new(PLAIN, "");
    archived.start();
    archived.count(5);
    archived.wait_until_archived();
    let output = archived.host.command(&["database", "archive", "acme"]).output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("another process"), "{output:?}");
    let (there, away) =
        (archived.repository.path().join("acme.database"), archived.repository.path().join("away"));
    std::fs::rename(&there, &away).unwrap();
    std::fs::write(&there, "no directory").unwrap();
    archived.count(5);
    archived.server.sql("FLUSH BINARY LOGS");
    archived.count(5);
    archived.wait_for("it waits", |report| report["state"] == "waiting");
    std::fs::remove_file(&there).unwrap();
    std::fs::rename(&away, &there).unwrap();
    archived.wait_until_archived();
    let (_, gtids, _) = read_all(&store(archived.repository.path(), "acme.database"));
    check_consecutive(&gtids, archived.base);
    assert_eq!(gtids.len(), 15);
}

#[test]
fn binary_logs_that_are_gone_are_a_gap_that_a_new_seed_ends() {
    let mut archived = Archived::new("", "");
    archived.count(5);
    archived.archive_all();
    let before = archived.number();
    archived.count(5);
    archived.server.sql("FLUSH BINARY LOGS");
    archived.count(5);
    wait_until("they are deleted", || {
        let last = archived.server.sql("SHOW MASTER STATUS");
        archived.server.sql(&format!("PURGE BINARY LOGS TO '{}'", last.split('\t').next().unwrap()));
        archived.server.sql("SHOW BINARY LOGS").lines().count() == 1
    });
    archived.start();
    let report = archived.wait_for("it is broken", |report| report["state"] == "broken");
    assert_eq!(report["trouble"], "gone", "{report:#}");
    assert!(report["error"].as_str().unwrap().contains("database seed acme"), "{report:#}");
    let status = archived.host.command(&["database", "status", "acme"]).output().unwrap();
    assert!(status.status.code() == Some(4) && said(&status).contains("gone"), "{status:?}");
    archived.seed();
    archived.count(5);
    archived.wait_until_archived();
    // On either side of the gap it is restored, and not across it.
    archived.check_restore_to(before);
    archived.check_restore_to(archived.number() - 2);
    let output = archived.restore(&format!("1-11-{}", before + 3), "no");
    assert!(said(&output).contains(&format!("between 1-11-{before} and")), "{output:?}");
    assert!(!archived.host.path("no").exists());
}

#[test]
fn an_archive_restored_to_any_transaction_is_the_primary_at_it() {
    let mut archived = Archived::new("", "");
    archived.start();
    for _ in 0..6 {
        archived.count(40);
        std::thread::sleep(Duration::from_millis(700));
    }
    archived.server.sql("FLUSH BINARY LOGS");
    archived.count(20);
    archived.wait_until_archived();
    let mut dice = Dice::new(7);
    let last = archived.number();
    for number in [archived.base, archived.base + 1, archived.base + 1 + dice.below(last - archived.base - 1)]
    {
        archived.check_restore_to(number);
    }
    // Another seed on the way is taken where it is nearer.
    archived.seed();
    archived.count(10);
    archived.wait_until_archived();
    archived.check_restore_to(last + 4);
    archived.check_restore_to(last - 4);
    archived.check_latest();
    for (to, with) in [
        (format!("1-11-{}", last + 99), "is not in the archive"),
        ("1-11-1".into(), "no seed"),
        ("1-12-9".into(), "is not in the archive"),
        ("soon".into(), "no moment"),
    ] {
        let output = archived.restore(&to, "no");
        assert!(!output.status.success() && said(&output).contains(with), "{to}: {output:?}");
        assert!(!archived.host.path("no").exists());
    }
}

impl Archived {
    fn check_latest(&self) {
        let server = self.restored("latest", "latest");
        let tables = "CHECKSUM TABLE shop.orders, shop.counter";
        assert_eq!(server.sql(tables), self.server.sql(tables));
        assert_eq!(server.sql("SELECT @@gtid_slave_pos"), self.position());
    }
}

#[test]
#[ignore = "takes an hour"]
fn an_archive_restored_to_two_hundred_random_transactions_is_the_primary_at_each() {
    let mut archived = Archived::new("", "");
    archived.start();
    for round in 0..40 {
        archived.count(50);
        if round % 10 == 5 {
            archived.server.sql("FLUSH BINARY LOGS");
        }
        if round == 20 {
            archived.seed();
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    archived.wait_until_archived();
    let mut dice = Dice::new(11);
    for round in 1..=200 {
        let number = archived.base + dice.below(archived.number() - archived.base + 1);
        archived.check_restore_to(number);
        println!("{round} of 200: equal at 1-11-{number}");
    }
}

#[test]
fn a_restore_to_a_time_has_what_was_committed_by_then_and_nothing_later() {
    let mut archived = Archived::new("", "");
    archived.start();
    archived.count(10);
    // Times are in seconds.
    std::thread::sleep(Duration::from_millis(1100));
    let time = archived.server.sql("SET time_zone='+00:00'; SELECT DATE_FORMAT(NOW(), '%Y-%m-%dT%H:%i:%s')");
    let number = archived.number();
    std::thread::sleep(Duration::from_millis(1100));
    archived.count(10);
    archived.wait_until_archived();
    let server = archived.restored(&time, "then");
    assert_eq!(server.sql("SELECT value FROM shop.counter"), "10");
    assert_eq!(server.sql("SELECT @@gtid_slave_pos"), format!("1-11-{number}"));
    let output = archived.restore("2020-01-01T00:00", "no");
    assert!(output.status.code() == Some(2) && said(&output).contains("no seed is that old"), "{output:?}");
}

#[test]
fn a_transaction_larger_than_a_segment_is_archived_and_restored_whole() {
    let mut archived = Archived::new("", "max-allowed-packet=64M\n");
    archived.server.sql("CREATE TABLE shop.large (id INT AUTO_INCREMENT PRIMARY KEY, text LONGTEXT)");
    archived.start();
    archived.count(3);
    let before = archived.number();
    // A restore from it begins with the large transaction, which is in several segments.
    archived.seed();
    archived.server.sql(
        "BEGIN; INSERT INTO shop.large (text) SELECT REPEAT(MD5(RAND()), 3000) FROM shop.seq_1_to_400; \
         INSERT INTO shop.large (text) VALUES (REPEAT(UUID(), 700000)); COMMIT;",
    );
    archived.count(3);
    archived.wait_until_archived();
    assert!(archived.segments(0).len() >= 4, "{:?}", archived.segments(0));
    let server = archived.restored("latest", "all");
    let tables = "CHECKSUM TABLE shop.large, shop.orders";
    assert_eq!(server.sql(tables), archived.server.sql(tables));
    for (number, rows) in [(before, "0"), (before + 1, "401")] {
        let server = archived.restored(&format!("1-11-{number}"), "there");
        assert_eq!(server.sql("SELECT COUNT(*) FROM shop.large"), rows);
    }
}

#[test]
fn segments_that_are_cut_flipped_missing_or_exchanged_are_found_and_named() {
    for more in ["", PLAIN] {
        check_damage(more);
    }
}

/// Harms the segment at a path, whose bytes these are.
type Harm<'a> = dyn Fn(&Path, &[u8]) + 'a;

fn check_damage(more: &str) {
    let mut archived = Archived::new(more, "");
    archived.start();
    for _ in 0..4 {
        archived.count(5);
        archived.wait_until_archived();
    }
    archived.signal(Signal::TERM);
    let segments = archived.segments(0);
    assert!(segments.len() >= 4);
    let (one, two) = (&segments[1], &segments[2]);
    let (first, second) = (std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
    let name = |path: &Path| format!("{:020}/{}", 0, path.file_name().unwrap().to_str().unwrap());
    let cut = |path: &Path, bytes: &[u8]| std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    let flip = |path: &Path, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let remove = |path: &Path, _: &[u8]| std::fs::remove_file(path).unwrap();
    let exchange = |_: &Path, _: &[u8]| {
        std::fs::write(one, &second).unwrap();
        std::fs::write(two, &first).unwrap();
    };
    // An earlier one stands in its place.
    let repeat = |path: &Path, _: &[u8]| {
        std::fs::copy(&segments[0], path).unwrap();
    };
    let harms: [(&str, &Harm<'_>); 5] = [
        ("cut", &cut),
        ("flipped", &flip),
        ("missing", &remove),
        ("exchanged", &exchange),
        ("repeated", &repeat),
    ];
    for (what, harm) in harms {
        for (path, bytes) in [(one, &first), (two, &second)] {
            harm(path, bytes);
            let names = |output: &std::process::Output| {
                let said = said(output);
                said.contains(&name(path))
                    || what == "exchanged" && [one, two].iter().any(|path| said.contains(&name(path)))
            };
            let output = archived.restore("latest", "no");
            assert!(output.status.code() == Some(1) && names(&output), "{what} {path:?}: {output:?}");
            assert!(!archived.host.path("no").exists(), "{what}");
            let full = archived.host.command(&["verify", "acme.database", "--read-data"]).output().unwrap();
            assert!(full.status.code() == Some(1) && names(&full), "{what} {path:?}: {full:?}");
            for (path, bytes) in [(one, &first), (two, &second)] {
                std::fs::write(path, bytes).unwrap();
            }
        }
    }
    // A gap is found without reading.
    std::fs::remove_file(one).unwrap();
    let quick = archived.host.command(&["verify", "acme.database"]).output().unwrap();
    assert!(quick.status.code() == Some(1) && said(&quick).contains("is missing"), "{quick:?}");
    std::fs::write(one, &first).unwrap();
    ok(&mut archived.host.command(&["verify", "acme.database", "--read-data"]));
    archived.check_latest();
}

#[test]
fn a_restore_that_is_killed_leaves_nothing_that_looks_whole_and_is_made_anew() {
    let mut archived = Archived::new("", "");
    archived.count(20);
    archived.archive_all();
    for step in ["begun", "seed restored", "server started", "applying", "applied"] {
        let mut command =
            archived.host.command(&["database", "restore", "acme", "--to", "latest", "--into", "it"]);
        let output = command.env("UNDERSTUDY_TEST_KILL_AT", step).output().unwrap();
        assert_eq!(output.status.code(), None, "{step}: {output:?}");
        assert!(!archived.host.path("it").exists(), "{step}");
    }
    archived.check_latest();
    assert!(!archived.host.path("latest.unfinished").exists());
    std::fs::create_dir(archived.host.path("full")).unwrap();
    std::fs::write(archived.host.path("full/mine"), "x").unwrap();
    let output = archived.restore("latest", "full");
    assert!(output.status.code() == Some(2) && said(&output).contains("not empty"), "{output:?}");
    std::fs::create_dir(archived.host.path("new.unfinished")).unwrap();
    std::fs::write(archived.host.path("new.unfinished/mine"), "x").unwrap();
    let output = archived.restore("latest", "new");
    assert!(output.status.code() == Some(2) && said(&output).contains("in the way"), "{output:?}");
}

#[test]
fn what_a_fenced_primary_still_commits_is_behind_the_branch_and_the_new_epoch_is_not_touched() {
    let mut one = Archived::new(PLAIN, "");
    let two = MariaDb::start(&format!("{FIT}log-slave-updates=1\n").replace("server-id=11", "server-id=12"));
    two.sql(&format!("GRANT {GRANTS} ON *.* TO understudy@'127.0.0.1'; RESET MASTER;"));
    two.sql(&format!(
        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, MASTER_USER='understudy', MASTER_PASSWORD='se''cret\\\\', MASTER_USE_GTID=slave_pos; START SLAVE",
        one.server.port
    ));
    one.start();
    one.count(30);
    one.wait_until_archived();
    let branch = one.number();
    wait_until("it has all", || two.sql("SELECT @@gtid_slave_pos") == one.position());
    two.sql("STOP SLAVE; RESET SLAVE ALL");
    // What the first one commits from here on, nobody else has.
    one.count(5);
    one.wait_until_archived();
    let acme = store(one.repository.path(), "acme");
    let mut state = acme.log().state().unwrap();
    let primary = WriterId("web-2".into());
    let event = Event::Promoted { primary: primary.clone() };
    assert!(matches!(acme.log().append(&mut state, &primary, event), Ok(Appended::Committed(_))));
    two.sql(&counting(8));
    let host = host(one.repository.path(), "web-2", PLAIN, &two);
    let mut other = Archived {
        server: two,
        host,
        archiver: None,
        repository: tempfile::tempdir().unwrap(),
        base: one.base,
    };
    other.archive_all();
    let new = segments(one.repository.path(), 1);
    let bytes: Vec<_> = new.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let old = one.segments(0).len();
    // It has not heard of it, goes on, and is told when it begins anew.
    one.count(2);
    wait_until("it is archived", || one.segments(0).len() > old);
    assert_eq!(one.signal(Signal::TERM), Some(0));
    let output = one.host.command(&["database", "archive", "acme"]).output().unwrap();
    assert!(
        output.status.code() == Some(5) && said(&output).contains("'web-2' is its primary"),
        "{output:?}"
    );
    assert_eq!(segments(one.repository.path(), 1), new);
    for (path, bytes) in new.iter().zip(bytes) {
        assert!(std::fs::read(path).unwrap() == bytes, "{path:?}");
    }
    let database = store(one.repository.path(), "acme.database");
    let (line, gtids, _) = read_all(&database);
    check_consecutive(&gtids, one.base);
    assert_eq!(gtids.last().unwrap().to_string(), format!("1-12-{}", branch + 8));
    assert_eq!(line.0.iter().map(|span| span.epoch).collect::<Vec<_>>(), [Epoch(0), Epoch(1)]);
    let joined = database.binlog().read(SegmentPlace { epoch: Epoch(1), number: 1 }).unwrap();
    let Link::After(joined) = joined.segment.header.link else { panic!("{joined:?}") };
    let there = database.binlog().read(SegmentPlace { epoch: Epoch(0), number: joined.number }).unwrap();
    assert_eq!(there.segment.header.after.to_string(), format!("1-11-{branch}"));
    // The seed is the first one's, and the history goes on in the second one's.
    let server = other.restored("latest", "new");
    let tables = "CHECKSUM TABLE shop.orders, shop.counter";
    assert_eq!(server.sql(tables), other.server.sql(tables));
    let output = other.restore(&format!("1-11-{}", branch + 2), "no");
    assert!(said(&output).contains("may have committed it alone"), "{output:?}");
}

#[test]
fn segments_older_than_the_oldest_seed_are_pruned_and_never_the_last() {
    let mut archived = Archived::new("", "");
    archived.start();
    for _ in 0..3 {
        archived.count(5);
        archived.wait_until_archived();
    }
    let between = archived.number();
    archived.seed();
    for _ in 0..2 {
        archived.count(5);
        archived.wait_until_archived();
    }
    let before = archived.segments(0);
    let prune = |dry| {
        let mut command = archived.host.command(&["prune", "acme.database", "--keep-last", "1", "--json"]);
        if dry {
            command.arg("--dry-run");
        }
        let output = ok(&mut command);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report[0]["archive_segments_deleted"].as_u64().unwrap()
    };
    // A restore that runs may need them until the next pruning.
    assert_eq!((prune(true), prune(false)), (0, 0));
    assert_eq!(archived.segments(0), before);
    assert_eq!((prune(true), prune(false)), (3, 3));
    assert_eq!(archived.segments(0), before[3..]);
    ok(&mut archived.host.command(&["verify", "acme.database", "--read-data"]));
    archived.check_restore_to(between);
    archived.check_restore_to(between + 7);
    let output = archived.restore(&format!("1-11-{}", between - 3), "no");
    assert!(said(&output).contains("no seed is that old"), "{output:?}");
    // Behind the newest seed there is nothing yet; the last one stays.
    archived.seed();
    prune(false);
    prune(false);
    assert_eq!(archived.segments(0).len(), 1);
    archived.count(5);
    archived.wait_until_archived();
    archived.check_latest();
}

#[test]
fn an_archive_outlives_a_change_of_keys() {
    let mut archived = Archived::new("", "");
    archived.count(5);
    archived.archive_all();
    ok(&mut archived.host.command(&["key", "rotate", "acme.database"]));
    archived.count(5);
    archived.archive_all();
    ok(&mut archived.host.command(&["verify", "acme.database", "--read-data"]));
    archived.check_latest();
}

#[test]
fn an_archive_waits_for_its_first_seed_and_is_not_broken_meanwhile() {
    let mut archived = Archived::unseeded("", "");
    archived.count(3);
    archived.start();
    let report = archived.wait_for("it looked", |report| !report["error"].is_null());
    assert_eq!((&report["state"], &report["trouble"]), (&"waiting".into(), &serde_json::Value::Null));
    assert!(report["error"].as_str().unwrap().contains("waits for its first seed"), "{report:#}");
    let shown = said(&archived.host.command(&["database", "status", "acme"]).output().unwrap());
    assert!(shown.contains("archive waiting, nothing in it yet") && !shown.contains("broken"), "{shown}");
    archived.seed();
    archived.count(2);
    archived.wait_until_archived();
}

#[test]
fn status_says_how_far_the_archive_is() {
    let mut archived = Archived::new("", "");
    archived.count(5);
    archived.archive_all();
    let status = || {
        let mut command = archived.host.command(&["database", "status", "acme", "--json"]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), status["archive"].clone())
    };
    let (code, archive) = status();
    assert_eq!(
        (code, &archive["behind"], &archive["supervised"]),
        (6, &0.into(), &false.into()),
        "{archive:#}"
    );
    assert_eq!(archive["position"], archived.position().as_str());
    assert_eq!(archive["first_position"], format!("1-11-{}", archived.base).as_str());
    archived.count(3);
    assert_eq!(status().1["behind"], 3);
    let mut archived = archived;
    archived.start();
    archived.wait_until_archived();
    let mut command = archived.host.command(&["database", "status", "acme"]);
    let output = command.output().unwrap();
    assert!(output.status.success() && said(&output).contains("archive following"), "{output:?}");
}
