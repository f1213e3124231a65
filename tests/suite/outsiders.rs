//! Who is no member, or no longer one, moves no store: against real daemons, with the bucket and the members' port.

use crate::support::command::{fails, ok, said};
use crate::support::namespaces::{Lab, WebHost};
use crate::support::trio::Trio;
use crate::support::wait::wait_until;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use understudy::failover::peers::ASK_PATH;
use understudy::failover::peers::question::{Addressee, Ask, Asked, Question};
use understudy::model::closed::Closed;
use understudy::model::id::{ContentHash, Epoch, Sequence, StoreName, WriterId};
use understudy::support::env::Env;
use understudy::support::signature::SigningKey;

fn host(name: &str) -> WriterId {
    WriterId(name.into())
}

fn acme() -> StoreName {
    StoreName::parse("acme").unwrap()
}

/// Returns the key with which a host signs.
fn key_of(trio: &Trio, host: usize) -> SigningKey {
    let dir = trio.hosts[host].path("state/understudy");
    let listed = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
    let texts = listed.filter_map(|path| std::fs::read_to_string(path).ok());
    let text = texts.into_iter().find(|text| text.contains("understudy's member key")).unwrap();
    let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
    SigningKey::of(&STANDARD_NO_PAD.decode(line.trim()).unwrap().try_into().unwrap())
}

/// Returns a request of a member to another one.
fn question(me: &str, key: &SigningKey, to: &str, ask: Ask) -> Question {
    let env = Env::system();
    let addressee = Addressee { store: acme(), asked: host(to), nonce: env.nonce() };
    Question::sign(addressee, &Asked { at: env.wall(), ask }, &host(me), key).unwrap()
}

/// Sends a request to the port of a host, as anybody can.
fn send(trio: &Trio, to: usize, question: &Question) -> (u16, String) {
    let text = String::from_utf8(question.encode()).unwrap();
    let how = ["-H", "Content-Type: application/json", "--data-binary", &text];
    trio.hosts[to].curl(&how, "POST", ASK_PATH)
}

fn all_asks() -> Vec<Ask> {
    let person = || "mallory".to_owned();
    let (reason, at) = ("theirs".to_owned(), None);
    vec![
        Ask::Look,
        Ask::Ready,
        Ask::WouldTakeOver,
        Ask::HandsOver { to: host("web-3") },
        Ask::Promise { epoch: Epoch(1) },
        Ask::HandOver { to: host("web-3"), person: person() },
        Ask::KeepServing { person: person() },
        Ask::TakeOver { person: person(), reason, at },
        Ask::Attest { host: host("web-1"), person: person() },
    ]
}

#[test]
fn a_removed_member_and_one_who_never_was_one_ask_for_nothing() {
    let trio = Trio::start();
    let (theirs, strange) = (key_of(&trio, 2), SigningKey::of(&[9; 32]));
    // As a member it is heard; what it signs now it can send later.
    let (code, body) = send(&trio, 0, &question("web-3", &theirs, "web-1", Ask::Look));
    assert_eq!(code, 200, "{body}");
    let kept: Vec<_> = ["web-1", "web-2"]
        .into_iter()
        .flat_map(|to| all_asks().into_iter().map(move |ask| (to, ask)))
        .map(|(to, ask)| (to, question("web-3", &theirs, to, ask)))
        .collect();
    ok(&mut trio.command(0, &["member", "remove", "acme", "web-3"]));
    wait_until("web-2 has read it", || trio.failover(1)["members"] == json!(["web-1", "web-2"]));
    let to = |name: &str| usize::from(name == "web-2");
    for (name, question) in &kept {
        let (code, body) = send(&trio, to(name), question);
        assert_eq!(code, 403, "{question:?}: {body}");
    }
    for (me, key) in [("web-3", &theirs), ("web-1", &theirs), ("web-2", &strange), ("web-9", &strange)] {
        for (name, ask) in
            ["web-1", "web-2"].into_iter().flat_map(|to| all_asks().into_iter().map(move |a| (to, a)))
        {
            let (code, body) = send(&trio, to(name), &question(me, key, name, ask));
            assert_eq!(code, 403, "{me} to {name}: {body}");
        }
    }
    // Nor by its own daemon, which still runs and still has its key.
    let output = trio.command(2, &["failover", "acme", "--to", "web-2", "--yes"]).output().unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    let output = trio.command(2, &["failover", "acme", "--yes"]).output().unwrap();
    assert!(!output.status.success(), "{}", said(&output));
    assert_eq!((&trio.failover(0)["epoch"], &trio.failover(0)["handover_to"]), (&json!(1), &json!(null)));
}

#[test]
fn a_takeover_that_was_recorded_counts_for_one_host_once_and_not_after_its_restart() {
    let mut trio = Trio::start();
    let key = key_of(&trio, 1);
    let take_over = || all_asks().into_iter().find(|ask| matches!(ask, Ask::TakeOver { .. })).unwrap();
    let asked = question("web-2", &key, "web-3", take_over());
    let (code, body) = send(&trio, 0, &asked);
    assert_eq!(code, 421, "{body}");
    let turned = Question { asked: host("web-1"), ..asked.clone() };
    assert_eq!(send(&trio, 0, &turned).0, 403);
    let before = question("web-2", &key, "web-3", take_over());
    assert_eq!(send(&trio, 2, &asked).0, 200);
    trio.wait_for_primary(2);
    ok(&mut trio.command(1, &["failover", "acme", "--yes", "--is-down"]));
    trio.wait_for_primary(1);
    let (code, body) = send(&trio, 2, &asked);
    assert!(code == 409 && body.contains("heard already"), "{code}: {body}");
    trio.kill(2);
    trio.hosts[2].start();
    trio.wait_for_primary(1);
    for question in [&asked, &before] {
        let (code, body) = send(&trio, 2, question);
        assert!(code == 409 && body.contains("too old"), "{code}: {body}");
    }
    assert_eq!(trio.failover(0)["epoch"], 3);
}

fn signal(trio: &Trio, host: usize, name: &str) {
    let pid = trio.hosts[host].daemon.as_ref().unwrap().id().to_string();
    ok(Command::new("kill").args([name, &pid]));
}

/// Returns the statements of a host in the bucket.
fn statements(trio: &Trio, host: &str) -> Vec<PathBuf> {
    let dir = trio.repository.join("acme/statements").join(host);
    std::fs::read_dir(dir).map_or(Vec::new(), |listed| listed.flatten().map(|entry| entry.path()).collect())
}

fn number_of(path: &Path) -> u64 {
    path.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

/// A host that hangs has said nothing. Whoever has the bucket says it in its name: with its own earlier words at
/// later places, with another member's words, and with words that nobody signed.
#[test]
fn a_word_in_the_bucket_that_a_member_did_not_give_opens_no_gate() {
    let trio = Trio::start();
    for (name, host) in [("web-2", 1), ("web-3", 2), ("web-2", 1)] {
        ok(&mut trio.command(0, &["failover", "acme", "--to", name, "--yes"]));
        trio.wait_for_primary(host);
    }
    let earlier = statements(&trio, "web-2");
    assert!(!earlier.is_empty(), "it stated before that it is closed");
    let other = statements(&trio, "web-3");
    signal(&trio, 1, "-STOP");
    let (code, body) = trio.post(2, "failover?person=ada&reason=it%20hangs");
    assert_eq!(code, 200, "{body}");
    let waits = || trio.failover(2)["waits_for"] == json!(["web-2"]);
    wait_until("web-3 waits for web-2", waits);
    let head = trio.history(2).last().unwrap()["record"].as_u64().unwrap();
    let nobody = SigningKey::of(&[9; 32]);
    let forged = Closed { record: ContentHash::of(b"a guess") };
    let forged = forged.sign(&acme(), &host("web-2"), Sequence(head), &nobody).unwrap();
    let forged = serde_json::to_vec(&forged).unwrap();
    let mut texts: Vec<Vec<u8>> =
        earlier.iter().chain(&other).map(|path| std::fs::read(path).unwrap()).collect();
    texts.extend([b"{}".to_vec(), forged]);
    let dir = trio.repository.join("acme/statements/web-2");
    for (number, text) in texts.iter().enumerate() {
        for at in [head, head + 1 + number as u64] {
            std::fs::write(dir.join(format!("{at:020}")), text).unwrap();
        }
        std::thread::sleep(Duration::from_millis(2500));
        assert!(waits() && trio.failover(2)["phase"] == "taking over", "{}", trio.failover(2));
    }
    assert!(earlier.iter().all(|path| number_of(path) < head));
    // What it says itself is heard, whatever lies there.
    signal(&trio, 1, "-CONT");
    trio.wait_for_primary(2);
}

/// Holds an address on a host as a user without privileges, until this value is dropped.
struct Squatter(Child);

impl Squatter {
    fn start(host: &WebHost, address: &str, port: u16) -> Self {
        const HOLD: &str = "import socket, sys\ns = socket.create_server((sys.argv[1], int(sys.argv[2])))\n\
                            print('taken', flush=True)\nsys.stdin.read()";
        let mut command = host.inside();
        command.args([
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            HOLD,
            address,
        ]);
        command.arg(port.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "taken\n");
        Self(child)
    }
}

impl Drop for Squatter {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Asks in each way for a move to `web-2`, and checks that nothing comes of it.
fn stays(lab: &Lab, why: [&str; 3]) {
    let moves: [(usize, &[&str]); 3] = [
        (0, &["switchover", "shop"]),
        (1, &["failover", "shop", "--yes", "--is-down"]),
        (0, &["failover", "shop", "--to", "web-2", "--yes", "--is-down"]),
    ];
    for ((host, arguments), why) in moves.into_iter().zip(why) {
        fails(&mut lab.web[host].understudy(arguments), 4, why);
        assert!(lab.serves(0), "{arguments:?}");
    }
    lab.wait_for_orders(10);
    assert_eq!(lab.role(0).unwrap()["epoch"], 1);
}

/// A promotion that cannot be carried out leaves a store that nobody serves: whoever takes an address or leads the
/// way to the tree on a standby must not cause one.
#[test]
fn what_another_user_of_a_standby_takes_is_told_before_the_store_moves() {
    let mut lab = Lab::start();
    // It was there before the daemon, whose gate it is to be.
    let squatter = Squatter::start(&lab.web[1], "10.77.0.2", 8080);
    lab.web.iter_mut().for_each(WebHost::start_daemon);
    lab.wait_for_primary(0);
    lab.start_customers();
    let is_told =
        || lab.web[1].failover().is_some_and(|now| now["failing"].to_string().contains("10.77.0.2:8080"));
    wait_until("web-2 says so", is_told);
    let taken = "the gate's address 10.77.0.2:8080 is taken by another program";
    stays(&lab, [taken, "does not follow the primary", "does not follow the primary"]);
    drop(squatter);
    wait_until("web-2 is a standby", || lab.web[1].phase().as_deref() == Some("standby"));
    let srv = lab.web[1].dir.join("srv");
    std::os::unix::fs::chown(&srv, Some(65534), None).unwrap();
    stays(&lab, ["/srv belongs to user 65534"; 3]);
    std::os::unix::fs::chown(&srv, Some(0), None).unwrap();
    lab.web[0].run(&["switchover", "shop"]);
    lab.wait_for_primary(1);
    lab.wait_for_orders(10);
    assert_eq!(lab.check(1), BTreeSet::new());
}

/// What whoever holds the bucket does to a host's lease, without its key.
fn spoil(lease: &Path, statements: &Path, round: usize) {
    let mut numbers: Vec<u64> = std::fs::read_dir(lease)
        .map(|listed| listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    numbers.sort_unstable();
    let at = |number: u64| lease.join(format!("{number:020}"));
    let Some(last) = numbers.last().copied() else { return };
    // An earlier number's text, the last one's, and a text of nobody's, where the next one belongs.
    let text = match round % 3 {
        0 => std::fs::read(at(numbers[0])),
        1 => std::fs::read(at(last)),
        _ => Ok(b"{\"member\":\"web-1\",\"statement\":\"{}\"}".to_vec()),
    };
    if let Ok(text) = text
        && let Ok(mut file) = File::options().write(true).create_new(true).open(at(last + 1))
    {
        let _ = file.write_all(&text);
        let _ = std::fs::create_dir_all(statements);
        let _ = std::fs::write(statements.join(format!("{:020}", round + 1)), &text);
    }
    if round % 20 == 19 {
        for number in numbers {
            let _ = std::fs::remove_file(at(number));
        }
    }
}

#[test]
fn whoever_spoils_a_lease_in_the_bucket_neither_moves_the_store_nor_keeps_a_dead_primary() {
    let mut lab = Lab::serving(|_, text| text.replace("plan = \"standard\"", "plan = \"private\""));
    lab.start_customers();
    let (lease, statements) =
        (lab.repository().join(".leases/web-1"), lab.repository().join("shop/statements/web-1"));
    assert!(lease.is_dir(), "the primary has a lease");
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, of_thread) = (is_over.clone(), lease.clone());
    let attacker = std::thread::spawn(move || {
        let mut round = 0;
        while !over.load(Ordering::SeqCst) {
            spoil(&of_thread, &statements, round);
            round += 1;
            std::thread::sleep(Duration::from_millis(200));
        }
        round
    });
    for _ in 0..40 {
        assert!(lab.serves(0) && !lab.serves(1));
        std::thread::sleep(Duration::from_millis(500));
    }
    lab.wait_for_orders(20);
    let told = lab.web[0].failover().unwrap();
    assert!(told["failing"].to_string().contains("counts for nothing"), "{told}");
    assert_eq!(lab.role(0).unwrap()["epoch"], 1);
    // It is dead, and its old numbers do not speak for it: no person says that it is down.
    lab.web[0].run(&["resync", "shop"]);
    lab.power_off(0);
    lab.web[1].run(&["failover", "shop", "--yes"]);
    is_over.store(true, Ordering::SeqCst);
    assert!(attacker.join().unwrap() > 100);
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    lab.power_on(0);
    lab.web[0].start_daemon();
    wait_until("web-1 follows", || lab.web[0].phase().as_deref() == Some("standby"));
    lab.check(1);
}
