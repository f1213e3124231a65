//! What a promotion stated that it loses, beside what its former primary turned out to have. Pure.
//!
//! A failover states its loss in time: whatever changed since the base's scan began. So what is stranded was
//! changed before the promotion. What was changed after it says that the former primary was written to while
//! another host served: a fence that did not hold, or somebody at work there. A handover states that nothing is
//! lost, so that whatever is stranded after one is more than that.

use super::class::{Class, Three};
use super::former::Replaced;
use crate::api::stranded::{LossCheck, LossVerdict, StrandedCounts};
use crate::model::entry::{Entry, Timestamp};
use crate::support::clock::UnixNanos;
use std::time::Duration;

/// Difference between two hosts' clocks up to which a change is not taken for one after the promotion.
const CLOCKS_APART: Duration = Duration::from_secs(5);
/// No real clock shows a time before this one (seconds since 1970): a ctime below it says that the attributes
/// were not read.
const CTIME_MIN_SECONDS: i64 = 0;
const NANOS: u64 = 1_000_000_000;

/// Counts the paths of a stranded tree, and compares them with what the promotion stated.
pub(super) struct Tally<'a> {
    replaced: Option<&'a Replaced>,
    pub counts: StrandedCounts,
    last_change: Option<Timestamp>,
    changed_after: u64,
}

impl<'a> Tally<'a> {
    pub fn new(replaced: Option<&'a Replaced>) -> Self {
        Self { replaced, counts: StrandedCounts::default(), last_change: None, changed_after: 0 }
    }

    pub fn count(&mut self, class: Class, three: &Three) {
        self.counts.count(class, three);
        if matches!(class, Class::Only | Class::Both)
            && let Some(entry) = &three.here
        {
            let at = changed_at(entry);
            self.last_change = self.last_change.max(Some(at));
            self.changed_after += u64::from(self.limit().is_some_and(|limit| at > limit));
        }
    }

    /// Returns the time from which on a change was after the promotion, whichever of two clocks is ahead.
    fn limit(&self) -> Option<Timestamp> {
        let UnixNanos(limit) = self.replaced?.at?.plus(CLOCKS_APART);
        let seconds = i64::try_from(limit / NANOS).ok()?;
        Some(Timestamp { seconds, nanos: u32::try_from(limit % NANOS).ok()? })
    }

    pub fn check(&self) -> LossCheck {
        let stated = self.replaced.map(|replaced| &replaced.stated);
        let stated_paths = stated.and_then(|stated| stated.files);
        let found_paths = self.counts.to_take() + self.counts.deleted;
        LossCheck {
            stated_seconds: stated.and_then(|stated| stated.seconds),
            stated_paths,
            promoted_at: self.replaced.and_then(|replaced| replaced.at).map(UnixNanos::seconds),
            found_paths,
            last_change: self.last_change.map(|at| at.seconds as f64 + f64::from(at.nanos) / NANOS as f64),
            changed_after: self.changed_after,
            verdict: match (self.limit(), stated_paths) {
                _ if self.changed_after > 0 => LossVerdict::After,
                (_, Some(stated)) if found_paths > stated => LossVerdict::More,
                (Some(_), _) => LossVerdict::AsStated,
                (None, _) => LossVerdict::Unknown,
            },
        }
    }
}

/// Returns when an entry changed on its host. Its mtime is whatever a program sets.
fn changed_at(entry: &Entry) -> Timestamp {
    match entry.fingerprint.ctime {
        ctime if ctime.seconds > CTIME_MIN_SECONDS => ctime,
        _ => entry.mtime,
    }
}

impl LossCheck {
    /// Returns what a person should know; none if there is nothing to say.
    pub(crate) fn said(&self) -> Option<String> {
        let Self { found_paths, changed_after, stated_paths, .. } = self;
        match self.verdict {
            LossVerdict::AsStated | LossVerdict::Unknown => None,
            LossVerdict::More => Some(format!(
                "{found_paths} paths are lost, and the promotion stated {}",
                stated_paths.unwrap_or_default()
            )),
            LossVerdict::After => Some(format!(
                "{changed_after} paths changed after another host had become the primary: its fence did not hold, or somebody worked there"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decision::Loss;
    use crate::model::entry::{Fingerprint, Kind, Xattrs};
    use crate::model::id::{Epoch, Sequence, WriterId};
    use crate::model::tree_path::TreePath;

    const PROMOTED_SECONDS: u64 = 1000;

    fn replaced(stated: Loss) -> Replaced {
        Replaced {
            host: WriterId("a".into()),
            of_epoch: Epoch(1),
            promotion: Sequence(7),
            base: None,
            by: WriterId("b".into()),
            stated,
            at: Some(UnixNanos(PROMOTED_SECONDS * NANOS)),
            stranded: Vec::new(),
        }
    }

    fn entry(ctime_seconds: i64, mtime_seconds: i64) -> Entry {
        Entry {
            path: TreePath::parse(b"a").unwrap(),
            kind: Kind::Fifo,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp { seconds: mtime_seconds, nanos: 0 },
            xattrs: Xattrs::None,
            hardlink: None,
            fingerprint: Fingerprint { inode: 1, ctime: Timestamp { seconds: ctime_seconds, nanos: 0 } },
        }
    }

    /// Returns the check after a path of each class that changed at these times.
    fn check(stated: Option<Loss>, changes: &[(Class, i64)]) -> LossCheck {
        let replaced = stated.map(replaced);
        let mut tally = Tally::new(replaced.as_ref());
        for (class, ctime_seconds) in changes {
            let here = (*class != Class::Deleted).then(|| entry(*ctime_seconds, 1));
            let base = (*class == Class::Deleted).then(|| entry(1, 1));
            tally.count(*class, &Three { base, here, theirs: None });
        }
        tally.check()
    }

    fn seconds(seconds: u64) -> Option<Loss> {
        Some(Loss { seconds: Some(seconds), ..Loss::default() })
    }

    #[test]
    fn what_changed_before_the_promotion_is_as_stated_and_what_changed_after_is_not() {
        use Class::{Both, Deleted, Only, Same, Transient};
        let before = check(seconds(60), &[(Only, 950), (Both, 1004), (Deleted, 0)]);
        assert_eq!((before.verdict, before.found_paths, before.changed_after), (LossVerdict::AsStated, 3, 0));
        assert_eq!((before.last_change, before.promoted_at), (Some(1004.0), Some(1000.0)));
        assert_eq!(before.said(), None);
        let after = check(seconds(60), &[(Only, 950), (Only, 1006), (Both, 2000)]);
        assert_eq!((after.verdict, after.changed_after), (LossVerdict::After, 2));
        assert!(after.said().unwrap().contains("2 paths changed after"));
        // Caches are made again all the time, and what is alike on both sides is not lost.
        let made_again = check(seconds(60), &[(Transient, 2000), (Same, 2000)]);
        assert_eq!((made_again.verdict, made_again.last_change), (LossVerdict::AsStated, None));
        assert_eq!(check(None, &[(Only, 950)]).verdict, LossVerdict::Unknown);
    }

    #[test]
    fn whatever_is_stranded_after_a_handover_is_more_than_stated() {
        let handed_over = || Some(Loss { seconds: Some(0), files: Some(0), transactions: None });
        assert_eq!(check(handed_over(), &[]).verdict, LossVerdict::AsStated);
        let more = check(handed_over(), &[(Class::Only, 990)]);
        assert_eq!(more.verdict, LossVerdict::More);
        assert!(more.said().unwrap().contains("1 paths are lost, and the promotion stated 0"));
        assert_eq!(check(handed_over(), &[(Class::Deleted, 0)]).verdict, LossVerdict::More);
    }

    #[test]
    fn a_program_does_not_set_when_a_path_changed() {
        assert_eq!(changed_at(&entry(950, 9_999)).seconds, 950);
        let unread = Entry { fingerprint: entry(950, 0).fingerprint.attributes_unread(), ..entry(950, 940) };
        assert_eq!(changed_at(&unread).seconds, 940);
    }
}
