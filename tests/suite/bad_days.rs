//! Bad days: two hosts with the real binary, a real edge, and customers who order all the time.
//!
//! After each: one host serves, and every order that was acknowledged is on it or listed as stranded.

use crate::support::command::said;
use crate::support::namespaces::{Lab, Order, WebHost};
use crate::support::wait::wait_until;
use std::collections::BTreeSet;
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
    // And back again, from a tree that is a mount.
    lab.web[0].run(&["switchover", "shop"]);
    lab.wait_for_primary(0);
    lab.wait_for_orders(20);
    let stranded = lab.check(0);
    assert_eq!(stranded, BTreeSet::new());
    let orders = lab.orders();
    println!("closed for {:?}, failed: {:?}", closed_for(&orders), ids(&orders, false));
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
    lab.web[1].run(&["stranded", "take", "shop", &record.to_string(), "--new"]);
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
fn of_two_operators_at_once_one_wins() {
    let mut lab = ordering(unchanged);
    let on_each = [0, 1].map(|host| begin(&lab.web[host], &["switchover", "shop", "--to", "web-2"]));
    let outputs = on_each.map(|command| command.wait_with_output().unwrap());
    let told: Vec<_> = outputs.iter().map(said).collect();
    assert!(outputs.iter().any(|output| output.status.success()), "{told:?}");
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
    assert_eq!(lab.check(1), BTreeSet::new());
    let promotions = promotions(&lab.web[1]);
    assert_eq!(promotions, 2, "the founding, and one promotion: {told:?}");
}

fn promotions(host: &WebHost) -> usize {
    let history = said(&host.run(&["history", "shop"]));
    history.lines().filter(|line| line.contains("primary")).count()
}

#[test]
fn a_candidate_that_is_killed_while_it_takes_over_goes_on_after_a_restart() {
    let mut lab = ordering(unchanged);
    lab.web[0].run(&["resync", "shop"]);
    for (round, delay_ms) in [100, 300, 600].into_iter().enumerate() {
        let (dead, candidate) = (round % 2, 1 - round % 2);
        lab.power_off(dead);
        let mut deciding =
            begin(&lab.web[candidate], &["failover", "shop", "--yes", "--is-down", "--reason", "no power"]);
        std::thread::sleep(Duration::from_millis(delay_ms));
        lab.web[candidate].kill_daemon();
        lab.web[candidate].start_daemon();
        deciding.wait().unwrap();
        wait_until("the daemon answers", || lab.web[candidate].failover().is_some());
        if !lab.serves(candidate) && lab.web[candidate].phase().as_deref() == Some("standby") {
            // It was killed before the decision was in the log.
            lab.web[candidate].run(&["failover", "shop", "--yes", "--is-down", "--reason", "no power"]);
        }
        lab.wait_for_primary(candidate);
        lab.wait_for_orders(20);
        lab.power_on(dead);
        lab.web[dead].start_daemon();
        wait_until("it follows", || lab.web[dead].phase().as_deref() == Some("standby"));
    }
    lab.check(1);
}

#[test]
fn a_service_that_does_not_stop_cancels_the_handover_and_the_store_serves_again() {
    // The shop does not stop while this file is there.
    let deaf = |host: &WebHost, text: String| {
        let (from, stuck) = ("stop = [", host.dir.join("stuck"));
        let to = format!(
            "timeout_seconds = 2\nstop = [\"sh\", \"-c\", \"[ -e {} ] || exec $0 $@\", ",
            stuck.display()
        );
        assert!(text.contains(from));
        text.replace(from, &to)
    };
    let mut lab = ordering(deaf);
    let stuck = lab.web[0].dir.join("stuck");
    std::fs::write(&stuck, "").unwrap();
    let output = lab.web[0].understudy(&["switchover", "shop"]).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("'shop'"), "{}", said(&output));
    lab.wait_for_orders(20);
    assert!(lab.serves(0) && !lab.serves(1));
    std::fs::remove_file(stuck).unwrap();
    lab.web[0].run(&["switchover", "shop"]);
    lab.wait_for_primary(1);
    lab.wait_for_orders(20);
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
