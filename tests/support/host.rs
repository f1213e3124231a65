//! Hosts: each has a configuration, and perhaps a daemon.

use super::command::{ok, understudy};
use super::servers::free_port;
use super::tree::sample_tree;
use super::wait::wait_until;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A host with a configuration, which may run a daemon.
pub struct Host {
    pub dir: tempfile::TempDir,
    pub port: u16,
    pub daemon: Option<Child>,
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

impl Host {
    /// Creates stores `s0…` below the host's directory, each with a small tree.
    pub fn new(stores: usize) -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap(), port: free_port(), daemon: None };
        for number in 0..stores {
            sample_tree(&host.path(&format!("s{number}")));
        }
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn configure(&self, stores: &str) {
        let text = format!("[service]\nlisten = \"127.0.0.1:{}\"\nlook_seconds = 1\n{stores}", self.port);
        std::fs::write(self.path("understudy.toml"), text).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = understudy(self.dir.path());
        command.env_remove("UNDERSTUDY_REPOSITORY").env("XDG_DATA_HOME", self.path("data"));
        command.env("XDG_STATE_HOME", self.path("state")).args(args);
        command
    }

    pub fn start(&mut self) {
        let log = std::fs::File::options().append(true).create(true).open(self.path("log")).unwrap();
        self.start_with(|command| command.stderr(log));
    }

    pub fn start_with(&mut self, change: impl FnOnce(&mut Command) -> &mut Command) {
        let mut command = self.command(&["run"]);
        command.stdout(Stdio::null());
        self.daemon = Some(change(&mut command).spawn().unwrap());
        wait_until("it answers", || self.get("/healthz").is_some());
    }

    /// Asks the daemon to end, and checks its exit code.
    pub fn end(&mut self) {
        self.signal("-TERM");
        let mut daemon = self.daemon.take().unwrap();
        let mut status = None;
        wait_until("it ends", || {
            status = daemon.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{}", self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn signal(&self, signal: &str) {
        let id = self.daemon.as_ref().unwrap().id().to_string();
        ok(Command::new("kill").args([signal, &id]));
    }

    /// Sends a request to the port.
    pub fn ask(&self, method: &str, path: &str, token: Option<&str>) -> (u16, String) {
        let token = token.map(|token| format!("Authorization: Bearer {token}"));
        let token = token.iter().flat_map(|header| ["-H", header]).collect::<Vec<_>>();
        self.curl(&token, method, path)
    }

    pub fn curl(&self, how: &[&str], method: &str, path: &str) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "60", "-X", method, "-w", "\n%{http_code}"]).args(how);
        let output = curl.arg(format!("http://127.0.0.1:{}{path}", self.port)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
        (status.parse().unwrap_or(0), body.to_owned())
    }

    /// Returns the daemon's socket, as this host's commands find it.
    pub fn socket(&self) -> Option<PathBuf> {
        let listed = std::fs::read_dir(self.path("state/understudy")).ok()?.flatten();
        listed.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "socket"))
    }

    /// Sends a request to the socket.
    pub fn get(&self, path: &str) -> Option<String> {
        let socket = self.socket()?;
        let (status, body) = self.curl(&["--unix-socket", socket.to_str()?], "GET", path);
        (status == 200).then_some(body)
    }

    pub fn store(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.get(&format!("/api/v1/stores/{name}")).unwrap()).unwrap()
    }

    pub fn token(&self) -> String {
        std::fs::read_to_string(self.path("state/understudy/token")).unwrap()
    }

    pub fn restored(&self, store: &str) -> PathBuf {
        let to = self.path(&format!("restored-{}", super::rig::nonce()));
        ok(self.command(&["restore", store, "--quiet"]).arg(&to));
        to
    }
}
