//! Edges: real HAProxy and nginx between customers and two hosts, and commands.

use crate::support::customers::{Customers, Seen, ask};
use crate::support::edges::{Rig, switch};
use crate::support::origin::{Origin, SLOW};
use crate::support::proxies::{Proxy, inode, kill};
use crate::support::servers::free_port;
use crate::support::wait::wait_until;
use std::process::Command;
use std::time::{Duration, Instant};
use understudy::edge::error::EdgeError;
use understudy::edge::switch::{Cause, Verdict};
use understudy::support::failure::{Failure, FailureKind};

/// A time that suffices for any machine.
const SOON: Duration = Duration::from_secs(30);

/// Returns an nginx whose configuration uses the store's upstream, after its first switch.
fn nginx_at(origin: &Origin) -> (Proxy, Rig) {
    let proxy = Proxy::nginx();
    let rig = Rig::of(&proxy);
    rig.edge().test().unwrap();
    assert_eq!(rig.epoch(), None);
    let first = switch(6, "web-1", &origin.address(), Cause::Founding);
    assert_eq!(rig.switch_edge(&first).unwrap(), Verdict::Change);
    proxy.configure_nginx("");
    proxy.reload();
    assert_eq!(rig.switch(&first).unwrap(), Verdict::Done);
    (proxy, rig)
}

fn haproxy_at(origin: &Origin) -> (Proxy, Rig) {
    let proxy = Proxy::haproxy();
    let rig = Rig::of(&proxy);
    rig.edge().test().unwrap();
    assert_eq!(rig.epoch(), None);
    let first = switch(6, "web-1", &origin.address(), Cause::Founding);
    assert_eq!(rig.switch(&first).unwrap(), Verdict::Change);
    (proxy, rig)
}

fn seen(proxy: &Proxy) -> (String, Vec<String>) {
    let Seen { epochs, body, .. } = ask(proxy.port, "/").unwrap();
    (body, epochs)
}

fn at(host: &str, epoch: &str) -> (String, Vec<String>) {
    (host.to_owned(), vec![epoch.to_owned()])
}

// A planned switch.

fn customers_lose_nothing(proxy: &Proxy, rig: &Rig, b: &Origin) {
    let customers = Customers::at(proxy.port);
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    assert_eq!(rig.switch(&switch(7, "web-2", &b.address(), Cause::Handover)).unwrap(), Verdict::Change);
    let took = begun.elapsed();
    assert!(took < SOON);
    let switched = b.begun();
    wait_until("customers at the new host", || b.begun() > switched + 20);
    for answers in customers.end() {
        let lost: Vec<_> = answers.iter().filter(|answer| answer.is_err()).collect();
        assert!(lost.is_empty(), "{lost:?}");
        let answers: Vec<Seen> = answers.into_iter().map(Result::unwrap).collect();
        assert!(answers.iter().all(|seen| seen.status == 200), "{answers:?}");
        assert_eq!((&*answers[0].body, &answers[0].epochs[..]), ("a", &["6".to_owned()][..]));
        let last = answers.last().unwrap();
        assert_eq!((&*last.body, &last.epochs[..]), ("b", &["7".to_owned()][..]));
        println!("switched and confirmed in {took:?}, {} requests, none lost", answers.len());
    }
}

#[test]
fn customers_of_haproxy_lose_no_request_in_a_planned_switch() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (proxy, rig) = haproxy_at(&a);
    assert_eq!(seen(&proxy), at("a", "6"));
    let slow = std::thread::spawn({
        let port = proxy.port;
        move || ask(port, "/slow")
    });
    wait_until("a slow request", || a.begun() > 1);
    customers_lose_nothing(&proxy, &rig, &b);
    assert_eq!(slow.join().unwrap().unwrap().body, "a");
    assert_eq!((seen(&proxy), rig.epoch()), (at("b", "7"), Some(7)));
}

#[test]
fn customers_of_nginx_lose_no_request_in_a_planned_switch() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (proxy, rig) = nginx_at(&a);
    assert_eq!(seen(&proxy), at("a", "6"));
    let slow = std::thread::spawn({
        let port = proxy.port;
        move || ask(port, "/slow")
    });
    let begun = a.begun();
    wait_until("a slow request", || a.begun() > begun);
    customers_lose_nothing(&proxy, &rig, &b);
    assert_eq!(slow.join().unwrap().unwrap().body, "a");
    assert_eq!((seen(&proxy), rig.epoch()), (at("b", "7"), Some(7)));
}

#[test]
fn a_forced_switch_of_haproxy_ends_the_requests_at_the_old_host() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (proxy, rig) = haproxy_at(&a);
    let port = proxy.port;
    let before = a.begun();
    let slow = std::thread::spawn(move || ask(port, "/slow"));
    wait_until("a slow request", || a.begun() > before);
    let begun = Instant::now();
    rig.switch(&switch(7, "web-2", &b.address(), Cause::Forced)).unwrap();
    let cut = slow.join().unwrap();
    assert!(cut.as_ref().is_ok_and(|seen| seen.status >= 500) || cut.is_err(), "{cut:?}");
    assert!(begun.elapsed() < SLOW + SOON);
    assert_eq!(seen(&proxy), at("b", "7"));
}

// Reloads, kills, lost files.

#[test]
fn a_switch_of_haproxy_outlives_its_reload_and_its_kill() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (mut proxy, rig) = haproxy_at(&a);
    let to_b = switch(7, "web-2", &b.address(), Cause::Handover);
    rig.switch(&to_b).unwrap();
    proxy.reload();
    assert_eq!((seen(&proxy), rig.switch(&to_b).unwrap()), (at("b", "7"), Verdict::Done));
    proxy.kill();
    assert_eq!(rig.switch_edge(&to_b).unwrap_err().kind(), FailureKind::Unavailable);
    proxy.start();
    assert_eq!((seen(&proxy), rig.switch(&to_b).unwrap()), (at("b", "7"), Verdict::Done));
}

#[test]
fn a_switch_of_nginx_outlives_its_reload_and_its_kill() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (mut proxy, rig) = nginx_at(&a);
    let to_b = switch(7, "web-2", &b.address(), Cause::Handover);
    rig.switch(&to_b).unwrap();
    proxy.reload();
    assert_eq!((seen(&proxy), rig.switch(&to_b).unwrap()), (at("b", "7"), Verdict::Done));
    proxy.kill();
    // A switch of an nginx that is down fails and leaves the file as it was.
    let (before, to_a) = (proxy.read("acme.conf"), switch(8, "web-1", &a.address(), Cause::Forced));
    let error = rig.switch_edge(&to_a).unwrap_err();
    assert!(error.to_string().contains("`reload` ended with"), "{error}");
    assert_eq!((proxy.read("acme.conf"), rig.epoch()), (before, Some(7)));
    proxy.start();
    assert_eq!((seen(&proxy), rig.switch(&to_b).unwrap()), (at("b", "7"), Verdict::Done));
}

#[test]
fn what_haproxy_lost_with_a_file_is_noticed_and_told_again() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (proxy, rig) = haproxy_at(&a);
    let to_b = switch(7, "web-2", &b.address(), Cause::Handover);
    rig.switch(&to_b).unwrap();
    for lost in ["acme.state", "acme.map"] {
        std::fs::write(proxy.path(lost), "").unwrap();
        proxy.reload();
        assert_ne!(seen(&proxy), at("b", "7"), "{lost}");
        assert_eq!((rig.switch(&to_b).unwrap(), seen(&proxy)), (Verdict::Change, at("b", "7")), "{lost}");
        proxy.reload();
        assert_eq!((rig.switch(&to_b).unwrap(), seen(&proxy)), (Verdict::Done, at("b", "7")), "{lost}");
    }
}

#[test]
fn a_switch_that_failed_half_way_is_finished_by_the_next_one() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (proxy, _) = haproxy_at(&a);
    let elsewhere = proxy.edge().replace("/acme.state'", "/missing/acme.state'");
    let rig = Rig::new(&format!("http://127.0.0.1:{}/", proxy.port), &elsewhere);
    let to_b = switch(7, "web-2", &b.address(), Cause::Handover);
    let error = rig.switch(&to_b).unwrap_err();
    assert!(error.to_string().contains("missing/acme.state"), "{error}");
    // The epoch is the last to change.
    assert_eq!((rig.epoch(), seen(&proxy)), (Some(6), at("b", "6")));
    std::fs::create_dir(proxy.path("missing")).unwrap();
    assert_eq!((rig.switch(&to_b).unwrap(), seen(&proxy)), (Verdict::Change, at("b", "7")));
    assert_eq!(rig.switch(&to_b).unwrap(), Verdict::Done);
}

#[test]
fn a_host_whose_checks_failed_gets_requests_once_it_is_the_primary() {
    let (dead, b) = (free_port(), Origin::start("b"));
    let server = "server origin acme.invalid:9 init-addr last,127.0.0.1 check inter 60s fall 1";
    let proxy = Proxy::haproxy_with(server);
    let rig = Rig::of(&proxy);
    rig.switch_edge(&switch(6, "web-1", &format!("127.0.0.1:{dead}"), Cause::Founding)).unwrap();
    proxy.reload();
    wait_until("the check fails", || ask(proxy.port, "/").is_ok_and(|seen| seen.status == 503));
    rig.switch(&switch(7, "web-2", &b.address(), Cause::Forced)).unwrap();
    assert_eq!(seen(&proxy), at("b", "7"));
}

// Fences.

fn nothing_older_changes_it(proxy: &Proxy, rig: &Rig, a: &Origin, b: &Origin, files: &[&str]) {
    rig.switch(&switch(7, "web-2", &b.address(), Cause::Handover)).unwrap();
    let inodes = || files.iter().map(|file| inode(&proxy.path(file)).unwrap()).collect::<Vec<_>>();
    let (before, workers) = (inodes(), proxy.workers());
    for (epoch, host) in [(6, "web-1"), (6, "web-2"), (7, "web-1"), (0, "web-3")] {
        let error = rig.switch(&switch(epoch, host, &a.address(), Cause::Forced)).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Fenced, "{error}");
        assert!(error.to_string().contains("7/web-2/127.0.0.1:"), "{error}");
        assert_eq!((seen(proxy), inodes()), (at("b", "7"), before.clone()));
    }
    // The same switch again finds it done.
    let again = switch(7, "web-2", &b.address(), Cause::Automatic);
    assert_eq!(rig.switch(&again).unwrap(), Verdict::Done);
    assert_eq!((inodes(), proxy.workers()), (before, workers));
}

#[test]
fn haproxy_is_not_changed_by_an_older_epoch_or_by_a_rival() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (proxy, rig) = haproxy_at(&a);
    nothing_older_changes_it(&proxy, &rig, &a, &b, &["acme.map", "acme.state"]);
}

#[test]
fn nginx_is_not_changed_by_an_older_epoch_or_by_a_rival() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (proxy, rig) = nginx_at(&a);
    nothing_older_changes_it(&proxy, &rig, &a, &b, &["acme.conf"]);
}

#[test]
fn a_fence_at_one_edge_leaves_all_others_unchanged() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (one, rig_one) = haproxy_at(&a);
    let (other, rig_other) = haproxy_at(&a);
    rig_other.switch(&switch(9, "web-3", &b.address(), Cause::Forced)).unwrap();
    let both = Rig::new(&format!("http://127.0.0.1:{}/", one.port), &(one.edge() + &other.edge()));
    let error = both.switch(&switch(7, "web-2", &b.address(), Cause::Forced)).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Fenced, "{error}");
    assert_eq!((rig_one.epoch(), seen(&one), both.epoch()), (Some(6), at("a", "6"), Some(9)));
}

#[test]
fn of_two_processes_that_switch_at_once_the_higher_epoch_stays() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (proxy, _) = haproxy_at(&a);
    for round in 0..10 {
        let (low, high) = (7 + 2 * round, 8 + 2 * round);
        std::thread::scope(|scope| {
            for (epoch, host, origin) in [(low, "web-1", &a), (high, "web-2", &b)] {
                let proxy = &proxy;
                scope.spawn(move || {
                    let done =
                        Rig::of(proxy).switch_edge(&switch(epoch, host, &origin.address(), Cause::Forced));
                    assert!(
                        done.as_ref().is_ok_and(|v| *v == Verdict::Change)
                            || (epoch == low && done.unwrap_err().kind() == FailureKind::Fenced)
                    );
                });
            }
        });
        assert_eq!(seen(&proxy), at("b", &high.to_string()));
        assert_eq!(
            Rig::of(&proxy).switch(&switch(high, "web-2", &b.address(), Cause::Forced)).unwrap(),
            Verdict::Done
        );
    }
}

// What is refused.

#[test]
fn a_bad_snippet_is_put_back_and_nginx_goes_on() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (proxy, rig) = nginx_at(&a);
    let (before, workers) = (proxy.read("acme.conf"), proxy.workers());
    // A name that nginx cannot resolve, and a configuration that is broken elsewhere.
    let nowhere = switch(7, "web-2", "nowhere.understudy.invalid:80", Cause::Forced);
    let error = rig.switch(&nowhere).unwrap_err();
    assert!(error.to_string().contains("host not found in upstream"), "{error}");
    assert_eq!((proxy.read("acme.conf"), error.kind()), (before.clone(), FailureKind::Failed));
    proxy.configure_nginx("no_such_directive on;");
    let to_b = switch(7, "web-2", &b.address(), Cause::Forced);
    let error = rig.switch(&to_b).unwrap_err();
    assert!(error.to_string().contains("no_such_directive") && rig.edge().test().is_err(), "{error}");
    assert_eq!((proxy.read("acme.conf"), proxy.workers()), (before, workers));
    assert_eq!((seen(&proxy), rig.epoch()), (at("a", "6"), Some(6)));
    proxy.configure_nginx("");
    assert_eq!((rig.switch(&to_b).unwrap(), seen(&proxy)), (Verdict::Change, at("b", "7")));
}

#[test]
fn a_first_snippet_that_is_bad_is_removed() {
    let proxy = Proxy::nginx();
    let rig = Rig::of(&proxy);
    proxy.configure_nginx("no_such_directive on;");
    assert!(rig.switch_edge(&switch(1, "web-1", "127.0.0.1:1", Cause::Founding)).is_err());
    assert!(!proxy.path("acme.conf").exists());
}

#[test]
fn an_nginx_that_does_not_take_a_reload_is_not_believed() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (proxy, _) = nginx_at(&a);
    let mut edge = proxy.edge();
    edge = edge
        .lines()
        .filter(|line| !line.starts_with("reload") && !line.starts_with("timeout"))
        .collect::<Vec<_>>()
        .join("\n");
    let lying = Rig::new(
        &format!("http://127.0.0.1:{}/", proxy.port),
        &format!("{edge}\nreload = ['true']\ntimeout_seconds = 2\n"),
    );
    let error = lying.switch(&switch(7, "web-2", &b.address(), Cause::Forced)).unwrap_err();
    assert!(matches!(error, EdgeError::NotTaken { .. }), "{error}");
    assert_eq!(seen(&proxy), at("a", "6"));
}

#[test]
fn a_haproxy_that_hangs_is_unavailable_in_time_and_is_not_changed() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (proxy, _) = haproxy_at(&a);
    let rig = Rig::new(
        &format!("http://127.0.0.1:{}/", proxy.port),
        &proxy.edge().replace("timeout_seconds = 20", "timeout_seconds = 2"),
    );
    let workers = proxy.workers();
    workers.iter().for_each(|pid| kill("-STOP", *pid));
    let begun = Instant::now();
    let error = rig.switch_edge(&switch(7, "web-2", &b.address(), Cause::Forced)).unwrap_err();
    workers.iter().for_each(|pid| kill("-CONT", *pid));
    assert_eq!(error.kind(), FailureKind::Unavailable, "{error}");
    assert!(begun.elapsed() < SOON);
    assert_eq!(seen(&proxy), at("a", "6"));
}

#[test]
fn an_nginx_that_hangs_is_unavailable_and_its_file_is_not_changed() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let (proxy, rig) = nginx_at(&a);
    let before = proxy.read("acme.conf");
    let workers = proxy.workers();
    workers.iter().for_each(|pid| kill("-STOP", *pid));
    let error = rig.switch_edge(&switch(7, "web-2", &b.address(), Cause::Forced)).unwrap_err();
    workers.iter().for_each(|pid| kill("-CONT", *pid));
    assert_eq!((error.kind(), proxy.read("acme.conf")), (FailureKind::Unavailable, before), "{error}");
    assert_eq!(seen(&proxy), at("a", "6"));
}

#[test]
fn a_haproxy_that_would_forget_the_switch_or_has_no_such_server_is_a_wrong_configuration() {
    let proxy = Proxy::haproxy_with("server origin 127.0.0.1:9");
    let error = Rig::of(&proxy).edge().test().unwrap_err();
    assert!(error.to_string().contains("init-addr last,127.0.0.1"), "{error}");
    let proxy = Proxy::haproxy();
    let url = format!("http://127.0.0.1:{}/", proxy.port);
    for wrong in ["server = 'nosuch'\n", "backend = 'nosuch'\n"] {
        let error = Rig::new(&url, &(proxy.edge() + wrong)).edge().test().unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().contains("nosuch")),
            (FailureKind::Usage, true),
            "{error}"
        );
    }
    let other_map = proxy.edge().replace("/acme.map'", "/other.map'");
    let error = Rig::new(&url, &other_map).edge().test().unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().contains("other.map")),
        (FailureKind::Usage, true),
        "{error}"
    );
    let name = switch(7, "web-2", "web-2.example:80", Cause::Forced);
    let error = Rig::of(&proxy).switch_edge(&name).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Usage, "{error}");
}

#[test]
fn a_host_with_a_hostile_name_is_one_plain_word_at_every_edge() {
    let (a, b) = (Origin::start("a"), Origin::start("b"));
    let name = "web 2;\nadd map #0 acme 99/x/1.1.1.1:1\n} load_module evil; $http_host \"";
    let plain = "web%202%3B%0Aadd%20map%20%230%20acme%2099%2Fx%2F1.1.1.1%3A1%0A%7D%20load_module%20evil%3B%20%24http_host%20%22";
    let hostile = |address: &str| switch(7, name, address, Cause::Handover);
    let (proxy, rig) = haproxy_at(&a);
    rig.switch(&hostile(&b.address())).unwrap();
    assert_eq!(proxy.read("acme.map"), format!("acme 7/{plain}/{}\n", b.address()));
    let (proxy, rig) = nginx_at(&a);
    rig.switch(&hostile(&b.address())).unwrap();
    assert_eq!(proxy.read("acme.conf").lines().count(), 17);
    assert_eq!((rig.switch(&hostile(&b.address())).unwrap(), seen(&proxy)), (Verdict::Done, at("b", "7")));
}

// Commands.

/// Returns the edge whose command is a script of `sh`.
fn script(command: &str, more: &str) -> String {
    format!("[[store.edge]]\nkind = 'command'\ncommand = ['sh', '-c', '''{command}''']\n{more}\n")
}

#[test]
fn a_command_gets_the_switch_in_a_clean_environment() {
    let (origin, dir) = (Origin::start("b"), tempfile::tempdir().unwrap());
    origin.set_head("X-Understudy-Epoch: 7\r\n");
    let kept = dir.path().join("mark").display().to_string();
    let url = format!("http://{}/", origin.address());
    let command =
        format!("env | sort > {kept}.env; echo again >> {kept}.count; echo \"$UNDERSTUDY_MARK\" > {kept}");
    let show = format!("show = ['sh', '-c', 'cat {kept} 2>/dev/null || true']");
    let rig = Rig::new(&url, &script(&command, &show));
    let to_b = switch(7, "web 2", "web-2.example:443", Cause::Automatic);
    assert_eq!((rig.epoch(), rig.switch(&to_b).unwrap(), rig.epoch()), (None, Verdict::Change, Some(7)));
    assert_eq!(rig.switch(&to_b).unwrap(), Verdict::Done);
    let of = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!((of("mark"), of("mark.count")), ("7/web%202/web-2.example:443\n".into(), "again\n".into()));
    let names = of("mark.env")
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name.to_owned())
        .collect::<Vec<_>>();
    let usual = ["HOME", "LANG", "PATH", "PWD", "OLDPWD", "SHLVL", "_"];
    let ours: Vec<_> = names.iter().filter(|name| !usual.contains(&name.as_str())).collect();
    let wanted =
        ["ADDRESS", "CAUSE", "EPOCH", "FROM", "MARK", "STORE", "TO"].map(|name| format!("UNDERSTUDY_{name}"));
    assert_eq!(ours, wanted.iter().collect::<Vec<_>>());
    for line in [
        "UNDERSTUDY_STORE=acme",
        "UNDERSTUDY_EPOCH=7",
        "UNDERSTUDY_FROM=web-0",
        "UNDERSTUDY_TO=web%202",
        "UNDERSTUDY_CAUSE=automatic",
    ] {
        assert!(of("mark.env").lines().any(|found| found == line), "{line}");
    }
    let error = rig.switch(&switch(6, "web-1", "web-1.example:443", Cause::Forced)).unwrap_err();
    assert_eq!((error.kind(), of("mark.count")), (FailureKind::Fenced, "again\n".into()));
}

#[test]
fn a_command_that_fails_hangs_lies_or_is_fenced_is_told_apart() {
    let origin = Origin::start("a");
    origin.set_head("X-Understudy-Epoch: 6\r\n");
    let url = format!("http://{}/", origin.address());
    let to_b = switch(7, "web-2", "127.0.0.1:1", Cause::Forced);
    for (edge, kind, words) in [
        (script("echo no route >&2; exit 1", ""), FailureKind::Failed, "exit status: 1: no route"),
        (script("echo 9 is there >&2; exit 5", ""), FailureKind::Fenced, "9 is there"),
        (
            script("echo wait >&2; sleep 300", "timeout_seconds = 1"),
            FailureKind::Unavailable,
            "was not done within 1 s: wait",
        ),
        (script("sleep 300 & exit 3", "timeout_seconds = 5"), FailureKind::Failed, "exit status: 3"),
        (
            script("true", "show = ['echo', '6/web-1/127.0.0.1:1']"),
            FailureKind::Failed,
            "it reports success but names 6/web-1",
        ),
        (script("true", "show = ['echo', 'seven']"), FailureKind::Failed, "'seven' is not a mark"),
        (script("true", "show = ['echo', '8/web-3/127.0.0.1:1']"), FailureKind::Fenced, "8/web-3"),
        (script("true", "test = ['false']\nuser = 'no-such-user'"), FailureKind::Usage, "no-such-user"),
        (
            "[[store.edge]]\nkind = 'command'\ncommand = ['/no/such/program']\n".into(),
            FailureKind::Usage,
            "/no/such/program",
        ),
    ] {
        let begun = Instant::now();
        let error = Rig::new(&url, &edge).switch_edge(&to_b).unwrap_err();
        assert_eq!(error.kind(), kind, "{edge}: {error}");
        assert!(error.to_string().contains(words) && begun.elapsed() < SOON, "{edge}: {error}");
    }
    assert!(Rig::new(&url, &script("true", "test = ['true']")).edges.test().is_ok());
    let error = Rig::new(&url, &script("true", "test = ['sh', '-c', 'echo no credentials >&2; exit 1']"))
        .edges
        .test()
        .unwrap_err();
    assert!(error.to_string().contains("no credentials"), "{error}");
}

// The customers' address.

#[test]
fn an_edge_that_lies_is_found_out_by_the_customers_address() {
    let origin = Origin::start("a");
    let url = format!("http://{}/", origin.address());
    let rig = Rig::new(&url, &script("true", ""));
    let to_b = switch(7, "web-2", "127.0.0.1:1", Cause::Forced);
    for (head, words) in [
        ("X-Understudy-Epoch: 6\r\n", "it shows epoch 6, not epoch 7"),
        ("", "its answer has no X-Understudy-Epoch"),
        ("X-Understudy-Epoch: 7\r\nX-Understudy-Epoch: 6\r\n", "show epochs 7 and 6"),
        ("X-Understudy-Epoch: 7\r\nAge: 60\r\n", "a cache answers"),
        ("X-Understudy-Epoch: seven\r\n", "is no number"),
    ] {
        origin.set_head(head);
        let error = rig.edges.switch(&to_b, Duration::from_millis(300)).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Failed, "{error}");
        assert!(error.to_string().contains(words) && error.to_string().starts_with(&url), "{error}");
    }
    origin.set_head("X-Understudy-Epoch: 8\r\n");
    assert_eq!(rig.switch(&to_b).unwrap_err().kind(), FailureKind::Fenced);
    origin.set_head("X-Understudy-Epoch: 7\r\nX-Understudy-Epoch: 7\r\n");
    assert_eq!(rig.switch(&to_b).unwrap(), Verdict::Change);
    let gone = Rig::new(&format!("http://127.0.0.1:{}/", free_port()), &script("true", ""));
    let error = gone.edges.switch(&to_b, Duration::from_millis(300)).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Unavailable, "{error}");
}

#[test]
fn an_edge_that_follows_late_is_waited_for() {
    let origin = Origin::start("b");
    origin.set_head("X-Understudy-Epoch: 6\r\n");
    let rig = Rig::new(&format!("http://{}/", origin.address()), &script("true", ""));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("some questions", || origin.begun() > 3);
            origin.set_head("X-Understudy-Epoch: 7\r\n");
        });
        rig.switch(&switch(7, "web-2", "127.0.0.1:1", Cause::Forced)).unwrap();
    });
    assert!(origin.begun() > 6);
}

/// The variable names the file of trusted certificates; it is set for a second run of this test.
#[test]
fn a_customers_address_with_a_certificate_that_is_trusted_counts_and_no_other() {
    const NAME: &str = "edge::a_customers_address_with_a_certificate_that_is_trusted_counts_and_no_other";
    if let Ok(port) = std::env::var("UNDERSTUDY_TEST_TLS_PORT") {
        let rig = Rig::new(&format!("https://localhost:{port}/"), &script("true", ""));
        rig.switch(&switch(7, "web-2", "127.0.0.1:1", Cause::Forced)).unwrap();
        return;
    }
    let proxy = Proxy::nginx();
    let (key, certificate) = (proxy.path("key.pem"), proxy.path("certificate.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let port = free_port();
    proxy.configure_nginx(&format!(
        "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {}; \
         location / {{ add_header X-Understudy-Epoch 7 always; return 204; }} }}",
        certificate.display(),
        key.display()
    ));
    proxy.reload();
    let rig = Rig::new(&format!("https://localhost:{port}/"), &script("true", ""));
    let error = rig
        .edges
        .switch(&switch(7, "web-2", "127.0.0.1:1", Cause::Forced), Duration::from_millis(300))
        .unwrap_err();
    assert_eq!(error.kind(), FailureKind::Unavailable, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env("UNDERSTUDY_TEST_TLS_PORT", port.to_string())
        .env("SSL_CERT_FILE", &certificate)
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
    assert!(String::from_utf8_lossy(&again.stdout).contains("1 passed"));
}
