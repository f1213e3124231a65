//! Route 53: a real emulator of its API, which makes a change as a whole or not at all.

use crate::support::aws_proxy::{ApiFault, ApiProxy};
use crate::support::cloudfront::Emulator;
use crate::support::edges::{Rig, switch};
use crate::support::origin::Origin;
use crate::support::wait::wait_until;
use tempfile::TempDir;
use understudy::edge::error::EdgeError;
use understudy::edge::switch::{Cause, Switch, Verdict};
use understudy::support::failure::{Failure, FailureKind};

const SECRET: &str = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY";

/// A hosted zone, and a proxy before its API.
struct World {
    emulator: Emulator,
    zone: String,
    api: ApiProxy,
    dir: TempDir,
}

impl World {
    fn start() -> Self {
        let emulator = Emulator::start(1);
        let zone = emulator.make_zone("shop.example");
        let (api, dir) = (ApiProxy::start(&emulator), tempfile::tempdir().unwrap());
        let keys = format!("[edge]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = {SECRET}\n");
        std::fs::write(dir.path().join("credentials"), keys).unwrap();
        Self { emulator, zone, api, dir }
    }

    fn rig_at(&self, api: u16, customer_url: &str) -> Rig {
        let edge = format!(
            "[[store.edge]]\nkind = 'route53'\nhosted_zone = '{}'\nrecord = 'origin.shop.example'\n\
             endpoint = 'http://127.0.0.1:{api}'\nprofile = 'edge'\ncredentials_file = '{}'\ntimeout_seconds = 20\n",
            self.zone,
            self.dir.path().join("credentials").display()
        );
        Rig::new(customer_url, &edge)
    }

    fn rig(&self) -> Rig {
        self.rig_at(self.api.port, "http://127.0.0.1:1/")
    }

    fn records(&self) -> Vec<String> {
        self.emulator.records(&self.zone)
    }
}

fn to_a(epoch: u64) -> Switch {
    switch(epoch, "web-1", "10.0.0.1:80", Cause::Forced)
}

fn to_b(epoch: u64) -> Switch {
    switch(epoch, "web-2", "10.0.0.2:80", Cause::Forced)
}

fn held(address: &str, mark: &str) -> Vec<String> {
    vec![
        format!("origin.shop.example. A 30 {address}"),
        format!("_understudy.origin.shop.example. TXT 30 \"{mark}\""),
    ]
}

#[test]
fn a_switch_sets_the_record_and_the_mark_and_is_done_when_customers_see_it() {
    let (world, origin) = (World::start(), Origin::start("b"));
    let rig = world.rig_at(world.api.port, &format!("http://{}/", origin.address()));
    rig.edge().test().unwrap();
    assert_eq!((world.records(), rig.epoch()), (Vec::new(), None), "a check changes nothing");
    origin.set_head("X-Understudy-Epoch: 6\r\n");
    assert_eq!(rig.switch(&to_a(6)).unwrap(), Verdict::Change);
    assert_eq!(world.records(), held("10.0.0.1", "6/web-1/10.0.0.1:80"));
    origin.set_head("X-Understudy-Epoch: 7\r\n");
    assert_eq!(rig.switch(&to_b(7)).unwrap(), Verdict::Change);
    assert_eq!(world.records(), held("10.0.0.2", "7/web-2/10.0.0.2:80"));
    let posts = world.api.asked("POST");
    assert_eq!((rig.switch(&to_b(7)).unwrap(), rig.epoch()), (Verdict::Done, Some(7)));
    assert_eq!(world.api.asked("POST"), posts);
    wait_until("the change is looked after", || world.api.asked("GET /2013-04-01/change/C") >= 2);
    // A name, and what somebody changed by hand.
    let to_name = switch(8, "web-3", "web-3.example:80", Cause::Handover);
    rig.switch_edge(&to_name).unwrap();
    assert_eq!(world.records()[0], "origin.shop.example. CNAME 30 web-3.example");
    world.emulator.set_record(
        &world.zone,
        "<Name>origin.shop.example</Name><Type>CNAME</Type><TTL>30</TTL><ResourceRecords><ResourceRecord>\
         <Value>elsewhere.example</Value></ResourceRecord></ResourceRecords>",
    );
    let wrong = rig.edge().test().unwrap_err();
    assert!(wrong.to_string().contains("the record says something else"), "{wrong}");
    assert_eq!(rig.switch_edge(&to_name).unwrap(), Verdict::Change);
    assert_eq!(world.records()[0], "origin.shop.example. CNAME 30 web-3.example");
    rig.edge().test().unwrap();
}

#[test]
fn a_record_is_not_changed_by_an_older_epoch_whatever_it_has_read() {
    let world = World::start();
    let rig = world.rig();
    rig.switch_edge(&to_b(7)).unwrap();
    for older in [to_a(6), to_a(7), to_b(6)] {
        let error = rig.switch(&older).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Fenced, "{error}");
    }
    assert_eq!(world.records(), held("10.0.0.2", "7/web-2/10.0.0.2:80"));
    // It has read that it may; before it writes, a newer one has.
    let mut newer = Some(world.rig_at(world.emulator.port, "http://127.0.0.1:1/"));
    world.api.set(move |line| {
        if line.starts_with("POST ")
            && let Some(newer) = newer.take()
        {
            newer.switch_edge(&to_b(9)).unwrap();
        }
        None
    });
    let error = rig.switch_edge(&to_a(8)).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Fenced, "{error}");
    assert_eq!(world.records(), held("10.0.0.2", "9/web-2/10.0.0.2:80"));
}

#[test]
fn an_api_of_route_53_that_refuses_loses_or_is_busy_is_told_apart() {
    let world = World::start();
    let rig = world.rig();
    rig.switch_edge(&to_a(6)).unwrap();
    world.api.set(|line| line.starts_with("POST").then_some(ApiFault::ReplyLost));
    let error = rig.switch_edge(&to_b(7)).unwrap_err();
    assert!(matches!(error, EdgeError::Silent { .. }), "{error}");
    assert!(!error.to_string().contains(SECRET));
    world.api.set(|_| None);
    assert_eq!(rig.switch_edge(&to_b(7)).unwrap(), Verdict::Done, "what was lost is found done");
    let mut left = 3;
    world.api.set(move |_| {
        left -= i32::from(left > 0);
        (left > 0).then_some(ApiFault::Refuses(400, "PriorRequestNotComplete"))
    });
    assert_eq!(rig.switch_edge(&to_a(8)).unwrap(), Verdict::Change);
    world.api.set(|line| line.starts_with("POST").then_some(ApiFault::Refuses(400, "InvalidChangeBatch")));
    let posts = world.api.asked("POST");
    let error = rig.switch_edge(&to_b(9)).unwrap_err();
    assert!(error.to_string().contains("400 InvalidChangeBatch"), "{error}");
    assert_eq!(world.api.asked("POST") - posts, 6);
    world.api.set(|line| line.starts_with("POST").then_some(ApiFault::Refuses(403, "AccessDenied")));
    let error = rig.edge().test().unwrap_err();
    assert!(error.to_string().contains("trying to change the zone: AWS refuses it with 403"), "{error}");
    // The mark's record is somebody else's.
    world.api.set(|_| None);
    world.emulator.set_record(
        &world.zone,
        "<Name>_understudy.origin.shop.example</Name><Type>TXT</Type><TTL>30</TTL><ResourceRecords>\
         <ResourceRecord><Value>\"hello\"</Value></ResourceRecord></ResourceRecords>",
    );
    let error = rig.switch_edge(&to_b(9)).unwrap_err();
    assert!(error.to_string().contains("a text that understudy did not write"), "{error}");
    assert_eq!(world.records()[0], "origin.shop.example. A 30 10.0.0.1");
}
