//! Drills of a failover with the real binary, as root: what they prove, that nothing gets out of them, and that nothing
//! is left of them, whatever is killed.

use crate::support::command::{ok, said};
use crate::support::database_host::{DatabaseDuo, customer};
use crate::support::host::Host;
use crate::support::servers::free_port;
use crate::support::trio::Trio;
use crate::support::wait::wait_until;
use serde_json::Value;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A shop: each request sends two mails, calls a payment by its name, and tries every way out that ordinary code has.
const SHOP: &str = r#"
import http.server, os, smtplib, socket, subprocess, sys, urllib.request
port, out_port, out_socket, tree = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]

def escapes(way):
    try:
        way()
        return True
    except OSError:
        return False

def unix():
    socket.socket(socket.AF_UNIX).connect(out_socket)

class Shop(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ways = [
            lambda: socket.create_connection(("127.0.0.1", out_port), 2),
            lambda: socket.create_connection(("192.0.2.7", out_port), 2),
            unix,
            lambda: os.kill(int(open(tree + "/pid-outside").read()), 0),
        ]
        for way in ways:
            if escapes(way):
                return self.answer(500, "it got out")
        with smtplib.SMTP("mail.example", 25, timeout=5) as server:
            server.sendmail("shop@shop.example", ["a@customer.example"], "Subject: thanks\n\nfor the order\n")
        subprocess.run(["/usr/sbin/sendmail", "-t"], input=b"To: b@customer.example\n\nthanks\n", check=True)
        try:
            urllib.request.urlopen("http://pay.example/charge", data=b"10 EUR", timeout=5)
            return self.answer(500, "somebody said that it is paid")
        except urllib.error.HTTPError as error:
            if error.code != 503:
                return self.answer(500, str(error))
        for path in ["/orders/new", "/../../escaped"]:
            with open(tree + path, "w") as file:
                file.write("written in a drill")
        self.answer(200, "shop " + open(tree + "/version").read())

    def answer(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", port), Shop).serve_forever()
"#;

/// A primary with a shop, and a standby with its last snapshot, both on this machine.
struct Rig {
    primary: Host,
    standby: Host,
    shop_port: u16,
    /// What listens on this host, with the number of its visitors.
    out_port: u16,
    visitors: Arc<AtomicU64>,
    /// The path at which the store would be served.
    path: PathBuf,
}

impl Rig {
    fn new() -> Self {
        let (primary, standby) = (Host::new(0), Host::new(0));
        let (tree, path) = (primary.path("shop"), standby.path("deep/shop"));
        std::fs::create_dir_all(tree.join("orders")).unwrap();
        std::fs::write(tree.join("version"), "seven").unwrap();
        std::fs::write(tree.join("pid-outside"), std::process::id().to_string()).unwrap();
        std::fs::write(tree.join("shop.py"), SHOP).unwrap();
        let repository = primary.path("repository").display().to_string();
        let text = format!(
            "repository = '{repository}'\nwriter = 'web-1'\n[[store]]\nname = 'acme'\npath = '{}'\n",
            tree.display()
        );
        std::fs::write(primary.path("understudy.toml"), text).unwrap();
        ok(&mut primary.command(&["resync", "acme", "--quiet"]));
        let visitors = Arc::new(AtomicU64::new(0));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let out_port = listener.local_addr().unwrap().port();
        let unix = UnixListener::bind(standby.path("out.socket")).unwrap();
        let count = |visitors: &Arc<AtomicU64>| {
            visitors.fetch_add(1, Ordering::SeqCst);
        };
        let (one, two) = (visitors.clone(), visitors.clone());
        std::thread::spawn(move || listener.incoming().for_each(|_| count(&one)));
        std::thread::spawn(move || unix.incoming().for_each(|_| count(&two)));
        let rig = Self { primary, standby, shop_port: free_port(), out_port, visitors, path };
        rig.configure(&rig.site(""));
        ok(&mut rig.standby.command(&["follow", "acme", "--once", "--quiet"]));
        rig
    }

    /// Returns the program that is the shop.
    fn shop(&self, tree: &Path) -> [String; 6] {
        let shown = |path: PathBuf| path.display().to_string();
        [
            "python3".to_owned(),
            shown(tree.join("shop.py")),
            self.shop_port.to_string(),
            self.out_port.to_string(),
            shown(self.standby.path("out.socket")),
            shown(tree.to_owned()),
        ]
    }

    /// Returns a drill with the shop in the foreground.
    fn site(&self, more: &str) -> String {
        let probe = format!(
            "[[store.probe]]\nkind = 'http'\nurl = 'http://127.0.0.1:{}/'\ntext = 'shop seven'\n",
            self.shop_port
        );
        format!("{probe}[store.drill.site]\nservices = [{:?}]\n{more}", self.shop(&self.path))
    }

    fn configure(&self, more: &str) {
        let text = format!(
            "repository = '{}'\nwriter = 'web-2'\n[[store]]\nname = 'acme'\npath = '{}'\nrole = 'standby'\n{more}",
            self.primary.path("repository").display(),
            self.path.display(),
        );
        std::fs::write(self.standby.path("understudy.toml"), text).unwrap();
    }

    fn command(&self) -> Command {
        self.standby.command(&["drill", "acme", "--site", "--json"])
    }

    fn drill(&self) -> Output {
        self.command().output().unwrap()
    }

    fn depot(&self) -> PathBuf {
        self.standby.path("data/understudy/standby/acme")
    }

    /// Returns what a drill may have left.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let pins = std::fs::read_dir(self.depot().join("pins")).unwrap().flatten();
        let pins = pins.map(|entry| entry.file_name().into_string().unwrap());
        left.extend(pins.filter(|name| !name.starts_with('.')).map(|name| format!("pin {name}")));
        for path in [self.depot().join("site-drill"), self.path.clone(), self.standby.path("escaped")] {
            left.extend(path.exists().then(|| path.display().to_string()));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.standby.dir.path().display().to_string();
        left.extend(mounts.lines().filter(|line| line.contains(&dir)).map(str::to_owned));
        left.extend(processes(&dir));
        left
    }

    fn log(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.primary.path("repository/acme/log")).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn upkeep(&self) -> Value {
        let output = ok(&mut self.standby.command(&["status", "--json"]));
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        status["stores"].as_array().or(status.as_array()).unwrap()[0]["upkeep"].clone()
    }
}

/// Returns the processes in whose arguments a directory is.
fn processes(dir: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = all.filter_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&command).replace('\0', " "))
    });
    commands.filter(|command| command.contains(dir)).collect()
}

fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn steps(report: &Value) -> Vec<&str> {
    report["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect()
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_drill_of_a_failover_serves_the_last_snapshot_and_nothing_gets_out() {
    let rig = Rig::new();
    // The real shop is served on this host, at the same port.
    let mut real = Command::new("python3");
    real.args(["-m", "http.server", &rig.shop_port.to_string(), "--bind", "127.0.0.1"]);
    let real = real.current_dir(rig.primary.path("shop")).stdout(Stdio::null()).stderr(Stdio::null());
    let _real = Running(real.spawn().unwrap());
    let url = format!("http://127.0.0.1:{}/version", rig.shop_port);
    let asked = || Command::new("curl").args(["-sf", &url]).output().unwrap().stdout;
    wait_until("the real shop answers", || asked() == b"seven");
    // Outside of a drill the shop's code does get out: what is tried below can fail.
    let mut outside = Command::new("python3");
    let mut shop = rig.shop(&rig.primary.path("shop"));
    shop[2] = free_port().to_string();
    let url = format!("http://127.0.0.1:{}/", shop[2]);
    let outside = Running(outside.args(&shop[1..]).stderr(Stdio::null()).spawn().unwrap());
    let said = || Command::new("curl").args(["-s", &url]).output().unwrap().stdout;
    wait_until("it gets out", || said() == b"it got out");
    drop(outside);
    assert!(rig.visitors.swap(0, Ordering::SeqCst) > 0);
    let gate = free_port();
    let site = rig.site("command = ['sh', '-c', 'test -e $UNDERSTUDY_PATH/orders/new']\nuser = 'root'\n");
    // Customers come by the gate.
    let site = site.replacen(&format!(":{}/", rig.shop_port), &format!(":{gate}/"), 1);
    let upstream = rig.shop_port;
    rig.configure(&format!(
        "{site}[store.gate]\nlisten = '127.0.0.1:{gate}'\nupstream = '127.0.0.1:{upstream}'\n"
    ));
    let log = rig.log();
    let drilled = report(&rig.drill());
    println!("{drilled:#}");
    let wanted = ["log", "gate's address", "files", "services", "gate", "probes", "command"];
    assert_eq!(steps(&drilled), wanted);
    assert_eq!((drilled["snapshot"].as_u64(), drilled["mails"].as_u64()), (Some(1), Some(2)));
    assert_eq!(drilled["connections"], serde_json::json!({"25": 1, "80": 1}));
    let names = drilled["names"].as_object().unwrap();
    assert!(names.contains_key("mail.example") && names.contains_key("pay.example"), "{names:?}");
    assert_eq!(drilled["not_proven"], serde_json::json!([]));
    let recovery = drilled["recovery_seconds"].as_f64().unwrap();
    assert!(recovery > 0.0 && recovery <= drilled["seconds"].as_f64().unwrap(), "{drilled:#}");
    assert_eq!(rig.visitors.load(Ordering::SeqCst), 0, "it got out");
    assert_eq!((rig.left(), rig.log()), (Vec::new(), log));
    assert!(!rig.primary.path("shop/orders/new").exists());
    assert_eq!(asked(), b"seven");
    let upkeep = rig.upkeep();
    assert_eq!(upkeep["recovery_seconds"].as_f64(), Some(recovery), "{upkeep}");
    assert_eq!(upkeep["site_drill_error"], Value::Null);
    let text = ok(&mut rig.standby.command(&["drill", "acme", "--site"]));
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("2 mails taken") && text.contains("pay.example: asked"), "{text}");
}

#[test]
fn a_shop_whose_services_are_commands_is_started_by_them_and_units_are_named_as_not_proven() {
    let rig = Rig::new();
    let shop = rig.shop(&rig.path).map(|word| format!("'{word}'")).join(" ");
    // It leaves its process behind, as such commands do.
    let start = format!("{shop} >/dev/null 2>&1 & echo $! >/run/shop.pid");
    let check = "kill -0 $(cat /run/shop.pid 2>/dev/null) 2>/dev/null || exit 3";
    let commands = |text: &str| format!("{:?}", ["sh", "-c", text]);
    rig.configure(&format!(
        "[[store.service]]\nname = 'shop'\nstart = {}\nstop = {}\ncheck = {}\n\
         [[store.service]]\nname = 'fpm'\nsystemd = ['php-fpm.service']\n\
         [[store.service]]\nname = 'cron'\nlast = true\nstart = ['touch', '/run/cron']\nstop = ['true']\ncheck = {}\n\
         [store.fence]\ncommand = ['false']\n\
         [store.drill.site]\ncommand = {}\n",
        commands(&start),
        commands("kill $(cat /run/shop.pid)"),
        commands(check),
        commands("test -e /run/cron || exit 3"),
        commands(&format!("for i in 1 2 3 4 5 6 7 8 9; do curl -sf http://127.0.0.1:{}/ && exit 0; sleep 0.3; done; exit 1", rig.shop_port)),
    ));
    let drilled = report(&rig.drill());
    assert_eq!(steps(&drilled), ["log", "files", "services", "consumers", "command"]);
    let not_proven = drilled["not_proven"].to_string();
    assert!(not_proven.contains("services fpm") && not_proven.contains("fence_test"), "{not_proven}");
    assert_eq!(drilled["mails"], 2);
    assert_eq!(rig.left(), [""; 0]);
    assert!(!Path::new("/run/shop.pid").exists() && !Path::new("/run/cron").exists());
}

#[test]
fn a_drill_fails_where_the_shop_would_not_serve_and_says_why() {
    let rig = Rig::new();
    let probe = "[[store.probe]]\nkind = 'tcp'\naddress = '127.0.0.1:1'\n";
    for (site, wanted) in [
        (
            "services = [['sh', '-c', 'echo no shop here; exit 7']]\ntimeout_seconds = 20".to_owned(),
            "no shop here",
        ),
        ("services = [['sleep', '100']]\ntimeout_seconds = 1".to_owned(), "tcp 127.0.0.1:1"),
        ("services = [['/no/such/shop']]".to_owned(), "/no/such/shop"),
        ("fence_test = ['sh', '-c', 'echo the switch is off >&2; exit 1']".to_owned(), "the switch is off"),
    ] {
        rig.configure(&format!("{probe}[store.drill.site]\n{site}\n"));
        let output = rig.drill();
        assert_eq!(output.status.code(), Some(1), "{site}: {}", said(&output));
        assert!(said(&output).contains(wanted), "{site}: {}", said(&output));
        assert_eq!(rig.left(), [""; 0], "{site}");
        let error = rig.upkeep()["site_drill_error"].to_string();
        assert!(error.contains("the drill of a failover failed"), "{error}");
    }
    rig.configure("[store.drill.site]\ncommand = ['sh', '-c', 'echo wrong shop >&2; exit 1']\n");
    let output = rig.drill();
    assert!(output.status.code() == Some(1) && said(&output).contains("wrong shop"), "{}", said(&output));
    // What says nothing of the failover is not noted.
    rig.configure("[store.drill.site]\nmemory_mib = 1\n");
    assert_eq!(rig.drill().status.code(), Some(2));
    let primary = rig.primary.command(&["drill", "acme", "--site"]).output().unwrap();
    assert!(primary.status.code() == Some(2) && said(&primary).contains("primary"), "{}", said(&primary));
}

#[test]
fn a_drill_of_a_failover_that_is_killed_at_any_step_leaves_nothing_for_the_next() {
    let rig = Rig::new();
    let steps = rig.standby.path("steps");
    assert!(rig.command().env("UNDERSTUDY_TEST_STEPS", &steps).output().unwrap().status.success());
    let all = std::fs::read_to_string(&steps).unwrap();
    let all: Vec<&str> = all.lines().filter(|step| step.starts_with("site: ")).collect();
    assert!(all.len() >= 7, "{all:?}");
    for step in &all {
        let output = rig.command().env("UNDERSTUDY_TEST_KILL_AT", step).output().unwrap();
        assert_eq!(output.status.code(), None, "{step}: {}", said(&output));
        let dir = rig.standby.dir.path().display().to_string();
        wait_until("all that it started has ended", || processes(&dir).is_empty());
        // The snapshot stays pinned until somebody tidies up.
        ok(rig.command().stdout(Stdio::null()));
        assert_eq!(rig.left(), [""; 0], "{step}");
    }
    // A daemon does it as well.
    let last = all.iter().find(|step| step.contains("services")).unwrap();
    rig.command().env("UNDERSTUDY_TEST_KILL_AT", last).output().unwrap();
    assert!(!rig.left().is_empty());
    let mut daemon = rig.standby.command(&["run", "--listen", "off"]);
    let daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _daemon = Running(daemon);
    wait_until("it is taken away", || !rig.depot().join("site-drill").exists());
}

#[test]
fn the_daemon_s_upkeep_drills_a_failover_when_it_is_due_and_something_would_be_proven() {
    let rig = Rig::new();
    let upkeep = "[store.upkeep]\nsite_drill_hours = 168\n[store.member]\n";
    let drilled = || {
        let output = ok(&mut rig.standby.command(&["upkeep", "acme", "--json"]));
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    };
    rig.configure(upkeep);
    assert_eq!(drilled(), Value::Null, "there is no shop");
    rig.configure(&format!("{}{upkeep}", rig.site("")));
    let first = drilled();
    assert_eq!(first[0]["duty"], "site", "{first:#}");
    assert!(first[0]["done"]["site"]["recovery_seconds"].as_f64().is_some(), "{first:#}");
    assert_eq!((drilled(), rig.left()), (Value::Null, Vec::new()), "it is not due again");
}

/// A program that is asked to end, one whose first process is killed, and one that tries to stay.
#[test]
fn nothing_that_a_drill_of_a_failover_started_outlives_it() {
    let rig = Rig::new();
    let mark = rig.standby.path("mark");
    rig.configure(&format!(
        "[store.drill.site]\nservices = [{:?}]\ncommand = ['sleep', '100']\n",
        [
            "sh",
            "-c",
            &format!("(setsid sleep 301.5 {0} &); trap '' TERM HUP; exec sleep 301.5 # {0}", mark.display())
        ]
    ));
    let sleeping = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .filter(|line| line.starts_with(b"sleep\x00301.5"))
            .count()
    };
    for signal in ["-TERM", "-KILL"] {
        let mut drill = rig.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("its services run", || sleeping() > 0);
        ok(Command::new("kill").args([signal, &drill.id().to_string()]));
        drill.wait().unwrap();
        wait_until("they have ended", || sleeping() == 0);
    }
    let second = rig.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _second = Running(second);
    wait_until("its services run", || sleeping() > 0);
    let output = rig.drill();
    assert!(said(&output).contains("another one"), "{}", said(&output));
}

#[test]
fn a_drill_of_a_failover_gives_way_to_a_real_one() {
    let trio = Trio::start();
    let host = &trio.hosts[1];
    let path = host.path("understudy.toml");
    let before = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, before + "[store.drill.site]\ncommand = ['sleep', '200']\n").unwrap();
    wait_until("it follows", || host.path("data/understudy/standby/acme/pins").exists());
    let mut drill = trio.command(1, &["drill", "acme", "--site"]);
    let mut drill = drill.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it runs", || host.path("data/understudy/standby/acme/site-drill/changes").exists());
    wait_until("its command runs", || !processes("sleep 200").is_empty());
    ok(trio.command(0, &["switchover", "acme", "--to", "web-2"]).stdout(Stdio::null()));
    trio.wait_for_primary(1);
    wait_until("the drill ends", || drill.try_wait().unwrap().is_some());
    let output = drill.wait_with_output().unwrap();
    assert!(said(&output).contains("gave way"), "{}", said(&output));
    assert!(!host.path("data/understudy/standby/acme/site-drill").exists());
}

#[test]
fn a_drill_of_a_failover_opens_the_database_where_customers_expect_it_and_the_replica_goes_on() {
    let duo = DatabaseDuo::start();
    let (one, two) = (&duo.one, &duo.two);
    one.customer("INSERT INTO shop.orders VALUES ('before', 'x')").unwrap();
    duo.wait_until_equal(one, two);
    let sql = "INSERT INTO shop.orders VALUES (\"in the drill\", \"x\"); SELECT COUNT(*) FROM shop.orders";
    let count = format!(
        "test $(mariadb --no-defaults -ushop --protocol=tcp -h127.0.0.1 --port={} -BN -e '{sql}') = 2",
        two.port
    );
    let path = two.host.path("understudy.toml");
    let configured = std::fs::read_to_string(&path).unwrap().replace("path = 's0'\n", "");
    let mut file = std::fs::File::create(&path).unwrap();
    write!(file, "{configured}[store.drill.site]\ncommand = {:?}\n", ["sh", "-c", &count]).unwrap();
    let (role, server) = (two.note(), two.server());
    let output = two.host.command(&["drill", "acme", "--site", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}\n{}", said(&output), two.log());
    let drilled: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{drilled:#}");
    assert_eq!(steps(&drilled), ["log", "database", "services", "command"]);
    assert_eq!((two.note(), drilled["position"].as_str().is_some()), (role, true));
    assert!(customer(two.port, "SELECT 1").is_err(), "nobody listens outside");
    one.customer("INSERT INTO shop.orders VALUES ('after', 'x')").unwrap();
    duo.wait_until_equal(one, two);
    assert_eq!(one.customer("SELECT COUNT(*) FROM shop.orders").unwrap(), "2");
    assert!(!two.host.path("database/drill").exists() && !two.place().join("drill").exists());
    assert_eq!(two.server(), server);
    // A server that does not start is no database.
    let options = two.host.path("bad.cnf");
    std::fs::write(&options, "[mariadbd]\nno-such-option=1\n").unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let bad = format!("memory_mib = 32\noptions = '{}'\n", options.display());
    std::fs::write(&path, text.replace("memory_mib = 32\n", &bad)).unwrap();
    let output = two.host.command(&["drill", "acme", "--site"]).output().unwrap();
    let said = said(&output);
    assert!(output.status.code() == Some(1) && said.contains("database: "), "{said}");
    assert!(said.contains("no-such-option"), "{said}");
    assert!(!two.host.path("database/drill").exists() && two.server() == server);
}

#[test]
fn a_drill_of_a_failover_that_is_killed_leaves_the_replica_of_the_database_as_it_was() {
    let duo = DatabaseDuo::start();
    let (one, two) = (&duo.one, &duo.two);
    let path = two.host.path("understudy.toml");
    let configured = std::fs::read_to_string(&path).unwrap().replace("path = 's0'\n", "");
    std::fs::write(&path, configured).unwrap();
    let drill = || two.host.command(&["drill", "acme", "--site"]);
    let role = two.note();
    for step in ["site: still", "site: copied", "site: namespaces", "site: database"] {
        let output = drill().env("UNDERSTUDY_TEST_KILL_AT", step).output().unwrap();
        assert_eq!(output.status.code(), None, "{step}: {}", said(&output));
        one.customer(&format!("INSERT INTO shop.orders VALUES ('{step}', 'x')")).unwrap();
        duo.wait_until_equal(one, two);
    }
    wait_until("the supervisor takes the copy away", || !two.host.path("database/drill").exists());
    ok(&mut drill());
    assert_eq!(two.note(), role);
    assert!(!two.host.path("database/drill").exists() && !two.place().join("drill").exists());
}
