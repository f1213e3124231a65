//! The members of a store, and what is worth nothing without a member's key. With the real binary; what an
//! attacker appends is made here, by the page on the format.

use crate::support::command::{fails, ok, said};
use crate::support::host::Host;
use crate::support::members::{decide, invite, join, member};
use crate::support::rig::{self, Rig, disk_patience, name};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use object_store::ObjectStore;
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use understudy::format::checkpoint;
use understudy::format::seal::Sealing;
use understudy::maintain::prune::{Grace, PruneRequest, prune};
use understudy::model::decision::{Cause, Decided, Decision, Loss, Promoted, Stranded};
use understudy::model::id::{Epoch, Sequence, WriterId};
use understudy::model::record::{Event, StoreState};
use understudy::model::retention::Retention;
use understudy::repository::append::Appended;
use understudy::repository::key_source::KeySource;
use understudy::repository::store::{Repository, RepositoryOptions, Store};
use understudy::support::signature::{Signature, SigningKey};

/// Returns a host with this name and the store `acme` in a repository.
fn host(repository: &Path, writer: &str, store: &str) -> Host {
    let host = Host::new(1);
    let text = format!(
        "repository = '{}'\nwriter = '{writer}'\n[[store]]\nname = 'acme'\n{store}\n[store.member]\naddress = '{writer}.example:9184'\nzone = 'zone-{writer}'\n",
        repository.display(),
    );
    std::fs::write(host.path("understudy.toml"), text).unwrap();
    host
}

const PRIMARY: &str = "path = 's0'";
const STANDBY: &str = "role = 'standby'";

/// Returns the hosts `web-1`, which resynced the store once, and `web-2`.
fn hosts(dir: &Path) -> (PathBuf, Host, Host) {
    let repository = dir.join("repository");
    std::fs::create_dir(&repository).unwrap();
    let one = host(&repository, "web-1", PRIMARY);
    ok(&mut one.command(&["resync", "acme", "--quiet"]));
    let two = host(&repository, "web-2", STANDBY);
    (repository, one, two)
}

fn json(host: &Host, args: &[&str]) -> serde_json::Value {
    let output = ok(host.command(args).arg("--json"));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the number of objects below a folder of the store.
fn objects(repository: &Path, folder: &str) -> usize {
    std::fs::read_dir(repository.join("acme").join(folder)).map_or(0, Iterator::count)
}

#[test]
fn a_host_joins_by_a_token_that_serves_once_and_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, one, two) = hosts(dir.path());
    let listed = said(&ok(&mut one.command(&["member", "list", "acme"])));
    assert!(listed.contains("has no members"), "{listed}");
    fails(&mut one.command(&["member", "invite", "acme"]), 2, "understudy member found acme");
    fails(&mut two.command(&["member", "found", "acme"]), 2, "run this on its primary");
    ok(&mut one.command(&["member", "found", "acme"]));
    fails(&mut one.command(&["member", "found", "acme"]), 2, "has members already");
    let token = join(&one, &two, &[]);
    assert_eq!(objects(&repository, "joins"), 0, "the answer is gone");
    // It serves nobody else, and leaves nothing.
    let three = host(&repository, "web-3", STANDBY);
    fails(&mut three.command(&["member", "join", &token, "--for", "2s"]), 1, "ask for another");
    assert_eq!(objects(&repository, "joins"), 0);
    // Its own host has joined.
    ok(&mut two.command(&["member", "join", &token]));
    let listed = json(&three, &["member", "list", "acme"]);
    let row = |at: usize| {
        let row = &listed[at];
        let texts = ["name", "address", "zone"].map(|field| row[field].as_str().unwrap().to_owned());
        (texts, row["may"].clone(), row["primary"].as_bool().unwrap())
    };
    let texts = |host: &str| [host.to_owned(), format!("{host}.example:9184"), format!("zone-{host}")];
    let both = serde_json::json!(["serve", "watch"]);
    assert_eq!(row(0), (texts("web-1"), both.clone(), true));
    assert_eq!(row(1), (texts("web-2"), both, false));
    let table = said(&ok(&mut two.command(&["member", "list", "acme"])));
    assert!(table.contains("this host") && table.contains(listed[1]["fingerprint"].as_str().unwrap()));
    fails(
        &mut two.command(&["member", "invite", "acme"]),
        2,
        "only its primary, 'web-1', changes the members",
    );
    // The primary goes on, and is not removed; another member is.
    ok(&mut one.command(&["resync", "acme", "--quiet"]));
    fails(&mut two.command(&["member", "remove", "acme", "web-1"]), 2, "promote another member first");
    fails(&mut one.command(&["member", "remove", "acme", "web-9"]), 2, "no member 'web-9'");
    ok(&mut one.command(&["member", "remove", "acme", "web-2"]));
    fails(&mut two.command(&["member", "invite", "acme"]), 2, "no member that may serve");
    let history = json(&three, &["history", "acme"]);
    let told: Vec<_> = history.as_array().unwrap().iter().map(|row| row["what"].as_str().unwrap()).collect();
    assert_eq!(told, ["the members are web-1", "the members are web-1, web-2", "the members are web-1"]);
    assert!(history[0]["irregular"].is_null() && history[0]["host"] == "web-1");
    assert_eq!(history[0]["decision"]["members"][0]["name"], "web-1");
    let table = said(&ok(&mut two.command(&["history", "acme"])));
    assert!(table.contains("the members are web-1, web-2") && !table.contains("NO EFFECT"), "{table}");
    ok(&mut one.command(&["verify", "acme"]));
}

#[test]
fn an_invitation_ends_in_time_and_takes_no_answer_that_the_token_does_not_prove() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, one, two) = hosts(dir.path());
    ok(&mut one.command(&["member", "found", "acme"]));
    fails(&mut one.command(&["member", "invite", "acme", "--for", "1s"]), 1, "no host has joined in time");
    // Whoever can write to the bucket puts something in the answer's place, or makes it too large.
    let (inviting, token) = invite(&one, &["--for", "60s", "--watch-only"]);
    let waiting = two.command(&["member", "join", &token]).stdout(Stdio::null()).spawn().unwrap();
    let joined = std::thread::scope(|scope| {
        let joined = scope.spawn(|| waiting.wait_with_output().unwrap());
        assert!(inviting.wait_with_output().unwrap().status.success());
        joined.join().unwrap()
    });
    assert!(joined.status.success());
    let listed = json(&one, &["member", "list", "acme"]);
    assert_eq!(listed[1]["may"], serde_json::json!(["watch"]));
    fails(&mut two.command(&["member", "remove", "acme", "web-1"]), 2, "no member that may serve");
    // A name is one host's.
    let again = host(&repository, "web-2", STANDBY);
    let (inviting, token) = invite(&one, &[]);
    fails(&mut again.command(&["member", "join", &token]), 1, "has refused it");
    let output = inviting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("has a member 'web-2' already"), "{}", said(&output));
    for bad in ["understudy-join1qqqq", "age1qqqq", ""] {
        fails(&mut two.command(&["member", "join", bad]), 2, "a token to join");
    }
}

#[test]
fn only_what_the_token_proves_is_read_from_the_place_of_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, one, two) = hosts(dir.path());
    ok(&mut one.command(&["member", "found", "acme"]));
    // The true answer shows where it is put; then the attacker's is there first, and later again.
    let (inviting, token) = invite(&one, &["--for", "60s"]);
    let (_, bytes) = bech32::decode(&token).unwrap();
    let id = &bytes[bytes.len() - 48..bytes.len() - 32];
    let at = repository.join("acme/joins").join(blake3::hash(id).to_hex().as_str());
    std::fs::create_dir_all(at.parent().unwrap()).unwrap();
    std::fs::write(&at, vec![b'{'; 1 << 20]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    std::fs::write(&at, br#"{"name":"evil","key":"","address":null,"zone":null,"proof":""}"#).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(json(&one, &["member", "list", "acme"]).as_array().unwrap().len(), 1);
    ok(&mut two.command(&["member", "join", &token]));
    assert!(inviting.wait_with_output().unwrap().status.success());
    assert_eq!(json(&one, &["member", "list", "acme"])[1]["name"], "web-2");
}

// Attackers.

/// Returns the store as a holder of its key sees it, with a cache or without.
fn opened(repository: &Path, keys: KeySource, cache: Option<&Path>, is_member: bool) -> Store {
    let local = object_store::local::LocalFileSystem::new_with_prefix(repository).unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::new(local);
    let (patience, cache) = (disk_patience(3), cache.map(Path::to_owned));
    let options = RepositoryOptions { patience, keys, cache, is_member, ..Default::default() };
    Repository::over(objects, "test", options, rig::runtime()).store(&name())
}

/// Returns a host's member key.
fn key_of(host: &Host) -> Ed25519KeyPair {
    let text = std::fs::read_to_string(host.path("state/understudy/member.key")).unwrap();
    let seed = STANDARD_NO_PAD.decode(text.lines().last().unwrap()).unwrap();
    Ed25519KeyPair::from_seed_unchecked(&seed).unwrap()
}

/// Signs a statement for the next record, as the page on the format says.
fn signed(state: &StoreState, member: &str, key: &Ed25519KeyPair, epoch: u64, statement: &str) -> Event {
    let mut message = b"understudy decision 1".to_vec();
    let text = |message: &mut Vec<u8>, text: &str| {
        message.extend((text.len() as u64).to_le_bytes());
        message.extend(text.as_bytes());
    };
    text(&mut message, "acme");
    let (head, hash) = state.head.unwrap();
    message.extend((head.0 + 1).to_le_bytes());
    message.extend(hash.0);
    message.extend(epoch.to_le_bytes());
    text(&mut message, member);
    text(&mut message, statement);
    let signature = Signature(key.sign(&message).as_ref().try_into().unwrap());
    let (statement, member) = (statement.to_owned(), WriterId(member.into()));
    Event::Decided(Box::new(Decided { statement, member, signature }))
}

/// Returns the statement of a forced promotion, as the page on the format says.
fn promotion(host: &str) -> String {
    format!(
        r#"{{"at_ns":1,"decision":{{"kind":"promoted","primary":"{host}","cause":{{"kind":"forced","person":"ops","attested":false}},"loss":{{}},"reason":"because"}}}}"#
    )
}

fn append(store: &Store, state: &mut StoreState, event: Event) {
    let appended = store.log().append(state, &WriterId("attacker".into()), event).unwrap();
    assert!(matches!(appended, Appended::Committed(_)));
}

#[test]
fn whoever_may_only_append_cannot_promote() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, one, two) = hosts(dir.path());
    ok(&mut one.command(&["member", "found", "acme"]));
    join(&one, &two, &[]);
    let attacker = opened(&repository, rig::key_source(), None, false);
    let mut state = attacker.log().state().unwrap();
    let primary = |state: &StoreState| (state.primary.clone().unwrap().0, state.epoch.0);
    assert_eq!(primary(&state), ("web-1".into(), 1));
    // What a member signs as the page on the format says has effect.
    let statement = promotion("web-2");
    let genuine = signed(&state, "web-2", &key_of(&two), 2, &statement);
    append(&attacker, &mut state, genuine.clone());
    assert_eq!(primary(&state), ("web-2".into(), 2));
    fails(&mut one.command(&["resync", "acme"]), 5, "fenced");
    let back = signed(&state, "web-1", &key_of(&one), 3, &promotion("web-1"));
    append(&attacker, &mut state, back);
    assert_eq!(primary(&state), ("web-1".into(), 3));
    ok(&mut one.command(&["resync", "acme", "--quiet"]));
    ok(&mut one.command(&["member", "remove", "acme", "web-2"]));
    attacker.log().refresh(&mut state).unwrap();
    // Nothing that follows has.
    let stranger = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap();
    let public = STANDARD_NO_PAD.encode(stranger.public_key().as_ref());
    let list = format!(
        r#"{{"at_ns":1,"decision":{{"kind":"members","members":[{{"name":"evil","key":"{public}","may":["serve"]}}]}}}}"#
    );
    let before = state.authority.irregular.count;
    let mut count = 0;
    for how in 0..8 {
        let event = match how {
            0 => Event::Promoted { primary: WriterId("evil".into()) },
            1 => signed(&state, "web-1", &stranger, 4, &promotion("web-1")),
            2 => signed(&state, "evil", &stranger, 4, &promotion("evil")),
            3 => signed(&state, "evil", &stranger, 3, &list),
            4 => signed(&state, "evil", &stranger, 4, &list),
            // The host that was removed, with its key.
            5 => signed(&state, "web-2", &key_of(&two), 4, &promotion("web-2")),
            // Its old promotion, at a later place.
            6 => genuine.clone(),
            _ => signed(&state, "web-1", &key_of(&one), 3, "no decision"),
        };
        append(&attacker, &mut state, event);
        count += 1;
        assert_eq!(state.authority.irregular.count, before + count, "{how}");
        assert_eq!(primary(&state), ("web-1".into(), 3), "{how}");
    }
    // The members go on, and everybody is told.
    ok(&mut one.command(&["resync", "acme", "--quiet"]));
    let status = &json(&one, &["status"])[0];
    assert_eq!((&status["primary"], &status["irregular"]), (&"web-1".into(), &count.into()), "{status}");
    let told = said(&ok(&mut two.command(&["status"])));
    assert!(told.contains("irregular records: 8") && told.contains("understudy history acme"), "{told}");
    let told = said(&ok(&mut one.command(&["verify", "acme"])));
    assert!(told.contains("'evil' is irregular: 'evil' is no member of the store"), "{told}");
    let told = said(&ok(&mut one.command(&["history", "acme"])));
    assert_eq!(told.matches("NO EFFECT").count(), 8, "{told}");
}

fn forced(host: &str) -> Decision {
    Decision::Promoted(Promoted {
        primary: WriterId(host.into()),
        incarnation: None,
        cause: Cause::Forced { person: "ops".into(), attested: true },
        base: None,
        loss: Loss::default(),
        reason: "a test".into(),
    })
}

#[test]
fn a_checkpoint_that_a_holder_of_the_store_s_key_made_up_promotes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    let cache = |host: &str| dir.path().join(host);
    let open = |host: &str| opened(&repository, KeySource::none(), Some(&cache(host)), false);
    let primary = |store: &Store| store.log().state().unwrap().primary.map(|primary| primary.0);
    let writer = WriterId("web-1".into());
    let mut state = StoreState::default();
    // A log that is long enough for checkpoints to count.
    for number in 0..140 {
        let event = Event::Unpinned { snapshot: Sequence(number) };
        open("web-1").log().append(&mut state, &writer, event).unwrap();
    }
    assert_eq!(primary(&open("early")), None);
    let keys = [SigningKey::of(&[1; 32]), SigningKey::of(&[2; 32])];
    let members = vec![member("web-1", &keys[0])];
    decide(&open("web-1"), "web-1", &keys[0], Decision::Members { members });
    assert_eq!(primary(&open("web-2")).as_deref(), Some("web-1"));
    for _ in 0..140 {
        let mut state = open("web-1").log().state().unwrap();
        let event = Event::Unpinned { snapshot: Sequence(1) };
        open("web-1").log().append(&mut state, &writer, event).unwrap();
    }
    let truth = open("web-1").log().state().unwrap();
    let (head, _) = truth.head.unwrap();
    let put = |state: &StoreState| {
        let bytes = checkpoint::encode(state, head.0, &Sealing::default(), None).unwrap();
        let at = repository.join("acme/checkpoints");
        std::fs::create_dir_all(&at).unwrap();
        std::fs::write(at.join(format!("{:020}", head.0)), &bytes).unwrap();
        bytes[7]
    };
    let mut forged = truth.clone();
    (forged.primary, forged.authority.members) =
        (Some(WriterId("evil".into())), vec![member("evil", &keys[1])]);
    let mut stripped = StoreState { primary: Some(WriterId("evil".into())), ..truth.clone() };
    stripped.authority = Default::default();
    for (number, lie) in [forged, stripped].iter().enumerate() {
        // With decisions it has a version that earlier programs pass over.
        assert_eq!(put(lie), 2 - number as u8);
        // A host that never saw the store takes what it finds, as the page on security says.
        assert_eq!(primary(&open(&format!("new-{number}"))).as_deref(), Some("evil"));
        for host in ["web-1", "web-2", "early"] {
            assert_eq!(primary(&open(host)).as_deref(), Some("web-1"), "{host} {number}");
            assert_eq!(primary(&open(host)).as_deref(), Some("web-1"), "{host} {number}, again");
        }
        // One with a member's key is not to be led like that.
        let host = opened(&repository, KeySource::none(), Some(&cache(&format!("m-{number}"))), true);
        assert_eq!(primary(&host).as_deref(), Some("web-1"));
    }
    // What they folded themselves is where they begin, so the log need not be read from its first record.
    let kept = std::fs::read_dir(cache("web-2")).unwrap().map(Result::unwrap).next().unwrap().path();
    assert!(kept.join("acme/checkpoint").exists(), "{kept:?}");
}

#[test]
fn what_is_stranded_is_verified_and_stays_through_prunings_until_it_is_settled() {
    let rig = Rig::new();
    let store = rig.store();
    for content in [b"base", b"only", b"next"] {
        std::fs::write(rig.source().join("file"), content.repeat(50_000)).unwrap();
        rig.resync();
    }
    let keys = [SigningKey::of(&[1; 32]), SigningKey::of(&[2; 32])];
    let [one, two] = [member("tester", &keys[0]), member("web-2", &keys[1])];
    decide(&store, "tester", &keys[0], Decision::Members { members: vec![one.clone()] });
    decide(&store, "tester", &keys[0], Decision::Members { members: vec![one, two] });
    decide(&store, "web-2", &keys[1], forced("web-2"));
    let state = store.log().state().unwrap();
    // The former primary's tree is like snapshot 2; its objects are those of that snapshot.
    let stranded = Stranded {
        of_epoch: Epoch(1),
        base: Some(Sequence(1)),
        manifest: state.snapshots[&Sequence(2)].manifest.clone(),
        new_packs: Vec::new(),
        new_index: Vec::new(),
        added: 0,
        changed: 1,
        removed: 0,
    };
    let at = decide(&store, "tester", &keys[0], Decision::Stranded(stranded));
    let prune_all = || {
        let retention = Retention { last: 1, ..Default::default() };
        let mut request = PruneRequest::new(retention, WriterId("pruner".into()));
        request.grace = Grace { records: 0, time: std::time::Duration::ZERO };
        request.bounds.orphan_age = std::time::Duration::ZERO;
        request.bounds.unused_percent = 0;
        (0..3).map(|_| prune(&store, &request, &|_| {}).unwrap().objects_deleted).sum::<u64>()
    };
    prune_all();
    let state = store.log().state().unwrap();
    assert_eq!(state.snapshots.keys().map(|s| s.0).collect::<Vec<_>>(), [1, 3], "and its base stays");
    assert_eq!(state.latest().unwrap().0, Sequence(3));
    let verified = rig.verify();
    assert!(verified.is_sound() && verified.snapshots == 2, "{verified:?}");
    let settled = Decision::Settled { stranded: at, taken: 0, dropped: 1, person: "ops".into() };
    decide(&store, "web-2", &keys[1], settled);
    let completed = Decision::Completed {
        promotion: state.authority.promotion.unwrap().sequence,
        steps: Vec::new(),
        database: None,
    };
    decide(&store, "web-2", &keys[1], completed);
    assert!(prune_all() > 0, "now nothing keeps it");
    assert!(rig.verify().is_sound());
}
