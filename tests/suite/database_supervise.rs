//! The daemon starts the supervisor of a store's server, with real servers and the real binary: it outlives the
//! daemon, and nothing is started where the configuration does not say so.

use crate::support::command::{ok, said};
use crate::support::database_host::DatabaseHost;
use crate::support::mariadb::GRANTS;
use crate::support::servers::free_port;
use crate::support::wait::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;

/// A primary whose daemon starts its server.
struct Supervised {
    host: DatabaseHost,
    _repository: tempfile::TempDir,
}

impl Supervised {
    fn new(keys: &str) -> Self {
        let repository = tempfile::tempdir().unwrap();
        let location = repository.path().display().to_string();
        let host = DatabaseHost::new(&location, "primary", free_port(), 1);
        let path = host.host.path("understudy.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let text =
            text.replace("[store.database]\n", &format!("[store.database]\nseed_schedule = 'off'\n{keys}"));
        let service = format!("[service]\nlisten = '127.0.0.1:{}'\n", host.host.port);
        std::fs::write(&path, text + &service).unwrap();
        ok(&mut host.host.command(&["resync", "acme", "--quiet"]));
        ok(&mut host.host.command(&["database", "found", "acme"]));
        Self { host, _repository: repository }
    }

    /// Returns the id of the supervisor, whether it runs or not.
    fn supervisor(&self) -> i32 {
        let text = std::fs::read_to_string(self.host.place().join("lock")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    fn answers(&self) -> bool {
        self.host.state() == "serving" && self.host.customer("SELECT 1").is_ok_and(|one| one == "1")
    }

    fn kill_daemon(&mut self) {
        let mut daemon = self.host.host.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn text(&self) -> String {
        let said = std::fs::read_to_string(self.host.place().join("supervisor.log")).unwrap_or_default();
        format!("{}\n{said}\n{}\n{:#}", self.host.host.log(), self.host.log(), self.host.status().1)
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // The daemon would start another one.
        if let Some(mut daemon) = self.host.host.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if let Some(id) = Pid::from_raw(self.supervisor()).filter(|_| self.supervisor() > 1)
            && runs(self.supervisor(), "understudy")
        {
            let _ = kill_process(id, Signal::KILL);
        }
    }
}

/// Returns whether a process runs, and is of this program.
fn runs(id: i32, program: &str) -> bool {
    let command = std::fs::read(Path::new("/proc").join(id.to_string()).join("cmdline")).unwrap_or_default();
    id > 0 && String::from_utf8_lossy(&command).contains(program)
}

fn signal(id: i32, signal: Signal) {
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
}

#[test]
fn a_server_that_the_daemon_starts_outlives_it_and_is_started_again_when_it_is_killed() {
    let mut this = Supervised::new("supervise = true\n");
    this.host.host.start();
    wait_until("a supervisor answers", || this.host.place().join("orders.socket").exists());
    this.host.ordered(&["promote"], &[]);
    this.host.sql(&format!(
        "CREATE USER understudy@'127.0.0.1' IDENTIFIED BY 'secret'; GRANT {GRANTS} ON *.* TO understudy@'127.0.0.1'; \
         CREATE DATABASE shop; CREATE USER shop@'127.0.0.1'; GRANT ALL ON shop.* TO shop@'127.0.0.1';"
    ));
    wait_until("customers are served", || this.answers());
    let (supervisor, server) = (this.supervisor(), this.host.server());
    assert!(runs(supervisor, "understudy") && runs(server, "mariadbd"), "{}", this.text());
    // A daemon that is killed, and one that is asked to end, leave it alone, and the next one finds it.
    for asked in [false, true] {
        match asked {
            true => this.host.host.end(),
            false => this.kill_daemon(),
        }
        assert!(this.answers(), "{}", this.text());
        this.host.host.start();
        wait_until("the daemon says that it is supervised", || {
            this.host.host.store("acme")["database"]["server"]["supervised"] == true
        });
        assert_eq!((this.supervisor(), this.host.server()), (supervisor, server), "{}", this.text());
    }
    // A server that is killed is started again by its supervisor.
    signal(server, Signal::KILL);
    wait_until("the server was started again", || this.host.server() != server && this.answers());
    assert_eq!(this.supervisor(), supervisor);
    // A supervisor that is killed takes its server with it, and the daemon starts both.
    let server = this.host.server();
    signal(supervisor, Signal::KILL);
    wait_until("the daemon has started another one", || this.supervisor() != supervisor && this.answers());
    assert!(!runs(server, "mariadbd"), "{}", this.text());
    // A second one, of a person, is refused.
    let second = this.host.host.command(&["database", "run", "acme"]).output().unwrap();
    assert!(said(&second).contains("another process runs this already"), "{}", said(&second));
    // What a person ends stays ended, until a daemon starts anew.
    let supervisor = this.supervisor();
    signal(supervisor, Signal::TERM);
    wait_until("the daemon says that a person ended it", || {
        let server = this.host.host.store("acme")["database"]["server"].clone();
        server["error"].as_str().is_some_and(|error| error.contains("a person ended it"))
    });
    assert!(!runs(supervisor, "understudy") && this.supervisor() == supervisor, "{}", this.text());
    this.kill_daemon();
    this.host.host.start();
    wait_until("the next daemon has started it", || this.supervisor() != supervisor && this.answers());
}

#[test]
fn without_a_word_in_the_configuration_the_daemon_starts_no_server() {
    let mut this = Supervised::new("");
    this.host.host.start();
    // Its looks at the databases have begun once it archives, or says that it has no seed.
    wait_until("it observes the database", || !this.host.host.store("acme")["database"]["seeds"].is_null());
    assert_eq!(this.host.host.store("acme")["database"]["server"]["supervised"], false);
    assert!(!this.host.place().join("supervisor.log").exists() && this.host.server() == 0, "{}", this.text());
    let path = this.host.host.path("understudy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    for (keys, wanted) in [
        ("supervise = true\nuser = 'mysql'\n", "as the daemon's user"),
        ("supervise = true\nmode = 'archive'\n", "a `mode` with a replica"),
    ] {
        let text = text.replace("[store.database]\n", &format!("[store.database]\n{keys}"));
        std::fs::write(&path, text).unwrap();
        let refused = this.host.host.command(&["database", "status", "acme"]).output().unwrap();
        assert!(refused.status.code() == Some(2) && said(&refused).contains(wanted), "{}", said(&refused));
    }
    std::fs::write(&path, text).unwrap();
}
