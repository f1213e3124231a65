//! Three hosts of one store without gates and files of their own: what they decide, and what they ask each other.

use super::command::ok;
use super::host::Host;
use super::members::join;
use super::wait::wait_until;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The members `web-1` (the primary), `web-2` and `web-3` of the store `acme`, each with its daemon.
///
/// Only `web-1` has files. If it took the store over again, a mount that other tests see would appear at their place.
pub struct Trio {
    pub hosts: [Host; 3],
    pub repository: PathBuf,
    _dir: tempfile::TempDir,
}

fn configure(host: &Host, number: usize, repository: &Path) {
    let role = if number == 1 { "path = 's0'" } else { "role = 'standby'" };
    let (port, path) = (host.port, repository.display());
    let text = format!(
        "listen = '127.0.0.1:{port}'\nlook_seconds = 1\n[[store]]\nname = 'acme'\n{role}\n\
         schedule = '0 0 1 1 *'\n[store.member]\naddress = '127.0.0.1:{port}'\n"
    );
    let text = format!("repository = '{path}'\nwriter = 'web-{number}'\n[service]\n{text}");
    std::fs::write(host.path("understudy.toml"), text).unwrap();
}

impl Trio {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("repository");
        std::fs::create_dir(&repository).unwrap();
        let hosts = [1, 2, 3].map(|number| {
            let host = Host::new(1);
            configure(&host, number, &repository);
            host
        });
        ok(&mut hosts[0].command(&["resync", "acme", "--quiet"]));
        ok(&mut hosts[0].command(&["member", "found", "acme"]));
        join(&hosts[0], &hosts[1], &[]);
        join(&hosts[0], &hosts[2], &[]);
        let mut trio = Self { hosts, repository, _dir: dir };
        trio.hosts.iter_mut().for_each(Host::start);
        trio.wait_for_primary(0);
        trio
    }

    /// Waits until a host is the primary, and the others that run follow.
    pub fn wait_for_primary(&self, primary: usize) {
        let is_so = |host: usize| {
            let status = self.failover(host);
            let phase = if host == primary { "primary" } else { "standby" };
            status["phase"] == phase && status["completed"] == true
        };
        let running = |host: &usize| self.hosts[*host].daemon.is_some();
        wait_until("one is the primary", || (0..3).filter(running).all(is_so));
    }

    pub fn command(&self, host: usize, arguments: &[&str]) -> Command {
        self.hosts[host].command(arguments)
    }

    /// Ends a daemon at once.
    pub fn kill(&mut self, host: usize) {
        let mut daemon = self.hosts[host].daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        std::fs::remove_file(self.hosts[host].socket().unwrap()).unwrap();
    }

    pub fn failover(&self, host: usize) -> Value {
        let text = self.hosts[host].get("/api/v1/stores/acme/failover");
        text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
    }

    pub fn history(&self, host: usize) -> Vec<Value> {
        let output = ok(&mut self.command(host, &["history", "acme", "--json"]));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Sends a request about the store to a host's socket.
    pub fn post(&self, host: usize, what: &str) -> (u16, String) {
        let socket = self.hosts[host].socket().unwrap();
        let path = format!("/api/v1/stores/acme/{what}");
        self.hosts[host].curl(&["--unix-socket", socket.to_str().unwrap()], "POST", &path)
    }
}

impl Drop for Trio {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in 0..3 {
                eprintln!("--- web-{}: {}\n{}", host + 1, self.failover(host), self.hosts[host].log());
            }
        }
    }
}
