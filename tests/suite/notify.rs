//! Who is told when something of a store is wrong: real receivers, and the real daemon.

use crate::support::command::{fails, ok, said};
use crate::support::host::Host;
use crate::support::receiver::{MailServer, Received, Receiver};
use crate::support::trio::Trio;
use crate::support::wait::wait_until;
use serde_json::Value;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD2XXlBvMqBQo=";
const OLD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAAAAAAAAAA=";

/// Checks a message as a receiver does that knows nothing of this program: by Python's own HMAC.
const VERIFY: &str = r#"
import base64, hashlib, hmac, sys
secret, id, at, signatures, body = sys.argv[1:6]
key = base64.b64decode(secret.removeprefix("whsec_"))
tag = base64.b64encode(hmac.new(key, f"{id}.{at}.{body}".encode(), hashlib.sha256).digest()).decode()
sys.exit(0 if f"v1,{tag}" in signatures.split(" ") else 1)
"#;

fn is_genuine(message: &Received, secret: &str, body: &str) -> bool {
    let header = |name: &str| message.headers[name].clone();
    let mut python = Command::new("python3");
    python.args(["-c", VERIFY, secret, &header("webhook-id"), &header("webhook-timestamp")]);
    python.args([&header("webhook-signature"), body]).status().unwrap().success()
}

/// Writes a secret as only its owner reads it.
fn secret(host: &Host, name: &str, text: &str) {
    let path = host.path(name);
    std::fs::write(&path, text).unwrap();
    ok(Command::new("chmod").arg("600").arg(&path));
}

/// Has the daemon hold the store: its tree is gone.
fn empty(host: &Host) {
    std::fs::rename(host.path("s0"), host.path("away")).unwrap();
    std::fs::create_dir(host.path("s0")).unwrap();
    let held = host.command(&["resync", "a"]).output().unwrap();
    assert_eq!(held.status.code(), Some(4), "{}", said(&held));
}

fn refill(host: &Host) {
    std::fs::remove_dir(host.path("s0")).unwrap();
    std::fs::rename(host.path("away"), host.path("s0")).unwrap();
    ok(&mut host.command(&["resync", "a"]));
}

fn kill(host: &mut Host) {
    let mut daemon = host.daemon.take().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    std::fs::remove_file(host.socket().unwrap()).unwrap();
}

fn metric(host: &Host, name: &str) -> String {
    let text = host.get("/metrics").unwrap();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()).unwrap_or_default().to_owned()
}

#[test]
fn a_dead_receiver_gets_it_when_it_is_back_and_can_check_who_sent_it() {
    let mut host = Host::new(1);
    let port = crate::support::servers::free_port();
    secret(&host, "secret", &format!("{SECRET}\n{OLD_SECRET}\n"));
    host.configure(&format!(
        "all_clear_seconds = 1\n[[notify]]\nkind = 'webhook'\nname = 'ops'\nurl = 'http://127.0.0.1:{port}/hook'\n\
         secret_file = 'secret'\n[[store]]\nname = 'a'\npath = 's0'\n"
    ));
    host.start();
    wait_until("it has a snapshot", || host.store("a")["snapshot"] == 1);
    empty(&host);
    wait_until("it fails", || metric(&host, "understudy_notify_failing") == "1");
    wait_until("it waits", || metric(&host, "understudy_notify_waiting") == "1");
    // What waits outlives the daemon.
    kill(&mut host);
    host.start();
    let receiver = Receiver::at(port);
    let got = receiver.wait_for(1);
    let (message, body) = (&got[0], got[0].json());
    assert_eq!((message.path.as_str(), &body["type"]), ("/hook", &"understudy.events".into()));
    let event = &body["data"]["events"][0];
    assert_eq!(
        (&event["state"], &event["event"], &event["store"]),
        (&"begun".into(), &"held".into(), &"a".into())
    );
    assert!(event["text"].as_str().unwrap().contains("the root is empty"), "{body}");
    assert_eq!(body["data"]["id"], message.headers["webhook-id"].as_str());
    assert!(is_genuine(message, SECRET, &message.body), "{message:?}");
    assert!(
        is_genuine(message, OLD_SECRET, &message.body),
        "a receiver with the secret before knows it, too"
    );
    assert!(!is_genuine(message, SECRET, &message.body.replace("held", "fine")), "an altered one is none");
    let other = SECRET.replace('C', "D");
    assert!(!is_genuine(message, &other, &message.body), "nor is one with another secret");
    let log = host.log();
    assert!((1..=2).contains(&log.matches("cannot be notified").count()), "once by each daemon: {log}");
    // A daemon that starts again does not tell it again, and knows that it is to be told of the end.
    host.end();
    host.start();
    refill(&host);
    wait_until("its end is told", || receiver.events().len() == 2);
    assert_eq!(receiver.events(), ["begun held", "ended held"]);
    assert_eq!(metric(&host, "understudy_notify_failing"), "0");
    let all =
        format!("{}{}", host.log(), receiver.got().iter().map(|got| got.body.clone()).collect::<String>());
    assert!(!all.contains(SECRET) && !all.contains(&SECRET[6..]) && !all.contains(&host.token()));
}

#[test]
fn slack_gets_one_text_that_mentions_nobody_and_a_check_hears_of_each_run() {
    let mut host = Host::new(1);
    let (slack, checks) = (Receiver::start(), Receiver::start());
    secret(&host, "slack", &slack.url("/services/T0/B0/SECRET"));
    host.configure(&format!(
        "all_clear_seconds = 1\n[[notify]]\nkind = 'slack'\nname = 'chat'\nurl_file = 'slack'\n\
         [[notify]]\nkind = 'ping'\nname = 'checks'\nurl = '{}?create=1'\n[[store]]\nname = 'a'\npath = 's0'\n",
        checks.url("/key/{store}")
    ));
    host.start();
    let pings = checks.wait_for(2);
    let paths: Vec<_> = pings.iter().map(|ping| ping.path.split('?').next().unwrap()).collect();
    assert_eq!(paths, ["/key/a/start", "/key/a"]);
    let query = |ping: &Received| ping.path.split_once('?').unwrap().1.to_owned();
    assert!(query(&pings[0]).starts_with("create=1&rid="), "{pings:?}");
    assert_eq!(query(&pings[0]), query(&pings[1]), "they are of one run");
    // What a person wrote is shown, and pages nobody.
    let why = "/api/v1/stores/a/hold?reason=%3C!channel%3E%20%40here%20%3Chttps%3A%2F%2Fevil%7Cclick%3E";
    assert_eq!(host.ask("POST", why, Some(&host.token())).0, 200);
    let said = slack.wait_for(1)[0].json();
    assert_eq!(said.as_object().unwrap().len(), 1, "{said}");
    let text = said["text"].as_str().unwrap();
    assert!(text.contains("\n• *a*: held: &lt;!channel&gt;"), "{text}");
    assert!(text.contains("&lt;https://evil|click&gt;"), "{text}");
    assert!(!text.contains('<') && !text.contains("@here"), "{text}");
    assert_eq!(slack.got()[0].headers["content-type"], "application/json");
    // A run that is held is a failure for whoever checks.
    assert_eq!(host.ask("POST", "/api/v1/stores/a/release", Some(&host.token())).0, 200);
    empty(&host);
    let failed = checks.wait_for(3).into_iter().find(|ping| ping.path.contains("/fail"));
    let failed = failed.unwrap_or_else(|| panic!("{:?}", checks.got()));
    assert!(failed.path.starts_with("/key/a/fail?create=1&rid="), "{failed:?}");
    assert!(failed.body.contains("held: ") && failed.body.contains("the root is empty"), "{failed:?}");
    assert!(!host.log().contains("SECRET"), "{}", host.log());
}

#[test]
fn a_mail_is_sent_by_tls_to_a_server_that_is_trusted_and_to_no_other() {
    let mut host = Host::new(1);
    let server = MailServer::start(&host.path("mail"), "web-1", "open sesame");
    secret(&host, "password", "open sesame\n");
    host.configure(&format!(
        "[[notify]]\nkind = 'email'\nname = 'mail'\nhost = 'localhost'\nport = {}\nuser = 'web-1'\n\
         password_file = 'password'\nfrom = 'understudy@shop.example'\nto = ['ops@shop.example', 'b@shop.example']\n\
         [[store]]\nname = 'a'\npath = 's0'\n",
        server.port
    ));
    // Its certificate is not one of the system's: it does not even get the password.
    let output = host.command(&["notify", "test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(said(&output).contains("mail (email): TLS with localhost: "), "{}", said(&output));
    wait_until("the server has noticed", || !server.refused().is_empty());
    assert!(!server.refused().contains("AUTH"), "{}", server.refused());
    let trusting = |command: &mut Command| {
        command.env("SSL_CERT_FILE", &server.certificate);
    };
    let test = |more: &[&str]| {
        let mut command = host.command(&["notify", "test"]);
        trusting(command.args(more));
        command.output().unwrap()
    };
    let output = test(&["--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown, serde_json::json!([{ "name": "mail", "kind": "email", "error": null }]));
    secret(&host, "password", "another word");
    let output = test(&["mail"]);
    assert_eq!(output.status.code(), Some(6));
    assert!(said(&output).contains("logging in: the server says 535"), "{}", said(&output));
    assert!(!said(&output).contains("another word"), "{}", said(&output));
    secret(&host, "password", "open sesame");
    let log = std::fs::File::create(host.path("log")).unwrap();
    let certificate = server.certificate.clone();
    host.start_with(|command| command.env("SSL_CERT_FILE", certificate).stderr(log));
    wait_until("it has a snapshot", || host.store("a")["snapshot"] == 1);
    let reason = "caf%C3%A9%20%0d%0aBcc%3A%20eve%40evil.example";
    let path = format!("/api/v1/stores/a/hold?reason={reason}");
    assert_eq!(host.ask("POST", &path, Some(&host.token())).0, 200);
    wait_until("the mail is there", || server.mails().len() == 2);
    let mail = &server.mails()[1];
    assert_eq!(mail["to"], serde_json::json!(["<ops@shop.example>", "<b@shop.example>"]));
    let subject = mail["headers"]["Subject"].as_str().unwrap();
    assert!(subject.starts_with("[understudy] ") && subject.ends_with(": a: held"), "{mail}");
    assert!(mail["text"].as_str().unwrap().contains("a: held: café \\r\\nBcc: eve@evil.example"), "{mail}");
    assert_eq!(mail["headers"].as_object().unwrap().len(), 9, "{mail}");
    assert!(!host.log().contains("sesame"), "{}", host.log());
}

#[test]
fn a_redirect_is_not_followed_and_a_secret_address_is_not_said() {
    let host = Host::new(1);
    let (receiver, elsewhere) = (Receiver::start(), Receiver::start());
    receiver.answer(&format!("302 Found\r\nLocation: {}", elsewhere.url("/")));
    secret(&host, "address", &receiver.url("/services/SECRET"));
    let configure = |file: &str| {
        host.configure(&format!(
            "[[notify]]\nkind = 'slack'\nname = 'chat'\nurl_file = '{file}'\n[[store]]\nname = 'a'\npath = 's0'\n"
        ));
    };
    configure("address");
    let output = host.command(&["notify", "test", "chat"]).output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(said(&output).contains("chat (slack): the answer is 302 Found, which is not followed"));
    assert!(!said(&output).contains("SECRET"), "{}", said(&output));
    // Where nobody answers, the address is not said either.
    secret(&host, "address", "http://127.0.0.1:1/services/SECRET");
    let output = host.command(&["notify", "test"]).output().unwrap();
    assert!(output.status.code() == Some(6) && !said(&output).contains("SECRET"), "{}", said(&output));
    assert!(elsewhere.got().is_empty());
    fails(&mut host.command(&["notify", "test", "nobody"]), 2, "no [[notify]] named 'nobody'");
    // What cannot be used is said when the daemon starts, and it does not start.
    configure("missing");
    fails(&mut host.command(&["run"]), 2, "notify 'chat': `url_file`: ");
    secret(&host, "address", "no address SECRET");
    configure("address");
    let output = host.command(&["run"]).output().unwrap();
    assert!(output.status.code() == Some(2) && !said(&output).contains("SECRET"), "{}", said(&output));
    secret(&host, "address", &receiver.url("/"));
    ok(Command::new("chmod").arg("666").arg(host.path("address")));
    fails(&mut host.command(&["run"]), 2, "chmod go-w");
    host.configure("[[notify]]\nkind = 'slack'\nname = 'chat'\nurl = 'http://a'\nevents = ['hold']\n");
    fails(&mut host.command(&["run"]), 2, "unknown variant `hold`");
}

#[test]
fn a_receiver_that_hangs_delays_neither_another_one_nor_a_run_nor_the_end() {
    let mut host = Host::new(2);
    // Connections are accepted by the kernel, and nobody answers.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let slack = Receiver::start();
    host.configure(&format!(
        "[[notify]]\nkind = 'webhook'\nname = 'deaf'\nurl = 'http://{0}/'\n\
         [[notify]]\nkind = 'ping'\nname = 'deaf-checks'\nurl = 'http://{0}/{{store}}'\n\
         [[notify]]\nkind = 'slack'\nname = 'chat'\nurl = '{1}'\n\
         [[store]]\nname = 'a'\npath = 's0'\n[[store]]\nname = 'b'\npath = 's1'\n",
        deaf.local_addr().unwrap(),
        slack.url("/")
    ));
    host.start();
    wait_until("both have a snapshot", || {
        host.store("a")["snapshot"] == 1 && host.store("b")["snapshot"] == 1
    });
    empty(&host);
    slack.wait_for(1);
    ok(&mut host.command(&["resync", "b"]));
    assert_eq!(host.store("b")["snapshot"], 2);
    let text = host.get("/metrics").unwrap();
    assert!(text.contains("understudy_notify_sent_total{receiver=\"chat\",kind=\"slack\"} 1"), "{text}");
    assert!(text.contains("understudy_notify_sent_total{receiver=\"deaf\",kind=\"webhook\"} 0"), "{text}");
    let begun = Instant::now();
    host.end();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(!host.log().contains("this is a bug"), "{}", host.log());
}

/// Has a running host of the trio tell this receiver.
fn tell(trio: &Trio, host: usize, receiver: &Receiver) {
    let path = trio.hosts[host].path("understudy.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let notify = format!(
        "[[notify]]\nkind = 'webhook'\nname = 'ops'\nurl = '{}'\nevents = ['failover', 'refused']\n",
        receiver.url("/")
    );
    std::fs::write(&path, format!("{text}{notify}")).unwrap();
    trio.hosts[host].signal("-HUP");
    let is_known =
        || trio.hosts[host].get("/metrics").unwrap().contains("notify_sent_total{receiver=\"ops\"");
    wait_until("it is known", is_known);
}

fn last_text(receiver: &Receiver) -> String {
    let body = receiver.got().last().unwrap().json();
    body["data"]["events"].as_array().unwrap().last().unwrap()["text"].as_str().unwrap().to_owned()
}

#[test]
fn a_failover_is_told_when_it_begins_and_ends_by_who_takes_over_and_by_who_looks_on() {
    let mut trio = Trio::start();
    let receivers = [Receiver::start(), Receiver::start()];
    tell(&trio, 1, &receivers[0]);
    tell(&trio, 2, &receivers[1]);
    // Long enough for a look at what is so before.
    std::thread::sleep(Duration::from_secs(3));
    trio.kill(0);
    ok(&mut trio.command(1, &["failover", "acme", "--yes", "--is-down"]));
    for receiver in &receivers {
        wait_until("it is told", || receiver.events().last().is_some_and(|last| last == "ended failover"));
        assert_eq!(receiver.events(), ["begun failover", "ended failover"]);
        assert_eq!(last_text(receiver), "'web-2' is the primary in epoch 2, after 'web-1'");
    }
}
