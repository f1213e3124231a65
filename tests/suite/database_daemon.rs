//! What the daemon does for the databases of its stores, with real servers and the real binary: what it says of them,
//! the archive, and the seeds.

use crate::support::command::{ok, said};
use crate::support::database_host::{DatabaseDuo, DatabaseHost};
use crate::support::mariadb::sql_at;
use crate::support::servers::free_port;
use crate::support::wait::wait_until;
use rustix::process::Signal;
use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Has a host's daemon answer at its port, with these keys of `[store.database]` in addition.
fn configure(host: &DatabaseHost, keys: &str) {
    let path = host.host.path("understudy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("[store.database]\n", &format!("[store.database]\n{keys}"));
    let text = text.replace("path = 's0'\n", "path = 's0'\nplan = 'private'\nschedule = '0 0 1 1 *'\n");
    let service = format!("[service]\nlisten = '127.0.0.1:{}'\nlook_seconds = 1\n", host.host.port);
    std::fs::write(&path, text + &service).unwrap();
}

fn database(host: &DatabaseHost) -> Value {
    host.host.store("acme")["database"].clone()
}

/// Waits for what the API says of a host's database.
fn wait_for(host: &DatabaseHost, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let database = database(host);
        if is(&database) {
            return database;
        }
        assert!(begun.elapsed().as_secs() < 60, "{what}: {database:#}\n{}\n{}", host.host.log(), host.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns the samples of a host's databases, as Prometheus' own parser reads them: `name{labels} value`.
fn samples(host: &DatabaseHost) -> Vec<String> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/venv/bin/python");
    let code = r#"
import sys, urllib.request
from prometheus_client.parser import text_string_to_metric_families as parse
text = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode()
for family in parse(text):
    for sample in family.samples:
        if sample.name.startswith("understudy_database_"):
            assert sample.labels.pop("store") == "acme", sample
            sample.labels.pop("role")
            print(sample.name[len("understudy_database_"):], *sample.labels.values(), sample.value)
"#;
    let output = ok(Command::new(python).args(["-c", code, &host.host.port.to_string()]));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn has(samples: &[String], sample: &str) -> bool {
    samples.iter().any(|each| each == sample)
}

fn value(samples: &[String], name: &str) -> Option<f64> {
    let sample = samples.iter().find_map(|each| each.strip_prefix(name)?.strip_prefix(' '));
    sample.map(|value| value.parse().unwrap())
}

#[test]
fn a_daemon_says_where_each_database_stands_what_is_wrong_and_that_nobody_supervises_it() {
    let mut duo = DatabaseDuo::start();
    for host in [&duo.one, &duo.two] {
        configure(host, "");
    }
    duo.one.host.start();
    duo.two.host.start();
    let (one, two) = (&duo.one, &duo.two);
    wait_for(one, "it serves", |database| database["server"]["state"] == "serving");
    wait_for(two, "it follows", |database| database["server"]["state"] == "following");
    wait_for(two, "the seed is found", |database| database["seeds"]["snapshot"] == 1);
    let serving = samples(one);
    assert!(has(&serving, "state serving 1") && has(&serving, "state following 0"), "{serving:?}");
    assert_eq!(value(&serving, "lag_seconds"), None, "a primary follows nobody: {serving:?}");
    let following = samples(two);
    assert!(has(&following, "supervised 1") && has(&following, "state following 1"), "{following:?}");
    for (name, most) in [
        ("lag_seconds", 30.0),
        ("behind_transactions", 0.0),
        ("report_age_seconds", 30.0),
        ("seed_age_seconds", 300.0),
    ] {
        assert!(value(&following, name).is_some_and(|value| value <= most), "{name}: {following:?}");
    }
    assert!(value(&following, "resident_bytes").unwrap() > 20e6, "{following:?}");
    assert_eq!(value(&following, "seed_missing"), Some(0.0));
    assert!(!following.iter().any(|sample| sample.starts_with("trouble")), "{following:?}");
    let table = said(&ok(&mut two.host.command(&["status"])));
    assert!(table.contains("database") && table.contains("following 0s"), "{table}");
    // Somebody writes to the replica.
    one.customer("INSERT INTO shop.orders VALUES ('five', '')").unwrap();
    duo.wait_until_equal(one, two);
    two.sql("SET sql_log_bin=0; DELETE FROM shop.orders");
    one.customer("UPDATE shop.orders SET note = 'x'").unwrap();
    wait_for(two, "it is broken", |database| database["server"]["trouble"] == "conflict");
    let broken = samples(two);
    assert!(has(&broken, "state broken 1") && has(&broken, "trouble conflict 1"), "{broken:?}");
    let shown = said(&two.host.command(&["status"]).output().unwrap());
    assert!(shown.contains("broken (conflict)") && shown.contains("database run acme --reseed"), "{shown}");
    // Nobody is there any more to say anything.
    let (one, two) = (&duo.one, &mut duo.two);
    two.kill_supervisor();
    let gone = wait_for(two, "its end shows", |database| database["server"]["supervised"] == false);
    assert_eq!(gone["server"]["mend"], "understudy database run acme");
    let gone = samples(two);
    assert!(has(&gone, "supervised 0") && has(&gone, "state down 1"), "{gone:?}");
    assert!(value(&gone, "report_age_seconds").unwrap() >= 30.0, "{gone:?}");
    assert!(!gone.iter().any(|sample| sample.starts_with("trouble")), "{gone:?}");
    let shown = said(&two.host.command(&["status"]).output().unwrap());
    assert!(shown.contains("unsupervised") && shown.contains("understudy database run acme"), "{shown}");
    assert!(has(&samples(one), "state serving 1"));
}

#[test]
fn a_standbys_daemon_drills_by_its_schedule_and_says_what_it_found() {
    let mut duo = DatabaseDuo::start();
    configure(&duo.two, "");
    let path = duo.two.host.path("understudy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let drill = |schedule: &str| {
        format!(
            "[store.database.drill]\nschedule = '{schedule}'\nqueries = ['SELECT COUNT(*) FROM shop.orders']\n"
        )
    };
    // In the middle, so that what is [service]'s stays that.
    let with = |schedule: &str| text.replace("[service]\n", &format!("{}[service]\n", drill(schedule)));
    std::fs::write(&path, with("off")).unwrap();
    duo.one.customer("INSERT INTO shop.orders VALUES ('one', '')").unwrap();
    duo.wait_until_equal(&duo.one, &duo.two);
    duo.two.host.start();
    let none = wait_for(&duo.two, "it follows", |database| database["server"]["state"] == "following");
    assert_eq!(none["drill"]["last"], Value::Null, "{none:#}");
    assert_eq!(value(&samples(&duo.two), "drill_failed"), None);
    duo.two.host.end();
    std::fs::write(&path, with("* * * * *")).unwrap();
    duo.two.host.start();
    let begun = Instant::now();
    let sound = loop {
        // A minute until it is due, and what a drill takes.
        let database = database(&duo.two);
        if !database["drill"]["proven"].is_null() {
            break database;
        }
        assert!(begun.elapsed().as_secs() < 240, "{database:#}\n{}\n{}", duo.two.host.log(), duo.two.log());
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!((&sound["drill"]["fault"], &sound["drill"]["hindrance"]), (&Value::Null, &Value::Null));
    let proven = samples(&duo.two);
    assert_eq!(value(&proven, "drill_failed"), Some(0.0), "{proven:?}");
    assert!(value(&proven, "drill_seconds") > Some(0.0), "{proven:?}");
    assert!(value(&proven, "proven_timestamp_seconds") > Some(1e9), "{proven:?}");
    // What a drill finds by a person's word shows as well.
    duo.one.customer("DELETE FROM shop.orders").unwrap();
    duo.wait_until_equal(&duo.one, &duo.two);
    let unsound = duo.two.host.command(&["database", "drill", "acme"]).output().unwrap();
    assert_eq!(unsound.status.code(), Some(1), "{}", said(&unsound));
    let failed = samples(&duo.two);
    assert_eq!(value(&failed, "drill_failed"), Some(1.0), "{failed:?}");
    let shown = said(&duo.two.host.command(&["status"]).output().unwrap());
    assert!(shown.contains("found the replica's data unsound"), "{shown}");
}

/// Returns a primary that serves, with these keys of `[store.database]`.
fn primary(repository: &Path, keys: &str) -> DatabaseHost {
    let mut host = DatabaseHost::new(&repository.display().to_string(), "primary", free_port(), 1);
    configure(&host, keys);
    host.found();
    host
}

fn position(host: &DatabaseHost) -> String {
    host.sql("SELECT @@gtid_binlog_pos")
}

fn wait_until_archived(host: &DatabaseHost) -> Value {
    let position = position(host);
    wait_for(host, &format!("it is archived up to {position}"), |database| {
        let archive = &database["archive"];
        archive["running"] == true
            && archive["state"] == "following"
            && archive["position"] == position.as_str()
    })
}

fn insert(host: &DatabaseHost, name: &str) {
    host.customer(&format!("INSERT INTO shop.orders VALUES ('{name}', '')")).unwrap();
}

#[test]
fn the_primarys_daemon_seeds_at_once_and_archives_and_goes_on_after_kills_without_a_gap() {
    let repository = tempfile::tempdir().unwrap();
    let mut host = primary(repository.path(), "mode = 'both'\n");
    host.host.start();
    wait_for(&host, "a first seed is made", |database| database["seeds"]["snapshot"] == 1);
    let archived = wait_until_archived(&host);
    assert_eq!((&archived["seeds"]["failures"], &archived["seeds"]["error"]), (&0.into(), &Value::Null));
    // Another archiver has nothing to do here.
    let second = host.host.command(&["database", "archive", "acme"]).output().unwrap();
    assert!(
        second.status.code() == Some(2) && said(&second).contains("another process runs this already"),
        "{second:?}"
    );
    for round in 0..4 {
        insert(&host, &format!("while-{round}"));
        if round % 2 == 1 {
            wait_until_archived(&host);
        }
        let mut daemon = host.host.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        // Customers do not notice.
        insert(&host, &format!("between-{round}"));
        host.host.start();
    }
    // So does its server's end.
    host.kill_supervisor();
    host.supervise();
    host.wait_for_state("serving");
    insert(&host, "after");
    let begun = Instant::now();
    wait_until_archived(&host);
    println!("archived again {:?} after its server was", begun.elapsed());
    let samples = samples(&host);
    assert!(has(&samples, "archive_running 1") && has(&samples, "archive_state following 1"), "{samples:?}");
    assert!(value(&samples, "archive_lag_seconds").is_some_and(|lag| lag < 30.0), "{samples:?}");
    let daemon = host.host.daemon.as_ref().unwrap().id();
    let status = std::fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
    let memory = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    println!("the daemon that archives: {memory}");
    // One that is asked to end puts what there is first.
    insert(&host, "last");
    let last = position(&host);
    host.host.end();
    let report =
        std::fs::read_to_string(host.host.path("state/understudy/archive-acme/archive.json")).unwrap();
    assert!(report.contains("\"state\":\"down\""), "{report}");
    // Each segment and each transaction is checked by a restore.
    let into = host.host.path("restored");
    let mut restore = host.host.command(&["database", "restore", "acme", "--to", &last, "--into"]);
    ok(restore.arg(&into));
}

#[test]
fn a_seed_is_made_when_asked_for_only_so_many_are_kept_and_a_failure_shows_until_it_is_mended() {
    let repository = tempfile::tempdir().unwrap();
    let mut host = primary(repository.path(), "seed_keep = 2\nseed_directory = 'seeds'\n");
    // There is a file where the copies belong.
    std::fs::write(host.host.path("seeds"), "").unwrap();
    host.host.start();
    let failed = wait_for(&host, "it fails", |database| database["seeds"]["failures"].as_u64() >= Some(2));
    assert!(failed["seeds"]["error"].as_str().unwrap().contains("seeds"), "{failed:#}");
    let samples = samples(&host);
    assert!(value(&samples, "seed_failures") >= Some(2.0) && has(&samples, "seed_missing 1"), "{samples:?}");
    let shown = said(&host.host.command(&["status"]).output().unwrap());
    assert!(shown.contains("no seed of the database could be made"), "{shown}");
    std::fs::remove_file(host.host.path("seeds")).unwrap();
    wait_for(&host, "it is made", |database| {
        let seeds = &database["seeds"];
        (&seeds["snapshot"], &seeds["failures"], &seeds["error"]) == (&1.into(), &0.into(), &Value::Null)
    });
    assert!(host.host.path("seeds/seed.json").exists());
    let token = host.host.token();
    let mut newest = 1;
    for _ in 0..3 {
        let asked = host.host.ask("POST", "/api/v1/stores/acme/database/seed", Some(&token));
        assert_eq!(asked.0, 200, "{asked:?}");
        // A pruning writes a record, too.
        let seeded = wait_for(&host, "another one is made", |database| {
            database["seeds"]["snapshot"].as_u64() > Some(newest) && database["seeds"]["running"] == false
        });
        newest = seeded["seeds"]["snapshot"].as_u64().unwrap();
    }
    let listed = ok(&mut host.host.command(&["snapshots", "acme.database", "--json"]));
    let listed: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed.len(), 2, "{listed:#?}");
    // A person's and the daemon's are never made at the same time.
    let turn = host.host.path("state/understudy/seeding");
    assert!(turn.exists());
    host.signal(Signal::TERM);
    wait_until("the server has ended", || host.state() != "serving");
    assert_eq!(host.host.ask("POST", "/api/v1/stores/acme/database/seed", None).0, 401);
}

/// The user of the server.
const USER: u32 = 65_532;

/// Returns the same command, run as the server's user, by a copy of the binary that it may run.
fn as_user(host: &DatabaseHost, args: &[&str]) -> Command {
    let command = host.host.command(args);
    let mut as_user = Command::new("setpriv");
    as_user.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "--"]);
    as_user.arg(host.host.path("understudy")).args(command.get_args()).current_dir("/");
    as_user.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    as_user.env("UNDERSTUDY_CONFIG", host.host.path("understudy.toml")).env_remove("UNDERSTUDY_KEY_FILE");
    for name in ["HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"] {
        as_user.env(name, host.host.path("own"));
    }
    as_user
}

#[test]
fn the_server_of_a_user_of_its_own_is_archived_and_seeded_by_the_daemon_of_root() {
    let repository = tempfile::tempdir().unwrap();
    let mut host = DatabaseHost::new(&repository.path().display().to_string(), "primary", free_port(), 1);
    configure(&host, "mode = 'both'\ndirectory = 'own/state'\n");
    let path = host.host.path("understudy.toml");
    // What is said of a store holds for its database.
    let text = std::fs::read_to_string(&path).unwrap().replace("'acme'\n", "'acme'\nencryption = 'none'\n");
    std::fs::write(&path, text.replace(&host.host.path("database").display().to_string(), "own/data"))
        .unwrap();
    let set = |path: &Path, mode: u32| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    std::fs::create_dir(host.host.path("own")).unwrap();
    chown(host.host.path("own"), Some(USER), Some(USER)).unwrap();
    set(&host.host.path("own"), 0o700);
    std::fs::copy(env!("CARGO_BIN_EXE_understudy"), host.host.path("understudy")).unwrap();
    set(host.host.dir.path(), 0o755);
    // The account's file can be read by it, and written by root alone.
    chown(host.host.path("account.cnf"), None, Some(USER)).unwrap();
    set(&host.host.path("account.cnf"), 0o640);
    ok(&mut host.host.command(&["resync", "acme", "--quiet"]));
    ok(Command::new("chmod").args(["-R", "a+rX"]).arg(repository.path()));
    ok(&mut as_user(&host, &["database", "found", "acme"]));
    let log = std::fs::File::create(host.host.path("database.log")).unwrap();
    let mut supervisor = as_user(&host, &["database", "run", "acme"]);
    host.supervisor = Some(supervisor.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    let place = host.host.path("own/state");
    wait_until(&format!("its supervisor answers: {}", host.log()), || place.join("orders.socket").exists());
    ok(&mut as_user(&host, &["database", "promote", "acme"]));
    let sql =
        |statements: &str| sql_at(&place.join("socket"), &["--no-defaults", "-uroot"], statements).unwrap();
    assert_eq!(std::fs::metadata(place.join("pid")).unwrap().uid(), USER);
    sql(
        "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY); INSERT INTO shop.orders VALUES (1)",
    );
    host.host.start();
    wait_for(&host, "a seed is made", |database| database["seeds"]["snapshot"] == 1);
    let keys = |store: &str| repository.path().join(store).join("keys").exists();
    assert!(!keys("acme") && !keys("acme.database"), "a store that is not encrypted has no keys");
    let position = sql("SELECT @@gtid_binlog_pos");
    wait_for(&host, "it is archived", |database| database["archive"]["position"] == position.as_str());
    let shown = said(&host.host.command(&["database", "status", "acme"]).output().unwrap());
    assert!(shown.contains("serving") && !shown.contains("belongs to user"), "{shown}");
    // Root fences it. Its supervisor reads that, and goes on by an order of its own user's.
    std::fs::remove_file(place.join("role.lock")).unwrap();
    host.ordered(&["fence"], &[]);
    for name in ["role.json", "role.lock"] {
        assert_eq!(std::fs::metadata(place.join(name)).unwrap().uid(), USER, "{name}");
    }
    host.wait_for_state("fenced");
    let promoted = as_user(&host, &["database", "promote", "acme"]).output().unwrap();
    assert!(promoted.status.success(), "{}\n{}", said(&promoted), host.log());
    sql("INSERT INTO shop.orders VALUES (2)");
}
