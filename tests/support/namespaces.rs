//! Machines made of namespaces: two hosts with the real binary and the example's shop, an edge, and customers.
//!
//! `examples/two-hosts/lab.py` makes them, and ends them with this process; here are the hosts as tests use them.
//! The filesystem is shared, except for `/srv`, so a test sees each host's files and sockets.

use super::command::{ok, said};
use super::servers::tool;
use super::wait::wait_until;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use tempfile::TempDir;

pub(super) const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const CUSTOMERS_ASK: &str = "http://10.77.0.10";
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=testing/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
const BUCKET: &str = "http://10.77.0.30:9000/bucket";

/// Both hosts, the edge, the customers and the network between them. The store is founded, and no daemon runs.
pub struct Lab {
    pub web: [WebHost; 2],
    /// Hosts that only watch.
    pub watch: Vec<WebHost>,
    work: PathBuf,
    /// First processes of the other machines.
    edge: u32,
    pub(super) customer: u32,
    ordering: Option<Child>,
    /// None once the machines are asked to end.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    python: Child,
    _dir: TempDir,
}

/// A host, which can lose its power.
pub struct WebHost {
    pub name: &'static str,
    pub dir: PathBuf,
    /// What its processes need to reach the repository.
    access: BTreeMap<String, String>,
    /// More variables of its daemon.
    pub variables: Vec<(&'static str, PathBuf)>,
    /// The machine's first process; none while it has no power.
    pub(super) first: Option<u32>,
    /// `nsenter`, whose only child is the daemon.
    pub daemon: Option<Child>,
}

/// An order, as its customer saw it. Times are seconds of one clock.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Order {
    pub id: String,
    pub sent: f64,
    pub answered: f64,
    pub acked: bool,
    /// The epoch of the gate that answered.
    pub epoch: Option<String>,
    pub why: Option<String>,
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/two-hosts").join(name)
}

/// Returns a command inside of the machine with this first process.
pub(super) fn inside(first: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["-t", &first.to_string(), "-n", "-m", "-u", "-p", "--"]).stdin(Stdio::null());
    command
}

/// Returns the only child of `nsenter`, which it waits for.
pub(super) fn entered(nsenter: &Child) -> Option<u32> {
    let pid = nsenter.id();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

pub(super) fn signal(pid: u32, name: &str) {
    ok(Command::new("kill").args([name, &pid.to_string()]));
}

impl Lab {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a lab whose repository is on a machine of its own, "storage".
    pub fn with_storage() -> Self {
        Self::with(&[tool("venv/bin/moto_server")])
    }

    /// As [`Self::with_storage`], with one or two machines more that only watch.
    pub fn with_watchers(count: usize) -> Self {
        Self::with(&[tool("venv/bin/moto_server"), count.to_string().into()])
    }

    fn with(more: &[PathBuf]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut python = Command::new("python3")
            .arg(example("lab.py"))
            .arg(env!("CARGO_BIN_EXE_understudy"))
            .arg(dir.path())
            .args(more)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = python.stdin.take();
        let answers = BufReader::new(python.stdout.take().unwrap());
        let host = |name| WebHost {
            name,
            dir: PathBuf::new(),
            access: BTreeMap::new(),
            variables: Vec::new(),
            first: None,
            daemon: None,
        };
        let web = ["web-1", "web-2"].map(host);
        let watchers = more.get(1).map_or(0, |count| count.to_str().unwrap().parse().unwrap());
        let watch = ["watch-1", "watch-2"].into_iter().take(watchers).map(host).collect();
        let (work, ordering) = (PathBuf::new(), None);
        let mut lab =
            Self { web, watch, work, edge: 0, customer: 0, ordering, commands, answers, python, _dir: dir };
        lab.hear();
        lab
    }

    /// Starts a lab whose hosts' configurations are changed before their daemons start, and waits until the
    /// first host serves and the other one can take over.
    pub fn serving(change: impl Fn(&WebHost, String) -> String) -> Self {
        let mut lab = Self::start();
        lab.configure(change);
        lab.serve();
        lab
    }

    /// Changes the hosts' configurations.
    pub fn configure(&self, change: impl Fn(&WebHost, String) -> String) {
        for host in &self.web {
            let path = host.dir.join("understudy.toml");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, change(host, text)).unwrap();
        }
    }

    /// Starts the daemons, and waits until the first host serves and the other one can take over.
    pub fn serve(&mut self) {
        self.web.iter_mut().chain(&mut self.watch).for_each(WebHost::start_daemon);
        self.wait_for_primary(0);
        wait_until("web-2 is a standby", || self.web[1].phase().as_deref() == Some("standby"));
    }

    /// Reads the state of the machines.
    fn hear(&mut self) {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let state: Value = serde_json::from_str(&line).expect("lab.py says on standard error why it ended");
        let first = |name: &str| state["first"][name].as_u64().map(|pid| pid as u32);
        (self.edge, self.customer) = (first("edge").unwrap(), first("customer").unwrap());
        self.work = state["work"].as_str().unwrap().into();
        for host in self.web.iter_mut().chain(&mut self.watch) {
            (host.dir, host.first) = (self.work.join(host.name), first(host.name));
            host.access = serde_json::from_value(state["access"].clone()).unwrap();
        }
    }

    pub(super) fn tell(&mut self, line: &str) {
        writeln!(self.commands.as_mut().unwrap(), "{line}").unwrap();
        self.hear();
    }

    /// Ends all processes of a host at once, after its link.
    pub fn power_off(&mut self, host: usize) {
        self.tell(&format!("off {}", self.web[host].name));
        if let Some(mut daemon) = self.web[host].daemon.take() {
            daemon.wait().unwrap();
        }
    }

    pub fn power_on(&mut self, host: usize) {
        self.tell(&format!("on {}", self.web[host].name));
    }

    /// Returns the beginning of a command on the edge's machine.
    pub fn inside_edge(&self) -> Command {
        inside(self.edge)
    }

    /// Returns the beginning of a command on the customers' machine.
    pub fn inside_customer(&self) -> Command {
        inside(self.customer)
    }

    /// Returns the path of a file of the edge.
    pub fn of_edge(&self, name: &str) -> PathBuf {
        self.work.join("edge").join(name)
    }

    pub fn repository(&self) -> PathBuf {
        self.work.join("repository")
    }

    /// Asks the repository's server, as an attacker does who may read and write the bucket.
    fn ask_bucket(&self, more: &[&str]) -> String {
        let mut curl = inside(self.customer);
        // The server checks that a request is signed, and not by whom.
        curl.args(["curl", "-sf", "--max-time", "5", "-H", SIGNED]).args(more);
        String::from_utf8(ok(&mut curl).stdout).unwrap()
    }

    /// Returns the keys of the bucket's objects with this prefix.
    pub fn objects(&self, prefix: &str) -> Vec<String> {
        let listed = self.ask_bucket(&[&format!("{BUCKET}?list-type=2&prefix={prefix}")]);
        let keys = listed.split("<Key>").skip(1);
        keys.filter_map(|part| Some(part.split_once("</Key>")?.0.to_owned())).collect()
    }

    pub fn object(&self, key: &str) -> String {
        self.ask_bucket(&[&format!("{BUCKET}/{key}")])
    }

    pub fn put_object(&self, key: &str, text: &str) {
        let kind = "Content-Type: application/octet-stream";
        self.ask_bucket(&["-X", "PUT", "-H", kind, "--data-binary", text, &format!("{BUCKET}/{key}")]);
    }

    pub fn start_customers(&mut self) {
        let mut command = inside(self.customer);
        command.arg("python3").arg(example("customer.py")).arg(CUSTOMERS_ASK).arg(self.orders_log());
        command.args(["--every", "0.2"]).stdout(Stdio::null());
        self.ordering = Some(command.spawn().unwrap());
        self.wait_for_orders(10);
    }

    /// Ends the customers, and returns their orders in the order of their answers.
    pub fn end_customers(&mut self) -> Vec<Order> {
        let mut ordering = self.ordering.take().unwrap();
        signal(entered(&ordering).unwrap(), "-TERM");
        assert!(ordering.wait().unwrap().success());
        self.orders()
    }

    fn orders_log(&self) -> PathBuf {
        self.work.join("orders.log")
    }

    /// Returns the orders until now, in the order of their answers.
    pub fn orders(&self) -> Vec<Order> {
        let text = std::fs::read_to_string(self.orders_log()).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let mut orders: Vec<Order> = whole.map(|line| serde_json::from_str(line).unwrap()).collect();
        orders.sort_by(|one, other| one.answered.total_cmp(&other.answered));
        orders
    }

    /// Waits until so many more orders are acknowledged.
    pub fn wait_for_orders(&self, count: usize) {
        let acked = || self.orders().iter().filter(|order| order.acked).count();
        let before = acked();
        wait_until("more orders are acknowledged", || acked() >= before + count);
    }

    /// Returns what the gate of a host says about itself, as customers' machines hear it.
    pub fn role(&self, host: usize) -> Option<Value> {
        self.role_at(host, 8080)
    }

    /// Returns whether the gate at a port of a host is open.
    pub fn gate_is_open(&self, host: usize, port: u16) -> bool {
        self.role_at(host, port).is_some_and(|role| role["mode"] == "open")
    }

    fn role_at(&self, host: usize, port: u16) -> Option<Value> {
        let url = format!("http://{}:{port}/.understudy/role", ADDRESSES[host]);
        let output = inside(self.customer).args(["curl", "-s", "--max-time", "2", &url]).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    pub fn serves(&self, host: usize) -> bool {
        self.gate_is_open(host, 8080)
    }

    pub fn wait_for_primary(&self, host: usize) {
        wait_until("it serves", || self.serves(host));
        let url = format!("{CUSTOMERS_ASK}/");
        let reach = || inside(self.customer).args(["curl", "-sf", "--max-time", "2", &url]).output().unwrap();
        wait_until("customers reach it", || reach().status.success());
    }

    /// Checks what holds after every bad day: one host serves, in one epoch after the other, and what it
    /// acknowledged, or a host before it, is there or listed as stranded. Returns the stranded orders.
    pub fn check(&mut self, primary: usize) -> BTreeSet<String> {
        let serving: Vec<_> = (0..self.web.len()).filter(|host| self.serves(*host)).collect();
        assert_eq!(serving, [primary], "hosts that serve");
        let nothing_fails = || self.web[primary].failover().is_some_and(|now| now["failing"] == json!([]));
        wait_until("nothing is told to fail any more", nothing_fails);
        let acked: Vec<Order> = self.end_customers().into_iter().filter(|order| order.acked).collect();
        check_epochs(&acked);
        let (there, stranded) = (self.web[primary].orders_there(), self.web[primary].stranded_orders());
        let id = |order: &Order| order.id.clone();
        let lost: Vec<_> =
            acked.iter().map(id).filter(|id| !there.contains(id) && !stranded.contains(id)).collect();
        assert!(lost.is_empty(), "of {} acknowledged orders these are nowhere: {lost:?}", acked.len());
        stranded.into_iter().filter(|id| acked.iter().any(|order| order.id == *id)).collect()
    }
}

/// Checks that no order was acknowledged in an epoch that an earlier answer had left behind.
fn check_epochs(acked: &[Order]) {
    let epoch =
        |order: &Order| order.epoch.as_ref().and_then(|epoch| epoch.parse::<u64>().ok()).expect("an epoch");
    // By their answers: the highest epoch until then.
    let mut highest = Vec::<(f64, u64)>::new();
    for order in acked {
        let before = highest.partition_point(|(answered, _)| *answered < order.sent);
        let seen = before.checked_sub(1).map_or(0, |at| highest[at].1);
        assert!(epoch(order) >= seen, "{order:?} was sent after epoch {seen} had answered");
        let last = highest.last().map_or(0, |(_, epoch)| *epoch);
        highest.push((order.answered, last.max(epoch(order))));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.web.iter().chain(&self.watch).for_each(WebHost::print);
        }
        for nsenter in self.web.iter().chain(&self.watch).filter_map(|host| host.daemon.as_ref()) {
            // It stops with a daemon that is stopped, and would never see its end.
            signal(nsenter.id(), "-CONT");
        }
        // At the end of its standard input it ends everything.
        self.commands = None;
        let _ = self.python.wait();
    }
}

impl WebHost {
    fn places(&self) -> BTreeMap<&'static str, PathBuf> {
        let at = |name: &str| self.dir.join(name);
        BTreeMap::from([
            ("XDG_CONFIG_HOME", at("config")),
            ("XDG_DATA_HOME", at("data")),
            ("XDG_CACHE_HOME", at("cache")),
            ("XDG_STATE_HOME", at("state")),
            ("HOME", self.dir.clone()),
            ("UNDERSTUDY_CONFIG", at("understudy.toml")),
        ])
    }

    /// Returns the beginning of a command on this host.
    pub fn inside(&self) -> Command {
        inside(self.first.expect("the host has power"))
    }

    /// Returns a command of understudy on this host.
    pub fn understudy(&self, arguments: &[&str]) -> Command {
        let mut command = self.inside();
        command.arg(env!("CARGO_BIN_EXE_understudy")).args(arguments);
        command.envs(self.places()).envs(&self.access);
        for name in
            ["UNDERSTUDY_KEY_FILE", "UNDERSTUDY_PASSPHRASE", "UNDERSTUDY_REPOSITORY", "UNDERSTUDY_WRITER"]
        {
            command.env_remove(name);
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        ok(&mut self.understudy(arguments))
    }

    /// Returns where a path of this host is seen from outside; none while it has no power.
    pub fn seen(&self, path: &Path) -> Option<PathBuf> {
        Some(Path::new(&format!("/proc/{}/root", self.first?)).join(path.strip_prefix("/").unwrap()))
    }

    pub fn start_daemon(&mut self) {
        let log =
            std::fs::File::options().append(true).create(true).open(self.dir.join("daemon.log")).unwrap();
        let mut command = self.understudy(&["run"]);
        command.envs(self.variables.iter().cloned());
        self.daemon = Some(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    /// Ends the daemon at once, and nothing else.
    pub fn kill_daemon(&mut self) {
        let mut nsenter = self.daemon.take().unwrap();
        if let Some(daemon) = entered(&nsenter) {
            signal(daemon, "-KILL");
        }
        nsenter.wait().unwrap();
    }

    /// Returns what the daemon says of the store's failover; none while it does not answer.
    pub fn failover(&self) -> Option<Value> {
        let output = self.ask_daemon("GET", "failover")?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Asks the daemon at its socket; none while there is no daemon.
    pub fn ask_daemon(&self, method: &str, what: &str) -> Option<Output> {
        self.ask_daemon_with(method, what, None)
    }

    pub fn ask_daemon_with(&self, method: &str, what: &str, body: Option<&Value>) -> Option<Output> {
        // The host may have a disk of its own there.
        let mut listed = std::fs::read_dir(self.seen(&self.dir.join("state/understudy"))?).ok()?.flatten();
        let socket = listed.find(|entry| {
            let name = entry.file_name().into_string().unwrap();
            name.starts_with("daemon-") && name.ends_with(".socket")
        })?;
        let url = format!("http://localhost/api/v1/stores/shop/{what}");
        let mut curl = Command::new("curl");
        curl.args(["-s", "--fail-with-body", "--max-time", "5", "-X", method, "--unix-socket"])
            .arg(socket.path())
            .arg(url);
        if let Some(body) = body {
            curl.args(["--header", "Content-Type: application/json", "--data", &body.to_string()]);
        }
        Some(curl.output().unwrap())
    }

    pub fn phase(&self) -> Option<String> {
        self.failover()?["phase"].as_str().map(str::to_owned)
    }

    /// Returns the ids of the orders in the store's tree.
    pub fn orders_there(&self) -> BTreeSet<String> {
        let tree = self.seen(Path::new("/srv/shop/orders")).expect("the host has power");
        let listed = std::fs::read_dir(tree).unwrap().flatten();
        let names = listed.map(|entry| entry.file_name().into_string().unwrap());
        names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect()
    }

    /// Returns the records of what former primaries have.
    pub fn stranded(&self) -> Vec<u64> {
        let output = self.run(&["stranded", "list", "shop", "--json"]);
        let listed: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        listed.iter().map(|row| row["record"].as_u64().unwrap()).collect()
    }

    fn stranded_orders(&self) -> BTreeSet<String> {
        let mut orders = BTreeSet::new();
        for record in self.stranded() {
            let output = self.run(&["stranded", "show", "shop", &record.to_string(), "--json"]);
            for line in said(&output).lines() {
                let row: Value = serde_json::from_str(line).unwrap();
                let order =
                    row["path"].as_str().and_then(|path| path.strip_prefix("orders/")?.strip_suffix(".json"));
                orders.extend(order.map(str::to_owned));
            }
        }
        orders
    }

    /// Prints what a person needs who looks for the reason of a failure.
    fn print(&self) {
        let log = std::fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default();
        eprintln!("--- {}: {:?}\n{log}", self.name, self.failover());
    }
}
