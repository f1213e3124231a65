//! Judges what an object at a number of this host's own lease is to one of its stores. Pure.
//!
//! Each store has members of its own, so the same object may be a break to one and nothing to another.

use super::lease_lines::Verdict;
use crate::model::id::{Incarnation, StoreName, WriterId};
use crate::model::lease::{LeaseNote, Void};
use crate::model::member::Member;
use std::collections::BTreeSet;

/// What this host knows of itself.
pub(crate) struct LeaseJudge {
    pub me: WriterId,
    pub incarnation: Incarnation,
    /// Processes of this host that are known to have ended.
    pub ended: BTreeSet<Incarnation>,
}

/// A verdict, and why the object counts for nothing, if that is worth a word.
pub(crate) struct Judgement {
    pub verdict: Verdict,
    pub why: Option<Void>,
}

impl LeaseJudge {
    /// Returns whether a process of this host is this one, or has ended.
    pub(crate) fn is_own(&self, incarnation: Incarnation) -> bool {
        incarnation == self.incarnation || self.ended.contains(&incarnation)
    }

    /// Returns what an object is to a store with these members.
    pub(crate) fn judge(
        &self,
        bytes: &[u8],
        number: u64,
        store: &StoreName,
        members: &[Member],
    ) -> Judgement {
        let is_of = |note: &LeaseNote| match note {
            LeaseNote::Broken { store: of, .. } => of == store,
            LeaseNote::Held { .. } => true,
        };
        let (verdict, why) = match LeaseNote::read(bytes, &self.me, number, members) {
            Ok((_, LeaseNote::Held { incarnation })) if self.is_own(incarnation) => (Verdict::Passed, None),
            Ok((_, LeaseNote::Held { .. })) => (Verdict::Rival, None),
            Ok((_, note)) if is_of(&note) => (Verdict::Broken, None),
            Ok(_) => (Verdict::Passed, None),
            Err(why) => match LeaseNote::claimed(bytes) {
                // The members of the store that it names know who made it.
                Some(note) if !is_of(&note) => (Verdict::Passed, None),
                Some(_) if matches!(why, Void::NoMember(_) | Void::Signature(_)) => {
                    (Verdict::Doubtful, Some(why))
                }
                _ => (Verdict::Passed, Some(why)),
            },
        };
        Judgement { verdict, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::Epoch;
    use crate::model::member::May;
    use crate::support::signature::SigningKey;

    fn member(name: &str, seed: u8) -> Member {
        Member::sample(name, SigningKey::of(&[seed; 32]).public(), &[May::Serve])
    }

    #[test]
    fn an_object_is_a_break_only_to_the_store_that_it_names_and_by_that_store_s_members() {
        let me = WriterId("a".into());
        let judge = LeaseJudge {
            me: me.clone(),
            incarnation: Incarnation(2),
            ended: BTreeSet::from([Incarnation(1)]),
        };
        let [shop, blog] = ["shop", "blog"].map(|name| StoreName::parse(name).unwrap());
        let of_shop = [member("a", 1), member("b", 2)];
        let of_blog = [member("a", 1), member("c", 3)];
        let made = |note: LeaseNote, maker: &str, seed| {
            let signed = note.sign(&me, 7, &WriterId(maker.into()), &SigningKey::of(&[seed; 32]));
            serde_json::to_vec(&signed.unwrap()).unwrap()
        };
        let broken = |store: &StoreName| LeaseNote::Broken { store: store.clone(), epoch: Epoch(2) };
        let held = |number| LeaseNote::Held { incarnation: Incarnation(number) };
        let both = |bytes: &[u8]| {
            let verdict = |store, members| judge.judge(bytes, 7, store, members).verdict;
            (verdict(&shop, &of_shop), verdict(&blog, &of_blog))
        };
        use Verdict::{Broken, Doubtful, Passed, Rival};
        assert_eq!(both(&made(broken(&shop), "b", 2)), (Broken, Passed));
        assert_eq!(both(&made(broken(&blog), "b", 2)), (Passed, Doubtful), "another store's member");
        assert_eq!(both(&made(broken(&shop), "b", 3)), (Doubtful, Passed), "another key");
        assert_eq!(both(&made(broken(&shop), "a", 1)), (Passed, Passed), "nobody breaks its own");
        for ended in [1, 2] {
            assert_eq!(both(&made(held(ended), "a", 1)), (Passed, Passed));
        }
        assert_eq!(both(&made(held(3), "a", 1)), (Rival, Rival));
        assert_eq!(both(&made(held(3), "a", 9)), (Doubtful, Doubtful));
        assert_eq!(both(b"{}"), (Passed, Passed));
    }
}
