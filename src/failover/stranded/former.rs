//! What replaced a host as the primary, by the log. Pure.

use crate::model::decision::{Decision, Loss, Promoted};
use crate::model::id::{Epoch, Sequence, WriterId};
use crate::model::manifest_root::ManifestRoot;
use crate::model::record::Event;
use crate::repository::history::Happened;
use crate::support::clock::UnixNanos;

/// A change of the primary, with what followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The former primary.
    pub host: WriterId,
    /// The epoch that ended.
    pub of_epoch: Epoch,
    pub promotion: Sequence,
    /// The snapshot with which the new primary began, if the promotion says so.
    pub base: Option<Sequence>,
    /// The new primary.
    pub by: WriterId,
    /// The loss that the promotion stated.
    pub stated: Loss,
    /// Time of the promotion by the new primary's clock, if its record says so.
    pub at: Option<UnixNanos>,
    /// The trees of the former primary that were committed since, settled or not.
    pub stranded: Vec<(Sequence, ManifestRoot)>,
}

/// All changes of the primary, and who is the primary now.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub primary: Option<WriterId>,
    epoch: Epoch,
    replaced: Vec<Replaced>,
}

impl Changes {
    /// Reads them from the log's history. What is irregular there has no effect here either.
    pub(crate) fn of(history: &[Happened]) -> Self {
        let mut changes = Self::default();
        for happened in history.iter().filter(|happened| happened.irregular.is_none()) {
            changes.take(happened);
        }
        changes
    }

    fn take(&mut self, Happened { record, .. }: &Happened) {
        let sequence = record.sequence;
        match &record.event {
            Event::Promoted { primary } => self.replace(primary, sequence, None, None),
            Event::Decided(decided) => {
                let statement = decided.statement();
                let at = statement.as_ref().map(|statement| statement.at);
                match statement.map(|statement| statement.decision) {
                    // Of the lists of members, only the first moves the epoch: its maker is the primary.
                    Some(Decision::Members { .. }) if record.epoch != self.epoch => {
                        self.replace(&decided.member, sequence, at, None);
                    }
                    Some(Decision::Promoted(promoted)) => {
                        self.replace(&promoted.primary, sequence, at, Some(&promoted));
                    }
                    Some(Decision::Stranded(stranded)) => {
                        let of_epoch = stranded.of_epoch;
                        if let Some(replaced) = self.replaced.iter_mut().find(|r| r.of_epoch == of_epoch) {
                            replaced.stranded.push((sequence, stranded.manifest));
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        self.epoch = record.epoch;
    }

    fn replace(
        &mut self,
        by: &WriterId,
        promotion: Sequence,
        at: Option<UnixNanos>,
        promoted: Option<&Promoted>,
    ) {
        let former = self.primary.replace(by.clone());
        if let Some(host) = former.filter(|former| former != by) {
            self.replaced.push(Replaced {
                host,
                of_epoch: self.epoch,
                promotion,
                base: promoted.and_then(|promoted| promoted.base),
                by: by.clone(),
                stated: promoted.map(|promoted| promoted.loss.clone()).unwrap_or_default(),
                at,
                stranded: Vec::new(),
            });
        }
    }

    /// Returns what replaced `host`; `None` if it is the primary or never was.
    pub fn replaced(&self, host: &WriterId) -> Option<&Replaced> {
        let last = self.replaced.iter().rev().find(|replaced| replaced.host == *host);
        last.filter(|_| self.primary.as_ref() != Some(host))
    }

    /// Returns the change that ended an epoch.
    pub fn ended(&self, epoch: Epoch) -> Option<&Replaced> {
        self.replaced.iter().find(|replaced| replaced.of_epoch == epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decision::{Cause, Decided, Statement, Stranded};
    use crate::model::id::ChunkId;
    use crate::model::record::Record;
    use crate::support::signature::Signature;

    fn name(host: &str) -> WriterId {
        WriterId(host.into())
    }

    /// Returns a record that decides; whether it holds is not looked at here.
    fn happened(sequence: u64, epoch: u64, maker: &str, decision: Decision) -> Happened {
        let statement = Statement { at: UnixNanos(0), decision };
        let statement = serde_json::to_string(&statement).unwrap();
        let decided = Decided { statement, member: name(maker), signature: Signature([0; 64]) };
        let record = Record {
            store: crate::model::id::StoreName::parse("acme").unwrap(),
            sequence: Sequence(sequence),
            epoch: Epoch(epoch),
            writer: name(maker),
            nonce: 0,
            previous: None,
            ring: None,
            event: Event::Decided(Box::new(decided)),
        };
        Happened { record, irregular: None }
    }

    fn promoted(host: &str, base: u64) -> Decision {
        Decision::Promoted(Promoted {
            primary: name(host),
            incarnation: None,
            cause: Cause::Forced { person: "ops".into(), attested: false },
            base: Some(Sequence(base)),
            loss: Loss::default(),
            reason: "test".into(),
        })
    }

    #[test]
    fn each_former_primary_is_found_with_what_replaced_it_last() {
        let manifest = ManifestRoot { page: ChunkId([7; 32]), height: 0, entries: 1, size_bytes: 0 };
        let stranded = Stranded {
            of_epoch: Epoch(1),
            base: None,
            manifest: manifest.clone(),
            new_packs: Vec::new(),
            new_index: Vec::new(),
            added: 1,
            changed: 0,
            removed: 0,
        };
        let mut history = vec![
            happened(2, 1, "a", Decision::Members { members: Vec::new() }),
            happened(4, 2, "b", promoted("b", 3)),
            happened(5, 2, "a", Decision::Stranded(stranded)),
            happened(6, 2, "b", Decision::Members { members: Vec::new() }),
        ];
        let changes = Changes::of(&history);
        let first = changes.replaced(&name("a")).unwrap().clone();
        assert_eq!((first.of_epoch, first.promotion, first.base), (Epoch(1), Sequence(4), Some(Sequence(3))));
        assert_eq!((first.by.0.as_str(), &first.stranded), ("b", &vec![(Sequence(5), manifest)]));
        assert!(changes.replaced(&name("b")).is_none() && changes.replaced(&name("c")).is_none());
        assert_eq!(changes.ended(Epoch(1)), Some(&first));
        // What has no effect changes nothing.
        let forged = Happened { irregular: Some("unsigned".into()), ..happened(7, 3, "c", promoted("c", 3)) };
        history.push(forged);
        assert!(Changes::of(&history).replaced(&name("b")).is_none());
        // It is the primary again, and is replaced once more.
        history.push(happened(8, 3, "a", promoted("a", 6)));
        let changes = Changes::of(&history);
        assert!(changes.replaced(&name("a")).is_none());
        assert_eq!(changes.replaced(&name("b")).unwrap().of_epoch, Epoch(2));
        history.push(happened(9, 4, "c", promoted("c", 8)));
        let changes = Changes::of(&history);
        assert_eq!(changes.replaced(&name("a")).unwrap().of_epoch, Epoch(3));
        assert_eq!(changes.ended(Epoch(1)), Some(&first), "and what ended then is known");
    }
}
