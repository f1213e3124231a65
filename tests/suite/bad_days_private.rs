//! Bad days under the plan Private: the primary has a lease in the repository or the other host's promise, and a
//! gate that closes by its own clock. The repository is a server on a machine of its own.
//!
//! After each, what is checked after every bad day holds; see [`Lab::check`].

use crate::support::command::said;
use crate::support::namespaces::{Lab, Order, WebHost};
use crate::support::troubles::faketime;
use crate::support::wait::wait_until;
use serde_json::json;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

/// Time for which a lease's number or a promise is valid.
const VALID: Duration = Duration::from_secs(12);
/// Time for which another host waits until it takes a lease for run out.
const TTL: Duration = Duration::from_secs(20);
/// Time that a gate has for closing.
const CLOSING: Duration = Duration::from_secs(3);
const FAILOVER: [&str; 5] = ["failover", "shop", "--yes", "--reason", "a test"];

/// The plan Private, where a person decides: nobody votes.
fn private(_: &WebHost, text: String) -> String {
    text.replace("plan = \"standard\"", "plan = \"private\"") + "[store.watch]\nvotes = false\n"
}

/// Starts a lab whose store has the plan Private, and customers.
fn ordering() -> Lab {
    let mut lab = Lab::with_storage();
    lab.configure(private);
    lab.serve();
    lab.start_customers();
    lab
}

fn failed(orders: &[Order]) -> BTreeSet<String> {
    orders.iter().filter(|order| !order.acked).map(|order| order.id.clone()).collect()
}

/// Lets time pass in which no order may fail and the first host must serve on.
fn no_order_fails(lab: &Lab, time: Duration) {
    let before = failed(&lab.orders());
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::thread::sleep(Duration::from_millis(500));
        let role = lab.role(0).unwrap_or_default();
        assert_eq!(role["mode"], "open", "after {:?}: {role}", begun.elapsed());
    }
    lab.wait_for_orders(20);
    assert_eq!(failed(&lab.orders()), before, "no order fails");
}

/// Waits until the gate of a host is not open any more, and returns when.
fn closes(host: &WebHost) -> Instant {
    // Its own machine reaches it whatever is cut.
    let is_open = || {
        let mut curl = host.command("curl");
        let output = curl.args(["-s", "--max-time", "2", "http://10.77.0.1:8080/.understudy/role"]).output();
        let role: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap_or_default();
        role["mode"] == "open" || role["mode"] == "hold"
    };
    wait_until("its gate closes", || !is_open());
    Instant::now()
}

/// Checks that the gate of the first host closed by its own clock, and that it stopped the shop.
fn is_fenced_in_time(lab: &Lab, since: Instant) {
    let closed_after = closes(&lab.web[0]) - since;
    println!("closed after {closed_after:?}");
    assert!(closed_after < VALID + CLOSING, "{closed_after:?}");
    wait_until("its shop is stopped", || !lab.web[0].shop_runs());
    let stopped_after = since.elapsed();
    println!("stopped after {stopped_after:?}");
    assert!(stopped_after < VALID + CLOSING + Duration::from_secs(1), "{stopped_after:?}");
}

fn serves_again(lab: &Lab) {
    lab.wait_for_primary(0);
    lab.wait_for_orders(20);
    assert_eq!(lab.role(0).unwrap()["epoch"], 1, "nobody was promoted");
}

fn is_standby(host: &WebHost) -> bool {
    host.phase().as_deref() == Some("standby")
}

#[test]
fn a_dead_primarys_lease_has_to_run_out_where_nobody_says_that_it_is_down() {
    let mut lab = ordering();
    lab.power_off(0);
    let begun = Instant::now();
    let output = lab.web[1].understudy(&FAILOVER).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let took = begun.elapsed();
    println!("took {took:?}");
    // The last promise was given, or the last number seen, at most a look before.
    assert!(took >= TTL - Duration::from_millis(2500) && took < TTL * 2, "{took:?}");
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    lab.power_on(0);
    lab.web[0].start_daemon();
    wait_until("the old primary follows", || is_standby(&lab.web[0]));
    lab.check(1);
}

#[test]
fn a_primary_whose_daemon_is_paused_is_fenced_by_its_gate_and_serves_again() {
    let mut lab = ordering();
    // A moment is nothing.
    lab.web[0].pause_daemon();
    no_order_fails(&lab, Duration::from_secs(3));
    lab.web[0].resume_daemon();
    no_order_fails(&lab, Duration::from_secs(3));
    lab.web[0].pause_daemon();
    is_fenced_in_time(&lab, Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    lab.web[0].resume_daemon();
    serves_again(&lab);
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
#[ignore = "takes more than a minute"]
fn at_length_a_primary_whose_daemon_is_paused_serves_again() {
    let mut lab = ordering();
    for seconds in [30, 16] {
        lab.web[0].pause_daemon();
        is_fenced_in_time(&lab, Instant::now());
        std::thread::sleep(Duration::from_secs(seconds - 12));
        lab.web[0].resume_daemon();
        serves_again(&lab);
    }
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
fn a_primary_whose_daemon_was_paused_finds_itself_replaced() {
    let mut lab = ordering();
    lab.web[0].pause_daemon();
    lab.web[1].run(&FAILOVER);
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    lab.web[0].resume_daemon();
    wait_until("the old primary follows", || is_standby(&lab.web[0]));
    lab.wait_for_orders(20);
    lab.check(1);
}

#[test]
fn a_host_that_was_paused_while_it_was_replaced_acknowledges_nothing_in_its_old_epoch() {
    let mut lab = ordering();
    lab.web[0].pause();
    // They wait at its gate's socket until it goes on.
    let late: Vec<Child> = (0..8).map(|at| lab.begin_order_at(0, &format!("late-{at}"))).collect();
    lab.web[1].run(&FAILOVER);
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    lab.web[0].resume();
    for order in late {
        let output = order.wait_with_output().unwrap();
        assert_ne!(output.status.code(), Some(7), "it was connected");
        let answer = String::from_utf8(output.stdout).unwrap();
        let status = answer.lines().next().unwrap_or_default();
        let epoch = answer.lines().find(|line| line.to_lowercase().starts_with("x-understudy-epoch"));
        println!("{} {status} {epoch:?}", output.status);
        let is_new = epoch.is_some_and(|epoch| epoch.trim_end().ends_with(": 2"));
        assert!(!status.contains(" 200") || is_new, "{answer}");
    }
    wait_until("the old primary follows", || is_standby(&lab.web[0]));
    lab.wait_for_orders(20);
    lab.check(1);
}

#[test]
fn a_primary_that_is_cut_off_from_the_repository_serves_on_by_promises() {
    let mut lab = ordering();
    lab.cut("web-1", "storage");
    no_order_fails(&lab, Duration::from_secs(25));
    let status = lab.web[0].failover().unwrap();
    assert_ne!(status["failing"], json!([]), "it is said");
    lab.join("web-1", "storage");
    serves_again(&lab);
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
fn a_primary_that_is_cut_off_from_the_other_host_serves_on_by_its_lease() {
    let mut lab = ordering();
    lab.cut("web-1", "web-2");
    no_order_fails(&lab, Duration::from_secs(25));
    lab.join("web-1", "web-2");
    serves_again(&lab);
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
fn a_primary_that_is_cut_off_from_both_closes_by_its_clock_and_serves_again() {
    let mut lab = ordering();
    let begun = Instant::now();
    lab.cut("web-1", "storage");
    lab.cut("web-1", "web-2");
    is_fenced_in_time(&lab, begun);
    lab.join("web-1", "storage");
    lab.join("web-1", "web-2");
    serves_again(&lab);
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
fn a_primary_that_is_cut_off_from_both_is_replaced_after_it_closed() {
    let mut lab = ordering();
    let begun = Instant::now();
    lab.cut("web-1", "storage");
    lab.cut("web-1", "web-2");
    let replacing = std::thread::scope(|scope| {
        let other = &lab.web[1];
        let replacing = scope.spawn(|| other.understudy(&FAILOVER).output().unwrap());
        let closed = closes(&lab.web[0]);
        assert!(!lab.serves(1) && closed - begun < VALID + CLOSING, "{:?}", closed - begun);
        replacing.join().unwrap()
    });
    assert!(replacing.status.success(), "{}", said(&replacing));
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    lab.join("web-1", "storage");
    lab.join("web-1", "web-2");
    wait_until("the old primary follows", || is_standby(&lab.web[0]));
    lab.check(1);
}

#[test]
fn a_primary_that_customers_do_not_reach_stays_the_primary() {
    let mut lab = ordering();
    lab.cut("web-1", "edge");
    std::thread::sleep(Duration::from_secs(15));
    assert!(lab.serves(0) && is_standby(&lab.web[1]));
    lab.join("web-1", "edge");
    serves_again(&lab);
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
fn while_the_repository_is_away_for_all_nobody_is_promoted_and_customers_are_served() {
    let mut lab = ordering();
    lab.cut("web-1", "storage");
    lab.cut("web-2", "storage");
    no_order_fails(&lab, Duration::from_secs(30));
    assert!(!lab.serves(1));
    lab.join("web-1", "storage");
    lab.join("web-2", "storage");
    serves_again(&lab);
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
fn the_gate_of_a_host_whose_disk_hangs_closes_in_time() {
    let mut lab = Lab::with_storage();
    lab.configure(private);
    // Its state, its caches and the store are there.
    lab.web[0].put_on_disk(&lab.web[0].dir, 256 << 20);
    lab.serve();
    lab.start_customers();
    let mut frozen = lab.web[0].freeze(&lab.web[0].dir, 25);
    let begun = Instant::now();
    lab.cut("web-1", "storage");
    lab.cut("web-1", "web-2");
    let closed_after = closes(&lab.web[0]) - begun;
    println!("closed after {closed_after:?}");
    assert!(closed_after < VALID + CLOSING, "{closed_after:?}");
    frozen.wait().unwrap();
    lab.join("web-1", "storage");
    lab.join("web-1", "web-2");
    serves_again(&lab);
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
fn a_primary_whose_wall_clock_jumps_by_hours_serves_on_and_hands_over() {
    let mut lab = Lab::with_storage();
    lab.configure(private);
    let clock = lab.web[0].dir.join("clock");
    std::fs::write(&clock, "+0\n").unwrap();
    let faked = ["FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC"];
    let host = &mut lab.web[0];
    host.variables = faked.map(|name| (name, "1".into())).to_vec();
    host.variables.extend([("LD_PRELOAD", faketime()), ("FAKETIME_TIMESTAMP_FILE", clock.clone())]);
    lab.serve();
    lab.start_customers();
    for jump in ["+5h", "-7h"] {
        std::fs::write(&clock, format!("{jump}\n")).unwrap();
        no_order_fails(&lab, VALID + CLOSING);
    }
    // Only a person's request to another host, which counts for a minute, needs clocks that agree.
    let refused = lab.web[1].understudy(&["switchover", "shop", "--to", "web-2"]).output().unwrap();
    assert!(!refused.status.success() && said(&refused).contains("clock"), "{}", said(&refused));
    lab.web[0].run(&["switchover", "shop"]);
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    assert_eq!(lab.check(1), BTreeSet::new());
}

#[test]
fn a_daemon_that_is_restarted_lets_no_order_fail() {
    let mut lab = ordering();
    let before = failed(&lab.orders());
    lab.web[0].end_daemon();
    lab.web[0].start_daemon();
    wait_until("it is the primary again", || lab.web[0].phase().as_deref() == Some("primary"));
    lab.wait_for_orders(20);
    assert_eq!(failed(&lab.orders()), before, "no order fails");
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
fn a_failover_to_a_host_whose_disk_is_full_says_so_and_completes_once_there_is_room() {
    let mut lab = Lab::with_storage();
    lab.configure(private);
    let standby = lab.web[1].dir.join("standby");
    lab.web[1].put_on_disk(&standby, 48 << 20);
    lab.serve();
    lab.start_customers();
    let seen = lab.web[1].seen(&standby).unwrap();
    let ballast = seen.join("ballast");
    fill(&ballast);
    // What it is to serve is not there yet.
    let tree = lab.web[0].seen(Path::new("/srv/shop/catalogue")).unwrap();
    let bytes: Vec<u8> =
        (0..2_000_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(tree, bytes).unwrap();
    lab.web[0].run(&["resync", "shop"]);
    lab.wait_for_orders(20);
    lab.power_off(0);
    let reply = lab.web[1].ask_daemon("POST", "failover?person=ops&reason=no%20power").unwrap();
    assert!(reply.status.success(), "{}", said(&reply));
    lab.web[1].ask_daemon("POST", "failover/attest?host=web-1");
    let full =
        || lab.web[1].failover().is_some_and(|now| now["failing"].to_string().contains("No space left"));
    wait_until("it is said that the disk is full", full);
    assert!(!lab.serves(1));
    std::fs::remove_file(&ballast).unwrap();
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    lab.power_on(0);
    lab.web[0].start_daemon();
    wait_until("the old primary follows", || is_standby(&lab.web[0]));
    lab.check(1);
}

/// Fills a disk.
fn fill(ballast: &Path) {
    let mut file = std::fs::File::create(ballast).unwrap();
    for size in [1 << 20, 1 << 12] {
        let zeros = vec![0; size];
        while file.write_all(&zeros).is_ok() {}
    }
    let _ = file.sync_all();
}

/// What stands in the way to HAProxy's socket.
#[derive(Clone, Copy, PartialEq)]
enum Between {
    /// It does nothing that it is asked for, and says that all is as was asked for.
    Liar,
    /// It answers late.
    Late,
}

/// What a liar was asked for.
#[derive(Default)]
struct Lies {
    address: Option<(String, String)>,
    mark: Option<String>,
}

impl Lies {
    /// Returns the answer to a command; none if HAProxy is to be asked.
    fn answer(&mut self, words: &[&str]) -> Option<String> {
        match words {
            ["set", "server", _, "addr", ip, "port", port] => {
                self.address = Some(((*ip).to_owned(), (*port).to_owned()));
            }
            ["set" | "add", "map", _, _, mark] => self.mark = Some((*mark).to_owned()),
            ["show", "map", _] => return self.mark.as_ref().map(|mark| format!("0x1 shop {mark}\n")),
            ["show", ..] => return None,
            _ => {}
        }
        Some("\n".to_owned())
    }

    fn about(&self, truth: &str) -> String {
        match &self.address {
            Some((ip, port)) => truth.replace("10.77.0.1", ip).replace("8080", port),
            None => truth.to_owned(),
        }
    }
}

/// Answers at HAProxy's socket, which is at `real` from now on, until `real` is gone.
fn stand_between(socket: &Path, real: &Path, how: Between) {
    std::fs::rename(socket, real).unwrap();
    let (listener, real) = (UnixListener::bind(socket).unwrap(), real.to_owned());
    std::thread::spawn(move || {
        let mut lies = Lies::default();
        for mut stream in listener.incoming().flatten() {
            let mut command = String::new();
            BufReader::new(&stream).read_line(&mut command).unwrap();
            let words: Vec<&str> = command.split_whitespace().collect();
            let lie = if how == Between::Liar { lies.answer(&words) } else { None };
            let answer = lie.or_else(|| Some(lies.about(&ask_haproxy(&real, &command)?)));
            if how == Between::Late {
                std::thread::sleep(Duration::from_secs(2));
            }
            let Some(answer) = answer else { return };
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

fn ask_haproxy(socket: &Path, command: &str) -> Option<String> {
    let mut haproxy = UnixStream::connect(socket).ok()?;
    haproxy.write_all(command.as_bytes()).unwrap();
    let mut answer = String::new();
    haproxy.read_to_string(&mut answer).unwrap();
    Some(answer)
}

#[test]
fn an_edge_that_lies_is_found_out_and_the_old_host_relays_meanwhile() {
    let mut lab = ordering();
    let (socket, real) = (lab.of_edge("admin.sock"), lab.of_edge("real.sock"));
    stand_between(&socket, &real, Between::Liar);
    let reply = lab.web[0].ask_daemon("POST", "switchover?person=ops").unwrap();
    assert!(reply.status.success(), "{}", said(&reply));
    wait_until("web-2 serves", || lab.serves(1));
    let is_found = || {
        lab.web[1].failover().is_some_and(|now| now["failing"].to_string().contains("show epochs 2 and 1"))
    };
    wait_until("it is found out", is_found);
    // Customers come by the old host.
    lab.wait_for_orders(20);
    std::fs::rename(&real, &socket).unwrap();
    wait_until("it is complete", || lab.web[1].failover().is_some_and(|now| now["completed"] == true));
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    assert_eq!(lab.check(1), BTreeSet::new());
}

#[test]
fn an_edge_that_answers_late_is_waited_for() {
    let mut lab = ordering();
    let (socket, real) = (lab.of_edge("admin.sock"), lab.of_edge("real.sock"));
    stand_between(&socket, &real, Between::Late);
    lab.web[0].run(&["switchover", "shop"]);
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    assert_eq!(lab.check(1), BTreeSet::new());
}

/// Adds stores with a gate of their own, and a service that runs while a file is there.
fn with_stores(host: &WebHost, text: String, count: usize) -> String {
    let mut text = private(host, text);
    let address = if host.name == "web-1" { "10.77.0.1" } else { "10.77.0.2" };
    let role = if host.name == "web-1" { "primary" } else { "standby" };
    for at in 0..count {
        let (name, runs) = (store(at), host.dir.join(store(at)));
        let (port, runs) = (9200 + at, runs.display());
        text += &format!(
            "[[store]]\nname = '{name}'\npath = '/srv/{name}'\nrole = '{role}'\nplan = 'private'\n\
             [store.upkeep]\nprune_hours = 0\nverify_hours = 0\ndrill_hours = 0\n\
             [store.member]\naddress = '{address}:9184'\ncustomers = '{address}:{port}'\n\
             [store.gate]\nlisten = '{address}:{port}'\nupstream = '127.0.0.1:8081'\n\
             [[store.service]]\nname = 'web'\nstart = ['touch', '{runs}']\nstop = ['rm', '-f', '{runs}']\n\
             check = ['sh', '-c', '[ -e {runs} ] || exit 3']\n[store.watch]\nvotes = false\n"
        );
    }
    text
}

fn store(at: usize) -> String {
    format!("shop-{at:02}")
}

/// Makes the stores' trees and first snapshots on the first host, and both hosts members.
fn found_stores(lab: &Lab, count: usize) {
    let [first, second] = &lab.web;
    for name in (0..count).map(store) {
        let tree = first.seen(&Path::new("/srv").join(&name)).unwrap();
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(tree.join("file"), &name).unwrap();
        first.run(&["resync", &name]);
        first.run(&["member", "found", &name]);
        let mut invite = first.understudy(&["member", "invite", &name]);
        let mut invite = invite.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut invitation = String::new();
        BufReader::new(invite.stdout.take().unwrap()).read_line(&mut invitation).unwrap();
        second.run(&["member", "join", invitation.trim()]);
        assert!(invite.wait().unwrap().success());
    }
}

/// Returns how many of these stores a host serves.
fn open(lab: &Lab, host: usize, count: usize) -> usize {
    (0..count).filter(|at| lab.gate_is_open(host, (9200 + at).try_into().unwrap())).count()
}

/// Starts hosts with this many stores more, which the first one serves and the second one follows.
fn with_stores_that_are_followed(count: usize, votes: bool) -> Lab {
    let mut lab = Lab::with_storage();
    lab.configure(|host, text| {
        with_stores(host, text, count).replace("votes = false", &format!("votes = {votes}"))
    });
    found_stores(&lab, count);
    lab.serve();
    wait_until("all stores are served", || open(&lab, 0, count) == count);
    let follow = || {
        let output = lab.web[1].run(&["failover", "--all-of", "web-1", "--dry-run"]);
        let text = said(&output);
        text.lines().count() == count + 1 && !text.contains("not possible")
    };
    wait_until("all stores are followed", follow);
    lab.start_customers();
    lab
}

/// Checks that a host serves all stores, and goes on to when the dead one is back.
fn check_all_stores(mut lab: Lab, count: usize) {
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    lab.power_on(0);
    lab.web[0].start_daemon();
    wait_until("the old primary follows", || is_standby(&lab.web[0]));
    assert_eq!((open(&lab, 0, count), open(&lab, 1, count)), (0, count));
    lab.check(1);
}

fn all_stores_of_a_dead_host_are_taken_over(count: usize) {
    let mut lab = with_stores_that_are_followed(count, false);
    lab.power_off(0);
    let begun = Instant::now();
    let output =
        lab.web[1].understudy(&["failover", "--all-of", "web-1", "--yes", "--reason", "no power"]).output();
    let output = output.unwrap();
    println!("{count} stores and the shop took {:?}", begun.elapsed());
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(open(&lab, 1, count), count);
    check_all_stores(lab, count);
}

fn all_stores_of_a_dead_host_go_on_by_votes(count: usize) {
    let mut lab = with_stores_that_are_followed(count, true);
    lab.power_off(0);
    let begun = Instant::now();
    wait_until("all stores are served again", || {
        let (served, shop) = (open(&lab, 1, count), lab.serves(1));
        println!("{served} stores after {:?}", begun.elapsed());
        served == count && shop
    });
    check_all_stores(lab, count);
}

#[test]
fn five_stores_of_a_dead_host_are_taken_over_at_once() {
    all_stores_of_a_dead_host_are_taken_over(5);
}

#[test]
#[ignore = "takes minutes"]
fn at_length_fifty_stores_of_a_dead_host_are_taken_over() {
    all_stores_of_a_dead_host_are_taken_over(50);
}

#[test]
fn three_stores_of_a_dead_host_go_on_by_votes() {
    all_stores_of_a_dead_host_go_on_by_votes(3);
}

#[test]
#[ignore = "takes minutes"]
fn at_length_fifty_stores_of_a_dead_host_go_on_by_votes() {
    all_stores_of_a_dead_host_go_on_by_votes(50);
}
