//! Keeps this host's own lease: creates its numbers. Nothing here reads or writes a disk of this host, or waits
//! for anything but the lease's object.

use super::log_desk::LogJob;
use super::message::Message;
use super::participants::{Participants, Report};
use super::worker::Worker;
use crate::failover::decide::input::{Input, LeaseReply};
use crate::model::id::{Incarnation, WriterId};
use crate::model::lease::LeaseNote;
use crate::model::record::StoreState;
use crate::repository::leases::{LEASE_KEPT, Lease, NumberTaken};
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use std::collections::BTreeSet;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

/// What this desk does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LeaseJob {
    Find,
    Renew { number: u64 },
}

/// The desk.
pub(crate) struct OwnLease {
    pub lease: Lease,
    pub me: WriterId,
    pub key: Arc<SigningKey>,
    pub incarnation: Incarnation,
    /// Processes of this host that are known to have ended.
    pub ended: BTreeSet<Incarnation>,
    pub shared: Arc<Mutex<Arc<StoreState>>>,
    pub inputs: Sender<Message>,
    pub log: Arc<Worker<LogJob>>,
    pub participants: Arc<dyn Participants>,
}

impl OwnLease {
    pub(crate) fn run(&mut self, job: LeaseJob) {
        let input = match job {
            LeaseJob::Find => self.find(),
            LeaseJob::Renew { number } => self.renew(number),
        };
        if let Some(input) = input {
            // A machine that has ended hears nothing.
            let _ = self.inputs.send(Message::Input(input));
        }
    }

    fn is_own(&self, incarnation: Incarnation) -> bool {
        incarnation == self.incarnation || self.ended.contains(&incarnation)
    }

    fn find(&mut self) -> Option<Input> {
        let state = lock(&self.shared).clone();
        let found = match self.lease.look(&state.authority.members) {
            Ok(found) => found.cloned(),
            Err(error) => {
                self.failed(error.to_string());
                return None;
            }
        };
        let is_mine = found.as_ref().is_none_or(|last| match last.note {
            LeaseNote::Held { incarnation } => self.is_own(incarnation),
            LeaseNote::Broken { .. } => true,
        });
        let last = found.map_or(0, |last| last.number);
        // Numbers that count for nothing cannot be created any more.
        let number = self.lease.free_from(last.checked_add(1)?)?.checked_sub(1)?;
        Some(Input::OwnNumber { number, is_mine })
    }

    fn renew(&mut self, number: u64) -> Option<Input> {
        let held = LeaseNote::Held { incarnation: self.incarnation };
        let signed = held.sign(&self.me, number, &self.me, &self.key).ok()?;
        let reply = match self.lease.create(number, &signed) {
            Ok(NumberTaken::Mine) => LeaseReply::Created,
            Ok(NumberTaken::Unknown) => LeaseReply::Unknown,
            Ok(NumberTaken::Other(bytes)) => {
                let state = lock(&self.shared).clone();
                match LeaseNote::read(&bytes, &self.me, number, &state.authority.members) {
                    Ok((_, LeaseNote::Broken { .. })) => LeaseReply::Broken,
                    Ok((_, LeaseNote::Held { .. })) => LeaseReply::Rival,
                    Err(why) => {
                        self.failed(format!(
                            "number {number} of this host's lease counts for nothing: {why}"
                        ));
                        self.log.put(LogJob::Judge { number });
                        return None;
                    }
                }
            }
            Err(error) => {
                self.failed(error.to_string());
                LeaseReply::Unknown
            }
        };
        if reply == LeaseReply::Created && number.is_multiple_of(LEASE_KEPT / 10) {
            self.log.put(LogJob::Prune { last: number });
        }
        Some(Input::Lease { number, reply })
    }

    fn failed(&self, how: String) {
        self.participants.report(Report::Failed { what: "keeping the lease", how });
    }
}
