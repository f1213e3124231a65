//! What the failover machine needs of a store's state.
//!
//! Pure. The machine's own fold of events and the log's fold of signed decisions agree wherever the log admits
//! a decision.

use super::decide::log_view::{LogView, PendingHandover, Reign};
use crate::model::authority;
use crate::model::id::Sequence;
use crate::model::member::Member;
use crate::model::record::StoreState;

impl From<&authority::Reign> for Reign {
    fn from(reign: &authority::Reign) -> Self {
        Self { host: reign.host.clone(), since: reign.since }
    }
}

/// Returns the machine's view of a store's log.
pub fn log_view(state: &StoreState) -> LogView {
    let authority = &state.authority;
    let head = state.head.map_or(Sequence(0), |(head, _)| head);
    if !authority.is_founded() {
        // A plain promotion binds nobody to a lease: such a store has no failover.
        return LogView { head, ..LogView::default() };
    }
    let serving = authority.members.iter().filter(|member| member.may_serve());
    let handover = authority.handover.as_ref();
    LogView {
        head,
        epoch: state.epoch,
        primary: state.primary.clone(),
        serving: serving.map(|member: &Member| member.name.clone()).collect(),
        reigns: authority.reigns.iter().map(Reign::from).collect(),
        handover: handover
            .map(|underway| PendingHandover { sequence: underway.sequence, to: underway.to.clone() }),
        synced: authority.synced.clone(),
        is_paused: authority.paused.is_some(),
        is_completed: authority.promotion.as_ref().is_some_and(|promotion| promotion.completed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::agent::terms::event_of;
    use crate::failover::decide::log_view::Event as Told;
    use crate::model::decision::{Cause, Decision, Loss, Promoted, Statement};
    use crate::model::id::{ContentHash, StoreName, WriterId};
    use crate::model::member::May;
    use crate::model::record::{Event, Record, SnapshotRecord};
    use crate::support::clock::UnixNanos;
    use crate::support::signature::SigningKey;
    use proptest::prelude::*;

    fn name(host: u8) -> WriterId {
        WriterId(["a", "b", "c"][usize::from(host)].into())
    }

    fn key(host: u8) -> SigningKey {
        SigningKey::of(&[host + 1; 32])
    }

    /// Returns a list of members, of whom those in `serving` (bits) may serve.
    fn members(serving: u8) -> Vec<Member> {
        let member = |host: u8| {
            let may = if serving & (1 << host) == 0 { May::Watch } else { May::Serve };
            Member::sample(&name(host).0, key(host).public(), &[may])
        };
        (0..3).map(member).collect()
    }

    fn append(state: &mut StoreState, writer: &WriterId, event: Event) {
        let record = Record {
            store: StoreName::parse("acme").unwrap(),
            sequence: state.next_sequence(),
            epoch: state.epoch_with(&event),
            writer: writer.clone(),
            nonce: 0,
            previous: state.head.map(|(_, hash)| hash),
            ring: state.ring,
            event,
        };
        let hash = ContentHash::of(&record.sequence.0.to_le_bytes());
        state.apply(&StoreName::parse("acme").unwrap(), record, hash).unwrap();
    }

    fn snapshot() -> Event {
        Event::Snapshot(Box::new(SnapshotRecord::sample()))
    }

    /// Appends a decision if the log admits it; returns whether it does.
    fn decide(state: &mut StoreState, by: u8, decision: &Decision) -> bool {
        let statement = Statement { at: UnixNanos(1), decision: decision.clone() };
        let store = StoreName::parse("acme").unwrap();
        let Ok(event) = state.sign(&store, &statement, &name(by), &key(by)) else { return false };
        let irregular = state.authority.irregular.count;
        append(state, &name(by), event);
        assert_eq!(state.authority.irregular.count, irregular);
        true
    }

    /// Returns decision number `kind` of a host, with the numbers that the log has.
    fn decision(state: &StoreState, kind: u8, by: u8, other: u8) -> Decision {
        let authority = &state.authority;
        let handover = authority.handover.as_ref().map_or(Sequence(0), |underway| underway.sequence);
        let promotion = authority.promotion.as_ref().map_or(Sequence(0), |last| last.sequence);
        let (person, reason) = (|| "ops".to_owned(), "a test".to_owned());
        let promoted = |cause, base| {
            let (primary, incarnation, loss) = (name(by), None, Loss::default());
            Decision::Promoted(Promoted { primary, incarnation, cause, base, loss, reason: "a test".into() })
        };
        match kind {
            0 => promoted(Cause::Forced { person: person(), attested: false }, None),
            1 => {
                let base = authority.handover.as_ref().map(|underway| underway.snapshot);
                promoted(Cause::Handover { handover }, base)
            }
            2 => promoted(Cause::Rollback { promotion }, None),
            3 | 4 => {
                Decision::Handover { to: name(other), snapshot: Sequence(1), database: None, reason: None }
            }
            5 => Decision::Cancelled { handover, reason },
            6 | 7 => Decision::Completed { promotion, steps: Vec::new(), database: None },
            8 => Decision::Paused { person: person(), reason },
            9 => Decision::Resumed { person: person() },
            10 => Decision::Synced { standbys: vec![name(other)] },
            11 => Decision::Synced { standbys: Vec::new() },
            _ => Decision::Members { members: members(0b111 & !(1 << other) | (1 << by)) },
        }
    }

    proptest! {
        #[test]
        fn the_log_and_the_machine_fold_decisions_alike(
            tried in proptest::collection::vec((0..14_u8, 0..3_u8, 0..3_u8), 1..60)
        ) {
            let mut state = StoreState::default();
            append(&mut state, &name(0), snapshot());
            prop_assert_eq!(log_view(&state).primary, None);
            let founding = Decision::Members { members: members(0b001) };
            prop_assert!(decide(&mut state, 0, &founding), "not founded");
            let mut view = log_view(&state);
            prop_assert_eq!(&view.primary, &Some(name(0)));
            prop_assert_eq!(view.reigns.len(), 1);
            let all = Decision::Members { members: members(0b111) };
            prop_assert!(decide(&mut state, 0, &all), "no longer list");
            view.apply(&name(0), &Told::Members { serving: (0..3).map(name).collect() });
            prop_assert_eq!(&log_view(&state), &view);
            let mut admitted = 0;
            for (kind, by, other) in tried {
                let decision = decision(&state, kind, by, other);
                let event = event_of(&decision).unwrap();
                if decide(&mut state, by, &decision) {
                    admitted += 1;
                    prop_assert!(view.admits(&name(by), &event), "the machine does not expect {decision:?}");
                    view.apply(&name(by), &event);
                }
                prop_assert_eq!(&log_view(&state), &view);
                // A record that decides nothing is one more record.
                append(&mut state, &name(by), Event::Unpinned { snapshot: Sequence(1) });
                view.head = view.head.next();
            }
            prop_assert_eq!(view.head.0, log_view(&state).head.0);
            prop_assert!(admitted <= state.next_sequence().0);
        }
    }
}
