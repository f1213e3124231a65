//! A failover to one member that a person asks for on another one: three hosts with the real daemon.

use crate::support::command::{fails, ok, said};
use crate::support::trio::Trio;
use crate::support::wait::wait_until;

#[test]
fn a_member_takes_over_for_a_person_on_another_one_who_sees_its_steps() {
    let trio = Trio::start();
    let shown = said(&ok(&mut trio.command(1, &["failover", "acme", "--to", "web-3", "--dry-run"])));
    assert!(shown.contains("promote 'web-3' in the log, to epoch 2"), "{shown}");
    assert_eq!(trio.failover(1)["epoch"], 1, "a dry run does nothing");
    let mut command = trio.command(1, &["failover", "acme", "--to", "web-3", "--yes"]);
    let shown = said(&ok(command.args(["--reason", "maintenance", "--person", "ada"])));
    assert!(shown.contains("'web-3' is the primary in epoch 2"), "{shown}");
    for step in ["web-3: taking over", "promoted", "services", "gate open"] {
        assert!(shown.contains(step), "{step}: {shown}");
    }
    let history = trio.history(1);
    let promoted = history.iter().rev().find(|row| row["kind"] == "promoted").unwrap();
    assert_eq!((&promoted["host"], &promoted["person"]), (&"web-3".into(), &"ada".into()));
    assert!(promoted["what"].as_str().unwrap().contains("maintenance"), "{promoted}");
    // And on the host that is replaced: it has to close, and says so itself.
    let shown = said(&ok(&mut trio.command(2, &["failover", "acme", "--to", "web-2", "--yes", "--is-down"])));
    assert!(shown.contains("'web-2' is the primary in epoch 3"), "{shown}");
    wait_until("the others stand by", || {
        [0, 2].iter().all(|host| trio.failover(*host)["phase"] == "standby")
    });
}

#[test]
fn a_person_s_word_that_a_host_is_down_reaches_the_member_that_takes_over() {
    let mut trio = Trio::start();
    trio.kill(0);
    let json = ["failover", "acme", "--to", "web-3", "--yes", "--is-down", "--json"];
    let output = ok(&mut trio.command(1, &json));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&status["primary"], &status["epoch"]), (&"web-3".into(), &2.into()));
    assert_eq!((&status["host"], &status["completed"]), (&"web-2".into(), &true.into()));
    // Whoever is not waited for is not said to be down.
    let (code, body) = trio.post(1, "failover/attest?host=web-1&to=web-3&person=ada");
    assert!(code == 409 && body.contains("'web-3' does not"), "{code}: {body}");
    let again = ["failover", "acme", "--to", "web-3", "--yes"];
    fails(&mut trio.command(1, &again), 4, "'web-3' is the primary already");
}

#[test]
fn a_member_that_does_not_take_over_is_named_with_its_reason() {
    let mut trio = Trio::start();
    fails(
        &mut trio.command(1, &["failover", "acme", "--to", "web-9", "--yes"]),
        2,
        "no member that may serve",
    );
    trio.kill(2);
    let dry = ["failover", "acme", "--to", "web-3", "--dry-run"];
    let shown = said(&trio.command(1, &dry).output().unwrap());
    assert!(shown.contains("not possible now") && shown.contains("'web-3' does not"), "{shown}");
    assert_eq!(trio.command(1, &dry).output().unwrap().status.code(), Some(4));
    fails(
        &mut trio.command(1, &["failover", "acme", "--to", "web-3", "--yes"]),
        4,
        "'web-3' does not: member 'web-3' at",
    );
    // A person's text that the log cannot hold gets nowhere.
    let (code, body) = trio.post(1, "failover?to=web-1&person=two%0alines");
    assert!(code == 400 && body.contains("`person`"), "{code}: {body}");
    let (code, body) = trio.post(1, "failover?to=web-1");
    assert!(
        code == 409 && body.contains("'web-1' does not: this host is the primary already"),
        "{code}: {body}"
    );
    assert_eq!(trio.failover(1)["epoch"], 1);
}
