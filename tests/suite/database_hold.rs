//! A replica that is held at the position of a snapshot of the files, with real servers and the real binary.

use crate::support::command::{ok, said};
use crate::support::database_host::{DatabaseDuo, DatabaseHost};
use crate::support::database_pair::{DatabasePair, fail_over, kill_daemon};
use crate::support::wait::wait_until;
use rustix::process::Signal;

fn order(host: &DatabaseHost, name: &str) {
    host.customer(&format!("INSERT INTO shop.orders VALUES ('{name}', '')")).unwrap();
}

/// Gives `hold` or `release`, and returns what is printed.
fn tell(host: &DatabaseHost, verb: &str, what: &str) -> String {
    let output = ok(&mut host.host.command(&["database", verb, what]));
    String::from_utf8(output.stdout).unwrap()
}

fn names(host: &DatabaseHost) -> String {
    host.sql("SELECT GROUP_CONCAT(id ORDER BY id) FROM shop.orders")
}

/// Waits until the second host has received what the first one has committed.
fn wait_until_received(one: &DatabaseHost, two: &DatabaseHost) {
    let position = one.sql("SELECT @@gtid_binlog_pos");
    wait_until(&format!("it has received {position}: {:#}", two.status().1), || {
        two.status().1["replica"]["received"] == position.as_str()
    });
}

#[test]
fn a_held_replica_stands_exactly_at_each_snapshot_and_receives_on() {
    let mut duo = DatabaseDuo::start();
    order(&duo.one, "a");
    duo.wait_until_equal(&duo.one, &duo.two);
    // The snapshot that `found` made was before there was a server.
    let early = duo.two.host.command(&["database", "hold", "acme@1"]).output().unwrap();
    assert!(early.status.code() == Some(2) && said(&early).contains("does not say where"), "{early:?}");
    assert!(tell(&duo.two, "hold", "acme").contains("is held"));
    order(&duo.one, "b");
    std::fs::write(duo.one.host.path("s0/b"), "b").unwrap();
    let snapshot = duo.one.sql("SELECT @@gtid_binlog_pos");
    ok(&mut duo.one.host.command(&["resync", "acme", "--quiet"]));
    order(&duo.one, "c");
    wait_until_received(&duo.one, &duo.two);
    assert_eq!(names(&duo.two), "a");
    let (code, status) = duo.two.status();
    assert_eq!((code, status["replica"]["state"].as_str()), (4, Some("held")), "{status:#}");
    // On to the snapshot, and not further.
    let printed = tell(&duo.two, "hold", "acme@2");
    assert_eq!(printed.lines().last().unwrap(), format!("position {snapshot}"), "{printed}");
    duo.two.wait_for_state("held");
    assert_eq!(names(&duo.two), "a,b");
    let shown = duo.two.host.command(&["database", "status", "acme"]).output().unwrap();
    assert!(
        said(&shown).contains(&format!("held at the position of acme@2, {snapshot}, since")),
        "{}",
        said(&shown)
    );
    // A drill is of that moment.
    let drilled = ok(&mut duo.two.host.command(&["database", "drill", "acme"]));
    assert!(
        said(&drilled).contains(&format!("the replica's data at {snapshot} is proven")),
        "{}",
        said(&drilled)
    );
    // It stays so whatever ends.
    duo.two.kill_supervisor();
    order(&duo.one, "d");
    duo.two.supervise();
    duo.two.wait_for_state("held");
    wait_until_received(&duo.one, &duo.two);
    assert_eq!(names(&duo.two), "a,b");
    let back = duo.two.host.command(&["database", "hold", "acme@2"]).output().unwrap();
    assert!(back.status.success(), "it stands there: {}", said(&back));
    tell(&duo.two, "release", "acme");
    duo.two.wait_for_state("following");
    duo.wait_until_equal(&duo.one, &duo.two);
    // Back is not a way.
    let back = duo.two.host.command(&["database", "hold", "acme@2"]).output().unwrap();
    let wanted = format!("understudy database restore acme --to {snapshot} --into");
    assert!(back.status.code() == Some(4) && said(&back).contains(&wanted), "{}", said(&back));
    order(&duo.one, "e");
    duo.wait_until_equal(&duo.one, &duo.two);
    assert!(duo.two.status().1["replica"]["hold"].is_null());
}

#[test]
fn a_promotion_of_a_held_replica_applies_all_that_it_received() {
    let mut duo = DatabaseDuo::start();
    order(&duo.one, "a");
    duo.wait_until_equal(&duo.one, &duo.two);
    tell(&duo.two, "hold", "acme");
    for number in 0..200 {
        order(&duo.one, &format!("b{number:03}"));
    }
    wait_until_received(&duo.one, &duo.two);
    assert_eq!(names(&duo.two), "a");
    let wanted = names(&duo.one);
    // The primary is gone with its disk.
    duo.one.signal(Signal::KILL);
    duo.one.supervisor.take().unwrap().wait().unwrap();
    wait_until("its server is gone", || duo.one.try_sql("SELECT 1").is_err());
    duo.two.ordered(&["promote"], &[("UNDERSTUDY_EPOCH", "2")]);
    assert_eq!(names(&duo.two), wanted);
    assert!(duo.two.note()["hold"].is_null());
    order(&duo.two, "z");
}

#[test]
fn a_held_replica_receives_from_the_next_primary_and_stands_where_it_was() {
    let mut pair = DatabasePair::start("");
    let three = pair.add_standby();
    order(&pair.one, "a");
    wait_until_received(&pair.one, &three);
    wait_until("it has applied that", || names(&three) == "a");
    tell(&three, "hold", "acme");
    order(&pair.one, "b");
    for standby in [&pair.two, &three] {
        wait_until_received(&pair.one, standby);
    }
    pair.one.kill_supervisor();
    kill_daemon(&mut pair.one);
    fail_over(&pair.two);
    order(&pair.two, "c");
    // What it had received of the first one is fetched anew.
    wait_until_received(&pair.two, &three);
    three.wait_for_state("held");
    assert_eq!(names(&three), "a");
    // So it stays when its server starts again.
    let mut three = three;
    three.kill_supervisor();
    three.supervise();
    three.wait_for_state("held");
    order(&pair.two, "d");
    wait_until_received(&pair.two, &three);
    assert_eq!(names(&three), "a");
    tell(&three, "release", "acme");
    three.wait_for_state("following");
    wait_until("it has all", || names(&three) == "a,b,c,d");
}
