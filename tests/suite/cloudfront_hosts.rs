//! CloudFront before two hosts with the real binary: a failover ends when its customers are at the new primary.

use crate::support::cloudfront::{Emulator, Pop};
use crate::support::command::{ok, said};
use crate::support::edges::{Rig, switch};
use crate::support::namespaces::Lab;
use crate::support::wait::wait_until;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use understudy::edge::switch::Cause;
use understudy::support::failure::{Failure, FailureKind};

/// nginx that carries the emulator's API to machines made of namespaces, with TLS.
struct Carrier {
    children: Vec<Child>,
    _dir: TempDir,
    certificate: PathBuf,
}

impl Carrier {
    /// The edge's machine has the API at 127.0.0.1:4566, others at https://10.77.0.10:4443.
    fn start(lab: &Lab, emulator: &Emulator) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let at = dir.path().display().to_string();
        let (key, certificate) = (dir.path().join("key.pem"), dir.path().join("certificate.pem"));
        let words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=aws \
                     -addext subjectAltName=IP:10.77.0.10 -addext basicConstraints=critical,CA:FALSE";
        let mut made = Command::new("openssl");
        ok(made.args(words.split_whitespace()).arg("-keyout").arg(&key).arg("-out").arg(&certificate));
        let pass = |to: &str| format!("location / {{ proxy_pass {to}; proxy_set_header Host localhost; }}");
        let outer = format!(
            "server {{ listen unix:{at}/api; {} }}",
            pass(&format!("http://127.0.0.1:{}", emulator.port))
        );
        let inner = pass(&format!("http://unix:{at}/api:"));
        let inner = format!(
            "server {{ listen 127.0.0.1:4566; {inner} }} server {{ listen 10.77.0.10:4443 ssl; \
             ssl_certificate {at}/certificate.pem; ssl_certificate_key {at}/key.pem; {inner} }}"
        );
        let start = |mut command: Command, name: &str, servers: &str| {
            let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {at}/{name}-{kind}; "))
                .concat();
            let text = format!(
                "user root; worker_processes 1; daemon off; pid {at}/{name}.pid; error_log {at}/{name}.log;\n\
                 events {{ worker_connections 256; }}\nhttp {{ access_log off; client_max_body_size 8m; {paths}\n{servers} }}\n"
            );
            std::fs::write(dir.path().join(name), text).unwrap();
            command.args(["-c", &format!("{at}/{name}"), "-p", &at, "-e", "stderr"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let mut inside = lab.inside_edge();
        inside.arg("nginx");
        let children = vec![start(Command::new("nginx"), "outer", &outer), start(inside, "inner", &inner)];
        Self { children, certificate, _dir: dir }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // The one inside ends with its machine.
        ok(Command::new("kill").args(["-TERM", &self.children[0].id().to_string()]));
        let _ = self.children[0].wait();
    }
}

#[test]
fn a_failover_of_real_hosts_ends_with_cloudfronts_customers_at_the_new_one() {
    let mut lab = Lab::start();
    let emulator = Emulator::start(8080);
    emulator.change(|config| config.replacen("DomainName>127.0.0.1<", "DomainName>10.77.0.1<", 1));
    let carrier = Carrier::start(&lab, &emulator);
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("credentials");
    std::fs::write(&keys, "[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = s\n").unwrap();
    let edge = emulator.edge(1, 8080, true).replace("http://127.0.0.1:1'", "https://10.77.0.10:4443'");
    let edge = edge.replace("127.0.0.1:8080", "10.77.0.1:8080").replace("127.0.0.2:8080", "10.77.0.2:8080");
    let edge = format!("{edge}credentials_file = '{}'\n", keys.display());
    // HAProxy is an edge as before; what counts is the address of CloudFront.
    lab.configure(|_, text| {
        let text = text.replacen("http://10.77.0.10/", "http://10.77.0.10:81/", 1);
        text.replacen("[[store.edge]]", &format!("{edge}[[store.edge]]"), 1)
    });
    for host in &mut lab.web {
        host.variables.push(("SSL_CERT_FILE", carrier.certificate.clone()));
    }
    wait_until("the API is there", || {
        let mut asks = lab.web[0].inside();
        asks.args(["curl", "-sk", "--max-time", "2", "-o", "/dev/null", "https://10.77.0.10:4443/"]);
        asks.output().unwrap().status.success()
    });
    let mut setup = lab.web[0].understudy(&["edge", "setup", "shop", "--apply"]);
    let told = said(&ok(setup.env("SSL_CERT_FILE", &carrier.certificate)));
    assert!(told.contains("function 'understudy-shop' is published") && !told.contains("wrong"), "{told}");
    let _pop = Pop::start_in(lab.inside_edge(), "10.77.0.10", 81, "http://127.0.0.1:4566", &emulator);
    lab.serve();
    wait_until("customers of CloudFront at the first host", || epoch_seen(&lab).as_deref() == Some("1"));
    lab.start_customers();
    lab.web[0].run(&["resync", "shop"]);
    lab.power_off(0);
    lab.web[1].run(&["failover", "shop", "--yes", "--is-down", "--reason", "no power"]);
    lab.wait_for_primary(1);
    // What the daemon calls done is what a customer of CloudFront sees.
    assert_eq!(epoch_seen(&lab).as_deref(), Some("2"));
    let key: serde_json::Value = serde_json::from_str(&emulator.key("shop").unwrap()).unwrap();
    assert_eq!((&key["e"], &key["h"], &key["o"]), (&2.into(), &"web-2".into(), &"10.77.0.2".into()));
    wait_until("the distribution follows", || emulator.config().0.contains("TargetOriginId>web-2<"));
    // The host that was the primary tries to have its customers back.
    let edge = emulator.edge(emulator.port, 8080, true);
    let edge = edge.replace("127.0.0.1:8080", "10.77.0.1:8080").replace("127.0.0.2:8080", "10.77.0.2:8080");
    let stale = Rig::new(
        "http://127.0.0.1:1/",
        &format!("{edge}key = 'shop'\ncredentials_file = '{}'\n", keys.display()),
    );
    let before = (emulator.config(), emulator.key("shop"));
    let error = stale.switch_edge(&switch(1, "web-1", "10.77.0.1:8080", Cause::Forced)).unwrap_err();
    assert_eq!(
        (error.kind(), (emulator.config(), emulator.key("shop"))),
        (FailureKind::Fenced, before),
        "{error}"
    );
    lab.wait_for_orders(10);
    lab.power_on(0);
    lab.web[0].start_daemon();
    wait_until("the old primary follows", || lab.web[0].phase().as_deref() == Some("standby"));
    // Its gate knows nothing of a newer epoch, and serves nobody.
    let mut asks = lab.inside_customer();
    asks.args([
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--max-time",
        "5",
        "-H",
        "X-Understudy-Epoch: 2",
    ]);
    assert_ne!(said(&asks.arg("http://10.77.0.1:8080/").output().unwrap()), "200");
    assert_eq!(epoch_seen(&lab).as_deref(), Some("2"));
    lab.check(1);
}

/// Returns the epoch that a customer of CloudFront sees; none without a good answer.
fn epoch_seen(lab: &Lab) -> Option<String> {
    let mut asks = lab.inside_customer();
    asks.args(["curl", "-si", "--max-time", "5", "http://10.77.0.10:81/"]);
    let told = said(&asks.output().unwrap()).to_ascii_lowercase();
    let epoch = told.lines().find_map(|line| line.strip_prefix("x-understudy-epoch: ").map(str::to_owned));
    epoch.filter(|_| told.starts_with("http/1.1 200"))
}
