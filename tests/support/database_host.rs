//! Hosts that run the server of the store `acme` by understudy, with a database `shop` in it.

use super::command::{ok, said};
use super::host::Host;
use super::mariadb::{GRANTS, sql_at};
use super::servers::free_port;
use super::wait::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// A host with a server and its supervisor.
pub struct DatabaseHost {
    pub host: Host,
    /// Port of the server for customers.
    pub port: u16,
    pub supervisor: Option<Child>,
}

impl DatabaseHost {
    /// Makes a host; `serves` is the other host's port, where that is the primary.
    pub fn new(repository: &str, role: &str, port: u16, other: u16) -> Self {
        let host = Host::new(1);
        let account = host.path("account.cnf");
        std::fs::write(&account, "[client]\nuser=understudy\npassword=secret\n").unwrap();
        std::fs::set_permissions(&account, std::fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "repository = '{repository}'\nwriter = 'web-{}'\n[[store]]\nname = 'acme'\npath = 's0'\nrole = '{role}'\n\
             [store.database]\nhost = '127.0.0.1'\nport = {other}\naccount_file = '{}'\ndatadir = '{}'\n\
             [store.database.serve]\nlisten = '127.0.0.1:{port}'\nmemory_mib = 32\n",
            host.port,
            account.display(),
            host.path("database").display(),
        );
        std::fs::write(host.path("understudy.toml"), text).unwrap();
        Self { host, port, supervisor: None }
    }

    pub fn place(&self) -> PathBuf {
        self.host.path("state/understudy/database-acme")
    }

    pub fn log(&self) -> String {
        let server = std::fs::read_to_string(self.place().join("server.log")).unwrap_or_default();
        std::fs::read_to_string(self.host.path("database.log")).unwrap_or_default() + &server
    }

    pub fn supervise(&mut self) {
        let path = self.host.path("database.log");
        let log = std::fs::File::options().append(true).create(true).open(path).unwrap();
        let mut command = self.host.command(&["database", "run", "acme"]);
        self.supervisor = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    pub fn signal(&self, signal: Signal) {
        let id = self.supervisor.as_ref().unwrap().id();
        kill_process(Pid::from_raw(id as i32).unwrap(), signal).unwrap();
    }

    pub fn kill_supervisor(&mut self) {
        let mut child = self.supervisor.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Gives an order, of an epoch, or of a person.
    pub fn order(&self, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = self.host.command(&["database"]);
        let (verb, more) = args.split_first().unwrap();
        command.args([verb, "acme"]).args(more).envs(variables.iter().copied());
        command.output().unwrap()
    }

    pub fn ordered(&self, args: &[&str], variables: &[(&str, &str)]) -> String {
        let output = self.order(args, variables);
        assert!(output.status.success(), "{args:?}: {}\n{}", said(&output), self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn status(&self) -> (i32, Value) {
        let output = self.host.command(&["database", "status", "acme", "--json"]).output().unwrap();
        let code = output.status.code().unwrap();
        (code, serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    pub fn state(&self) -> String {
        self.status().1["replica"]["state"].as_str().unwrap_or_default().to_owned()
    }

    pub fn wait_for_state(&self, state: &str) {
        let begun = std::time::Instant::now();
        while self.state() != state {
            assert!(begun.elapsed().as_secs() < 60, "{state}: {:#}\n{}", self.status().1, self.log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Runs statements as the host's root does.
    pub fn try_sql(&self, statements: &str) -> Result<String, String> {
        sql_at(&self.place().join("socket"), &["--no-defaults", "-uroot"], statements)
    }

    pub fn sql(&self, statements: &str) -> String {
        self.try_sql(statements).unwrap_or_else(|error| panic!("{statements}: {error}\n{}", self.log()))
    }

    /// Runs statements as the store's programs do.
    pub fn customer(&self, statements: &str) -> Result<String, String> {
        customer(self.port, statements)
    }

    /// Returns the id of the server, whether it runs or not.
    pub fn server(&self) -> i32 {
        let text = std::fs::read_to_string(self.place().join("pid")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    pub fn note(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.place().join("role.json")).unwrap()).unwrap()
    }

    /// Founds the database, opens it, and makes what customers and standbys need.
    pub fn found(&mut self) {
        ok(&mut self.host.command(&["resync", "acme", "--quiet"]));
        ok(&mut self.host.command(&["database", "found", "acme"]));
        self.supervise();
        wait_until("its supervisor answers", || self.place().join("orders.socket").exists());
        self.ordered(&["promote"], &[]);
        self.sql(&format!(
            "CREATE USER understudy@'127.0.0.1' IDENTIFIED BY 'secret'; GRANT {GRANTS} ON *.* TO understudy@'127.0.0.1'; \
             CREATE DATABASE shop; CREATE USER shop@'127.0.0.1'; GRANT ALL ON shop.* TO shop@'127.0.0.1'; \
             CREATE TABLE shop.orders (id VARCHAR(40) PRIMARY KEY, note VARCHAR(200));"
        ));
    }
}

impl Drop for DatabaseHost {
    fn drop(&mut self) {
        if let Some(child) = &mut self.supervisor {
            let _ = kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::CONT);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs statements at a port as the store's programs do.
pub fn customer(port: u16, statements: &str) -> Result<String, String> {
    let mut child = Command::new("mariadb")
        .args(["--no-defaults", "-ushop", "--protocol=tcp", "--host=127.0.0.1", "--connect-timeout=2"])
        .args([&format!("--port={port}"), "--batch", "--skip-column-names", "--unbuffered"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(statements.as_bytes());
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Two hosts, of which the first is the primary, and the second follows.
pub struct DatabaseDuo {
    pub one: DatabaseHost,
    pub two: DatabaseHost,
    _repository: tempfile::TempDir,
}

impl DatabaseDuo {
    pub fn start() -> Self {
        let repository = tempfile::tempdir().unwrap();
        let location = repository.path().display().to_string();
        let (first, second) = (free_port(), free_port());
        let mut one = DatabaseHost::new(&location, "primary", first, second);
        one.found();
        ok(&mut one.host.command(&["database", "seed", "acme", "--quiet"]));
        let mut two = DatabaseHost::new(&location, "standby", second, first);
        two.supervise();
        two.wait_for_state("following");
        Self { one, two, _repository: repository }
    }

    /// Waits until a host follows the other and has the same rows.
    pub fn wait_until_equal(&self, primary: &DatabaseHost, replica: &DatabaseHost) {
        let position = primary.sql("SELECT @@gtid_binlog_pos");
        wait_until(&format!("it has applied {position}: {:#}", replica.status().1), || {
            replica.status().1["replica"]["applied"] == position.as_str()
        });
        let tables = "CHECKSUM TABLE shop.orders";
        assert_eq!(primary.sql(tables), replica.sql(tables));
    }
}

/// Programs of the store that commit orders all the time, and write down what was acknowledged.
pub struct Writers {
    is_over: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Writers {
    /// Starts `count` writers, which go to whichever port is set.
    pub fn start(count: u32, port: &Arc<AtomicU64>) -> Self {
        let (is_over, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let begin = |writer| {
            let (is_over, acknowledged, port) = (is_over.clone(), acknowledged.clone(), port.clone());
            std::thread::spawn(move || write_on(writer, &is_over, &acknowledged, &port))
        };
        let threads = (0..count).map(begin).collect();
        Self { is_over, acknowledged, threads }
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Ends them, and returns the orders that were acknowledged.
    pub fn end(self) -> Vec<String> {
        self.is_over.store(true, Ordering::SeqCst);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

fn write_on(writer: u32, is_over: &AtomicBool, acknowledged: &AtomicU64, port: &AtomicU64) -> Vec<String> {
    let mut orders = Vec::new();
    let mut number = 0;
    while !is_over.load(Ordering::SeqCst) {
        // Several in a session, of which each is acknowledged by a line.
        let names: Vec<String> = (number..number + 10).map(|number| format!("{writer}-{number}")).collect();
        number += 10;
        let statements: String = names
            .iter()
            .map(|name| format!("INSERT INTO shop.orders VALUES ('{name}', 'x'); SELECT '{name}';\n"))
            .collect();
        let printed = customer_prints(port.load(Ordering::SeqCst) as u16, &statements);
        let lines: Vec<String> = printed.lines().map(str::to_owned).collect();
        acknowledged.fetch_add(lines.len() as u64, Ordering::SeqCst);
        if lines.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        orders.extend(lines);
    }
    orders
}

/// Returns what statements print until the first error.
fn customer_prints(port: u16, statements: &str) -> String {
    let mut child = Command::new("mariadb")
        .args(["--no-defaults", "-ushop", "--protocol=tcp", "--host=127.0.0.1", "--connect-timeout=2"])
        .args([
            &format!("--port={port}"),
            "--batch",
            "--skip-column-names",
            "--unbuffered",
            "--skip-reconnect",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(statements.as_bytes());
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
}
