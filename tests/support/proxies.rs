//! Real HAProxy and nginx in front of a store, each stopped by its own pid.

use super::servers::free_port;
use super::wait::wait_until;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A proxy in a directory of its own.
pub struct Proxy {
    kind: Kind,
    dir: TempDir,
    child: Option<Child>,
    /// Where customers ask.
    pub port: u16,
    /// Where nginx shows the mark.
    pub check: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Haproxy,
    Nginx,
}

/// The server's line that is told in the how-to.
pub const NAMED_SERVER: &str = "server origin acme.invalid:9 init-addr last,127.0.0.1";

impl Proxy {
    pub fn haproxy() -> Self {
        Self::haproxy_with(NAMED_SERVER)
    }

    pub fn haproxy_with(server: &str) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let at = dir.path().display();
        let text = format!(
            "global\n    stats socket {at}/socket mode 600 level admin\n    hard-stop-after 5s\n\
             defaults\n    mode http\n    timeout connect 2s\n    timeout client 30s\n    timeout server 30s\n    \
             load-server-state-from-file local\n\
             frontend shop\n    bind 127.0.0.1:{port}\n    default_backend acme\n\
             backend acme\n    option http-server-close\n    server-state-file-name {at}/acme.state\n    \
             http-response add-header X-Understudy-Epoch %[str(acme),map({at}/acme.map),word(1,/)]\n    {server}\n"
        );
        std::fs::write(dir.path().join("haproxy.cfg"), text).unwrap();
        std::fs::write(dir.path().join("acme.map"), "").unwrap();
        let mut proxy = Self { kind: Kind::Haproxy, dir, child: None, port, check: 0 };
        proxy.start();
        proxy
    }

    /// Starts nginx; before the first switch it serves nothing of the store.
    pub fn nginx() -> Self {
        let (dir, port, check) = (tempfile::tempdir().unwrap(), free_port(), free_port());
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut proxy = Self { kind: Kind::Nginx, dir, child: None, port, check };
        proxy.configure_nginx("");
        proxy.start();
        proxy
    }

    /// Writes nginx's configuration with further lines; those of the store follow its first switch.
    pub fn configure_nginx(&self, more: &str) {
        let at = self.dir.path().display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("    {name}_temp_path {at}/tmp/{name};\n"))
            .concat();
        let shop = match self.path("acme.conf").exists() {
            true => format!(
                "server {{ listen 127.0.0.1:{}; location / {{ proxy_pass http://understudy_acme; \
                 add_header X-Understudy-Epoch $understudy_acme_epoch always; }} }}",
                self.port
            ),
            false => format!("server {{ listen 127.0.0.1:{}; location / {{ return 503; }} }}", self.port),
        };
        let text = format!(
            "worker_processes 2;\nworker_shutdown_timeout 10s;\npid {at}/pid;\nerror_log {at}/error.log;\n\
             events {{ worker_connections 256; }}\nhttp {{\n    access_log off;\n{paths}    include {at}/acme*.conf;\n    \
             {shop}\n    {more}\n}}\n"
        );
        std::fs::write(self.path("nginx.cfg"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn nginx_command(&self, more: &[&str]) -> Vec<String> {
        let (dir, cfg) =
            (self.dir.path().display().to_string(), self.path("nginx.cfg").display().to_string());
        let base = ["nginx", "-p", &dir, "-c", &cfg, "-e", "stderr"].map(str::to_owned);
        base.into_iter().chain(more.iter().map(|&word| word.to_owned())).collect()
    }

    /// Returns the `[[store.edge]]` for this proxy.
    pub fn edge(&self) -> String {
        let at = self.dir.path().display();
        match self.kind {
            Kind::Haproxy => format!(
                "[[store.edge]]\nkind = 'haproxy'\nsocket = '{at}/socket'\nmap = '{at}/acme.map'\nstate = '{at}/acme.state'\n\
                 timeout_seconds = 20\n"
            ),
            Kind::Nginx => format!(
                "[[store.edge]]\nkind = 'nginx'\nsnippet = '{at}/acme.conf'\ncheck = '127.0.0.1:{}'\ntest = {:?}\n\
                 reload = {:?}\ntimeout_seconds = 20\n",
                self.check,
                self.nginx_command(&["-t"]),
                self.nginx_command(&["-s", "reload"]),
            ),
        }
    }

    pub fn start(&mut self) {
        let mut command = match self.kind {
            Kind::Haproxy => {
                let mut command = Command::new("/usr/sbin/haproxy");
                command.args(["-W", "-f", "haproxy.cfg"]);
                command
            }
            Kind::Nginx => {
                let arguments = self.nginx_command(&["-g", "daemon off;"]);
                let mut command = Command::new("/usr/sbin/nginx");
                command.args(&arguments[1..]);
                command
            }
        };
        command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        self.wait_for_it();
    }

    pub fn wait_for_it(&self) {
        wait_until("the proxy listens", || {
            let is_there = self.kind == Kind::Nginx
                || std::os::unix::net::UnixStream::connect(self.path("socket")).is_ok();
            is_there && TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Returns the pids of the workers.
    pub fn workers(&self) -> Vec<u32> {
        let parent = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Makes the proxy read its configuration again, and waits until only new workers are there.
    pub fn reload(&self) {
        let before = self.workers();
        let signal = if self.kind == Kind::Haproxy { "-USR2" } else { "-HUP" };
        kill(signal, self.pid());
        wait_until("new workers", || {
            let now = self.workers();
            !now.is_empty() && now.iter().all(|pid| !before.contains(pid))
        });
        self.wait_for_it();
    }

    /// Ends all of its processes at once, as a machine that goes down.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = child.id();
        let workers = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let _ = child.kill();
        let _ = child.wait();
        for worker in workers.split_whitespace() {
            kill("-KILL", worker.parse().unwrap());
        }
        let port = self.port;
        wait_until("nobody listens", || TcpStream::connect(("127.0.0.1", port)).is_err());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal; the process may have ended.
pub fn kill(signal: &str, pid: u32) {
    let mut command = Command::new("kill");
    let _ = command.args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Returns the inode of a file: another one after each replacement.
pub fn inode(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
}
