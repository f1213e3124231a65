//! CloudFront: a real emulator of its API that compares ETags, a point of presence that runs the published
//! function, and an API that misbehaves.

use crate::support::aws_proxy::{ApiFault, ApiProxy};
use crate::support::cloudfront::{Emulator, Pop, between};
use crate::support::command::{said, understudy};
use crate::support::customers::ask;
use crate::support::edges::{Rig, switch};
use crate::support::origin::Origin;
use crate::support::wait::wait_until;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use understudy::edge::error::EdgeError;
use understudy::edge::switch::{Cause, Finding, Setup, Switch, Verdict};
use understudy::support::failure::{Failure, FailureKind};

/// A time that suffices for any machine.
const SOON: Duration = Duration::from_secs(60);
/// A key that must be in no message.
const SECRET: &str = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY";

const APPLY: Setup = Setup { apply: true, key_value_store: None };

/// Two hosts, CloudFront before them, and a proxy before its API.
struct World {
    a: Origin,
    b: Origin,
    emulator: Emulator,
    api: ApiProxy,
    pop: Pop,
    with_store: bool,
    dir: TempDir,
}

impl World {
    fn start(with_store: bool) -> Self {
        let a = Origin::start("a");
        let b = Origin::start_at(([127, 0, 0, 2], a.port).into(), "b");
        let emulator = Emulator::start(a.port);
        let (api, pop) = (ApiProxy::start(&emulator), Pop::start(&emulator, with_store));
        let dir = tempfile::tempdir().unwrap();
        let keys = format!("[default]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = {SECRET}\n");
        std::fs::write(dir.path().join("credentials"), keys).unwrap();
        Self { a, b, emulator, api, pop, with_store, dir }
    }

    /// Starts one that is set up and was switched to `web-1` in epoch 6.
    fn serving(with_store: bool) -> (Self, Rig) {
        let world = Self::start(with_store);
        let rig = world.rig();
        rig.edge().setup(&APPLY).unwrap();
        assert_eq!(rig.epoch(), None);
        rig.switch_edge(&world.to_a(6)).unwrap();
        world.settled("web-1", 6);
        (world, rig)
    }

    fn credentials(&self) -> PathBuf {
        self.dir.path().join("credentials")
    }

    fn edge(&self) -> String {
        let edge = self.emulator.edge(self.api.port, self.a.port, self.with_store);
        format!("{edge}credentials_file = '{}'\n", self.credentials().display())
    }

    fn rig(&self) -> Rig {
        self.rig_with(|edge| edge)
    }

    fn rig_with(&self, change: impl FnOnce(String) -> String) -> Rig {
        Rig::new(&format!("http://127.0.0.1:{}/", self.pop.port), &change(self.edge()))
    }

    /// The address of a switch is the host's gate; what customers use is the origin's.
    fn to_a(&self, epoch: u64) -> Switch {
        switch(epoch, "web-1", "10.0.0.1:8080", Cause::Forced)
    }

    fn to_b(&self, epoch: u64) -> Switch {
        switch(epoch, "web-2", "10.0.0.2:8080", Cause::Forced)
    }

    /// Has a host's answers show an epoch, as its gate does.
    fn shows(&self, origin: &Origin, epoch: u64) {
        origin.set_head(&format!("X-Understudy-Epoch: {epoch}\r\n"));
    }

    /// Waits until the distribution has this target and this epoch.
    fn settled(&self, target: &str, epoch: u64) {
        wait_until("the distribution follows", || {
            let (config, _) = self.emulator.config();
            targets(&config)[0] == target && epoch_of(&config, target) == Some(epoch.to_string())
        });
    }

    fn customers_see(&self) -> Option<String> {
        ask(self.pop.port, "/").ok().map(|seen| seen.body)
    }
}

/// Returns the targets of the behaviours, in order.
fn targets(config: &str) -> Vec<String> {
    let all = config.split("TargetOriginId>").skip(1).step_by(2);
    all.map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
}

/// Returns the value of the epoch header of an origin.
fn epoch_of(config: &str, origin: &str) -> Option<String> {
    let (_, rest) = config.split_once(&format!("Id>{origin}<"))?;
    let rest = rest.split("Origin>").next().unwrap();
    let (_, rest) = rest.split_once("X-Understudy-Epoch<")?;
    Some(between(rest, "HeaderValue>", "<").to_owned())
}

fn findings(rig: &Rig) -> (Vec<String>, Vec<String>) {
    let (wrong, good): (Vec<_>, Vec<_>) = rig.edge().check().into_iter().partition(|found| found.is_wrong);
    let words = |list: Vec<Finding>| list.into_iter().map(|f| f.what).collect();
    (words(wrong), words(good))
}

// Switches.

#[test]
fn customers_of_a_key_value_store_follow_the_key_and_the_distribution_follows_later() {
    let (world, rig) = World::serving(true);
    wait_until("customers at the first host", || world.customers_see().as_deref() == Some("a"));
    world.shows(&world.b, 7);
    // The distribution cannot be changed now: it is not what a switch waits for.
    world
        .api
        .set(|line| line.contains("/distribution/").then_some(ApiFault::Refuses(503, "ServiceUnavailable")));
    let begun = Instant::now();
    assert_eq!(rig.switch(&world.to_b(7)).unwrap(), Verdict::Change);
    println!("switched and confirmed in {:?}", begun.elapsed());
    assert_eq!((world.customers_see().as_deref(), rig.epoch()), (Some("b"), Some(7)));
    let key: serde_json::Value = serde_json::from_str(&world.emulator.key("acme").unwrap()).unwrap();
    let wanted = serde_json::json!({"e": 7, "h": "web-2", "o": "127.0.0.2", "p": world.a.port});
    assert_eq!(key, wanted);
    assert_eq!(targets(&world.emulator.config().0), ["web-1", "media", "web-1"]);
    world.api.set(|_| None);
    world.settled("web-2", 7);
    let (config, _) = world.emulator.config();
    assert_eq!(targets(&config), ["web-2", "media", "web-2"]);
    assert_eq!(epoch_of(&config, "web-1").as_deref(), Some("6"), "the host that was left keeps its epoch");
    assert_eq!(rig.switch(&world.to_b(7)).unwrap(), Verdict::Done);
    // Each request tells the host the epoch, and no secret is in what was sent.
    let heads = world.b.heads().join("\n").to_ascii_lowercase();
    assert!(heads.contains("x-understudy-epoch: 7") && heads.contains("x-secret: a&b"), "{heads}");
    assert!(world.api.heads().iter().all(|head| !head.contains(SECRET)));
}

#[test]
fn customers_of_a_distribution_alone_follow_its_update() {
    let (world, rig) = World::serving(false);
    wait_until("customers at the first host", || world.customers_see().as_deref() == Some("a"));
    world.shows(&world.b, 7);
    assert_eq!(rig.switch(&world.to_b(7)).unwrap(), Verdict::Change);
    assert_eq!((world.customers_see().as_deref(), rig.epoch()), (Some("b"), Some(7)));
    assert!(world.b.heads().iter().any(|head| head.to_ascii_lowercase().contains("x-understudy-epoch: 7")));
    assert_eq!(world.emulator.key("acme"), None);
}

#[test]
fn a_switch_changes_the_targets_and_one_header_and_no_other_byte() {
    let (world, rig) = World::serving(false);
    let (before, _) = world.emulator.config();
    assert!(before.contains("  kept  ") && before.contains("shop &lt;acme&gt;"), "{before}");
    rig.switch_edge(&world.to_b(7)).unwrap();
    let (after, _) = world.emulator.config();
    assert_eq!(targets(&after), ["web-2", "media", "web-2"]);
    // Put back by hand, it is the same text.
    let (head, tail) = after.split_once("Id>web-2<").unwrap();
    let tail = tail.replacen("HeaderValue>7<", "HeaderValue>0<", 1);
    let back = format!("{head}Id>web-2<{tail}").replace("TargetOriginId>web-2<", "TargetOriginId>web-1<");
    assert_eq!(back, before);
}

// Fences.

#[test]
fn a_stale_host_cannot_flip_back_what_a_newer_one_has_switched() {
    for with_store in [true, false] {
        let (world, rig) = World::serving(with_store);
        rig.switch_edge(&world.to_b(7)).unwrap();
        world.settled("web-2", 7);
        let held = || (world.emulator.config(), world.emulator.key("acme"));
        let before = held();
        for older in [world.to_a(6), world.to_a(7), world.to_b(6), world.to_a(1)] {
            let error = rig.switch(&older).unwrap_err();
            assert_eq!(error.kind(), FailureKind::Fenced, "{error}");
            assert!(error.to_string().contains("7/web-2/127.0.0.2:"), "{error}");
        }
        assert_eq!(held(), before);
        assert_eq!(rig.switch_edge(&world.to_b(7)).unwrap(), Verdict::Done);
    }
}

/// The older host has read that it may switch; before it writes, the newer one has.
#[test]
fn of_two_hosts_that_switch_at_once_the_older_one_is_fenced_whatever_it_has_read() {
    for with_store in [true, false] {
        let (world, older) = World::serving(with_store);
        let newer = Rig::new(
            &format!("http://127.0.0.1:{}/", world.pop.port),
            &world.edge().replace(&format!(":{}'", world.api.port), &format!(":{}'", world.emulator.port)),
        );
        let to_b = world.to_b(8);
        let mut newer = Some(newer);
        world.api.set(move |line| {
            if line.starts_with("PUT ")
                && let Some(newer) = newer.take()
            {
                newer.switch_edge(&to_b).unwrap();
            }
            None
        });
        let error = older.switch_edge(&world.to_a(7)).unwrap_err();
        assert_eq!(error.kind(), FailureKind::Fenced, "{error}");
        assert_eq!(older.epoch(), Some(8));
        world.settled("web-2", 8);
        assert_eq!(epoch_of(&world.emulator.config().0, "web-1").as_deref(), Some("6"));
    }
}

#[test]
fn stores_that_share_a_key_value_store_all_switch_at_once() {
    let (world, _) = World::serving(true);
    std::thread::scope(|scope| {
        for store in 0..12 {
            let world = &world;
            scope.spawn(move || {
                let rig = world.rig_with(|edge| format!("{edge}key = 'store-{store}'\n"));
                assert_eq!(rig.switch_edge(&world.to_b(7)).unwrap(), Verdict::Change);
            });
        }
    });
    for store in 0..12 {
        assert!(world.emulator.key(&format!("store-{store}")).unwrap().contains("\"e\":7"));
    }
    let refused = world.api.asked("PUT /key") > 13;
    println!("some were refused and written again: {refused}");
}

// Faults.

/// Returns a rule that lets the first requests of a kind fail.
fn first(
    count: usize,
    beginning: &'static str,
    fault: ApiFault,
) -> impl FnMut(&str) -> Option<ApiFault> + Send {
    let mut left = count;
    move |line| {
        let strikes = line.starts_with(beginning) && left > 0;
        left -= usize::from(strikes);
        strikes.then_some(fault)
    }
}

#[test]
fn a_change_between_is_read_again_and_a_storm_of_them_ends_in_an_error() {
    let (world, rig) = World::serving(false);
    world.api.set(first(4, "PUT", ApiFault::Refuses(412, "PreconditionFailed")));
    let before = world.api.asked("GET");
    assert_eq!(rig.switch_edge(&world.to_b(7)).unwrap(), Verdict::Change);
    assert!(world.api.asked("GET") - before >= 5, "each try reads again");
    world.api.set(first(usize::MAX, "PUT", ApiFault::Refuses(412, "PreconditionFailed")));
    let puts = world.api.asked("PUT");
    let error = rig.switch_edge(&world.to_a(8)).unwrap_err();
    assert!(error.to_string().contains("updating the distribution: AWS refuses it with 412"), "{error}");
    assert_eq!((world.api.asked("PUT") - puts, error.kind()), (6, FailureKind::Failed));
    // Other stores' keys change as well.
    let (world, rig) = World::serving(true);
    world.api.set(first(8, "PUT /key", ApiFault::Refuses(409, "ConflictException")));
    assert_eq!(rig.switch_edge(&world.to_b(7)).unwrap(), Verdict::Change);
}

#[test]
fn a_throttled_call_is_made_again_within_the_time() {
    for with_store in [true, false] {
        let (world, rig) = World::serving(with_store);
        let busy = [
            (429, "TooManyRequestsException"),
            (503, "ServiceUnavailable"),
            (500, "InternalServerException"),
            (400, "Throttling"),
        ];
        for (epoch, (status, code)) in (7..).zip(busy) {
            world.api.set(first(3, "", ApiFault::Refuses(status, code)));
            let to = if epoch % 2 == 0 { world.to_a(epoch) } else { world.to_b(epoch) };
            assert_eq!(rig.switch_edge(&to).unwrap(), Verdict::Change, "{code}");
            assert_eq!(rig.epoch(), Some(epoch));
        }
    }
    let (world, _) = World::serving(false);
    let rig = world.rig_with(|edge| edge.replace("timeout_seconds = 20", "timeout_seconds = 2"));
    world.api.set(|_| Some(ApiFault::Refuses(429, "TooManyRequests")));
    let begun = Instant::now();
    let error = rig.switch_edge(&world.to_b(7)).unwrap_err();
    assert!(error.to_string().contains("429") && begun.elapsed() < SOON, "{error}");
}

#[test]
fn an_api_that_is_away_hangs_or_sends_too_much_or_too_little_changes_nothing() {
    for with_store in [true, false] {
        let (world, _) = World::serving(with_store);
        let rig = world.rig_with(|edge| edge.replace("timeout_seconds = 20", "timeout_seconds = 3"));
        let before = (world.emulator.config(), world.emulator.key("acme"));
        for (fault, kind, words) in [
            (ApiFault::Closes, FailureKind::Unavailable, "reading"),
            (ApiFault::Hangs, FailureKind::Unavailable, "no answer within"),
            (ApiFault::Huge, FailureKind::Failed, "longer than 4 MiB"),
            (ApiFault::Half, FailureKind::Failed, "reading"),
            (ApiFault::Refuses(403, "AccessDenied"), FailureKind::Failed, "403 AccessDenied"),
        ] {
            world.api.set(move |_| Some(fault));
            let begun = Instant::now();
            let error = rig.switch_edge(&world.to_b(7)).unwrap_err();
            assert_eq!(error.kind(), kind, "{fault:?}: {error}");
            assert!(error.to_string().contains(words) && begun.elapsed() < SOON, "{fault:?}: {error}");
            assert!(
                !error.to_string().contains(SECRET) && !format!("{error:?}").contains(SECRET),
                "{error:?}"
            );
        }
        assert_eq!((world.emulator.config(), world.emulator.key("acme")), before);
        world.api.set(|_| None);
        assert_eq!(rig.switch_edge(&world.to_b(7)).unwrap(), Verdict::Change);
    }
}

#[test]
fn a_write_whose_answer_was_lost_is_found_done() {
    for with_store in [true, false] {
        let (world, rig) = World::serving(with_store);
        world.api.set(first(1, "PUT", ApiFault::ReplyLost));
        let first = rig.switch_edge(&world.to_b(7));
        assert!(matches!(first, Err(EdgeError::Silent { .. })), "{first:?}");
        assert_eq!((rig.epoch(), rig.switch_edge(&world.to_b(7)).unwrap()), (Some(7), Verdict::Done));
    }
}

#[test]
fn a_switch_that_was_accepted_and_has_not_reached_the_customers_is_not_done() {
    for with_store in [true, false] {
        let (world, rig) = World::serving(with_store);
        wait_until("customers at the first host", || world.customers_see().as_deref() == Some("a"));
        world.shows(&world.a, 6);
        world.shows(&world.b, 7);
        world.pop.freeze(true);
        let error = rig.edges.switch(&world.to_b(7), Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("it shows epoch 6, not epoch 7"), "{error}");
        assert_eq!(rig.epoch(), Some(7), "it was accepted");
        world.pop.freeze(false);
        assert_eq!(rig.switch(&world.to_b(7)).unwrap(), Verdict::Done);
    }
}

#[test]
fn a_key_that_somebody_else_wrote_is_not_written_over() {
    let (world, rig) = World::serving(true);
    world.emulator.put_key("acme", "b.example");
    let error = rig.switch_edge(&world.to_b(7)).unwrap_err();
    assert!(error.to_string().contains("a value that understudy did not write"), "{error}");
    assert_eq!(world.emulator.key("acme").as_deref(), Some("b.example"));
}

// Setup and check.

#[test]
fn a_setup_tells_first_then_makes_and_then_finds_nothing_to_do() {
    let world = World::start(true);
    let rig = world.rig();
    let (config, _) = world.emulator.config();
    let told = rig.edge().setup(&Setup::default()).unwrap().join("\n");
    for words in [
        "function 'understudy-acme' is missing",
        "cf.updateRequestOrigin({",
        "kvs().get('acme', { format: 'json' })",
        "origin 'web-2' (127.0.0.2) is missing: it is made like 'web-1'",
        "origin 'web-1' has no custom header X-Understudy-Epoch",
        "status 502",
        "status 504",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!told.contains("a&b"), "a secret of the origins is not shown: {told}");
    assert_eq!(world.emulator.config().0, config, "nothing was changed");
    let (wrong, _) = findings(&rig);
    assert!(wrong.len() >= 5 && rig.edge().test().is_err(), "{wrong:?}");
    // Another change comes between.
    world.api.set(first(2, "PUT /2020-05-31/distribution", ApiFault::Refuses(412, "PreconditionFailed")));
    rig.edge().setup(&APPLY).unwrap();
    let (made, _) = world.emulator.config();
    assert_eq!(epoch_of(&made, "web-2").as_deref(), Some("0"));
    assert_eq!(made.matches("X-Secret").count(), 3, "the new origin has what the other one has: {made}");
    assert_eq!(made.matches("viewer-request").count(), 2, "not where other origins are: {made}");
    assert_eq!((findings(&rig).0, rig.edge().setup(&APPLY).unwrap()), (Vec::new(), Vec::new()));
    assert_eq!(world.emulator.config().0, made);
    rig.edge().test().unwrap();
}

#[test]
fn a_check_says_all_that_is_wrong_at_once_and_changes_nothing() {
    let (world, rig) = World::serving(true);
    let (wrong, good) = findings(&rig);
    assert_eq!(wrong, Vec::<String>::new());
    for words in [
        "key 'acme' holds 6/web-1/127.0.0.1:",
        "is published",
        "the distribution holds 6/web-1",
        "is deployed",
    ] {
        assert!(good.iter().any(|found| found.contains(words)), "{words}: {good:?}");
    }
    world.emulator.change(|config| {
        let config = config
            .replacen("Id>web-2<", "Id>web-3<", 1)
            .replace("ErrorCachingMinTTL>0", "ErrorCachingMinTTL>10");
        config.replacen("HeaderValue>6<", "HeaderValue>six<", 1)
    });
    let before = (world.emulator.config(), world.emulator.key("acme"));
    world
        .api
        .set(|line| line.starts_with("PUT /key").then_some(ApiFault::Refuses(403, "AccessDeniedException")));
    let (wrong, _) = findings(&rig);
    for words in [
        "trying to write the key: AWS refuses it with 403 AccessDeniedException",
        "origin 'web-2' (127.0.0.2) is missing",
        "X-Understudy-Epoch of origin 'web-1' is no number",
        "an answer with status 503",
    ] {
        assert!(wrong.iter().any(|found| found.contains(words)), "{words}: {wrong:?}");
    }
    assert_eq!((world.emulator.config(), world.emulator.key("acme")), before);
    // Without any credentials all calls are named, and it does not take minutes.
    std::fs::write(world.credentials(), "[other]\n").unwrap();
    let (wrong, _) = findings(&world.rig());
    assert!(wrong.iter().all(|found| found.contains("no keys of profile 'default'")), "{wrong:?}");
}

#[test]
fn a_setup_makes_a_key_value_store_once_and_tells_how_it_is_configured() {
    let world = World::start(false);
    let rig = world.rig();
    let named = |apply| Setup { apply, key_value_store: Some("shops".into()) };
    let told = rig.edge().setup(&named(false)).unwrap().join("\n");
    assert!(told.contains("key value store 'shops' is missing"), "{told}");
    for _ in 0..2 {
        let told = rig.edge().setup(&named(true)).unwrap().join("\n");
        let line = "key_value_store = \"arn:aws:cloudfront::000000000000:key-value-store/shops\"";
        assert!(told.contains(line), "{told}");
    }
    let wrong = Setup { apply: true, key_value_store: Some("../x".into()) };
    assert_eq!(rig.edge().setup(&wrong).unwrap_err().kind(), FailureKind::Usage);
    // Without it the check says what to expect.
    let (_, good) = findings(&rig);
    assert!(good.iter().any(|found| found.contains("which takes minutes")), "{good:?}");
}

#[test]
fn credentials_are_found_where_users_of_aws_have_them() {
    let world = World::start(false);
    world.rig().edge().setup(&APPLY).unwrap();
    let dir = world.dir.path();
    let edge = world.emulator.edge(world.api.port, world.a.port, false);
    let text =
        format!("[[store]]\nname = 'acme'\npath = '/srv/acme'\ncustomer_url = 'http://127.0.0.1/'\n{edge}");
    std::fs::write(dir.join("understudy.toml"), text).unwrap();
    let keys =
        |name: &str| format!("[{name}]\naws_access_key_id = KEY{name}\naws_secret_access_key = {SECRET}\n");
    std::fs::create_dir(dir.join(".aws")).unwrap();
    std::fs::write(dir.join(".aws/credentials"), keys("default") + &keys("ops")).unwrap();
    let check = |variables: &[(&str, &str)]| {
        let mut command = understudy(dir);
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"] {
            command.env_remove(name);
        }
        command.env("HOME", dir).env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
        command.envs(variables.iter().copied()).args(["edge", "check", "acme", "--json"]);
        let before = world.api.heads().len();
        let output = command.output().unwrap();
        let used = world.api.heads().split_off(before).join("\n");
        assert!(!said(&output).contains(SECRET) && !used.contains(SECRET), "{}", said(&output));
        (output.status.code(), said(&output), used)
    };
    let environment =
        [("AWS_ACCESS_KEY_ID", "KEYenv"), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_SESSION_TOKEN", "tok")];
    let (code, told, used) = check(&environment);
    assert_eq!(code, Some(0), "{told}");
    assert!(
        used.contains("AWS4-HMAC-SHA256 Credential=KEYenv/") && used.contains("x-amz-security-token: tok"),
        "{used}"
    );
    let (code, _, used) = check(&[]);
    assert_eq!((code, used.contains("Credential=KEYdefault/")), (Some(0), true));
    let (code, _, used) = check(&[("AWS_PROFILE", "ops")]);
    assert_eq!((code, used.contains("Credential=KEYops/")), (Some(0), true));
    let (code, told, used) = check(&[("AWS_PROFILE", "none")]);
    assert_eq!((code, &*used), (Some(1), ""));
    assert!(told.contains("no keys of profile 'none'"), "{told}");
    std::fs::remove_file(dir.join(".aws/credentials")).unwrap();
    // What a machine of AWS's is given: a key for an hour, with a token.
    let machine = format!("http://127.0.0.1:{}", world.emulator.port);
    let (code, told, used) = check(&[("AWS_METADATA_ENDPOINT", &machine)]);
    assert_eq!(code, Some(0), "{told}");
    assert!(used.contains("Credential=ASIA") && used.contains("x-amz-security-token: "), "{used}");
    let (code, told, used) = check(&[]);
    assert_eq!((code, &*used), (Some(1), ""));
    assert!(told.contains("no credentials for AWS") || told.contains("no answer within"), "{told}");
}
