//! Agents of three hosts over a real object store: the machine's outputs are carried out, and at no moment two
//! gates are open.

use crate::support::asked::AskedPort;
use crate::support::cluster::{Cluster, Host, TIMING};
use crate::support::rig::name;
use crate::support::servers::{self, Server};
use crate::support::wait::wait_until;
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tempfile::TempDir;
use understudy::failover::agent::participants::GateMode::{Closed, Hold, Open};
use understudy::failover::agent::participants::Report;
use understudy::failover::agent::terms::Terms;
use understudy::failover::decide::view::{Cause, Phase};
use understudy::failover::peers::client::PeerClient;
use understudy::failover::peers::error::PeerError;
use understudy::failover::peers::question::{Answer, Ask};
use understudy::model::closed::Closed as ClosedNote;
use understudy::model::decision::{self, Decision};
use understudy::model::id::{ContentHash, Epoch, Incarnation, Sequence, StoreName, WriterId};
use understudy::model::lease::LeaseNote;
use understudy::model::member::Member;
use understudy::model::signed::Signed;
use understudy::repository::leases::Lease;
use understudy::repository::object_key;
use understudy::support::env::Env;
use understudy::support::signature::SigningKey;

fn on_disk() -> (TempDir, Arc<dyn ObjectStore>) {
    let dir = tempfile::tempdir().unwrap();
    let objects = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    (dir, Arc::new(objects))
}

fn on_s3() -> (Server, Arc<dyn ObjectStore>) {
    let server = servers::moto();
    // A second call in this process changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let value = |name| server.environment.iter().find(|(key, _)| *key == name).unwrap().1.clone();
    let retry = object_store::RetryConfig { max_retries: 0, ..Default::default() };
    let objects = AmazonS3Builder::new()
        .with_endpoint(value("AWS_ENDPOINT_URL"))
        .with_access_key_id(value("AWS_ACCESS_KEY_ID"))
        .with_secret_access_key(value("AWS_SECRET_ACCESS_KEY"))
        .with_region("us-east-1")
        .with_bucket_name("bucket")
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_retry(retry)
        .build()
        .unwrap();
    (server, Arc::new(objects))
}

fn person(reason: &str) -> Terms {
    Terms { person: "ops@example.com".into(), reason: reason.into(), ..Terms::default() }
}

/// Returns the cause of the last promotion, by the log.
fn cause(cluster: &Cluster) -> decision::Cause {
    cluster.state().authority.promotion.unwrap().cause
}

fn switch_over(objects: Arc<dyn ObjectStore>) {
    let cluster = Cluster::new(objects);
    cluster.wait_for_primary(0);
    assert_eq!(cluster.agent(0).try_hand_over(&cluster.hosts[1].me, Duration::from_secs(2)), Some(vec![]));
    cluster.wait_for_primary(1);
    let modes: Vec<_> = cluster.hosts.iter().map(Host::modes).collect();
    assert_eq!(modes[0], [Closed, Open, Hold, Closed]);
    assert_eq!(modes[1], [Closed, Open]);
    assert_eq!(modes[2], [Closed]);
    let state = cluster.state();
    let promotion = state.authority.promotion.clone().unwrap();
    assert_eq!(state.primary, Some(cluster.hosts[1].me.clone()));
    assert!(matches!(promotion.cause, decision::Cause::Handover { .. }) && promotion.completed);
    // The snapshot that was committed while the gate held is what the new primary begins with.
    assert_eq!(promotion.base, state.latest().map(|(latest, _)| latest));
    assert_eq!(state.snapshots.len(), 2);
    assert_eq!((promotion.loss.files, state.authority.irregular.count), (Some(0), 0));
    cluster.assert_one_gate_was_open();
}

fn take_over_from_the_dead(objects: Arc<dyn ObjectStore>) {
    let cluster = Cluster::new(objects);
    cluster.wait_for_primary(0);
    cluster.kill(0);
    cluster.agent(2).take_over(Cause::Person, person("the host is dead"));
    cluster.wait_for_primary(2);
    // Nobody closed the old gate: its time was over.
    assert_eq!(cluster.hosts[0].modes(), [Closed, Open]);
    let old = cluster.hosts[0].open_spans().last().unwrap().1;
    let new = cluster.hosts[2].open_spans()[0].0;
    assert!(new > old, "{new:?} {old:?}");
    let forced = decision::Cause::Forced { person: "ops@example.com".into(), attested: false };
    assert_eq!(cause(&cluster), forced);
    cluster.assert_one_gate_was_open();
}

#[test]
fn a_switchover_moves_the_gate_once() {
    let (_dir, objects) = on_disk();
    switch_over(objects);
}

#[test]
fn a_switchover_over_s3_moves_the_gate_once() {
    let (_server, objects) = on_s3();
    switch_over(objects);
}

#[test]
fn a_killed_agent_s_gate_is_over_before_another_one_opens() {
    let (_dir, objects) = on_disk();
    take_over_from_the_dead(objects);
}

#[test]
fn over_s3_a_killed_agent_s_gate_is_over_before_another_one_opens() {
    let (_server, objects) = on_s3();
    take_over_from_the_dead(objects);
}

#[test]
fn a_person_promotes_another_host_while_the_primary_lives_and_it_comes_back_as_a_standby() {
    let (_dir, objects) = on_disk();
    let mut cluster = Cluster::new(objects);
    cluster.wait_for_primary(0);
    cluster.agent(1).take_over(Cause::Person, person("maintenance"));
    cluster.wait_for_primary(1);
    assert_eq!(cluster.hosts[0].modes(), [Closed, Open, Closed]);
    assert_eq!(cluster.state().epoch, Epoch(2));
    // A host that starts again is no primary by its own memory.
    cluster.kill(0);
    cluster.start(0);
    cluster.wait_for_primary(1);
    assert_eq!(cluster.hosts[0].modes(), [Closed, Open, Closed]);
    // One that starts again while it is the primary goes on.
    cluster.kill(1);
    cluster.start(1);
    cluster.wait_for_primary(1);
    assert_eq!(cluster.state().epoch, Epoch(2));
    cluster.assert_one_gate_was_open();
}

/// While nobody reaches the repository, promises keep the gate open; without them its time ends.
#[test]
fn a_repository_that_is_away_fences_nobody_as_long_as_promises_are_answered() {
    let (_dir, objects) = on_disk();
    let cluster = Cluster::new(objects);
    cluster.wait_for_primary(0);
    cluster.is_out.store(true, Ordering::SeqCst);
    std::thread::sleep(TIMING.ttl * 3);
    assert!(cluster.hosts[0].is_open());
    assert_eq!(cluster.hosts[0].modes(), [Closed, Open]);
    assert!((1..3).all(|host| cluster.agent(host).view().phase == Phase::Standby));
    // What a person asks of a host that promised is not possible without the log either.
    cluster.agent(1).take_over(Cause::Watchers, Terms::default());
    let is_refused = |report: &Report| matches!(report, Report::Refused(_));
    wait_until("no refusal", || cluster.hosts[1].reports.lock().unwrap().iter().any(is_refused));
    cluster.cut(true);
    wait_until("the gate stays open without lease and promises", || !cluster.hosts[0].is_open());
    wait_until("the agent does not close", || cluster.hosts[0].modes() == [Closed, Open, Closed]);
    cluster.is_out.store(false, Ordering::SeqCst);
    cluster.cut(false);
    cluster.wait_for_primary(0);
    assert_eq!(cluster.state().epoch, Epoch(1));
    cluster.assert_one_gate_was_open();
}

/// Returns the last number of the lease of `a` that counts.
fn last_number(cluster: &Cluster) -> u64 {
    let host = &cluster.hosts[0];
    let members = cluster.state().authority.members;
    Lease::new(&host.store, &host.me).look(&members).unwrap().unwrap().number
}

/// Puts an object at the next number of the lease of `a`, whose holder may be faster. Returns the number.
fn put_next(cluster: &Cluster, bytes: impl Fn(u64) -> Vec<u8>) -> u64 {
    let host = &cluster.hosts[0];
    for _ in 0..100 {
        let next = last_number(cluster) + 1;
        let at = object_key::lease(&host.me, next);
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        let put = cluster.objects.put_opts(&at, bytes(next).into(), options);
        if crate::support::rig::runtime().block_on(put).is_ok() {
            return next;
        }
    }
    panic!("the holder is faster each time")
}

fn encoded(signed: &Signed) -> Vec<u8> {
    serde_json::to_vec(signed).unwrap()
}

fn broken_by(maker: &str, key: &SigningKey, number: u64) -> Vec<u8> {
    broken_for(&name(), maker, key, number)
}

fn broken_for(store: &StoreName, maker: &str, key: &SigningKey, number: u64) -> Vec<u8> {
    let note = LeaseNote::Broken { store: store.clone(), epoch: Epoch(1) };
    encoded(&note.sign(&WriterId("a".into()), number, &WriterId(maker.into()), key).unwrap())
}

#[test]
fn a_broken_lease_fences_its_holder_which_goes_on_if_the_log_still_names_it() {
    let (_dir, objects) = on_disk();
    let cluster = Cluster::new(objects);
    cluster.wait_for_primary(0);
    let key = cluster.hosts[1].key();
    put_next(&cluster, |number| broken_by("b", &key, number));
    wait_until("the holder is not fenced", || cluster.hosts[0].modes() == [Closed, Open, Closed, Open]);
    cluster.wait_for_primary(0);
    assert_eq!(cluster.state().epoch, Epoch(1));
    cluster.assert_one_gate_was_open();
}

#[test]
fn two_stores_of_a_host_share_its_lease_and_a_break_stops_only_its_store() {
    let (_dir, objects) = on_disk();
    let cluster = Cluster::new(objects);
    // Nobody promises anything: the lease alone keeps the gates open.
    cluster.cut(true);
    let name = StoreName::parse("second").unwrap();
    let (second, agent) = cluster.add_store(&name);
    let first = &cluster.hosts[0];
    cluster.wait_for_primary(0);
    wait_until("the second store is not served", || second.is_open());
    std::thread::sleep(TIMING.ttl * 2);
    assert_eq!((first.modes(), second.modes()), (vec![Closed, Open], vec![Closed, Open]));
    assert!(first.is_open() && second.is_open());
    let key = cluster.hosts[1].key();
    put_next(&cluster, |number| broken_for(&name, "b", &key, number));
    wait_until("it is not fenced", || second.modes() == [Closed, Open, Closed, Open]);
    std::thread::sleep(TIMING.ttl);
    assert_eq!((first.modes(), second.modes().len()), (vec![Closed, Open], 4));
    assert!(first.is_open() && second.is_open());
    // A store whose agent ends takes nothing from the other.
    drop(agent);
    wait_until("its gate is open for ever", || !second.is_open());
    std::thread::sleep(TIMING.ttl);
    assert!(first.is_open() && first.modes() == [Closed, Open]);
    assert_eq!(cluster.state().epoch, Epoch(1));
}

#[test]
fn a_person_s_promotion_that_loses_its_place_in_the_log_is_asked_for_again() {
    let (_dir, objects) = on_disk();
    let cluster = Cluster::new(objects);
    cluster.wait_for_primary(0);
    // A record that `b` has not read when it is asked.
    cluster.decide(2, Decision::Paused { person: "ops".into(), reason: "a test".into() });
    cluster.agent(1).take_over(Cause::Person, person("maintenance"));
    cluster.wait_for_primary(1);
    let is_refused = |report: &Report| matches!(report, Report::Refused(_));
    assert!(!cluster.hosts[1].reports.lock().unwrap().iter().any(is_refused));
    cluster.assert_one_gate_was_open();
}

#[test]
fn a_member_is_asked_over_http_and_its_agent_answers() {
    let (_dir, objects) = on_disk();
    let cluster = Cluster::new(objects);
    cluster.wait_for_primary(0);
    let (a, b) = (&cluster.hosts[0], &cluster.hosts[1]);
    let desk = AskedPort::start(name(), cluster.agent(1));
    let b_at = |address: String| Member { address: Some(address), ..b.member() };
    let runtime = crate::support::rig::runtime();
    let client = PeerClient::new(runtime.clone(), Env::system(), a.me.clone(), a.key()).unwrap();
    let promise = || Ask::Promise { epoch: Epoch(1) };
    let member = b_at(desk.address.clone());
    assert_eq!(client.ask(&name(), &member, promise()).unwrap(), Answer::Done);
    assert!(cluster.agent(1).view().promised_by_me.is_some());
    assert_eq!(client.ask(&name(), &member, Ask::Look).unwrap(), Answer::Done);
    let wrong = client.ask(&name(), &member, Ask::Promise { epoch: Epoch(9) }).unwrap();
    assert!(matches!(wrong, Answer::Refused { .. }));
    // `b` is no primary, so it hands nothing over.
    let over = Ask::HandOver { to: a.me.clone(), person: "ops".into() };
    let Answer::Refused { reasons } = client.ask(&name(), &member, over).unwrap() else { panic!() };
    assert_eq!(reasons, ["this host does not serve the store"]);
    // Another program's answer is none, and nor is one to somebody who is no member.
    let other = Member { key: cluster.hosts[2].key().public(), ..member.clone() };
    assert!(matches!(client.ask(&name(), &other, promise()), Err(PeerError::Forged { .. })));
    let stranger = PeerClient::new(runtime, Env::system(), a.me.clone(), cluster.hosts[2].key()).unwrap();
    let refused = stranger.ask(&name(), &member, promise()).unwrap_err().to_string();
    assert!(refused.contains("403") && refused.contains("no member"), "{refused}");
    let address = desk.address.clone();
    drop(desk);
    assert!(matches!(client.ask(&name(), &b_at(address), promise()), Err(PeerError::NoAnswer { .. })));
}

#[test]
fn a_number_that_no_member_signed_is_passed_over_and_reported() {
    let (_dir, objects) = on_disk();
    let cluster = Cluster::new(objects);
    cluster.wait_for_primary(0);
    // `c` is removed: its word counts for nothing.
    let removed = cluster.hosts[2].key();
    let members = cluster.hosts[..2].iter().map(Host::member).collect();
    cluster.agent(0).set_members(members);
    wait_until("it is not removed", || cluster.agent(0).view().log.serving.len() == 2);
    let other = cluster.hosts[1].key();
    let held = LeaseNote::Held { incarnation: Incarnation(99) };
    let a = cluster.hosts[0].me.clone();
    let forged: [&dyn Fn(u64) -> Vec<u8>; 5] = [
        &|_| b"{}".to_vec(),
        &|_| vec![b'x'; 1 << 20],
        &|number| broken_by("c", &removed, number),
        &|number| broken_by("b", &removed, number),
        &|number| encoded(&held.sign(&a, number, &a, &other).unwrap()),
    ];
    for forged in forged {
        let number = put_next(&cluster, forged);
        wait_until("the lease does not go on", || last_number(&cluster) > number);
        let told = format!("number {number} of this host's lease counts for nothing");
        let is_told = |report: &Report| matches!(report, Report::Failed { how, .. } if how.contains(&told));
        wait_until(&told, || cluster.hosts[0].reports.lock().unwrap().iter().any(is_told));
    }
    assert_eq!(cluster.hosts[0].modes(), [Closed, Open]);
    // Nor does one far away stop the line, or keep a dead host's lease alive.
    let far = object_key::lease(&cluster.hosts[0].me, u64::MAX);
    let put = cluster.objects.put(&far, b"x".to_vec().into());
    crate::support::rig::runtime().block_on(put).unwrap();
    cluster.kill(0);
    cluster.agent(1).take_over(Cause::Person, person("dead"));
    wait_until("nobody takes over", || cluster.hosts[1].is_open());
    let told = |text: &String| text.contains("18446744073709551615") && text.contains("counts for nothing");
    assert!(cluster.hosts[1].said.lock().unwrap().iter().any(told));
    cluster.assert_one_gate_was_open();
}

#[test]
fn a_statement_counts_only_if_its_host_signed_it_for_this_log() {
    let (_dir, objects) = on_disk();
    let cluster = Cluster::new(objects);
    cluster.wait_for_primary(0);
    let (a, b) = (&cluster.hosts[0], &cluster.hosts[1]);
    let state = cluster.state();
    let (head, hash) = state.head.unwrap();
    let log = b.store.log();
    let put = |at: Sequence, signed: &[u8]| {
        let key = object_key::statement(&name(), &a.me, at);
        let put = cluster.objects.put(&key, signed.to_vec().into());
        crate::support::rig::runtime().block_on(put).unwrap();
    };
    let closed = ClosedNote { record: hash };
    let signed = |record: ContentHash, host: &WriterId, at, key: &SigningKey| {
        encoded(&ClosedNote { record }.sign(&name(), host, at, key).unwrap())
    };
    let forged = [
        b"{}".to_vec(),
        signed(hash, &a.me, head, &b.key()),
        signed(hash, &b.me, head, &b.key()),
        signed(ContentHash::of(b"another log"), &a.me, head, &a.key()),
        signed(hash, &a.me, Sequence(head.0 - 1), &a.key()),
    ];
    for forged in forged {
        put(head, &forged);
        assert_eq!(log.stated(&state, &a.me).unwrap(), None);
    }
    let told = |text: &String| text.contains("this statement counts for nothing");
    assert!(b.said.lock().unwrap().iter().any(told));
    // One about a record that does not exist yet is none.
    put(Sequence(head.0 + 7), &signed(hash, &a.me, Sequence(head.0 + 7), &a.key()));
    assert_eq!(log.stated(&state, &a.me).unwrap(), None);
    let good = closed.sign(&name(), &a.me, head, &a.key()).unwrap();
    put(head, &encoded(&good));
    assert_eq!(log.stated(&state, &a.me).unwrap(), Some(head));
    // A removed member's counts no longer.
    let mut without = state.clone();
    without.authority.members.retain(|member| member.name != a.me);
    assert_eq!(log.stated(&without, &a.me).unwrap(), None);
}

#[test]
fn a_lease_keeps_its_last_numbers_and_a_delayed_break_of_a_deleted_one_is_not_won() {
    let (_dir, objects) = on_disk();
    let cluster = Cluster::new(objects);
    cluster.wait_for_primary(0);
    let host = &cluster.hosts[0];
    cluster.kill(0);
    let members = cluster.state().authority.members;
    let mut lease = Lease::new(&host.store, &host.me);
    let last = lease.look(&members).unwrap().unwrap().number;
    let held = LeaseNote::Held { incarnation: Incarnation(0) };
    let later = last + 1500;
    lease.create(later, &held.sign(&host.me, later, &host.me, &host.key()).unwrap()).unwrap();
    assert_eq!(lease.prune(later).unwrap() as u64, last);
    let note = LeaseNote::Broken { store: name(), epoch: Epoch(1) };
    let late = note.sign(&host.me, 1, &cluster.hosts[1].me, &cluster.hosts[1].key()).unwrap();
    lease.create(1, &late).unwrap();
    let found = Lease::new(&host.store, &host.me).look(&members).unwrap().cloned().unwrap();
    assert_eq!((found.number, found.note), (later, held));
}

#[test]
fn breaks_by_others_are_no_renewal_of_a_lease_also_where_they_are_many() {
    let (_dir, objects) = on_disk();
    let cluster = Cluster::new(objects);
    cluster.wait_for_primary(0);
    let [holder, other] = [&cluster.hosts[0], &cluster.hosts[1]];
    cluster.kill(0);
    let members = cluster.state().authority.members;
    let new = || Lease::new(&holder.store, &holder.me);
    let mut follower = new();
    let last = follower.look(&members).unwrap().unwrap().number;
    assert_eq!(follower.renewed(), last);
    let mut number = last;
    let mut broken = |count: u64| {
        for _ in 0..count {
            number += 1;
            let note = LeaseNote::Broken { store: StoreName::parse("another").unwrap(), epoch: Epoch(2) };
            let signed = note.sign(&holder.me, number, &other.me, &other.key()).unwrap();
            new().create(number, &signed).unwrap();
        }
        number
    };
    let third = broken(3);
    // Read one by one, and all at once.
    assert_eq!(follower.follow(&members).unwrap().unwrap().number, third);
    let mut looker = new();
    assert_eq!(looker.look(&members).unwrap().unwrap().number, third);
    assert_eq!((follower.renewed(), looker.renewed()), (last, last));
    // What was not read may be a renewal.
    let many = broken(20);
    assert_eq!(looker.look(&members).unwrap().unwrap().number, many);
    assert_eq!(looker.renewed(), many - 16);
    let held = LeaseNote::Held { incarnation: Incarnation(0) };
    let signed = held.sign(&holder.me, many + 1, &holder.me, &holder.key()).unwrap();
    looker.create(many + 1, &signed).unwrap();
    for lease in [&mut follower, &mut looker] {
        assert_eq!(lease.look(&members).unwrap().unwrap().number, many + 1);
        assert_eq!(lease.renewed(), many + 1);
    }
}
