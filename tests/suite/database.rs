//! The database of a store on its standby, with real MariaDB servers and the real binary.

use crate::support::command::{ok, said};
use crate::support::disk::SmallDisk;
use crate::support::host::Host;
use crate::support::mariadb::{GRANTS, MariaDb, sql_at};
use crate::support::wait::wait_until;
use rustix::process::{Pid, Signal};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

/// Returns a host with the store `acme`, and these keys for its database.
fn host(repository: &str, keys: &str) -> Host {
    let host = Host::new(1);
    let text = format!(
        "repository = '{repository}'\nwriter = 'web-{}'\n[[store]]\nname = 'acme'\npath = 's0'\n[store.database]\n{keys}",
        host.port
    );
    std::fs::write(host.path("understudy.toml"), text).unwrap();
    host
}

fn json(host: &Host, args: &[&str]) -> (i32, serde_json::Value) {
    let output = host.command(args).arg("--json").output().unwrap();
    let value = serde_json::from_slice(&output.stdout);
    (
        output.status.code().unwrap(),
        value.unwrap_or_else(|error| panic!("{args:?}: {error}: {}", said(&output))),
    )
}

#[test]
fn an_unfit_primary_is_refused_with_every_reason_at_once() {
    let primary = MariaDb::start("binlog-row-image=MINIMAL\nbinlog-format=MIXED\n");
    primary.sql(
        "CREATE DATABASE shop; CREATE TABLE shop.idx (id INT) ENGINE=MEMORY; CREATE TABLE shop.old (id INT) ENGINE=MyISAM; \
         CREATE USER shop@'%'; GRANT READ_ONLY ADMIN ON *.* TO shop@'%'; GRANT SELECT ON *.* TO understudy@'127.0.0.1';",
    );
    let host = host("repository", &primary.tcp());
    let (code, report) = json(&host, &["database", "check", "acme"]);
    let findings = report["findings"].as_array().unwrap();
    let whats: BTreeSet<&str> = findings.iter().map(|finding| finding["what"].as_str().unwrap()).collect();
    let wanted = [
        "log_bin",
        "binlog_format",
        "binlog_row_image",
        "gtid_domain_id",
        "grants",
        "read_only",
        "server_id",
        "gtid_strict_mode",
        "engine",
    ];
    assert_eq!((code, &whats), (2, &BTreeSet::from(wanted)), "{report:#}");
    assert_eq!(findings.len(), wanted.len() + 1, "two tables: {report:#}");
    // What it says can be done as it says.
    for finding in findings.iter().filter(|finding| finding["mend"].as_str().unwrap().ends_with(';')) {
        primary.sql(finding["mend"].as_str().unwrap());
    }
    for finding in findings {
        if let Some((statement, _)) = finding["mend"].as_str().unwrap().split_once("; and ") {
            primary.sql(&statement.replace("{N}", "11"));
        }
    }
    primary.sql("SET GLOBAL binlog_expire_logs_seconds=604800;");
    let (code, report) = json(&host, &["database", "check", "acme"]);
    let left: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["what"].as_str().unwrap())
        .collect();
    assert_eq!((code, left), (2, vec!["log_bin", "engine"]), "{report:#}");
    let text = host.command(&["database", "check", "acme"]).output().unwrap();
    assert!(
        said(&text).contains("1 things must change") && said(&text).contains("log_bin=binlog"),
        "{text:?}"
    );
}

#[test]
fn a_fit_primary_is_fit_and_a_password_that_others_can_change_is_not_used() {
    let primary = MariaDb::primary();
    let host = host("repository", &primary.tcp());
    let (code, report) = json(&host, &["database", "check", "acme"]);
    assert_eq!((code, report["findings"].as_array().unwrap().len()), (0, 0), "{report:#}");
    // The directory keeps others out; what they could read would be told.
    let file: PathBuf = primary.account_file();
    std::fs::set_permissions(primary.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let output = host.command(&["database", "check", "acme"]).output().unwrap();
    assert!(said(&output).contains("chmod go-r"), "{output:?}");
    primary.sql(&format!("REVOKE {GRANTS} ON *.* FROM understudy@'127.0.0.1'; SET PASSWORD FOR understudy@'127.0.0.1' = '*14E65567ABDB5135D0CFD9A70B3032C179A49EE7';"));
    let output = host.command(&["database", "check", "acme"]).output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("1045"), "{output:?}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let output = host.command(&["database", "check", "acme"]).output().unwrap();
    assert!(said(&output).contains("chmod go-w"), "{output:?}");
}

/// A primary's server with its host, and a standby, which share a repository.
struct Pair {
    server: MariaDb,
    one: Host,
    two: Host,
    supervisor: Option<Child>,
    /// Bytes that the first seed shipped.
    shipped_bytes: u64,
    _repository: tempfile::TempDir,
}

impl Pair {
    /// Makes the two hosts and seeds; the standby's replica lies in `replica`, or elsewhere.
    fn new(datadir: Option<&Path>) -> Self {
        Self::of(MariaDb::primary(), datadir)
    }

    fn of(server: MariaDb, datadir: Option<&Path>) -> Self {
        let repository = tempfile::tempdir().unwrap();
        let location = repository.path().display().to_string();
        let one = host(&location, &server.tcp());
        ok(&mut one.command(&["resync", "acme", "--quiet"]));
        server.orders(200);
        let two = host(&location, "");
        let keys =
            format!("{}datadir = '{}'\n", server.tcp(), datadir.unwrap_or(&two.path("replica")).display());
        let text = std::fs::read_to_string(two.path("understudy.toml")).unwrap() + &keys;
        std::fs::write(two.path("understudy.toml"), text).unwrap();
        let mut pair = Self { server, one, two, supervisor: None, shipped_bytes: 0, _repository: repository };
        pair.shipped_bytes = pair.seed()["shipped_bytes"].as_u64().unwrap();
        pair
    }

    fn seed(&self) -> serde_json::Value {
        let (code, report) = json(&self.one, &["database", "seed", "acme"]);
        assert_eq!(code, 0, "{report:#}");
        report
    }

    fn start(&mut self, more: &[&str]) {
        let log = std::fs::File::options().append(true).create(true).open(self.two.path("log")).unwrap();
        let mut command = self.two.command(&["database", "run", "acme"]);
        let command = command.args(more).stdout(log.try_clone().unwrap()).stderr(log);
        self.supervisor = Some(command.spawn().unwrap());
    }

    fn status(&self) -> (i32, serde_json::Value) {
        json(&self.two, &["database", "status", "acme"])
    }

    fn wait_for(&self, what: &str, is: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let last = std::cell::RefCell::new(serde_json::Value::Null);
        let log = || std::fs::read_to_string(self.two.path("log")).unwrap_or_default();
        let begun = std::time::Instant::now();
        loop {
            last.replace(self.status().1);
            if is(&last.borrow()) {
                return last.into_inner();
            }
            assert!(begun.elapsed().as_secs() < 60, "{what}: {:#}\n{}", last.borrow(), log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the replica has all that the primary has now, and both say the same about every table.
    fn wait_until_equal(&self) {
        let position = self.server.sql("SELECT @@gtid_binlog_pos");
        self.wait_for("it has applied all", |status| {
            status["replica"]["state"] == "following" && status["replica"]["applied"] == position.as_str()
        });
        let tables = "CHECKSUM TABLE shop.orders";
        assert_eq!(self.sql(tables), self.server.sql(tables));
    }

    fn place(&self) -> PathBuf {
        self.two.path("state/understudy/database-acme")
    }

    /// Runs statements on the replica, by its own account.
    fn sql(&self, statements: &str) -> String {
        let account = format!("--defaults-file={}", self.place().join("account.cnf").display());
        sql_at(&self.place().join("socket"), &[&account], statements)
            .unwrap_or_else(|e| panic!("{statements}: {e}"))
    }

    /// Returns the id of the replica's server, which runs.
    fn id(&self) -> i32 {
        let id = self.id_or_0();
        assert!(is_there(id), "{id}");
        id
    }

    fn id_or_0(&self) -> i32 {
        let text = std::fs::read_to_string(self.place().join("pid")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn signal_supervisor(&mut self, signal: Signal) -> Option<i32> {
        let mut child = self.supervisor.take().unwrap();
        let id = Pid::from_raw(child.id() as i32).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
        child.wait().unwrap().code()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if let Some(child) = &mut self.supervisor {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn is_there(id: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim() == "mariadbd")
}

#[test]
fn a_seed_through_the_repository_follows_with_equal_checksums() {
    let mut pair = Pair::new(None);
    pair.server.orders(100);
    pair.start(&[]);
    pair.wait_until_equal();
    pair.server.orders(50);
    pair.server.sql(
        "ALTER TABLE shop.orders ADD COLUMN state INT DEFAULT 7; DELETE FROM shop.orders WHERE id % 9 = 0;",
    );
    pair.server.sql("CREATE USER app@'%' IDENTIFIED BY 'x'; GRANT SELECT ON shop.* TO app@'%';");
    pair.wait_until_equal();
    let (code, status) = pair.status();
    assert_eq!((code, &status["replica"]["behind"]), (0, &0.into()), "{status:#}");
    assert!(status["replica"]["lag_seconds"].as_f64().unwrap() < 10.0, "{status:#}");
    // Nothing of the standby's own is in its binary log: our account was made beside it.
    let theirs = pair.server.sql("SELECT @@gtid_binlog_pos");
    assert_eq!(pair.sql("SELECT @@gtid_binlog_pos"), theirs);
    assert!(pair.server.sql("SELECT User FROM mysql.user").lines().all(|user| user != "understudy-replica"));
    // The next seed ships what changed, and is followed from its own position.
    let (first, second) = (pair.shipped_bytes, pair.seed());
    let shipped = second["shipped_bytes"].as_u64().unwrap();
    assert!(shipped * 5 < first, "{shipped} of {first}");
    assert_eq!(pair.signal_supervisor(Signal::TERM), Some(0));
    assert!(!is_there(pair.id_or_0()), "its server ended with it");
    pair.server.orders(20);
    pair.start(&["--reseed"]);
    pair.wait_until_equal();
    let said = std::fs::read_to_string(pair.two.path("log")).unwrap();
    assert!(said.contains("acme.database@") && said.contains("acme: following"), "{said}");
}

#[test]
fn a_killed_replica_goes_on_where_it_was() {
    let mut pair = Pair::new(None);
    pair.start(&[]);
    pair.wait_until_equal();
    for round in 0..4 {
        pair.server.orders(60);
        let id = pair.id();
        match round % 2 {
            // Its server: the supervisor starts another.
            0 => rustix::process::kill_process(Pid::from_raw(id).unwrap(), Signal::KILL).unwrap(),
            // The supervisor: its server ends with it.
            _ => {
                pair.signal_supervisor(Signal::KILL);
                wait_until("the server ends", || !is_there(id));
                pair.start(&[]);
            }
        }
        pair.server.orders(60);
        wait_until("another server runs", || pair.id_or_0() != id && is_there(pair.id_or_0()));
        pair.wait_until_equal();
    }
    // The primary's death is none of the replica's.
    pair.server.kill();
    let status = pair.wait_for("the primary is missed", |status| !status["replica"]["trouble"].is_null());
    assert_eq!(status["replica"]["trouble"], "unreachable", "{status:#}");
    pair.server.begin();
    pair.server.orders(10);
    pair.wait_until_equal();
}

#[test]
fn a_standard_replica_has_no_tcp_listener_and_stays_small() {
    let mut pair = Pair::new(None);
    pair.start(&[]);
    pair.server.orders(2000);
    pair.wait_until_equal();
    let (place, id) = (pair.place(), pair.id());
    assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!place.join("init.sql").exists());
    assert_eq!(std::fs::metadata(place.join("account.cnf")).unwrap().permissions().mode() & 0o777, 0o600);
    let inodes: BTreeSet<String> = std::fs::read_dir(format!("/proc/{id}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    assert!(!inodes.is_empty());
    for table in ["tcp", "tcp6"] {
        for line in std::fs::read_to_string(format!("/proc/{id}/net/{table}")).unwrap().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            assert!(fields[3] != "0A" || !inodes.contains(fields[9]), "it listens: {line}");
        }
    }
    // The primary's accounts came with the seed; writing takes a privilege that they lack.
    let read_only =
        pair.sql("SELECT @@read_only, @@skip_networking, @@event_scheduler, @@gtid_domain_id >= 900");
    assert_eq!(read_only, "1\t1\tOFF\t1");
    let status = pair.status().1;
    let mib = status["replica"]["resident_bytes"].as_u64().unwrap() >> 20;
    // The program itself has grown since 10.11.
    let most = if pair.sql("SELECT @@version").starts_with("10.") { 80 } else { 100 };
    assert!((20..most).contains(&mib), "{mib} MiB");
    let log = std::fs::read_to_string(place.join("server.log")).unwrap();
    assert!(!log.contains("[ERROR]"), "{log}");
}

#[test]
fn a_row_that_is_missing_is_a_conflict_with_a_name_and_is_not_skipped() {
    let mut pair = Pair::new(None);
    pair.start(&[]);
    pair.wait_until_equal();
    pair.sql("SET sql_log_bin=0; DELETE FROM shop.orders WHERE id = 5");
    let before = pair.server.sql("SELECT @@gtid_binlog_pos");
    pair.server.sql(
        "UPDATE shop.orders SET total = -1 WHERE id = 5; UPDATE shop.orders SET total = -1 WHERE id = 6;",
    );
    let status = pair.wait_for("it is broken", |status| status["replica"]["state"] == "broken");
    assert_eq!(
        (&status["replica"]["trouble"], &status["replica"]["applied"]),
        (&"conflict".into(), &before.into())
    );
    let error = status["replica"]["error"].as_str().unwrap();
    assert!(error.contains("shop.orders") && error.contains("1032"), "{error}");
    assert!(status["mend"].as_str().unwrap().contains("database run acme --reseed"), "{status:#}");
    assert_eq!(pair.status().0, 4);
    // It stays so, whatever comes after it and however often it is started.
    pair.server.orders(20);
    pair.signal_supervisor(Signal::TERM);
    pair.start(&[]);
    pair.wait_for("it runs again", |status| {
        status["supervised"] == true && status["replica"]["state"] == "broken"
    });
    assert_eq!(pair.sql("SELECT COUNT(*) FROM shop.orders WHERE total = -1"), "0");
    // What mends it does.
    pair.signal_supervisor(Signal::TERM);
    pair.seed();
    pair.start(&["--reseed"]);
    pair.wait_until_equal();
}

#[test]
fn a_replica_whose_disk_fills_stops_by_itself_and_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(dir.path().join("disk"), 600 << 20);
    let mut pair = Pair::new(Some(&disk.0.join("replica")));
    pair.start(&[]);
    pair.wait_until_equal();
    let stat = rustix::fs::statvfs(&disk.0).unwrap();
    let fill = std::fs::File::create(disk.0.join("filler")).unwrap();
    let bytes = (stat.f_bavail - stat.f_blocks * 3 / 100) * stat.f_frsize;
    rustix::fs::fallocate(&fill, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
    let status = pair.wait_for("it stands still", |status| status["replica"]["trouble"] == "full");
    assert_eq!(status["replica"]["state"], "waiting", "{status:#}");
    wait_until("both threads have stopped", || !pair.sql("SHOW SLAVE STATUS").contains("Yes"));
    pair.server.orders(30);
    assert!(is_there(pair.id()));
    drop(fill);
    std::fs::remove_file(disk.0.join("filler")).unwrap();
    pair.wait_until_equal();
}

#[test]
fn a_memory_table_that_a_restart_emptied_does_not_stop_the_standby() {
    let mut pair = Pair::new(None);
    pair.server.sql(
        "CREATE TABLE shop.tmp (id INT PRIMARY KEY) ENGINE=MEMORY; INSERT INTO shop.tmp VALUES (1), (2);",
    );
    pair.start(&[]);
    pair.wait_until_equal();
    pair.signal_supervisor(Signal::TERM);
    pair.start(&[]);
    pair.wait_until_equal();
    // The server empties it at the first look, in its own domain.
    assert_eq!(pair.sql("SELECT COUNT(*) FROM shop.tmp"), "0");
    assert!(pair.sql("SELECT @@gtid_binlog_pos").contains(','));
    pair.server.orders(10);
    pair.wait_until_equal();
}

#[test]
fn what_cannot_be_a_replica_is_refused_in_words() {
    let server = MariaDb::primary();
    let repository = tempfile::tempdir().unwrap();
    let location = repository.path().display().to_string();
    let refused = |keys: &str, with: &str| {
        let host = host(&location, keys);
        std::fs::create_dir(host.path("full")).unwrap();
        std::fs::write(host.path("full/ibdata1"), "somebody's").unwrap();
        let output = host.command(&["database", "run", "acme"]).output().unwrap();
        assert!(output.status.code() == Some(2) && said(&output).contains(with), "{keys}: {output:?}");
        assert_eq!(std::fs::read(host.path("full/ibdata1")).unwrap(), b"somebody's");
    };
    refused(&server.tcp(), "set `datadir`");
    let standby = host(&location, &server.tcp());
    let text = std::fs::read_to_string(standby.path("understudy.toml")).unwrap();
    std::fs::write(standby.path("understudy.toml"), text.replace("path = 's0'", "role = 'standby'")).unwrap();
    let output = standby.command(&["database", "seed", "acme"]).output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("seed on its primary"), "{output:?}");
    refused(&format!("datadir = 'r'\nsocket = '{}'", server.socket().display()), "replicates over TCP only");
    refused(&format!("datadir = 'full'\n{}", server.tcp()), "holds something that is no replica");
    refused(&format!("datadir = 'r'\n{}", server.tcp()), "acme.database");
    // The log decides who follows.
    let one = host(&location, &format!("datadir = 'r'\n{}", server.tcp()));
    ok(&mut one.command(&["resync", "acme", "--quiet"]));
    ok(&mut one.command(&["member", "found", "acme"]));
    let output = one.command(&["database", "run", "acme"]).output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("is its primary"), "{output:?}");
    // A server that is not fit is not seeded from.
    server.sql("SET GLOBAL binlog_format='MIXED'; SET GLOBAL gtid_domain_id=0;");
    let output = one.command(&["database", "seed", "acme"]).output().unwrap();
    let said = said(&output);
    assert!(output.status.code() == Some(2) && said.contains("binlog_format, gtid_domain_id"), "{said}");
}

#[test]
fn a_replica_that_was_promoted_is_left_alone_and_a_second_supervisor_is_refused() {
    let mut pair = Pair::new(None);
    pair.start(&[]);
    pair.wait_until_equal();
    let output = pair.two.command(&["database", "run", "acme"]).output().unwrap();
    assert!(
        output.status.code() == Some(2) && said(&output).contains("another process runs this"),
        "{output:?}"
    );
    // As a command of `promote` does.
    pair.sql(
        "STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only=0; INSERT INTO shop.orders (total) VALUES (-77)",
    );
    let id = pair.id();
    let status = pair.wait_for("it is seen", |status| status["replica"]["error"].as_str().is_some());
    assert!(status["replica"]["error"].as_str().unwrap().contains("promotion"), "{status:#}");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!((pair.id(), pair.sql("SHOW SLAVE STATUS")), (id, String::new()));
    assert_eq!(pair.sql("SELECT COUNT(*) FROM shop.orders WHERE total = -77"), "1");
}

#[test]
fn a_replica_follows_by_tls_and_only_a_server_whose_certificate_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |args: &str| {
        let output =
            Command::new("openssl").args(args.split_whitespace()).current_dir(dir.path()).output().unwrap();
        assert!(output.status.success(), "{args}: {output:?}");
    };
    for name in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem"
        ));
    }
    openssl(
        "req -newkey rsa:2048 -nodes -subj /CN=db -addext subjectAltName=IP:127.0.0.1 -keyout db.key -out db.csr",
    );
    openssl(
        "x509 -req -in db.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy -out db.pem",
    );
    let path = |name: &str| dir.path().join(name).display().to_string();
    let options =
        format!("ssl-ca={}\nssl-cert={}\nssl-key={}\n", path("ca.pem"), path("db.pem"), path("db.key"));
    let mut pair = Pair::of(MariaDb::primary_with(&options), None);
    pair.server.sql("ALTER USER understudy@'127.0.0.1' REQUIRE SSL");
    let configuration = std::fs::read_to_string(pair.two.path("understudy.toml")).unwrap();
    let with = |ca: &str| format!("{configuration}tls_ca = '{}'\n", path(ca));
    std::fs::write(pair.two.path("understudy.toml"), with("ca.pem")).unwrap();
    pair.start(&[]);
    pair.wait_until_equal();
    pair.signal_supervisor(Signal::TERM);
    std::fs::write(pair.two.path("understudy.toml"), with("other.pem")).unwrap();
    pair.server.orders(5);
    pair.start(&[]);
    let status = pair.wait_for("it is refused", |status| {
        status["supervised"] == true && status["replica"]["trouble"] == "unreachable"
    });
    assert!(status["replica"]["error"].as_str().unwrap().contains("SSL"), "{status:#}");
    assert_eq!(pair.sql("SELECT COUNT(*) FROM shop.orders"), "200");
}

#[test]
fn each_broken_state_has_its_kind_and_what_mends_it() {
    let mut pair = Pair::new(None);
    pair.start(&[]);
    pair.wait_until_equal();
    // What was received is damaged, while the supervisor does not look.
    let supervisor = Pid::from_raw(pair.supervisor.as_ref().unwrap().id() as i32).unwrap();
    rustix::process::kill_process(supervisor, Signal::STOP).unwrap();
    pair.sql("STOP SLAVE SQL_THREAD");
    pair.server.orders(20);
    let position = pair.server.sql("SELECT @@gtid_binlog_pos");
    wait_until("it is received", || pair.sql("SHOW SLAVE STATUS").split('\t').any(|field| field == position));
    let data = pair.two.path("replica/data");
    let relays = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let relays = relays.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("relay.0"));
    let relay = relays.max().unwrap();
    let mut bytes = std::fs::read(&relay).unwrap();
    let at = bytes.len() - 900;
    bytes[at..at + 200].fill(0xee);
    std::fs::write(&relay, bytes).unwrap();
    pair.sql("START SLAVE SQL_THREAD");
    wait_until("it cannot be read", || {
        ["1594", "1595", "1743"]
            .iter()
            .any(|code| pair.sql("SHOW SLAVE STATUS").split('\t').any(|field| field == *code))
    });
    rustix::process::kill_process(supervisor, Signal::CONT).unwrap();
    pair.wait_until_equal();
    // The primary has deleted what comes next.
    pair.signal_supervisor(Signal::TERM);
    // It keeps those that it still sends.
    wait_until("it sends no more", || !pair.server.sql("SHOW PROCESSLIST").contains("Binlog Dump"));
    pair.server.orders(5);
    pair.server.sql("FLUSH BINARY LOGS");
    wait_until("they are deleted", || {
        let last = pair.server.sql("SHOW MASTER STATUS");
        pair.server.sql(&format!("PURGE BINARY LOGS TO '{}'", last.split('\t').next().unwrap()));
        pair.server.sql("SHOW BINARY LOGS").lines().count() == 1
    });
    pair.start(&[]);
    let broken = |kind: &str| {
        let status = pair
            .wait_for(kind, |status| status["supervised"] == true && status["replica"]["state"] == "broken");
        assert_eq!(status["replica"]["trouble"], kind, "{status:#}");
        assert!(status["replica"]["error"].as_str().unwrap().contains("1236"), "{status:#}");
        let mend = if kind == "diverged" { "database stranded acme" } else { "database seed acme" };
        assert!(status["mend"].as_str().unwrap().contains(mend), "{status:#}");
    };
    broken("gone");
    // It has what the primary never had.
    pair.server.orders(20);
    let last = pair.server.sql("SELECT @@gtid_binlog_pos");
    let number: u64 = last.rsplit('-').next().unwrap().parse().unwrap();
    let stray =
        format!("STOP SLAVE; RESET MASTER; SET GLOBAL gtid_slave_pos='1-99-{}'; START SLAVE", number - 5);
    pair.sql(&stray);
    wait_until("it is seen", || pair.status().1["replica"]["trouble"] == "diverged");
    broken("diverged");
    pair.signal_supervisor(Signal::TERM);
    pair.seed();
    // What only it has is kept first.
    ok(&mut pair.two.command(&["database", "rejoin", "acme", "--reseed", "--yes"]));
    pair.start(&[]);
    pair.wait_until_equal();
}

#[test]
fn a_seed_is_taken_by_the_socket_of_a_server_without_an_account() {
    let server = MariaDb::primary();
    let one = host("repository", &format!("socket = '{}'\n", server.socket().display()));
    server.orders(3);
    let position = server.sql("SELECT @@gtid_binlog_pos");
    let (code, report) = json(&one, &["database", "seed", "acme", "--directory", "copy"]);
    assert_eq!((code, &report["position"]), (0, &position.into()), "{report:#}");
    // A seed that is broken off is none: the note is written last, and the copy begins anew.
    let note = one.path("copy/seed.json");
    assert!(note.exists() && one.path("copy/data/ibdata1").exists());
    let mut command = one.command(&["database", "seed", "acme", "--directory", "copy"]);
    let empty = tempfile::tempdir().unwrap();
    let (program, real) = (empty.path().join("mariadb-backup"), "/usr/bin/mariadb-backup");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--prepare*) echo 'Error: no memory'; exit 1;; esac\nexec {real} \"$@\"\n"
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    command.env("PATH", format!("{}:{}", empty.path().display(), std::env::var("PATH").unwrap()));
    let output = command.output().unwrap();
    assert!(output.status.code() == Some(1) && said(&output).contains("no memory"), "{output:?}");
    assert!(!note.exists());
    let snapshots = ok(&mut one.command(&["snapshots", "acme.database", "--json"]));
    assert_eq!(
        String::from_utf8_lossy(&snapshots.stdout).matches("\"scan_start_ns\"").count(),
        1,
        "{}",
        said(&snapshots)
    );
    let (code, _) = json(&one, &["database", "seed", "acme", "--directory", "copy"]);
    assert!(code == 0 && note.exists());
}

#[test]
fn a_server_of_another_series_is_not_started_on_a_seed() {
    let pair = Pair::new(None);
    let programs = tempfile::tempdir().unwrap();
    let program = programs.path().join("mariadbd");
    std::fs::write(&program, "#!/bin/sh\necho 'mariadbd  Ver 11.8.2-MariaDB for debian-linux-gnu'\n")
        .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = pair.two.command(&["database", "run", "acme"]);
    command.env("PATH", format!("{}:{}", programs.path().display(), std::env::var("PATH").unwrap()));
    let output = command.output().unwrap();
    assert!(output.status.code() == Some(2) && said(&output).contains("'11.8.2-MariaDB'"), "{output:?}");
    // The right one goes on with what was restored.
    let mut pair = pair;
    pair.start(&[]);
    pair.wait_until_equal();
}
