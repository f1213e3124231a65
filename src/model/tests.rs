//! The fold of decisions: for any sequence of records, and rule by rule.

use super::authority::Irregularity;
use super::decision::{Cause, Decided, Decision, Loss, Place, Promoted, Statement, Stranded};
use super::id::{ChunkId, ContentHash, Epoch, Incarnation, IndexId, Sequence, StoreName, WriterId};
use super::manifest_root::{ManifestRoot, ObjectRef};
use super::member::{May, Member};
use super::record::{Event, Record, SnapshotRecord, StoreState};
use super::vote::{Finding, Vote};
use crate::support::clock::UnixNanos;
use crate::support::signature::SigningKey;
use proptest::prelude::*;

fn name(host: u8) -> WriterId {
    WriterId(char::from(b'a' + host).to_string())
}

fn key(host: u8) -> SigningKey {
    SigningKey::of(&[host; 32])
}

fn member(host: u8, may: &[May]) -> Member {
    Member::sample(&name(host).0, key(host).public(), may)
}

const BOTH: [May; 2] = [May::Serve, May::Watch];

fn list(hosts: &[u8]) -> Decision {
    Decision::Members { members: hosts.iter().map(|host| member(*host, &BOTH)).collect() }
}

fn root() -> ManifestRoot {
    ManifestRoot { page: ChunkId([1; 32]), height: 0, entries: 1, size_bytes: 0 }
}

fn snapshot() -> Event {
    Event::Snapshot(Box::new(SnapshotRecord::sample()))
}

fn promoted(host: u8, cause: Cause) -> Decision {
    let (incarnation, base, loss) = (Some(Incarnation(7)), None, Loss::default());
    let reason = "a test".to_owned();
    Decision::Promoted(Promoted { primary: name(host), incarnation, cause, base, loss, reason })
}

fn forced(host: u8) -> Decision {
    promoted(host, Cause::Forced { person: "ops".into(), attested: false })
}

/// A log that anybody may append to.
#[derive(Default)]
struct Log {
    state: StoreState,
    appended: Vec<Event>,
}

impl Log {
    fn store() -> StoreName {
        StoreName::parse("acme").unwrap()
    }

    /// Signs without a look at whether the log will take it.
    fn signed(&self, host: u8, with: &SigningKey, decision: &Decision) -> Decided {
        let epoch = Epoch(self.state.epoch.0 + u64::from(self.state.authority.promotes(decision)));
        let previous = self.state.head.map(|(_, hash)| hash);
        let (store, sequence) = (Self::store(), self.state.next_sequence());
        let place = Place { store: &store, sequence, previous, epoch };
        let statement = Statement { at: UnixNanos(5), decision: decision.clone() };
        Decided::sign(&statement, &name(host), with, &place).unwrap()
    }

    fn append(&mut self, writer: &WriterId, event: Event) {
        let record = Record {
            store: Self::store(),
            sequence: self.state.next_sequence(),
            epoch: self.state.epoch_with(&event),
            writer: writer.clone(),
            nonce: 0,
            previous: self.state.head.map(|(_, hash)| hash),
            ring: None,
            event: event.clone(),
        };
        let hash = ContentHash::of(&serde_json::to_vec(&record).unwrap());
        self.state.apply(&Self::store(), record, hash).unwrap();
        self.appended.push(event);
    }

    /// Appends what a host decided and signed; returns why it had no effect.
    fn decide(&mut self, host: u8, decision: &Decision) -> Option<String> {
        let before = self.state.authority.irregular.count;
        let decided = self.signed(host, &key(host), decision);
        self.append(&name(host), Event::Decided(Box::new(decided)));
        let irregular = &self.state.authority.irregular;
        (irregular.count > before).then(|| irregular.last.last().unwrap().why.clone())
    }

    fn holds(&mut self, host: u8, decision: &Decision) -> Sequence {
        assert_eq!(self.decide(host, decision), None, "{decision:?}");
        self.state.head.unwrap().0
    }

    fn has_no_effect(&mut self, host: u8, decision: &Decision, why: Irregularity) {
        let before = self.state.clone();
        assert_eq!(self.decide(host, decision), Some(why.to_string()), "{decision:?}");
        assert_eq!(apart_from_notes(&self.state), apart_from_notes(&before));
    }

    /// Returns a log with the members `a`, `b` and `c`, whose primary is `a`, with a snapshot.
    fn founded() -> Self {
        let mut log = Self::default();
        log.holds(0, &list(&[0]));
        log.holds(0, &list(&[0, 1, 2]));
        log.append(&name(0), snapshot());
        log
    }

    fn primary(&self) -> (Option<WriterId>, u64) {
        (self.state.primary.clone(), self.state.epoch.0)
    }

    fn latest(&self) -> Sequence {
        self.state.latest().unwrap().0
    }
}

/// Returns the part of a state that no irregular record may change.
fn apart_from_notes(state: &StoreState) -> StoreState {
    let mut state = StoreState { head: None, ..state.clone() };
    state.authority.irregular = Default::default();
    state
}

/// What somebody appends.
#[derive(Clone, Debug)]
enum Op {
    /// A member, or a stranger, decides and signs as it should.
    Decide(u8, u8),
    /// The same, but in another's name, or changed after it was signed, or signed for another place.
    Forge(u8, u8, u8),
    /// A record that was appended before.
    Replay(usize),
    /// A promotion that nobody signed.
    Plain(u8),
    Snapshot(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..4u8, 0..14u8).prop_map(|(host, what)| Op::Decide(host, what)),
        3 => (0..4u8, 0..14u8, 0..5u8).prop_map(|(host, what, how)| Op::Forge(host, what, how)),
        2 => (0..40usize).prop_map(Op::Replay),
        1 => (0..4u8).prop_map(Op::Plain),
        2 => (0..4u8).prop_map(Op::Snapshot),
    ]
}

/// Returns a decision that may or may not hold.
fn decision(log: &Log, host: u8, what: u8) -> Decision {
    let latest = log.state.latest().map_or(Sequence(1), |(sequence, _)| sequence);
    let authority = &log.state.authority;
    let handover = authority.handover.as_ref().map_or(Sequence(1), |underway| underway.sequence);
    let promotion = authority.promotion.as_ref().map_or(Sequence(1), |last| last.sequence);
    let text = || "why".to_owned();
    match what {
        0 => list(&[host]),
        1 => list(&[0, 1, 2]),
        2 => list(&[0, 1]),
        3 | 4 => forced(host),
        5 => Decision::Handover { to: name((host + 1) % 4), snapshot: latest, database: None, reason: None },
        6 => {
            let handover = promoted(host, Cause::Handover { handover });
            match (handover, &authority.handover) {
                (Decision::Promoted(promoted), Some(underway)) => {
                    Decision::Promoted(Promoted { base: Some(underway.snapshot), ..promoted })
                }
                (handover, _) => handover,
            }
        }
        7 => Decision::Cancelled { handover, reason: text() },
        8 => promoted(host, Cause::Rollback { promotion }),
        9 => Decision::Completed { promotion, steps: Vec::new(), database: None },
        10 => Decision::Paused { person: text(), reason: text() },
        11 => promoted(host, Cause::Automatic { votes: Vec::new() }),
        12 => Decision::Synced { standbys: vec![name((host + 1) % 4)] },
        _ => promoted(host, Cause::Founding),
    }
}

/// Returns a decision that its named member did not sign for the next record.
fn forged(log: &Log, host: u8, what: u8, how: u8) -> Decided {
    let decision = decision(log, host, what);
    let decided = log.signed(host, &key(host), &decision);
    match how {
        // By a key that is no member's, in a member's name.
        0 => log.signed(host, &key(9), &decision),
        // By one member in another's name.
        1 => log.signed(host, &key((host + 1) % 4), &decision),
        // Changed afterwards.
        2 => Decided { statement: decided.statement.replace("\"at_ns\":5", "\"at_ns\":6"), ..decided },
        3 => Decided { member: name((host + 1) % 4), ..decided },
        // For the record after the next.
        _ => {
            let (store, previous) = (Log::store(), log.state.head.map(|(_, hash)| hash));
            let sequence = log.state.next_sequence().next();
            let epoch = log.state.epoch;
            let statement = Statement { at: UnixNanos(5), decision };
            let place = Place { store: &store, sequence, previous, epoch };
            Decided::sign(&statement, &name(host), &key(host), &place).unwrap()
        }
    }
}

proptest! {
    /// Whatever is appended, by whomever, in whatever order.
    #[test]
    fn there_is_one_primary_and_only_a_member_s_own_decision_changes_it(
        ops in prop::collection::vec(op(), 1..60)
    ) {
        let mut log = Log::default();
        for op in ops {
            let before = log.state.clone();
            let (writer, event, may_hold) = match op {
                Op::Decide(host, what) => {
                    let decided = log.signed(host, &key(host), &decision(&log, host, what));
                    (name(host), Event::Decided(Box::new(decided)), true)
                }
                Op::Forge(host, what, how) => {
                    (name(host), Event::Decided(Box::new(forged(&log, host, what, how))), false)
                }
                Op::Replay(at) => match log.appended.get(at).cloned() {
                    Some(event @ (Event::Decided(_) | Event::Promoted { .. })) => (name(3), event, false),
                    _ => continue,
                },
                Op::Plain(host) if before.authority.is_founded() => {
                    (name(host), Event::Promoted { primary: name(host) }, false)
                }
                Op::Plain(_) => continue,
                Op::Snapshot(host) => (name(host), snapshot(), false),
            };
            let is_snapshot = matches!(event, Event::Snapshot(_));
            log.append(&writer, event);
            let (old, new) = (&before.authority, &log.state.authority);
            // Epochs go up by one, with a new primary, or not at all.
            let is_new = log.state.epoch != before.epoch;
            prop_assert_eq!(log.state.epoch.0, before.epoch.0 + u64::from(is_new));
            prop_assert_eq!(is_new, log.state.primary != before.primary);
            let head = log.state.head.unwrap().0;
            prop_assert_eq!(is_new, new.promotion.as_ref().is_some_and(|last| last.sequence == head));
            if is_new {
                prop_assert!(may_hold);
                let primary = log.state.primary.clone().unwrap();
                prop_assert!(new.member(&primary).unwrap().may_serve());
                prop_assert!(!old.is_founded() || old.member(&primary).unwrap().may_serve());
            }
            // A founded store has one primary at every moment, and it is a member.
            if new.is_founded() {
                let primary = log.state.primary.as_ref().unwrap();
                prop_assert!(new.member(primary).unwrap().may_serve());
                let admitted = (0..4).filter(|host| log.state.admits(&name(*host), log.state.epoch)).count();
                prop_assert_eq!(admitted, usize::from(new.handover.is_none()));
            }
            prop_assert!(old.is_founded() <= new.is_founded());
            // What does not hold changes nothing, and is noted once.
            let noted = new.irregular.count - old.irregular.count;
            prop_assert!(may_hold || is_snapshot || noted == 1);
            if noted == 1 && !is_snapshot {
                prop_assert_eq!(apart_from_notes(&log.state), apart_from_notes(&before));
            }
            prop_assert!(new.irregular.last.len() <= 32);
        }
        // A reader that begins with a checkpoint folds the same.
        let text = serde_json::to_vec(&log.state).unwrap();
        prop_assert_eq!(serde_json::from_slice::<StoreState>(&text).unwrap(), log.state);
    }
}

#[test]
fn a_store_is_founded_once_by_its_primary_alone() {
    let mut log = Log::default();
    log.has_no_effect(0, &forced(0), Irregularity::Unfounded);
    log.has_no_effect(0, &list(&[0, 1]), Irregularity::Founder);
    log.has_no_effect(1, &list(&[0]), Irregularity::Founder);
    let watcher = |host| member(host, &[May::Watch]);
    let found = Decision::Members { members: vec![member(0, &BOTH), watcher(1)] };
    log.holds(0, &found);
    assert_eq!(log.primary(), (Some(name(0)), 1));
    assert_eq!(log.state.authority.promotion.as_ref().unwrap().cause, Cause::Founding);
    // A second founder is nobody.
    log.has_no_effect(2, &list(&[2]), Irregularity::NoMember(name(2)));
    log.has_no_effect(1, &list(&[0, 1]), Irregularity::Watcher(name(1)));
    log.append(&name(2), Event::Promoted { primary: name(2) });
    assert_eq!(log.primary(), (Some(name(0)), 1));
    assert_eq!(log.state.authority.irregular.last.last().unwrap().why, Irregularity::Unsigned.to_string());
    // Where a promotion of before named a primary, only that host founds the store.
    let mut log = Log::default();
    log.append(&name(1), Event::Promoted { primary: name(1) });
    log.has_no_effect(0, &list(&[0]), Irregularity::Founder);
    log.holds(1, &list(&[1]));
    assert_eq!(log.primary(), (Some(name(1)), 2));
}

#[test]
fn a_primary_that_the_set_did_not_name_ends_the_line_without_loss() {
    let synced = |hosts: &[u8]| Decision::Synced { standbys: hosts.iter().map(|host| name(*host)).collect() };
    let mut log = Log::founded();
    let since = |log: &Log| log.state.authority.lossless_since.0;
    let founded = log.primary().1;
    assert_eq!(since(&log), founded);
    log.has_no_effect(1, &synced(&[2]), Irregularity::NotPrimary(name(1)));
    log.has_no_effect(0, &synced(&[0]), Irregularity::Target(name(0)));
    log.has_no_effect(0, &synced(&[3]), Irregularity::Target(name(3)));
    log.holds(0, &synced(&[1]));
    log.holds(1, &forced(1));
    assert_eq!(since(&log), founded, "it had all");
    assert!(log.state.authority.synced.is_empty(), "the new primary waits for nobody yet");
    log.holds(1, &synced(&[2]));
    log.holds(1, &synced(&[]));
    log.holds(2, &forced(2));
    assert_eq!(since(&log), founded + 2);
}

#[test]
fn a_handover_keeps_everybody_from_snapshots_until_it_has_ended() {
    let mut log = Log::founded();
    let snapshot_of = log.latest();
    let handover = Decision::Handover { to: name(1), snapshot: snapshot_of, database: None, reason: None };
    log.has_no_effect(1, &handover, Irregularity::NotPrimary(name(1)));
    let of = |to: u8, number| Decision::Handover {
        to: name(to),
        snapshot: Sequence(number),
        database: None,
        reason: None,
    };
    log.has_no_effect(0, &of(1, 1), Irregularity::NotLatest(Sequence(1)));
    log.has_no_effect(0, &of(3, snapshot_of.0), Irregularity::Target(name(3)));
    log.has_no_effect(0, &of(0, snapshot_of.0), Irregularity::Target(name(0)));
    let begun = log.holds(0, &handover);
    for host in 0..4 {
        assert!(!log.state.admits(&name(host), log.state.epoch));
    }
    log.has_no_effect(0, &handover, Irregularity::Underway(name(1)));
    log.has_no_effect(0, &list(&[0, 1]), Irregularity::Underway(name(1)));
    // One that is committed all the same is noted, and stays restorable.
    log.append(&name(0), snapshot());
    assert_eq!(log.state.authority.irregular.last.last().unwrap().why, Irregularity::Snapshot.to_string());
    assert!(log.latest() > begun);
    let cancelled = Decision::Cancelled { handover: begun, reason: "not ready".into() };
    log.has_no_effect(1, &cancelled, Irregularity::NotPrimary(name(1)));
    log.holds(0, &cancelled);
    assert!(log.state.admits(&name(0), log.state.epoch));
    log.has_no_effect(0, &cancelled, Irregularity::NoHandover(begun));
    // The cancelled one serves nobody any more; the next one only its target, with its snapshot.
    let take = |host, handover, base| match promoted(host, Cause::Handover { handover }) {
        Decision::Promoted(promoted) => Decision::Promoted(Promoted { base, ..promoted }),
        other => other,
    };
    let late = take(1, begun, Some(snapshot_of));
    log.has_no_effect(1, &late, Irregularity::NoHandover(begun));
    let latest = log.latest();
    let again =
        log.holds(0, &Decision::Handover { to: name(1), snapshot: latest, database: None, reason: None });
    log.has_no_effect(2, &take(2, again, Some(latest)), Irregularity::NoHandover(again));
    log.has_no_effect(1, &take(1, again, Some(snapshot_of)), Irregularity::NoHandover(again));
    log.holds(1, &take(1, again, Some(latest)));
    assert_eq!(log.primary(), (Some(name(1)), 2));
    assert!(log.state.admits(&name(1), log.state.epoch) && log.state.authority.handover.is_none());
    assert!(!log.state.admits(&name(0), log.state.epoch));
}

#[test]
fn a_person_may_promote_at_any_time_and_votes_not_while_paused() {
    let mut log = Log::founded();
    let latest = log.latest();
    log.holds(0, &Decision::Handover { to: name(1), snapshot: latest, database: None, reason: None });
    log.holds(2, &Decision::Paused { person: "ops".into(), reason: "maintenance".into() });
    // The primary died in the middle of its handover.
    log.holds(2, &forced(2));
    assert_eq!(log.primary(), (Some(name(2)), 2));
    assert!(log.state.authority.handover.is_none());
    log.has_no_effect(2, &forced(2), Irregularity::Primary(name(2)));
    log.has_no_effect(1, &forced(0), Irregularity::Another);
    let votes = |log: &Log, voters: &[u8], lease: u64| {
        let vote = |voter: &u8| {
            let (primary, incarnation) = (log.state.primary.clone().unwrap(), Incarnation(3));
            let finding =
                Finding { at: UnixNanos(1), primary, incarnation, lease, failed: vec!["http".into()] };
            Vote::sign(&finding, &name(*voter), &key(*voter), &Log::store(), log.state.epoch).unwrap()
        };
        voters.iter().map(vote).collect::<Vec<_>>()
    };
    let automatic = |votes| promoted(1, Cause::Automatic { votes });
    let enough = votes(&log, &[0, 1], 9);
    log.has_no_effect(1, &automatic(enough), Irregularity::Paused);
    log.holds(0, &Decision::Resumed { person: "ops".into() });
    log.has_no_effect(0, &Decision::Resumed { person: "ops".into() }, Irregularity::NotPaused);
    let one = votes(&log, &[1], 9);
    let mut mixed = votes(&log, &[0], 9);
    mixed.extend(votes(&log, &[1], 10));
    let mut forged = votes(&log, &[0, 1], 9);
    forged[0].signature = forged[1].signature;
    for few in [Vec::new(), one.clone(), [one.clone(), one].concat(), votes(&log, &[1, 3], 9), mixed, forged]
    {
        log.has_no_effect(1, &automatic(few), Irregularity::Votes);
    }
    let enough = votes(&log, &[0, 1], 9);
    log.holds(1, &automatic(enough.clone()));
    assert_eq!(log.primary(), (Some(name(1)), 3));
    // They were about that epoch and that primary.
    log.has_no_effect(2, &promoted(2, Cause::Automatic { votes: enough }), Irregularity::Votes);
}

#[test]
fn a_promotion_is_taken_back_by_the_former_primary_until_it_is_completed() {
    let mut log = Log::founded();
    let first = log.holds(1, &forced(1));
    let back = |host, promotion| promoted(host, Cause::Rollback { promotion });
    log.has_no_effect(2, &back(2, first), Irregularity::NoPromotion(first));
    log.holds(0, &back(0, first));
    assert_eq!(log.primary(), (Some(name(0)), 3));
    let second = log.holds(1, &forced(1));
    let completed = |promotion| Decision::Completed { promotion, steps: Vec::new(), database: None };
    log.has_no_effect(1, &completed(first), Irregularity::NoPromotion(first));
    log.has_no_effect(0, &completed(second), Irregularity::NotPrimary(name(0)));
    log.holds(1, &completed(second));
    log.has_no_effect(0, &back(0, second), Irregularity::NoPromotion(second));
    // A base must be there.
    let Decision::Promoted(promoted) = forced(0) else { unreachable!() };
    let base = Some(Sequence(99));
    let missing = Decision::Promoted(Promoted { base, ..promoted });
    log.has_no_effect(0, &missing, Irregularity::NoSnapshot(Sequence(99)));
}

#[test]
fn a_host_that_was_removed_decides_nothing_and_the_primary_is_never_removed() {
    let mut log = Log::founded();
    log.has_no_effect(1, &list(&[1, 2]), Irregularity::Deposes(name(0)));
    log.holds(0, &list(&[0, 2]));
    log.has_no_effect(1, &forced(1), Irregularity::NoMember(name(1)));
    log.has_no_effect(1, &list(&[0, 1]), Irregularity::NoMember(name(1)));
    // Back with another key: the old one stays worthless.
    let again = Member { key: key(8).public(), ..member(1, &BOTH) };
    let members = vec![member(0, &BOTH), again, member(2, &BOTH)];
    log.holds(0, &Decision::Members { members });
    log.has_no_effect(1, &forced(1), Irregularity::Signature(name(1)));
    assert_eq!(log.primary(), (Some(name(0)), 1));
}

#[test]
fn what_is_stranded_is_never_the_latest_and_stays_until_it_is_settled() {
    let mut log = Log::founded();
    let latest = log.latest();
    log.holds(1, &forced(1));
    let segment = ObjectRef { id: IndexId([4; 32]), size_bytes: 9 };
    let stranded = |of_epoch| {
        Decision::Stranded(Stranded {
            of_epoch: Epoch(of_epoch),
            base: Some(latest),
            manifest: root(),
            new_packs: Vec::new(),
            new_index: vec![segment.clone()],
            added: 1,
            changed: 0,
            removed: 0,
        })
    };
    log.has_no_effect(1, &stranded(1), Irregularity::Primary(name(1)));
    log.has_no_effect(0, &stranded(2), Irregularity::NotFormer);
    let at = log.holds(0, &stranded(1));
    assert_eq!((log.latest(), log.state.index.contains(&segment)), (latest, true));
    assert!(log.state.trees().contains_key(&at));
    assert!(log.state.authority.needed().contains_key(&latest), "its base stays");
    let settled = |stranded| Decision::Settled { stranded, taken: 1, dropped: 0, person: "ops".into() };
    log.has_no_effect(1, &settled(latest), Irregularity::NotStranded(latest));
    log.holds(1, &settled(at));
    assert!(!log.state.trees().contains_key(&at));
}

#[test]
fn nothing_that_people_read_steers_a_terminal() {
    let mut log = Log::founded();
    for bad in ["", "\u{1b}[2J", "a\nb", "\u{202e}", &"a".repeat(201)] {
        let paused =
            |person: &str, reason: &str| Decision::Paused { person: person.into(), reason: reason.into() };
        log.has_no_effect(0, &paused(bad, "why"), Irregularity::Text);
        log.has_no_effect(0, &paused("ops", bad), Irregularity::Text);
        let cause = Cause::Forced { person: bad.into(), attested: true };
        log.has_no_effect(1, &promoted(1, cause), Irregularity::Text);
    }
}

#[test]
fn a_state_of_an_earlier_program_is_read_and_one_without_decisions_is_as_it_was() {
    let mut state = StoreState { epoch: Epoch(3), primary: Some(name(1)), ..Default::default() };
    state.head = Some((Sequence(9), ContentHash::of(b"9")));
    let text = serde_json::to_string(&state).unwrap();
    assert!(!text.contains("authority"), "{text}");
    assert_eq!(serde_json::from_str::<StoreState>(&text).unwrap(), state);
}
