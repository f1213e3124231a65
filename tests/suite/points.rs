//! Recovery points with real servers and the real binary: what is listed can be restored and fits, and what cannot
//! be restored is said to be so, with the reason.

use crate::support::archived::Archived;
use crate::support::command::{ok, said};
use crate::support::database_host::{DatabaseDuo, DatabaseHost};
use crate::support::mariadb::{FIT, MariaDb, sql_at};
use crate::support::wait::wait_until;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const RULE: &str = "[[store.database.media]]\nschema = 'shop'\nquery = 'SELECT file FROM pictures'\npath = 'media/{value}'\n";

fn configure(archived: &Archived, more: &str) {
    let path = archived.host.path("understudy.toml");
    let text = std::fs::read_to_string(&path).unwrap() + more;
    std::fs::write(&path, text).unwrap();
}

/// Returns the points, the oldest first.
fn points(archived: &Archived) -> Vec<Value> {
    let output = ok(&mut archived.host.command(&["points", "acme", "--json"]));
    let mut points: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    points.reverse();
    points
}

fn resync(archived: &Archived) {
    ok(&mut archived.host.command(&["resync", "acme", "--quiet"]));
}

fn number(position: &Value) -> u64 {
    position.as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap()
}

fn files(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn rows(server: &MariaDb) -> BTreeSet<String> {
    server.sql("SELECT file FROM shop.pictures").lines().map(str::to_owned).collect()
}

/// A shop that writes a file, then the row that names it, and so on.
///
/// At each point that is listed as reachable, with S and E the positions before and after the scan: the database is
/// the one of S; each of its rows names a file of the snapshot; and each file of the snapshot is named by a row that
/// was committed by E, or was written by then and its row committed next.
#[test]
fn at_each_point_every_row_names_a_file_of_the_snapshot_and_no_file_is_from_later() {
    let mut archived = Archived::new("", "");
    configure(&archived, RULE);
    archived.server.sql("CREATE TABLE shop.pictures (id INT PRIMARY KEY, file VARCHAR(200) NOT NULL)");
    let before = archived.number();
    let tree = archived.host.path("s0");
    // A scan takes its time.
    for at in 0..3000 {
        let dir = tree.join(format!("code/{}", at / 100));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{at}.php")), format!("<?php // {at}")).unwrap();
    }
    std::fs::create_dir(tree.join("media")).unwrap();
    archived.start();
    let stop = Arc::new(AtomicBool::new(false));
    let shop = std::thread::spawn({
        let (stop, socket, media) = (stop.clone(), archived.server.socket(), tree.join("media"));
        move || {
            let mut count = 0;
            while !stop.load(Ordering::SeqCst) {
                count += 1;
                std::fs::write(media.join(format!("{count}.jpg")), format!("picture {count}")).unwrap();
                let row = format!("INSERT INTO shop.pictures VALUES ({count}, '{count}.jpg')");
                sql_at(&socket, &["--no-defaults", "-uroot"], &row).unwrap();
            }
            count
        }
    });
    for round in 0..4 {
        resync(&archived);
        if round == 1 {
            archived.seed();
        }
    }
    stop.store(true, Ordering::SeqCst);
    let count = shop.join().unwrap();
    archived.wait_until_archived();
    let points = points(&archived);
    let reachable: Vec<&Value> = points.iter().filter(|point| point["reachable"] == true).collect();
    println!("{count} uploads, {} points, {points:#?}", reachable.len());
    assert_eq!((points.len(), reachable.len()), (5, 5), "{points:#?}");
    assert!(reachable.iter().any(|point| point["transactions"].as_u64().unwrap() > 0), "{points:#?}");
    // The first one is of a shop without pictures.
    for point in &reachable[1..] {
        let (at, into) = (format!("@{}", point["snapshot"]), format!("to-{}", point["snapshot"]));
        assert_eq!(point["position"], point["start"]);
        let server = archived.restored(&at, &into);
        let restored = archived.host.path(&format!("files-{}", point["snapshot"]));
        ok(archived.host.command(&["restore", &format!("acme{at}"), "--quiet"]).arg(&restored));
        let (rows, files) = (rows(&server), files(&restored.join("media")));
        assert_eq!(rows.len() as u64, number(&point["position"]) - before, "{point:#}");
        assert!(rows.is_subset(&files), "{point:#}: {:?}", rows.difference(&files));
        let last = number(&point["end"]) - before;
        let of = |file: &String| file.strip_suffix(".jpg").unwrap().parse::<u64>().unwrap();
        assert!(files.iter().all(|file| of(file) <= last + 1), "{point:#}: {files:?}");
        // The report of the same says the same.
        let socket = server.socket();
        let mut media = archived.host.command(&["media", "acme", "--at", &at, "--json", "--socket"]);
        let output = ok(media.arg(&socket));
        let report = output.stdout.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).unwrap();
        let report: Value = serde_json::from_slice(report).unwrap();
        assert_eq!(report["missing"]["count"], 0, "{report:#}");
        assert_eq!(report["unnamed"]["count"], (files.len() - rows.len()) as u64, "{report:#}");
    }
    // It is archived that a drill proved the files, whichever snapshot it was.
    ok(&mut archived.host.command(&["drill", "acme", "--at", "@2", "--standby", "standby"]));
    let again = self::points(&archived);
    assert!(again[1]["files_proven_ns"].is_u64() && again[4]["files_proven_ns"].is_null(), "{again:#?}");
}

#[test]
fn what_cannot_be_restored_is_listed_with_the_reason() {
    let mut archived = Archived::unseeded("", "");
    let why = |points: &[Value], at: usize| {
        let kind = points[at]["hindrance"]["kind"].as_str().unwrap_or("reachable");
        assert_eq!(points[at]["reachable"], kind == "reachable");
        kind.to_owned()
    };
    let all = |archived: &Archived| {
        let points = points(archived);
        (0..points.len()).map(|at| why(&points, at)).collect::<Vec<_>>()
    };
    assert_eq!(all(&archived), ["no_seed"]);
    archived.seed();
    archived.count(5);
    resync(&archived);
    // Without an archive, only a seed itself is a moment.
    assert_eq!(all(&archived), ["reachable", "no_archive"]);
    archived.archive_all();
    let archived_up_to = archived.number();
    archived.count(5);
    resync(&archived);
    archived.server.sql("FLUSH BINARY LOGS");
    archived.count(5);
    resync(&archived);
    archived.count(2);
    assert_eq!(all(&archived)[2..], ["not_yet", "not_yet"]);
    wait_until("binary logs are deleted", || {
        let last = archived.server.sql("SHOW MASTER STATUS");
        archived.server.sql(&format!("PURGE BINARY LOGS TO '{}'", last.split('\t').next().unwrap()));
        archived.server.sql("SHOW BINARY LOGS").lines().count() == 1
    });
    archived.start();
    archived.wait_for("it is broken", |report| report["state"] == "broken");
    archived.seed();
    let behind_gap = archived.number();
    archived.count(5);
    archived.wait_until_archived();
    resync(&archived);
    assert_eq!(archived.signal(Signal::TERM), Some(0));
    archived.count(3);
    resync(&archived);
    archived.server.kill();
    resync(&archived);
    archived.server.begin();
    let listed = points(&archived);
    assert_eq!(
        all(&archived),
        ["reachable", "reachable", "gap", "gap", "reachable", "not_yet", "unknown"],
        "{listed:#?}"
    );
    let text = said(&archived.host.command(&["points", "acme"]).output().unwrap());
    let gap = format!("a gap from 1-11-{archived_up_to} to 1-11-{behind_gap}");
    assert!(text.contains(&gap) && text.contains("understudy restore acme@5 DIR"), "{text}");
    // Each answer is what a restore finds.
    for (at, point) in listed.iter().enumerate() {
        let into = format!("to-{at}");
        let output = archived.restore(&format!("@{}", point["snapshot"]), &into);
        assert_eq!(output.status.success(), point["reachable"] == true, "{point:#} {}", said(&output));
        if let Some(position) = point["position"].as_str() {
            let server = MariaDb::start_on(&archived.host.path(&into).join("data"), FIT);
            assert_eq!(server.sql("SELECT @@gtid_slave_pos"), position);
        } else {
            assert!(said(&output).contains("understudy points acme"), "{}", said(&output));
        }
    }
    // What only the first seed led to goes with it.
    for _ in 0..2 {
        ok(&mut archived.host.command(&["prune", "acme.database", "--keep-last", "1", "--quiet"]));
    }
    assert_eq!(
        all(&archived),
        ["too_old", "too_old", "too_old", "too_old", "reachable", "not_yet", "unknown"]
    );
    let missing = archived.restore("@99", "no");
    assert!(!missing.status.success() && said(&missing).contains("no snapshot 99"), "{}", said(&missing));
}

#[test]
fn a_segment_that_somebody_deleted_is_a_gap() {
    let mut archived = Archived::new("", "");
    archived.start();
    for _ in 0..3 {
        archived.count(5);
        archived.wait_until_archived();
        resync(&archived);
    }
    assert_eq!(archived.signal(Signal::TERM), Some(0));
    let segments = archived.segments(0);
    std::fs::remove_file(&segments[segments.len() - 2]).unwrap();
    let kinds: Vec<Value> =
        points(&archived).iter().map(|point| point["hindrance"]["kind"].clone()).collect();
    assert_eq!(kinds[1..], [Value::Null, Value::from("gap"), Value::from("gap")], "{kinds:?}");
}

/// Starts a host's supervisor, which is killed at a step.
fn supervise(host: &mut DatabaseHost, kill_at: &str) {
    let log =
        std::fs::File::options().append(true).create(true).open(host.host.path("database.log")).unwrap();
    let mut command = host.host.command(&["database", "run", "acme"]);
    command.env("UNDERSTUDY_TEST_KILL_AT", kill_at).stdout(log.try_clone().unwrap()).stderr(log);
    host.supervisor = Some(command.spawn().unwrap());
}

#[test]
fn a_supervisor_that_is_killed_while_a_database_goes_back_goes_on_with_it() {
    for step in ["places changed", "kept aside"] {
        let mut duo = DatabaseDuo::start();
        let order =
            |name: &str| duo.one.customer(&format!("INSERT INTO shop.orders VALUES ('{name}', '')")).unwrap();
        order("before");
        duo.wait_until_equal(&duo.one, &duo.two);
        // The newest seed is the moment, which needs no archive.
        ok(&mut duo.one.host.command(&["database", "seed", "acme", "--quiet"]));
        let position = duo.one.sql("SELECT @@gtid_binlog_pos");
        order("after");
        duo.wait_until_equal(&duo.one, &duo.two);
        let restored = duo.two.host.path("database.at-1");
        let restore = ["database", "restore", "acme", "--to", &position, "--into"];
        ok(duo.two.host.command(&restore).arg(&restored));
        let two = &mut duo.two;
        // Without the mark of a failover's restore, it takes no place.
        let restored = restored.display().to_string();
        let none = two.order(&["promote", "--restored", &restored], &[("UNDERSTUDY_EPOCH", "1")]);
        assert!(!none.status.success() && said(&none).contains("no restored database"), "{}", said(&none));
        let mark = serde_json::json!({ "id": "a1", "position": position });
        std::fs::write(Path::new(&restored).join("restored.json"), mark.to_string()).unwrap();
        two.kill_supervisor();
        supervise(two, step);
        two.wait_for_state("following");
        let (aside, restore) = (two.host.path("aside").display().to_string(), format!("a1@{position}"));
        let promote = ["promote", "--restored", &restored, "--aside", &aside, "--restore", &restore];
        let killed = two.order(&promote, &[("UNDERSTUDY_EPOCH", "1")]);
        assert!(!killed.status.success(), "{step}: {}", said(&killed));
        assert!(two.supervisor.as_mut().unwrap().wait().unwrap().code().is_none(), "{step}: {}", two.log());
        // In either directory lies a whole database.
        assert!(two.host.path("database/data/ibdata1").exists());
        two.supervise();
        wait_until("its supervisor answers", || {
            two.order(&promote, &[("UNDERSTUDY_EPOCH", "1")]).status.success()
        });
        assert_eq!(two.sql("SELECT id FROM shop.orders"), "before", "{step}");
        two.customer("INSERT INTO shop.orders VALUES ('new', '')").unwrap();
        let own = two.sql("SELECT @@gtid_binlog_pos");
        assert_eq!(number(&own.into()), number(&position.clone().into()) + 1);
        assert!(Path::new(&aside).join("data/ibdata1").exists() && !Path::new(&restored).exists());
        // Asked again, it is done already; and what customers write is not thrown away for another one.
        two.ordered(&promote, &[("UNDERSTUDY_EPOCH", "1")]);
        assert_eq!(two.sql("SELECT COUNT(*) FROM shop.orders"), "2");
        std::fs::create_dir(&restored).unwrap();
        let other = two.order(&promote, &[("UNDERSTUDY_EPOCH", "1")]);
        assert!(other.status.code() == Some(4) && said(&other).contains("fence it"), "{}", said(&other));
    }
}
