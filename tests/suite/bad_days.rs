//! Bad days: two hosts with the real binary, a real edge, and customers who order all the time.
//!
//! After each: one host serves, and every order that was acknowledged is on it or listed as stranded.

use crate::support::command::said;
use crate::support::namespaces::{Lab, Order, WebHost};
use crate::support::wait::wait_until;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

/// The configuration as the example has it.
fn unchanged(_: &WebHost, text: String) -> String {
    text
}

fn ordering(change: impl Fn(&WebHost, String) -> String) -> Lab {
    let mut lab = Lab::serving(change);
    lab.start_customers();
    lab
}

/// Returns the longest time between two acknowledgements.
fn closed_for(orders: &[Order]) -> Duration {
    let times: Vec<f64> = orders.iter().filter(|order| order.acked).map(|order| order.answered).collect();
    let longest = times.windows(2).map(|two| two[1] - two[0]).fold(0.0, f64::max);
    Duration::from_secs_f64(longest)
}

fn ids(orders: &[Order], acked: bool) -> BTreeSet<String> {
    orders.iter().filter(|order| order.acked == acked).map(|order| order.id.clone()).collect()
}

/// Begins a command, whose output is read when it has ended.
fn begin(host: &WebHost, arguments: &[&str]) -> Child {
    host.understudy(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_switchover_under_customers_loses_nothing_that_was_acknowledged() {
    let mut lab = ordering(unchanged);
    lab.web[0].run(&["switchover", "shop"]);
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    // Its files are its own to resync now, whatever its configuration says.
    lab.web[1].run(&["resync", "shop"]);
    lab.wait_for_orders(20);
    // And back again, from a tree that is a mount, by a person on the other host.
    lab.web[0].run(&["switchover", "shop"]);
    lab.wait_for_primary(0);
    lab.wait_for_orders(20);
    let stranded = lab.check(0);
    assert_eq!(stranded, BTreeSet::new());
    let orders = lab.orders();
    let failed: Vec<_> = orders.iter().filter_map(|order| order.why.as_deref()).collect();
    println!("closed for {:?} at most, {} orders failed: {failed:?}", closed_for(&orders), failed.len());
}

#[test]
fn a_dead_primarys_store_serves_on_and_its_last_orders_are_stranded_when_it_is_back() {
    let mut lab = ordering(unchanged);
    lab.web[0].run(&["resync", "shop"]);
    lab.wait_for_orders(20);
    lab.power_off(0);
    lab.web[1].run(&["failover", "shop", "--yes", "--is-down", "--reason", "no power"]);
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    lab.power_on(0);
    lab.web[0].start_daemon();
    wait_until("what only it has is committed", || !lab.web[1].stranded().is_empty());
    let stranded = lab.check(1);
    assert!(stranded.len() >= 20, "{stranded:?}");
    // A person takes them over, and nothing is missing.
    let [record] = lab.web[1].stranded()[..] else { panic!("one record") };
    let ask = |method, what: &str, body| {
        let what = format!("stranded{what}");
        let output = lab.web[1].ask_daemon_with(method, &what, body).unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.success(), answer)
    };
    let (_, listed) = ask("GET", "", None);
    assert_eq!(listed[0]["loss"]["verdict"], "as_stated", "{listed}");
    let (_, some) = ask("GET", &format!("/{record}?limit=2"), None);
    assert_eq!((some["paths"].as_array().unwrap().len(), &some["next"]), (2, &2.into()), "{some}");
    let (is_dropped, refused) = ask("POST", &format!("/{record}/drop?paths=1"), None);
    assert!(!is_dropped && refused["error"].as_str().unwrap().contains("nothing was dropped"), "{refused}");
    let (is_taken, taken) =
        ask("POST", &format!("/{record}/take"), Some(&json!({"paths": ["orders"], "person": "ada"})));
    assert!(is_taken && taken["files_written"].as_u64().unwrap() >= stranded.len() as u64, "{taken}");
    let there = lab.web[1].orders_there();
    let missing: Vec<_> = stranded.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_store_whose_agent_is_dead_serves_on() {
    let mut lab = ordering(unchanged);
    lab.web[0].kill_daemon();
    let failed = ids(&lab.orders(), false);
    std::thread::sleep(Duration::from_secs(5));
    lab.wait_for_orders(20);
    assert_eq!(ids(&lab.orders(), false), failed, "no order fails");
    lab.web[0].start_daemon();
    wait_until("it is the primary again", || lab.web[0].phase().as_deref() == Some("primary"));
    // The daemon that starts takes over the guard that is there, and closes nothing.
    lab.wait_for_orders(20);
    assert_eq!(ids(&lab.orders(), false), failed, "no order fails");
    assert_eq!(lab.check(0), BTreeSet::new());
}

#[test]
fn a_store_serves_on_while_its_repository_is_away_and_moves_when_it_is_back() {
    let mut lab = ordering(unchanged);
    let (repository, away) = (lab.repository(), lab.repository().with_extension("away"));
    std::fs::rename(&repository, &away).unwrap();
    // Nobody makes another one in its place.
    std::fs::write(&repository, "").unwrap();
    let failed = ids(&lab.orders(), false);
    wait_until("it is said", || lab.web[0].failover().is_some_and(|now| now["failing"] != json!([])));
    std::thread::sleep(Duration::from_secs(4));
    lab.wait_for_orders(20);
    assert_eq!(ids(&lab.orders(), false), failed, "no order fails");
    std::fs::remove_file(&repository).unwrap();
    std::fs::rename(&away, &repository).unwrap();
    wait_until("nothing fails", || lab.web[0].failover().is_some_and(|now| now["failing"] == json!([])));
    lab.web[0].run(&["switchover", "shop"]);
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    assert_eq!(lab.check(1), BTreeSet::new());
}

#[test]
fn of_two_operators_at_once_one_wins_and_the_store_moves_once() {
    let mut lab = ordering(unchanged);
    let planned = begin(&lab.web[0], &["switchover", "shop"]);
    let forced = begin(&lab.web[1], &["failover", "shop", "--yes", "--reason", "impatience"]);
    let outputs = [planned, forced].map(|command| command.wait_with_output().unwrap());
    let told: Vec<_> = outputs.iter().map(said).collect();
    assert!(outputs.iter().any(|output| output.status.success()), "{told:?}");
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    assert_eq!(lab.role(1).unwrap()["epoch"], 2, "{told:?}");
    // If the forced one won, the other host has to say what only it has.
    wait_until("the other one follows", || lab.web[0].phase().as_deref() == Some("standby"));
    lab.check(1);
}

/// Returns whether the daemon of a host has begun a step of what it does.
fn has_begun(host: &WebHost, step: &str) -> bool {
    let steps = host.failover().and_then(|status| status["steps"].as_array().cloned());
    steps.is_some_and(|steps| steps.iter().any(|begun| begun["step"] == step))
}

fn ask(host: &WebHost, what: &str) {
    let output = host.ask_daemon("POST", what).unwrap();
    assert!(output.status.success(), "{what}: {}", said(&output));
}

/// Kills the daemon at once after it has begun a step, and starts it again.
fn kill_at(lab: &mut Lab, host: usize, step: &str) {
    wait_until(step, || has_begun(&lab.web[host], step));
    lab.web[host].kill_daemon();
    lab.web[host].start_daemon();
    wait_until("the daemon answers", || lab.web[host].phase().is_some());
}

#[test]
fn a_candidate_that_is_killed_at_each_step_of_a_takeover_goes_on_after_a_restart() {
    let mut lab = ordering(unchanged);
    lab.power_off(0);
    // It does not open before a person says that the old primary is down, so it is always on its way here.
    ask(&lab.web[1], "failover?person=ops&reason=no%20power");
    for step in ["promoted", "files", "services"] {
        kill_at(&mut lab, 1, step);
        assert!(!lab.serves(1), "{step}");
    }
    let waits = |lab: &Lab| lab.web[1].failover().is_some_and(|now| now["waits_for"][0] == "web-1");
    wait_until("it waits for the old primary", || waits(&lab));
    ask(&lab.web[1], "failover/attest?host=web-1");
    lab.web[1].kill_daemon();
    lab.web[1].start_daemon();
    // A person's word is kept, so nobody has to give it again.
    wait_until("it serves", || lab.serves(1));
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    assert_eq!(lab.role(1).unwrap()["epoch"], 2, "it was promoted once");
    lab.power_on(0);
    lab.web[0].start_daemon();
    wait_until("the old primary follows", || lab.web[0].phase().as_deref() == Some("standby"));
    lab.check(1);
}

#[test]
fn a_target_that_is_killed_during_a_handover_completes_it_after_a_restart() {
    let mut lab = ordering(unchanged);
    let switching = begin(&lab.web[0], &["switchover", "shop"]);
    wait_until("the handover", || has_begun(&lab.web[0], "handover recorded"));
    lab.web[1].kill_daemon();
    assert!(!lab.serves(0) && !lab.serves(1), "nobody serves between the two");
    lab.web[1].start_daemon();
    let output = switching.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    assert_eq!(lab.check(1), BTreeSet::new());
}

/// Returns the file that keeps a service from stopping.
fn stuck(host: &WebHost) -> PathBuf {
    host.dir.join("stuck")
}

/// Adds a consumer of queues that does not stop while a file is there.
fn with_a_deaf_consumer(host: &WebHost, text: String) -> String {
    let (stuck, runs) = (stuck(host), host.dir.join("consumer"));
    let (stuck, runs) = (stuck.display(), runs.display());
    let consumer = format!(
        "[[store.service]]\nname = 'consumer'\nlast = true\ntimeout_seconds = 1\nstart = ['touch', '{runs}']\n\
         stop = ['sh', '-c', '[ -e {stuck} ] || rm -f {runs}']\ncheck = ['sh', '-c', '[ -e {runs} ] || exit 3']\n"
    );
    text.replacen("[[store.edge]]", &format!("{consumer}[[store.edge]]"), 1)
}

/// Hands over while a consumer does not stop, lets `cancel` see to the end of that, and hands over again.
fn hand_over_with_a_deaf_consumer(cancel: impl FnOnce(&Lab)) {
    let mut lab = ordering(with_a_deaf_consumer);
    wait_until("the consumer runs", || lab.web[0].dir.join("consumer").exists());
    std::fs::write(stuck(&lab.web[0]), "").unwrap();
    let switching = begin(&lab.web[0], &["switchover", "shop"]);
    let is_named = || lab.web[0].failover().is_some_and(|now| now.to_string().contains("'consumer'"));
    wait_until("the failure is shown", is_named);
    cancel(&lab);
    let output = switching.wait_with_output().unwrap();
    let told = said(&output);
    assert!(!output.status.success() && told.contains("cancelled") && told.contains("'consumer'"), "{told}");
    lab.wait_for_orders(20);
    assert!(lab.serves(0) && !lab.serves(1));
    std::fs::remove_file(stuck(&lab.web[0])).unwrap();
    lab.web[0].run(&["switchover", "shop"]);
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    assert!(!lab.web[0].dir.join("consumer").exists() && lab.web[1].dir.join("consumer").exists());
    assert_eq!(lab.check(1), BTreeSet::new());
}

#[test]
fn a_handover_that_a_consumer_blocks_is_cancelled_by_a_person_and_the_store_serves_on() {
    hand_over_with_a_deaf_consumer(|lab| {
        ask(&lab.web[0], "switchover/cancel");
    });
}

#[test]
#[ignore = "takes more than a minute"]
fn at_length_a_handover_that_a_consumer_blocks_is_cancelled_and_the_store_serves_on() {
    hand_over_with_a_deaf_consumer(|_| ());
}

#[test]
fn a_shop_that_does_not_stop_after_a_switchover_is_named_until_it_does() {
    let deaf = |host: &WebHost, text: String| {
        let stuck = stuck(host);
        let to = format!(
            "timeout_seconds = 1\nstop = [\"sh\", \"-c\", \"[ -e {} ] || exec $0 $@\", ",
            stuck.display()
        );
        text.replacen("stop = [", &to, 1)
    };
    let mut lab = ordering(deaf);
    std::fs::write(stuck(&lab.web[0]), "").unwrap();
    lab.web[0].run(&["switchover", "shop"]);
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    let is_named = || lab.web[0].failover().is_some_and(|now| now["failing"].to_string().contains("'shop'"));
    wait_until("the failure is shown", is_named);
    assert!(!lab.serves(0));
    std::fs::remove_file(stuck(&lab.web[0])).unwrap();
    wait_until("it stands by", || lab.web[0].phase().as_deref() == Some("standby"));
    assert_eq!(lab.check(1), BTreeSet::new());
}

#[test]
fn an_edge_that_refuses_is_tried_again_while_the_old_host_relays() {
    let mut lab = ordering(unchanged);
    let (socket, hidden) = (lab.of_edge("admin.sock"), lab.of_edge("hidden.sock"));
    std::fs::rename(&socket, &hidden).unwrap();
    let switching = begin(&lab.web[0], &["switchover", "shop"]);
    wait_until("web-2 serves", || lab.serves(1));
    // Customers come by the old host.
    lab.wait_for_orders(20);
    wait_until("the failure is shown", || {
        lab.web[1].failover().is_some_and(|status| status["failing"].to_string().contains("admin.sock"))
    });
    std::fs::rename(&hidden, &socket).unwrap();
    assert!(switching.wait_with_output().unwrap().status.success());
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    assert_eq!(lab.check(1), BTreeSet::new());
}
