//! The guard: what its gate lets pass, and what happens when nobody feeds it.

use crate::support::command::ok;
use crate::support::http::{HttpAnswer, HttpClient, get};
use crate::support::nginx::Nginx;
use crate::support::servers::free_port;
use crate::support::wait::wait_until;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use understudy::failover::guard::client::{GuardClient, GuardError};
use understudy::failover::guard::protocol::{Feed, GuardState, Mode, PortsState, Refusal};
use understudy::failover::guard::settings::{DatabaseSettings, GateSettings, Setup};
use understudy::failover::services::settings::ServiceSettings;
use understudy::model::id::{Epoch, StoreName};
use understudy::support::clock::BootNanos;
use understudy::support::env::Env;

fn this() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_understudy"))
}

fn now() -> BootNanos {
    Env::system().now().boot
}

const SECOND: Duration = Duration::from_secs(1);

/// A guard that is ended with the test.
struct Guard {
    client: GuardClient,
    port: u16,
    process: u32,
    dir: TempDir,
}

impl Guard {
    fn start(upstream: u16) -> Self {
        Self::start_with(upstream, |_| ())
    }

    fn start_with(upstream: u16, change: impl FnOnce(&mut Setup)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(dir.path(), upstream, change);
        let client = GuardClient::start(&setup, this()).unwrap();
        let process = client.ask().unwrap().unwrap().process;
        Self { client, port: setup.gate.listen.port(), process, dir }
    }

    fn feed(&self, epoch: u64, mode: Mode, until: Option<BootNanos>) -> Result<GuardState, Refusal> {
        let feed = Feed { epoch: Epoch(epoch), mode, until, fences_known: 0 };
        match self.client.feed(&feed) {
            Ok(state) => Ok(state),
            Err(GuardError::Refused(refusal)) => Err(refusal),
            Err(error) => panic!("{error}"),
        }
    }

    fn open(&self) {
        self.feed(7, Mode::Open, None).unwrap();
    }

    /// Opens the gate for some seconds, and returns until when.
    fn open_for(&self, seconds: f64) -> BootNanos {
        let until = now().plus(Duration::from_secs_f64(seconds));
        self.feed(7, Mode::Open, Some(until)).unwrap();
        until
    }

    fn state(&self) -> GuardState {
        self.client.ask().unwrap().unwrap()
    }

    /// Waits for the end of a fence.
    fn fenced(&self) -> GuardState {
        wait_until("the fence ends", || self.state().fence.is_some_and(|fence| fence.ended.is_some()));
        self.state()
    }

    fn signal(&self, signal: &str) {
        ok(Command::new("kill").args([signal, &self.process.to_string()]));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", &self.process.to_string()]).output();
    }
}

fn setup(dir: &Path, upstream: u16, change: impl FnOnce(&mut Setup)) -> Setup {
    let mut setup = Setup {
        store: StoreName::parse("acme").unwrap(),
        gate: GateSettings {
            listen: ([127, 0, 0, 1], free_port()).into(),
            upstream: ([127, 0, 0, 1], upstream).into(),
            ports: Vec::new(),
            socket: None,
            last_resort: Vec::new(),
        },
        services: Vec::new(),
        database: DatabaseSettings::default(),
        socket: dir.join("run/guard.socket"),
        socket_is_default: true,
        edge_tells_epoch: false,
    };
    change(&mut setup);
    setup
}

fn wait_for_time(time: BootNanos) {
    wait_until("the time passes", || now() >= time);
}

#[test]
fn a_gate_begins_closed_and_forwards_once_it_is_told_to() {
    let nginx = Nginx::start("page of a");
    let guard = Guard::start(nginx.port);
    let closed = get(guard.port, "/");
    assert_eq!(closed.status, 503);
    assert!(closed.header("retry-after").is_some(), "{closed:?}");
    assert_eq!(
        (closed.header("x-understudy-epoch"), closed.header("x-understudy-role")),
        (Some("0"), Some("closed"))
    );
    guard.open();
    let mut client = HttpClient::new(guard.port);
    for _ in 0..3 {
        let open = client.get("/").unwrap();
        assert_eq!((open.status, open.text().as_str()), (200, "page of a"));
        assert_eq!(open.header("x-understudy-epoch"), Some("7"));
    }
    let role = client.get("/.understudy/role").unwrap();
    let told: serde_json::Value = serde_json::from_slice(&role.body).unwrap();
    let expected = serde_json::json!({"store": "acme", "epoch": 7, "mode": "open", "role": "primary"});
    assert_eq!((role.status, told), (200, expected));
    assert_eq!(client.get("/.understudy/other").unwrap().status, 404);
    guard.feed(7, Mode::Closed, None).unwrap();
    assert_eq!(client.get("/").unwrap().status, 503);
    assert!(!nginx.log().contains("understudy") && nginx.log().lines().count() == 3, "{}", nginx.log());
}

#[test]
fn what_concerns_one_connection_is_not_forwarded_and_the_way_of_a_request_is_told() {
    let nginx = Nginx::start("a");
    let guard = Guard::start(nginx.port);
    guard.open();
    let mut client = HttpClient::new(guard.port);
    let lines = "Host: shop.example\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\nX-Forwarded-For: 192.0.2.7\r\n\
                 X-Forwarded-Proto: https\r\n";
    client.send(format!("GET /echo HTTP/1.1\r\n{lines}\r\n").as_bytes()).unwrap();
    let answer = client.answer().unwrap();
    assert_eq!(answer.text(), "for=192.0.2.7, 127.0.0.1 proto=https connection= mine= host=shop.example",);
    // A head that is too large, a request without a host, and one with two of them.
    for (head, status) in [
        (format!("Host: a\r\nX-Long: {}\r\n", "a".repeat(200_000)), 431),
        (String::new(), 400),
        ("Host: a\r\nHost: b\r\n".to_owned(), 400),
    ] {
        let mut client = HttpClient::new(guard.port);
        // The gate may close before all of it is sent.
        let _ = client.send(format!("GET / HTTP/1.1\r\n{head}\r\n").as_bytes());
        match client.answer() {
            Ok(answer) => assert_eq!(answer.status, status),
            Err(error) => assert!(status == 431, "{error}"),
        }
    }
}

/// A web server that runs a tenant's code: it answers each request with this head and no body, and keeps what it
/// was sent on each connection.
fn tenant(head: &str) -> (u16, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, head) = (listener.local_addr().unwrap().port(), format!("{head}\r\n"));
    let kept: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let keeps = kept.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let (keeps, head) = (keeps.clone(), head.clone());
            std::thread::spawn(move || {
                let number = {
                    let mut kept = keeps.lock().unwrap();
                    kept.push(Vec::new());
                    kept.len() - 1
                };
                let (mut sent, mut answered, mut piece) = (Vec::new(), 0, [0; 4096]);
                while let Ok(count @ 1..) = stream.read(&mut piece) {
                    sent.extend_from_slice(&piece[..count]);
                    keeps.lock().unwrap()[number].extend_from_slice(&piece[..count]);
                    let all = requests(&sent).len();
                    for _ in answered..all {
                        let _ = stream.write_all(head.as_bytes());
                    }
                    answered = all;
                }
            });
        }
    });
    (port, kept)
}

/// Reads the whole requests in what a server was sent, as strictly as a server can: the length of a body stands
/// there once.
fn requests(mut sent: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut requests = Vec::new();
    while let Some(end) = sent.windows(4).position(|four| four == b"\r\n\r\n") {
        let head = String::from_utf8(sent[..end].to_vec()).unwrap();
        let mut rest = &sent[end + 4..];
        let lower = head.to_ascii_lowercase();
        let values = |name: &str| -> Vec<String> {
            let lines = lower.split("\r\n").skip(1).filter_map(|line| line.strip_prefix(name));
            lines.map(|value| value.trim().to_owned()).collect()
        };
        let (lengths, codings) = (values("content-length:"), values("transfer-encoding:"));
        let mut body = Vec::new();
        match (&lengths[..], &codings[..]) {
            ([], []) => {}
            ([length], []) => {
                let length: usize = length.parse().unwrap();
                if rest.len() < length {
                    return requests;
                }
                body.extend_from_slice(&rest[..length]);
                rest = &rest[length..];
            }
            ([], [coding]) if coding == "chunked" => loop {
                let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return requests };
                let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
                if rest.len() < end + 2 + size + 2 {
                    return requests;
                }
                body.extend_from_slice(&rest[end + 2..end + 2 + size]);
                rest = &rest[end + 2 + size + 2..];
                if size == 0 {
                    break;
                }
            },
            other => panic!("two lengths of one body: {other:?}"),
        }
        requests.push((head, body));
        sent = rest;
    }
    requests
}

#[test]
fn neither_a_customer_nor_a_tenant_says_what_only_a_gate_says() {
    let lies = "X-Understudy-Epoch: 99\r\nX-Understudy-Epoch: 98\r\nX-Understudy-Role: primary\r\n\
                X-Understudy-Relayed: 9\r\n";
    let says = |answer: &HttpAnswer| -> Vec<(String, String)> {
        answer.headers.iter().filter(|(name, _)| name.starts_with("x-understudy-")).cloned().collect()
    };
    let epoch = |epoch: &str| vec![("x-understudy-epoch".to_owned(), epoch.to_owned())];
    let plain = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Understudy-Epoch\r\n{lies}");
    let (port, kept) = tenant(&plain);
    let guard = Guard::start(port);
    guard.open();
    let asks = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Understudy-Relayed\r\n{lies}\r\n");
    let ask = |port: u16| {
        let mut client = HttpClient::new(port);
        client.send(asks.as_bytes()).unwrap();
        client.answer().unwrap()
    };
    let answer = ask(guard.port);
    assert_eq!((answer.status, says(&answer)), (200, epoch("7")));
    // By another gate, which the host before relays to.
    let before = Guard::start(free_port());
    let address = format!("127.0.0.1:{}", guard.port);
    before.feed(6, Mode::Relay { address }, None).unwrap();
    let answer = get(before.port, "/");
    assert_eq!((answer.status, says(&answer)), (200, epoch("7")));
    // A customer that claims to come from a gate is not relayed, and harms nobody else.
    assert_eq!(ask(before.port).status, 503);
    assert_eq!(get(before.port, "/").status, 200);
    for sent in kept.lock().unwrap().iter() {
        let sent = String::from_utf8_lossy(sent).to_ascii_lowercase();
        assert!(!sent.is_empty() && !sent.contains("x-understudy"), "{sent}");
    }
    let upgrade =
        format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n{lies}");
    let guard = Guard::start(tenant(&upgrade).0);
    guard.open();
    let mut client = HttpClient::new(guard.port);
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    let answer = client.head().unwrap();
    assert_eq!((answer.status, says(&answer)), (101, epoch("7")));
}

#[test]
fn gate_and_web_server_agree_where_a_request_ends() {
    let (port, kept) = tenant("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n");
    let guard = Guard::start(port);
    guard.open();
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let (length, post) = (hidden.len(), "POST / HTTP/1.1\r\nHost: a\r\n");
    let tries = [
        format!("{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        format!("{post}Content-Length: 0, {length}\r\n\r\n{hidden}"),
        format!("{post}Content-Length: +{length}\r\n\r\n{hidden}"),
        format!("{post}Content-Length : {length}\r\n\r\n{hidden}"),
        format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}Transfer-Encoding: identity\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        format!("{post}Transfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n{hidden}"),
        format!("{post}X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n1;\nX\r\nA\r\n0\r\n\r\n{hidden}"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff0\r\n\r\n{hidden}"),
        format!("{post}Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\nX: {hidden}"),
        format!(
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n{hidden}"
        ),
        format!("{post}Connection: Content-Length\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        format!("{post}Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        format!("GET / HTTP/1.1\nHost: a\nContent-Length: {length}\n\n{hidden}"),
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rGET /smuggled HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET /?\tHTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n{hidden}"),
    ];
    let (mut refused, mut forwarded) = (0, 0);
    for tried in tries {
        kept.lock().unwrap().iter_mut().for_each(Vec::clear);
        let mut client = HttpClient::new(guard.port);
        client.send(tried.as_bytes()).unwrap();
        client.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        let mut told = Vec::new();
        let _ = client.stream.read_to_end(&mut told);
        let told = String::from_utf8_lossy(&told).into_owned();
        refused += usize::from(told.contains("HTTP/1.1 400"));
        for (head, _) in kept.lock().unwrap().iter().flat_map(|sent| requests(sent)) {
            // Each request that the gate has seen as one has this line.
            assert!(head.contains("x-forwarded-for: 127.0.0.1"), "{tried:?}: not by the gate: {head:?}");
            forwarded += 1;
        }
    }
    assert!(refused >= 8 && forwarded >= 4, "{refused} refused, {forwarded} forwarded");
    assert_eq!(get(guard.port, "/").status, 200);
}

#[test]
fn a_web_server_that_is_down_is_a_502_and_the_gate_goes_on() {
    let port = free_port();
    let guard = Guard::start(port);
    guard.open();
    let mut client = HttpClient::new(guard.port);
    assert_eq!(client.get("/").unwrap().status, 502);
    let nginx = Nginx::start_at(port, "back");
    assert_eq!(client.get("/").unwrap().text(), "back");
    // The server closes its kept connections when it ends; a new one is there at once.
    drop(nginx);
    let _nginx = Nginx::start_at(port, "again");
    assert_eq!(client.get("/").unwrap().text(), "again");
}

#[test]
fn large_bodies_stream_both_ways_and_none_is_held_in_memory() {
    const BYTES: usize = 96 << 20;
    let nginx = Nginx::start("a");
    let guard = Guard::start(nginx.port);
    guard.open();
    let rss_kib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", guard.process)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    };
    let before = rss_kib();
    let mut client = HttpClient::new(guard.port);
    let head = format!(
        "PUT /files/big HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\nExpect: 100-continue\r\n\r\n"
    );
    client.send(head.as_bytes()).unwrap();
    assert_eq!(client.head().unwrap().status, 100);
    let mut piece = vec![0_u8; 1 << 20];
    for at in 0..BYTES / piece.len() {
        piece.fill(at as u8);
        client.send(&piece).unwrap();
    }
    assert_eq!(client.answer().unwrap().status, 201);
    let stored = std::fs::read(nginx.files().join("big")).unwrap();
    assert_eq!(stored.len(), BYTES);
    assert!(stored == client.get("/files/big").unwrap().body);
    // In chunks, of a length that is not known before.
    client.send(b"PUT /files/chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    client.send(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n").unwrap();
    assert_eq!(client.answer().unwrap().status, 201);
    assert_eq!(std::fs::read(nginx.files().join("chunks")).unwrap(), b"hello world");
    let grown_kib = rss_kib() - before;
    assert!(grown_kib < 16 << 10, "{grown_kib} KiB");
}

/// Sends requests from several clients until told to stop. Returns the bodies of the answers.
fn customers(port: u16, stop: &AtomicBool) -> Vec<String> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let (mut client, mut all) = (HttpClient::new(port), Vec::new());
                    while !stop.load(Ordering::Relaxed) {
                        let answer = client.get("/").unwrap();
                        assert_eq!(answer.status, 200, "{answer:?}");
                        all.push(answer.text());
                    }
                    all
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

#[test]
fn a_hold_and_then_an_open_gate_loses_no_request() {
    let nginx = Nginx::start("a");
    let guard = Guard::start(nginx.port);
    guard.open();
    let stop = AtomicBool::new(false);
    let answers = std::thread::scope(|scope| {
        let answers = scope.spawn(|| customers(guard.port, &stop));
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(200));
            guard.feed(7, Mode::Hold, None).unwrap();
            wait_until("what is in flight finishes", || guard.state().in_flight == 0);
            let before = nginx.log().lines().count();
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(nginx.log().lines().count(), before, "nothing passes");
            guard.open();
        }
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        answers.join().unwrap()
    });
    assert!(answers.len() > 50, "{}", answers.len());
    assert_eq!(nginx.log().lines().count(), answers.len());
}

#[test]
fn a_hold_and_then_a_relay_leads_customers_to_the_new_host() {
    let (a, b) = (Nginx::start("a"), Nginx::start("b"));
    let (old, new) = (Guard::start(a.port), Guard::start(b.port));
    old.open();
    let stop = AtomicBool::new(false);
    let answers = std::thread::scope(|scope| {
        let answers = scope.spawn(|| customers(old.port, &stop));
        std::thread::sleep(Duration::from_millis(200));
        old.feed(7, Mode::Hold, None).unwrap();
        wait_until("what is in flight finishes", || old.state().in_flight == 0);
        new.feed(8, Mode::Open, None).unwrap();
        let address = format!("127.0.0.1:{}", new.port);
        old.feed(8, Mode::Relay { address }, None).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        answers.join().unwrap()
    });
    let of = |page: &str| answers.iter().filter(|answer| *answer == page).count();
    assert!(of("a") > 0 && of("b") > 0 && of("a") + of("b") == answers.len());
    assert_eq!((a.log().lines().count(), b.log().lines().count()), (of("a"), of("b")));
    let relayed = get(old.port, "/");
    assert_eq!(relayed.header("x-understudy-epoch"), Some("8"));
    assert_eq!(get(old.port, "/echo").text().matches("127.0.0.1").count(), 2, "both gates are named");
}

#[test]
fn a_gate_refuses_what_an_edge_of_a_newer_epoch_sends_and_relays_what_one_of_an_older_epoch_does() {
    let nginx = Nginx::start("page of a");
    let told = |port: u16, epochs: &str| {
        let mut client = HttpClient::new(port);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{epochs}\r\n").as_bytes()).unwrap();
        let answer = client.answer().unwrap();
        (answer.status, answer.header("x-understudy-epoch").map(str::to_owned))
    };
    let header = |epoch: &str| format!("X-Understudy-Epoch: {epoch}\r\n");
    let guard = Guard::start_with(nginx.port, |setup| setup.edge_tells_epoch = true);
    guard.open();
    let served = (200, Some("7".to_owned()));
    let refused = (503, Some("7".to_owned()));
    for (epochs, wanted) in [
        (String::new(), &served),
        (header("7"), &served),
        // An edge that has not followed yet, and finds the primary all the same.
        (header("6"), &served),
        (header("8"), &refused),
        (header("7") + &header("8"), &refused),
        (header("seven"), &refused),
    ] {
        assert_eq!(told(guard.port, &epochs), *wanted, "{epochs}");
    }
    // The edge still sends to the host before, which relays: the new one judges what it is told by a gate alone.
    let before = Guard::start_with(free_port(), |setup| setup.edge_tells_epoch = true);
    let address = format!("127.0.0.1:{}", guard.port);
    before.feed(6, Mode::Relay { address }, None).unwrap();
    assert_eq!(told(before.port, &header("5")), served);
    assert_eq!(told(before.port, &header("7")), served);
    // Without such an edge whoever asks could say it.
    let plain = Guard::start(nginx.port);
    plain.open();
    assert_eq!(told(plain.port, &header("8")), served);
}

#[test]
fn gates_that_relay_to_each_other_end_in_a_503() {
    let (one, other) = (Guard::start(free_port()), Guard::start(free_port()));
    for (from, to) in [(&one, &other), (&other, &one)] {
        let address = format!("127.0.0.1:{}", to.port);
        from.feed(7, Mode::Relay { address }, None).unwrap();
    }
    let answer = get(one.port, "/");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("relay to each other"), "{answer:?}");
}

#[test]
fn a_hold_that_lasts_is_a_503_in_the_end() {
    let nginx = Nginx::start("a");
    let guard = Guard::start(nginx.port);
    guard.feed(7, Mode::Hold, None).unwrap();
    let begun = now();
    let answer = get(guard.port, "/");
    assert_eq!(answer.status, 503);
    assert!(now().since(begun) >= 9 * SECOND, "it waited");
    assert_eq!(nginx.log(), "");
}

/// A customer whose requests follow each other. Returns the times of the start of each request that was
/// answered with success, and whether the connection ended with a reset.
fn steady(port: u16, until: BootNanos) -> (Vec<BootNanos>, bool) {
    let mut client = HttpClient::new(port);
    let mut answered = Vec::new();
    while now() < until.plus(SECOND) {
        let begun = now();
        match client.get("/") {
            Ok(answer) if answer.status == 200 => answered.push(begun),
            Ok(_) => {}
            Err(_) => return (answered, true),
        }
    }
    (answered, false)
}

#[test]
fn nothing_is_answered_once_the_time_has_passed_whatever_is_open() {
    let nginx = Nginx::start("a");
    std::fs::write(nginx.files().join("big"), vec![7; 4 << 20]).unwrap();
    let guard = Guard::start(nginx.port);
    let mut idle = HttpClient::new(guard.port);
    let mut upload = HttpClient::new(guard.port);
    let mut download = HttpClient::new(guard.port);
    // The feeder dies after this.
    let until = guard.open_for(2.0);
    assert_eq!(idle.get("/").unwrap().status, 200);
    upload.send(b"PUT /files/late HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345").unwrap();
    download.send(b"GET /slow/big HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(download.head().unwrap().status, 200);
    let (answered, was_reset) = steady(guard.port, until);
    assert!(!answered.is_empty() && answered.iter().all(|begun| *begun < until), "{until:?} {answered:?}");
    assert!(was_reset, "an established connection is reset");
    // Its last bytes come after the time.
    let late = upload.send(b"67890").and_then(|()| upload.answer());
    assert!(late.is_err(), "{late:?}");
    let mut rest = Vec::new();
    assert!(download.stream.read_to_end(&mut rest).is_err() && rest.len() < 4 << 20, "{}", rest.len());
    assert!(idle.get("/").is_err(), "also the connection that was idle is reset");
    assert_eq!(get(guard.port, "/").status, 503);
    let state = guard.fenced();
    let fence = state.fence.unwrap();
    assert!(fence.verified && fence.number == 1 && fence.at >= until, "{fence:?}");
    assert_eq!(get(guard.port, "/").header("x-understudy-role"), Some("fenced"));
    assert!(!nginx.files().join("late").exists(), "half an upload is none");
}

#[test]
fn a_guard_that_was_stopped_past_its_time_refuses_first() {
    let nginx = Nginx::start("a");
    let guard = Guard::start(nginx.port);
    let mut kept = HttpClient::new(guard.port);
    let until = guard.open_for(1.0);
    assert_eq!(kept.get("/").unwrap().status, 200);
    // It writes its log after its answer.
    let before = 1;
    wait_until("nginx has written its log", || nginx.log().lines().count() == before);
    guard.signal("-STOP");
    // All of this is in queues when it goes on: requests, and a feed that would have been in time.
    let mut fresh: Vec<_> = (0..8).map(|_| HttpClient::new(guard.port)).collect();
    for client in fresh.iter_mut().chain([&mut kept]) {
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    let mut socket = UnixStream::connect(guard.dir.path().join("run/guard.socket")).unwrap();
    let feed =
        Feed { epoch: Epoch(7), mode: Mode::Open, until: Some(until.plus(60 * SECOND)), fences_known: 0 };
    let feed = serde_json::json!({ "feed": feed });
    socket.write_all(format!("{feed}\n").as_bytes()).unwrap();
    wait_for_time(until.plus(SECOND / 10));
    guard.signal("-CONT");
    for client in &mut fresh {
        // One that was accepted just before the fence is reset by it.
        if let Ok(answer) = client.answer() {
            assert_eq!(answer.status, 503);
        }
    }
    assert!(kept.answer().map_or(true, |answer| answer.status == 503));
    let mut reply = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(socket), &mut reply).unwrap();
    assert!(reply.contains("refused") && reply.contains("fenced"), "{reply}");
    assert_eq!(get(guard.port, "/").status, 503);
    assert_eq!(nginx.log().lines().count(), before, "nothing reached the web server");
    assert_eq!(guard.fenced().fences, 1);
}

#[test]
fn a_fence_is_answered_for_before_the_gate_opens_again() {
    let nginx = Nginx::start("a");
    let guard = Guard::start(nginx.port);
    guard.open();
    guard.client.fence("a test").unwrap();
    assert_eq!(guard.fenced().fence.unwrap().reason, "a test");
    assert_eq!(guard.feed(7, Mode::Open, None), Err(Refusal::Fenced { number: 1 }));
    let knowing = Feed { epoch: Epoch(7), mode: Mode::Open, until: None, fences_known: 1 };
    guard.client.feed(&knowing).unwrap();
    assert_eq!(get(guard.port, "/").status, 200);
}

#[test]
fn a_fence_that_nobody_dealt_with_is_known_to_the_next_guard() {
    let nginx = Nginx::start("a");
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), nginx.port, |setup| {
        let log = dir.path().join("turns");
        setup.database.fence = vec!["sh".into(), "-c".into(), format!("echo fenced >> {}", log.display())];
    });
    let begin = || {
        let client = GuardClient::start(&setup, this()).unwrap();
        let process = client.ask().unwrap().unwrap().process;
        Guard { client, port: setup.gate.listen.port(), process, dir: tempfile::tempdir().unwrap() }
    };
    let first = begin();
    first.open();
    first.client.fence("a test").unwrap();
    first.fenced();
    let mark = PathBuf::from(format!("{}.fenced", setup.socket.display()));
    let is_marked = || mark.exists();
    wait_until("it is kept", is_marked);
    first.signal("-KILL");
    wait_until("it has ended", || first.client.ask().is_ok_and(|state| state.is_none()));
    // The daemon, which did not hear of it, goes on.
    let second = begin();
    assert_eq!(second.feed(7, Mode::Open, None), Err(Refusal::Fenced { number: 2 }));
    assert!(second.fenced().fence.unwrap().reason.contains("an earlier guard"));
    assert_eq!(get(second.port, "/").status, 503);
    let turns = std::fs::read_to_string(dir.path().join("turns")).unwrap();
    assert_eq!(turns, "fenced\nfenced\n");
    // Whoever saw everything stopped says so, and the third guard has nothing to do.
    second.client.feed(&Feed { epoch: Epoch(7), mode: Mode::Closed, until: None, fences_known: 2 }).unwrap();
    wait_until("it is dealt with", || !is_marked());
    second.signal("-KILL");
    wait_until("it has ended", || second.client.ask().is_ok_and(|state| state.is_none()));
    let third = begin();
    assert_eq!(third.state().fences, 0);
    third.open();
    assert_eq!(get(third.port, "/").status, 200);
}

#[test]
fn an_epoch_that_is_lower_than_one_before_is_refused() {
    let guard = Guard::start(free_port());
    guard.feed(8, Mode::Closed, None).unwrap();
    assert_eq!(guard.feed(7, Mode::Open, None), Err(Refusal::Epoch { seen: Epoch(8) }));
    assert_eq!(guard.feed(8, Mode::Open, Some(BootNanos(1))), Err(Refusal::Late));
    assert_eq!(get(guard.port, "/").status, 503);
    assert_eq!(guard.state().mode, Mode::Closed);
}

#[test]
fn another_user_cannot_feed_a_guard() {
    let guard = Guard::start(free_port());
    let socket = guard.dir.path().join("run/guard.socket");
    let feed =
        serde_json::json!({"feed": {"epoch": 9, "mode": "open", "until_boot_ns": null, "fences_known": 0}});
    let script = format!(
        "use IO::Socket::UNIX; $SIG{{PIPE}} = 'IGNORE'; my $s = IO::Socket::UNIX->new('{}') or print($!), exit; \
         print $s '{feed}', \"\\n\"; $s->flush; my $line = <$s>; print defined $line ? $line : 'no answer'",
        socket.display()
    );
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "perl", "-e", &script]);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let said = as_nobody();
    assert!(said.contains("Permission denied"), "{said}");
    // Also where somebody has opened the way to it, the kernel tells who asks.
    ok(Command::new("chmod").arg("0777").args([guard.dir.path(), &guard.dir.path().join("run"), &socket]));
    let said = as_nobody();
    assert_eq!(said, "no answer");
    ok(Command::new("chmod").arg("0700").args([guard.dir.path(), &guard.dir.path().join("run")]));
    assert_eq!(guard.state().epoch, Epoch(0));
}

/// Returns a service that is one process, whose commands note their turn in `log`.
fn service(dir: &Path, name: &str, last: bool) -> ServiceSettings {
    let (log, pid) = (dir.join("turns"), dir.join(name));
    let (log, pid) = (log.display(), pid.display());
    let sh = |text: String| vec!["sh".to_owned(), "-c".to_owned(), text];
    ServiceSettings {
        name: name.to_owned(),
        start: sh(format!("setsid sleep 600 & echo $! > {pid}")),
        stop: sh(format!("echo {name} >> {log}; kill -KILL $(cat {pid})")),
        check: sh(format!("grep -qs '^State:.[^Z]' /proc/$(cat {pid})/status && exit 0; exit 3")),
        timeout_seconds: Some(5),
        last,
        ..ServiceSettings::default()
    }
}

#[test]
fn a_fence_stops_consumers_then_the_database_then_services_and_looks_at_each() {
    let dir = tempfile::tempdir().unwrap();
    let nginx = Nginx::start("a");
    let services = vec![
        service(dir.path(), "cache", false),
        service(dir.path(), "web", false),
        service(dir.path(), "cron", true),
    ];
    let fence = format!("echo database of $UNDERSTUDY_STORE >> {}", dir.path().join("turns").display());
    let guard = Guard::start_with(nginx.port, |setup| {
        setup.services = services.clone();
        setup.database.fence = vec!["sh".into(), "-c".into(), fence];
        setup.gate.last_resort = vec!["touch".into(), dir.path().join("resort").display().to_string()];
    });
    let (store, env) = (StoreName::parse("acme").unwrap(), Env::system());
    let all = understudy::failover::services::attend::Services {
        store: &store,
        list: &services,
        this: this(),
        env: &env,
        stop: &|| false,
    };
    use understudy::failover::services::{kind::Standing, order::Part};
    all.start(Part::Serving).unwrap();
    all.start(Part::Last).unwrap();
    assert!(all.standings().iter().all(|(_, standing)| *standing == Standing::Running));
    let until = guard.open_for(0.5);
    let fence = guard.fenced().fence.unwrap();
    assert!(fence.verified, "{fence:?}");
    let turns = std::fs::read_to_string(dir.path().join("turns")).unwrap();
    assert_eq!(turns, "cron\ndatabase of acme\nweb\ncache\n");
    assert!(!dir.path().join("resort").exists(), "a fence that held needs no last resort");
    assert!(all.standings().iter().all(|(_, standing)| *standing == Standing::Stopped));
    assert!(fence.at >= until && fence.ended.unwrap() > fence.at);
}

#[test]
fn a_fence_that_did_not_hold_says_what_did_not_and_hangs_at_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut deaf = service(dir.path(), "deaf", true);
    (deaf.stop, deaf.check) = (vec!["sleep".into(), "600".into()], vec!["true".into()]);
    let web = service(dir.path(), "web", false);
    let guard = Guard::start_with(free_port(), |setup| {
        setup.services = vec![web, deaf];
        let resort =
            format!("echo \"$UNDERSTUDY_STORE: $UNDERSTUDY_FAILURES\" > {}/resort", dir.path().display());
        setup.gate.last_resort = vec!["sh".into(), "-c".into(), resort];
        setup.database.fence = vec!["sh".into(), "-c".into(), "echo still writable >&2; exit 4".into()];
    });
    let begun = now();
    let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
    std::fs::write(dir.path().join("web"), sleeper.id().to_string()).unwrap();
    guard.client.fence("a test").unwrap();
    wait_until("the service ends, though another one hangs", || sleeper.try_wait().unwrap().is_some());
    assert!(now().since(begun) < 5 * SECOND);
    let fence = guard.fenced().fence.unwrap();
    let told = fence.failures.join("\n");
    assert!(!fence.verified && told.contains("service 'deaf' is not confirmed as stopped"), "{told}");
    assert!(told.contains("still writable") && !told.contains("'web'"), "{told}");
    let resort = std::fs::read_to_string(dir.path().join("resort")).unwrap();
    assert!(resort.starts_with("acme: ") && resort.contains("'deaf'"), "{resort}");
}

#[test]
fn a_tunnel_is_carried_and_cut_when_the_time_passes() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let guard = Guard::start(upstream.local_addr().unwrap().port());
    let ended = Arc::new(AtomicBool::new(false));
    let is_over = ended.clone();
    let server = std::thread::spawn(move || {
        let (stream, _) = upstream.accept().unwrap();
        let mut head = HttpClient { stream: std::io::BufReader::new(stream) };
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            std::io::BufRead::read_line(&mut head.stream, &mut line).unwrap();
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        head.send(answer.as_bytes()).unwrap();
        let mut piece = [0; 64];
        while let Ok(count @ 1..) = head.stream.read(&mut piece) {
            head.send(&piece[..count]).unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    guard.open_for(2.0);
    let mut client = HttpClient::new(guard.port);
    client
        .send(b"GET /live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .unwrap();
    assert_eq!(client.head().unwrap().status, 101);
    client.send(b"frame").unwrap();
    let mut back = [0; 5];
    client.stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"frame");
    assert_eq!(guard.state().in_flight, 1);
    // It says nothing more, and is ended.
    assert!(client.stream.read(&mut back).is_err(), "a reset");
    wait_until("the other side ends as well", || ended.load(Ordering::Relaxed));
    server.join().unwrap();
    wait_until("it is counted no more", || guard.state().in_flight == 0);
}

#[test]
fn a_guard_outlives_who_started_it_and_is_alone_for_its_store() {
    let dir = tempfile::tempdir().unwrap();
    let nginx = Nginx::start("a");
    let setup = setup(dir.path(), nginx.port, |_| ());
    std::fs::write(dir.path().join("setup"), serde_json::to_vec(&setup).unwrap()).unwrap();
    // A shell in a group of its own starts it, and the whole group is killed.
    let script = format!("{} guard < {}; wait", this().display(), dir.path().join("setup").display());
    let mut shell = Command::new("setsid").args(["sh", "-c", &script]).stdout(Stdio::null()).spawn().unwrap();
    let client = GuardClient::new(&setup);
    wait_until("it begins", || client.ask().is_ok_and(|state| state.is_some()));
    let state = client.ask().unwrap().unwrap();
    let guard = Guard { client, port: setup.gate.listen.port(), process: state.process, dir };
    ok(Command::new("kill").args(["-KILL", "--", &format!("-{}", shell.id())]));
    shell.wait().unwrap();
    guard.open();
    assert_eq!(get(guard.port, "/").status, 200);
    let second = GuardClient::start(&setup, this());
    assert!(matches!(&second, Err(GuardError::NotBegun(how)) if how.contains("another guard")));
    assert_eq!(guard.state().setup, setup.hash());
    guard.client.stop().unwrap();
    wait_until("it ends", || guard.client.ask().is_ok_and(|state| state.is_none()));
    assert!(std::net::TcpStream::connect(("127.0.0.1", guard.port)).is_err());
}

#[test]
fn clients_that_only_wait_keep_no_other_out() {
    let nginx = Nginx::start("a");
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), nginx.port, |_| ());
    std::fs::write(dir.path().join("setup"), serde_json::to_vec(&setup).unwrap()).unwrap();
    // Few handles: room for about a dozen connections.
    let script = format!("exec {} guard < {}", this().display(), dir.path().join("setup").display());
    let mut command = Command::new("prlimit");
    command.args(["--nofile=120:120", "sh", "-c", &script]).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let client = GuardClient::new(&setup);
    wait_until("it begins", || client.ask().is_ok_and(|state| state.is_some()));
    let guard = Guard { client, port: setup.gate.listen.port(), process: child.id(), dir };
    guard.open();
    let mut waiting: Vec<_> = (0..60).map(|_| HttpClient::new(guard.port)).collect();
    waiting.iter_mut().for_each(|client| drop(client.send(b"GET / HTTP/1.1\r\n")));
    for _ in 0..20 {
        assert_eq!(get(guard.port, "/").status, 200);
    }
    drop(guard);
    child.wait().unwrap();
}

/// Two namespaces of the network with a cable between them, removed with the test.
struct Wire(String);

impl Wire {
    fn new() -> Self {
        let name = format!("us{}", std::process::id());
        let wire = Self(name.clone());
        let run = |line: &str| ok(Command::new("ip").args(line.split(' ')));
        run(&format!("netns add {name}"));
        run(&format!("netns add {name}c"));
        run(&format!("link add {name}a netns {name} type veth peer name {name}b netns {name}c"));
        for (netns, device, address) in [("", "a", 1), ("c", "b", 2)] {
            run(&format!("-n {name}{netns} address add 10.99.0.{address}/24 dev {name}{device}"));
            run(&format!("-n {name}{netns} link set {name}{device} up"));
            run(&format!("-n {name}{netns} link set lo up"));
        }
        wire
    }

    fn inside(&self, customer: bool, program: &str) -> Command {
        let mut command = Command::new("ip");
        let name = format!("{}{}", self.0, if customer { "c" } else { "" });
        command.args(["netns", "exec", &name, program]);
        command
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in [self.0.clone(), format!("{}c", self.0)] {
            let _ = Command::new("ip").args(["netns", "delete", &name]).output();
        }
    }
}

#[test]
fn ports_beside_the_gate_are_reset_while_it_is_not_open() {
    let wire = Wire::new();
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), 80, |setup| {
        setup.gate.listen = "0.0.0.0:8080".parse().unwrap();
        setup.gate.ports = vec![3306];
    });
    std::fs::write(dir.path().join("setup"), serde_json::to_vec(&setup).unwrap()).unwrap();
    let mut child = wire
        .inside(false, "sh")
        .args(["-c", &format!("exec {} guard < {}", this().display(), dir.path().join("setup").display())])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let client = GuardClient::new(&setup);
    wait_until("it begins", || client.ask().is_ok_and(|state| state.is_some()));
    let process = client.ask().unwrap().unwrap().process;
    let guard = Guard { client, port: 8080, process, dir };
    wait_until("the ports are rejected", || guard.state().ports == PortsState::Rejected);
    let echo = "import socket\ns = socket.create_server(('', 3306))\nwhile True:\n  c = s.accept()[0]\n  c.settimeout(30)\n  \
                try:\n    [c.sendall(b) for b in iter(lambda: c.recv(9), b'')]\n  except OSError: pass";
    let mut server = wire.inside(false, "python3").args(["-c", echo]).spawn().unwrap();
    let try_it = "import socket\ntry:\n  socket.create_connection(('10.99.0.1', 3306), 20).close(); print('open')\n\
                  except OSError as e: print(e)";
    let outside = || {
        let output = ok(wire.inside(true, "python3").args(["-c", try_it]));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(outside().contains("refused"));
    guard.open();
    wait_until("the ports pass", || outside().contains("open"));
    // An established connection, which the fence ends.
    let stay = "import socket\ns = socket.create_connection(('10.99.0.1', 3306), 20)\nprint('in', flush=True)\ninput()\n\
                try:\n  s.sendall(b'x'); print(s.recv(9) and s.recv(9))\nexcept OSError as e: print(e)";
    let mut customer = wire
        .inside(true, "python3")
        .args(["-c", stay])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = std::io::BufReader::new(customer.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut told, &mut line).unwrap();
    assert_eq!(line, "in\n");
    guard.client.fence("a test").unwrap();
    let fence = guard.fenced().fence.unwrap();
    assert!(fence.verified, "{fence:?}");
    customer.stdin.take().unwrap().write_all(b"\n").unwrap();
    line.clear();
    told.read_to_string(&mut line).unwrap();
    customer.wait().unwrap();
    assert!(line.contains("reset"), "{line}");
    assert!(outside().contains("refused"));
    // The host itself still reaches the port.
    let inner = "import socket; socket.create_connection(('127.0.0.1', 3306), 20)";
    ok(wire.inside(false, "python3").args(["-c", inner]));
    server.kill().unwrap();
    server.wait().unwrap();
    drop(guard);
    child.wait().unwrap();
}
