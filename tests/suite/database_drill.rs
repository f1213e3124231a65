//! Drills of a replica's database with real servers and the real binary: what they find, that the replica is not
//! touched, and that nothing is left whatever is killed.

use crate::support::command::{ok, said};
use crate::support::database_host::{DatabaseDuo, DatabaseHost};
use crate::support::wait::wait_until;
use serde_json::Value;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// Returns the commands of this machine's servers whose files are below a host's drill.
fn servers_of_drills(host: &DatabaseHost) -> Vec<String> {
    let place = host.place().join("drill").display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.starts_with("mariadbd") && command.contains(&place) {
            found.push(command);
        }
    }
    found
}

/// Returns what of a drill lies on a host.
fn left(host: &DatabaseHost) -> Vec<PathBuf> {
    let dir = blake3::hash(host.place().as_os_str().as_encoded_bytes()).to_hex();
    let passage = std::env::temp_dir().join(format!("understudy-drill-{}", &dir[..16]));
    let paths =
        [host.place().join("drill"), host.place().join("still"), host.host.path("database/drill"), passage];
    paths.into_iter().filter(|path| path.exists()).collect()
}

fn drill(host: &DatabaseHost, more: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = host.host.command(&["database", "drill", "acme", "--json"]);
    command.args(more).envs(variables.iter().copied()).output().unwrap()
}

fn configure(host: &DatabaseHost, text: &str) {
    let path = host.host.path("understudy.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{before}{text}")).unwrap();
}

fn orders(host: &DatabaseHost, name: &str, count: u32) {
    let statements: String = (0..count)
        .map(|number| format!("INSERT INTO shop.orders VALUES ('{name}-{number}', REPEAT('x', 100));\n"))
        .collect();
    host.customer(&statements).unwrap();
}

#[test]
fn a_drill_opens_a_copy_of_a_replica_that_goes_on_as_if_nothing_had_been() {
    let duo = DatabaseDuo::start();
    let (one, two) = (&duo.one, &duo.two);
    one.sql("CREATE TABLE shop.pages (id INT PRIMARY KEY, text TEXT, KEY (text(20))) ENGINE=Aria");
    orders(one, "before", 200);
    duo.wait_until_equal(one, two);
    configure(
        two,
        "[store.database.drill]\nqueries = ['SELECT COUNT(*) = 200 FROM shop.orders', \
         'SELECT COUNT(*) FROM shop.orders WHERE id = \"nobody\"', 'DELETE FROM shop.orders', 'SELECT id FROM shop.pages']\n",
    );
    let (position, server) = (two.sql("SELECT @@gtid_slave_pos"), two.server());
    let output = drill(two, &[], &[]);
    // What the queries found is not what was to be.
    assert_eq!(output.status.code(), Some(1), "{}\n{}", said(&output), two.log());
    let drilled: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{drilled:#}");
    let faults: Vec<(&str, &str)> = drilled["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| (fault["what"].as_str().unwrap(), fault["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(faults[0].0.contains("nobody") && faults[0].1 == "it answered '0'", "{faults:?}");
    assert!(faults[1].0.starts_with("DELETE") && faults[1].1.contains("--read-only"), "{faults:?}");
    assert_eq!(faults[2].1, "it answered without a row", "{faults:?}");
    assert!(position.split(',').any(|gtid| drilled["position"] == gtid), "{position} {drilled}");
    assert!(drilled["tables_checked"].as_u64().unwrap() > 20, "{drilled}");
    // The replica is the same server, and follows on.
    assert_eq!((left(two), servers_of_drills(two)), (vec![], vec![]));
    assert_eq!(two.server(), server);
    orders(one, "after", 100);
    duo.wait_until_equal(one, two);
    assert_eq!(one.sql("CHECKSUM TABLE shop.pages"), two.sql("CHECKSUM TABLE shop.pages"));
    two.wait_for_state("following");
    // Without time no table is checked, and the queries are asked all the same.
    let sound = drill(two, &["--time", "0"], &[]);
    assert_eq!(sound.status.code(), Some(1), "{}", said(&sound));
    let drilled: Value = serde_json::from_slice(&sound.stdout).unwrap();
    assert_eq!(drilled["tables_checked"], 0);
    // A primary has nothing to drill.
    let refused = drill(one, &[], &[]);
    assert!(refused.status.code() == Some(4) && said(&refused).contains("drill on a standby"), "{refused:?}");
    assert_eq!(left(one), Vec::<PathBuf>::new());
}

#[test]
fn a_drill_that_is_killed_at_any_step_leaves_nothing_and_a_replica_that_follows() {
    let duo = DatabaseDuo::start();
    let (one, two) = (&duo.one, &duo.two);
    orders(one, "before", 50);
    duo.wait_until_equal(one, two);
    let steps = two.host.path("steps");
    let output = drill(two, &[], &[("UNDERSTUDY_TEST_STEPS", steps.to_str().unwrap())]);
    assert!(output.status.success(), "{}\n{}", said(&output), two.log());
    let steps = std::fs::read_to_string(steps).unwrap();
    let steps: Vec<&str> = steps.lines().collect();
    assert!(steps.contains(&"still") && steps.contains(&"queries asked"), "{steps:?}");
    let server = two.server();
    for (number, step) in steps.iter().enumerate() {
        let output = drill(two, &[], &[("UNDERSTUDY_TEST_KILL_AT", step)]);
        assert_eq!(output.status.code(), None, "{step}: {}", said(&output));
        wait_until(&format!("{step}: the supervisor has removed what was left"), || {
            left(two).is_empty() && servers_of_drills(two).is_empty()
        });
        orders(one, &format!("after-{number}"), 20);
        duo.wait_until_equal(one, two);
    }
    assert_eq!(two.server(), server);
    let output = drill(two, &[], &[]);
    assert!(output.status.success(), "{}\n{}", said(&output), two.log());
}

/// Starts a drill, and returns it once the server stands still: it waits for a reader of the pipe then.
fn stand_still(host: &DatabaseHost) -> (Child, PathBuf) {
    let pipe = host.host.path("steps");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = host.host.command(&["database", "drill", "acme"]);
    command.env("UNDERSTUDY_TEST_STEPS", &pipe).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_until("the server stands still", || {
        let stands = host.place().join("still").exists();
        if !stands {
            // A reader lets it go on by a step.
            let _ = Command::new("timeout").args(["1", "head", "-n1"]).arg(&pipe).output();
        }
        stands
    });
    (child, pipe)
}

/// Writes a program, which all users may run.
fn program(host: &DatabaseHost, text: &str) -> String {
    let path = host.host.path("check-shop");
    std::fs::write(&path, format!("#!/bin/sh\n{text}")).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(host.host.dir.path(), Permissions::from_mode(0o711)).unwrap();
    path.display().to_string()
}

#[test]
fn a_drill_s_command_reads_the_copy_as_nobody_and_changes_and_reaches_nothing() {
    let duo = DatabaseDuo::start();
    let (one, two) = (&duo.one, &duo.two);
    orders(one, "before", 30);
    one.sql("CREATE USER boss@localhost; GRANT ALL ON *.* TO boss@localhost");
    duo.wait_until_equal(one, two);
    let program = program(
        two,
        "exec 2>&1; id -un; \
         mariadb --defaults-file=$UNDERSTUDY_DATABASE_ACCOUNT -N -e 'SELECT CONCAT(\"orders \", COUNT(*)) FROM shop.orders'\n\
         mariadb --defaults-file=$UNDERSTUDY_DATABASE_ACCOUNT -e 'DELETE FROM shop.orders'\n\
         mariadb --no-defaults -uboss --socket=$UNDERSTUDY_DATABASE_SOCKET -e 'SELECT 1'\n\
         echo $UNDERSTUDY_STORE at $UNDERSTUDY_DATABASE_POSITION; env | grep -c SECRET; cat \"$1\" >&2; exit 3\n",
    );
    let account = two.host.path("account.cnf").display().to_string();
    configure(
        two,
        &format!(
            "[store.database.drill]\ncommand = ['sh', '-c', 'exec \"$0\" \"$@\" >&2', '{program}', '{account}']\n"
        ),
    );
    let before = two.sql("SELECT @@gtid_slave_pos");
    let output = drill(two, &[], &[("SECRET", "x")]);
    assert_eq!(output.status.code(), Some(1), "{}\n{}", said(&output), two.log());
    let drilled: Value = serde_json::from_slice(&output.stdout).unwrap();
    let fault = drilled["faults"][0]["reason"].as_str().unwrap();
    println!("{fault}");
    for wanted in [
        "exit status: 3",
        "nobody",
        "orders 30",
        "1290",
        "only 'understudy-drill' is let in",
        "acme at ",
        "\n0\n",
    ] {
        assert!(fault.contains(wanted), "{wanted}: {fault}");
    }
    assert!(fault.contains("Permission denied") && !fault.contains("secret"), "{fault}");
    assert_eq!((left(two), servers_of_drills(two)), (vec![], vec![]));
    assert_eq!(two.sql("SELECT @@gtid_slave_pos"), before);
    let (_, status) = two.status();
    assert!(status["drill"]["last"]["fault"].as_str().unwrap().contains("exit status: 3"), "{status:#}");
    // One that succeeds proves the copy, and one that takes too long is ended.
    for (command, wanted) in [("['true']", Some(0)), ("['sleep', '1000']", Some(1))] {
        let path = two.host.path("understudy.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, _) = text.split_once("[store.database.drill]").unwrap();
        std::fs::write(
            &path,
            format!("{head}[store.database.drill]\ntimeout_seconds = 2\ncommand = {command}\n"),
        )
        .unwrap();
        let output = drill(two, &[], &[]);
        assert_eq!(output.status.code(), wanted, "{command}: {}", said(&output));
    }
    assert!(!two.status().1["drill"]["proven_ns"].is_null());
    assert_eq!((left(two), servers_of_drills(two)), (vec![], vec![]));
}

#[test]
fn a_drill_brings_its_copy_to_a_transaction_by_the_archive_and_the_replica_stays() {
    let duo = DatabaseDuo::start();
    for host in [&duo.one, &duo.two] {
        let path = host.host.path("understudy.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("[store.database]\n", "[store.database]\nmode = 'both'\n"))
            .unwrap();
    }
    orders(&duo.one, "before", 20);
    duo.wait_until_equal(&duo.one, &duo.two);
    duo.two.ordered(&["hold"], &[]);
    let held = duo.one.sql("SELECT @@gtid_binlog_pos");
    orders(&duo.one, "behind", 10);
    let wanted = duo.one.sql("SELECT @@gtid_binlog_pos");
    let resynced = ok(&mut duo.one.host.command(&["resync", "acme", "--json"]));
    let resynced: Value = serde_json::from_slice(&resynced.stdout).unwrap();
    let point = format!("@{}", resynced["snapshot"]);
    orders(&duo.one, "further", 10);
    let last = duo.one.sql("SELECT @@gtid_binlog_pos");
    let early = drill(&duo.two, &["--at", &wanted], &[]);
    assert!(!early.status.success() && said(&early).contains("archived"), "{}", said(&early));
    let mut archiver = duo.one.host.command(&["database", "archive", "acme"]).spawn().unwrap();
    wait_until("it is archived", || {
        let (_, status) = duo.one.status();
        status["archive"]["position"] == last.as_str()
    });
    archiver.kill().unwrap();
    archiver.wait().unwrap();
    configure(&duo.two, "[store.database.drill]\nqueries = ['SELECT COUNT(*) = 30 FROM shop.orders']\n");
    let output = drill(&duo.two, &["--at", &wanted], &[]);
    assert!(output.status.success(), "{}\n{}", said(&output), duo.two.log());
    let drilled: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&drilled["position"], &drilled["applied"]),
        (&wanted.as_str().into(), &10.into()),
        "{drilled:#}"
    );
    // The replica stands where it stood, and a copy does not go back.
    assert!(duo.two.sql("SELECT @@gtid_slave_pos").contains(&held));
    let first = held.rsplit_once('-').unwrap().0.to_owned() + "-3";
    let back = drill(&duo.two, &["--at", &first], &[]);
    assert!(
        back.status.code() == Some(4) && said(&back).contains("a copy does not go back"),
        "{}",
        said(&back)
    );
    // A point is one of the store's snapshots. The replica is before it, and its copy is brought there.
    let of_copy = drill(&duo.two, &["--at", &point], &[]);
    assert!(of_copy.status.success(), "{}\n{}", said(&of_copy), duo.two.log());
    let drilled: Value = serde_json::from_slice(&of_copy.stdout).unwrap();
    assert!(drilled["position"] == wanted.as_str() && drilled["seed"].is_null(), "{drilled:#}");
    duo.two.ordered(&["release"], &[]);
    duo.wait_until_equal(&duo.one, &duo.two);
    // The replica is past it by now: the database is restored to it, beside the replica.
    let last = || duo.two.status().1["drill"]["last"].clone();
    let (server, before) = (duo.two.server(), last());
    let restored = drill(&duo.two, &["--at", &point], &[]);
    assert!(restored.status.success(), "{}\n{}", said(&restored), duo.two.log());
    let drilled: Value = serde_json::from_slice(&restored.stdout).unwrap();
    assert!(drilled["position"] == wanted.as_str() && drilled["seed"].is_u64(), "{drilled:#}");
    assert!(drilled["tables_checked"].as_u64().unwrap() > 20 && drilled["queries"] == 1, "{drilled:#}");
    assert_eq!((left(&duo.two), servers_of_drills(&duo.two)), (vec![], vec![]));
    // It says nothing about the replica, which was not touched.
    assert_eq!((duo.two.server(), last()), (server, before));
    duo.wait_until_equal(&duo.one, &duo.two);
    let points = ok(&mut duo.two.host.command(&["points", "acme", "--json"]));
    let points: Value = serde_json::from_slice(&points.stdout).unwrap();
    assert!(points[0]["reachable"] == true && points[0]["database_proven_ns"].is_u64(), "{points:#}");
    let unknown = drill(&duo.two, &["--at", "@1"], &[]);
    assert!(
        !unknown.status.success() && said(&unknown).contains("understudy points acme"),
        "{}",
        said(&unknown)
    );
}

#[test]
fn a_supervisor_that_is_killed_while_its_server_stands_still_leaves_no_server_that_stands() {
    let mut duo = DatabaseDuo::start();
    orders(&duo.one, "before", 50);
    duo.wait_until_equal(&duo.one, &duo.two);
    let server = duo.two.server();
    let (mut child, _) = stand_still(&duo.two);
    let state = |id: i32| std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    assert!(state(server).contains(") T "), "{}", state(server));
    duo.two.kill_supervisor();
    wait_until("its server has ended with it", || !state(server).contains("mariadbd"));
    duo.two.supervise();
    duo.two.wait_for_state("following");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("nothing is left", || left(&duo.two).is_empty());
    orders(&duo.one, "after", 50);
    duo.wait_until_equal(&duo.one, &duo.two);
}

#[test]
fn an_order_ends_the_stillness_and_the_torn_copy_is_not_opened() {
    let duo = DatabaseDuo::start();
    orders(&duo.one, "before", 50);
    duo.wait_until_equal(&duo.one, &duo.two);
    let (child, pipe) = stand_still(&duo.two);
    duo.one.ordered(&["fence"], &[("UNDERSTUDY_EPOCH", "2")]);
    duo.two.ordered(&["promote"], &[("UNDERSTUDY_EPOCH", "2")]);
    orders(&duo.two, "after", 10);
    assert!(!duo.two.place().join("still").exists());
    // Its further steps are taken down, and read by nobody.
    let _open = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("went on before its copy was whole"), "{}", said(&output));
    assert_eq!((left(&duo.two), servers_of_drills(&duo.two)), (vec![], vec![]));
    assert_eq!(duo.two.sql("SELECT COUNT(*) FROM shop.orders"), "60");
}

#[test]
fn a_page_that_is_not_what_was_written_is_found_by_name() {
    let mut duo = DatabaseDuo::start();
    duo.one.sql(
        "CREATE TABLE shop.old (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(400)); \
         INSERT INTO shop.old (text) SELECT REPEAT('old', 100) FROM shop.seq_1_to_2000;",
    );
    duo.wait_until_equal(&duo.one, &duo.two);
    duo.two.signal(rustix::process::Signal::TERM);
    duo.two.supervisor.take().unwrap().wait().unwrap();
    let path = duo.two.host.path("database/data/shop/old.ibd");
    let mut bytes = std::fs::read(&path).unwrap();
    // A byte of a row, in a page that no start reads.
    let at =
        20 * (16 << 10) + bytes[20 * (16 << 10)..].windows(6).position(|part| part == b"oldold").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    duo.two.supervise();
    duo.two.wait_for_state("following");
    let output = drill(&duo.two, &[], &[]);
    assert_eq!(output.status.code(), Some(1), "{}\n{}", said(&output), duo.two.log());
    let drilled: Value = serde_json::from_slice(&output.stdout).unwrap();
    let faults = drilled["faults"].as_array().unwrap();
    println!("{faults:#?}");
    assert!(faults.iter().any(|fault| fault["what"] == "shop.old"), "{faults:?}");
    assert_eq!((left(&duo.two), servers_of_drills(&duo.two)), (vec![], vec![]));
    orders(&duo.one, "after", 20);
    duo.wait_until_equal(&duo.one, &duo.two);
}
