//! A primary's server with an archiver. In the table `shop.counter` each transaction adds one, so that a database at
//! the n-th transaction says so.

use super::command::{ok, said};
use super::host::Host;
use super::mariadb::{FIT, MariaDb};
use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// Returns a host with the store `acme`, whose database is at this server.
pub fn host(repository: &Path, writer: &str, more: &str, server: &MariaDb) -> Host {
    let host = Host::new(1);
    let text = format!(
        "repository = '{}'\nwriter = '{writer}'\n{more}[[store]]\nname = 'acme'\npath = 's0'\nplan = 'private'\n\
         [store.database]\nmode = 'archive'\nsocket = '{}'\n",
        repository.display(),
        server.socket().display()
    );
    std::fs::write(host.path("understudy.toml"), text).unwrap();
    host
}

pub const PLAIN: &str = "encryption = 'none'\n";

/// A primary's server with its host, and an archiver.
pub struct Archived {
    pub server: MariaDb,
    pub host: Host,
    pub archiver: Option<Child>,
    pub repository: tempfile::TempDir,
    /// Number of the transaction before the first that counts.
    pub base: u64,
}

impl Archived {
    /// Makes a seeded primary; the repository is encrypted unless `more` says otherwise.
    pub fn new(more: &str, options: &str) -> Self {
        let archived = Self::unseeded(more, options);
        archived.seed();
        archived
    }

    pub fn unseeded(more: &str, options: &str) -> Self {
        let server = MariaDb::primary_with(options);
        server.sql("CREATE TABLE shop.counter (id INT PRIMARY KEY, value BIGINT); INSERT INTO shop.counter VALUES (1, 0)");
        let repository = tempfile::tempdir().unwrap();
        let host = host(repository.path(), "web-1", more, &server);
        ok(&mut host.command(&["resync", "acme", "--quiet"]));
        let mut archived = Self { server, host, archiver: None, repository, base: 0 };
        archived.base = archived.number();
        archived
    }

    pub fn seed(&self) {
        ok(&mut self.host.command(&["database", "seed", "acme", "--quiet"]));
    }

    pub fn position(&self) -> String {
        self.server.sql("SELECT @@gtid_binlog_pos")
    }

    /// Returns the number of the server's last transaction.
    pub fn number(&self) -> u64 {
        self.position().rsplit('-').next().unwrap().parse().unwrap()
    }

    /// Commits transactions that count.
    pub fn count(&self, transactions: usize) {
        self.server.sql(&counting(transactions));
    }

    pub fn start(&mut self) {
        self.start_with("");
    }

    pub fn start_with(&mut self, kill_at: &str) {
        let log = std::fs::File::options().append(true).create(true).open(self.host.path("log")).unwrap();
        let mut command = self.host.command(&["database", "archive", "acme"]);
        command.stdout(log.try_clone().unwrap()).stderr(log).env("UNDERSTUDY_TEST_KILL_AT", kill_at);
        self.archiver = Some(command.spawn().unwrap());
    }

    pub fn signal(&mut self, signal: Signal) -> Option<i32> {
        let mut child = self.archiver.take().unwrap();
        let _ = kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal);
        child.wait().unwrap().code()
    }

    pub fn report(&self) -> serde_json::Value {
        let path = self.host.path("state/understudy/archive-acme/archive.json");
        std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    pub fn wait_for(&self, what: &str, is: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let begun = Instant::now();
        loop {
            let report = self.report();
            if is(&report) {
                return report;
            }
            assert!(begun.elapsed().as_secs() < 60, "{what}: {report:#}\n{}", self.host.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn wait_until_archived(&self) {
        let position = self.position();
        self.wait_for("it is archived", |report| {
            report["position"] == position.as_str() && report["state"] == "following"
        });
    }

    /// Archives what there is, and ends the archiver.
    pub fn archive_all(&mut self) {
        self.start();
        self.wait_until_archived();
        assert_eq!(self.signal(Signal::TERM), Some(0), "{}", self.host.log());
    }

    pub fn segments(&self, epoch: u64) -> Vec<PathBuf> {
        segments(self.repository.path(), epoch)
    }

    pub fn restore(&self, to: &str, into: &str) -> std::process::Output {
        self.host.command(&["database", "restore", "acme", "--to", to, "--into", into]).output().unwrap()
    }

    pub fn restored(&self, to: &str, into: &str) -> MariaDb {
        let output = self.restore(to, into);
        assert!(output.status.success(), "{}\n{}", said(&output), self.host.log());
        let server = MariaDb::start_on(&self.host.path(into).join("data"), FIT);
        std::fs::remove_dir_all(self.host.path(into)).unwrap();
        server
    }

    /// Restores to the transaction with this number, and checks that the database is as it was then.
    pub fn check_restore_to(&self, number: u64) {
        let server = self.restored(&format!("1-11-{number}"), &format!("to-{number}"));
        let counted = (number - self.base).to_string();
        assert_eq!(server.sql("SELECT value FROM shop.counter"), counted, "at {number}");
        assert_eq!(
            server.sql("SELECT COUNT(*), IFNULL(MAX(total), 0) FROM shop.orders"),
            format!("{counted}\t{counted}")
        );
        assert_eq!(server.sql("SELECT @@gtid_slave_pos"), format!("1-11-{number}"));
        assert_eq!(server.sql("SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'understudy-%'"), "0");
    }
}

impl Drop for Archived {
    fn drop(&mut self) {
        if let Some(child) = &mut self.archiver {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn counting(transactions: usize) -> String {
    let one = "BEGIN; UPDATE shop.counter SET value = value + 1; INSERT INTO shop.orders (total, note) SELECT value, REPEAT('x', 100) FROM shop.counter; COMMIT;\n";
    one.repeat(transactions)
}

pub fn segments(repository: &Path, epoch: u64) -> Vec<PathBuf> {
    let dir = repository.join(format!("acme.database/binlog/{epoch:020}"));
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    // What a killed writer had not yet given its name is no object: `object_store` ends its name in `#` and a number.
    let is_object = |path: &PathBuf| !path.to_string_lossy().contains('#');
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(is_object).collect();
    found.sort();
    found
}
