//! Reads other hosts' leases and statements, and breaks leases.

use super::message::Message;
use super::participants::{Participants, Report};
use crate::failover::decide::input::Input;
use crate::model::id::{Epoch, WriterId};
use crate::model::lease::LeaseNote;
use crate::model::record::StoreState;
use crate::repository::error::RepositoryError;
use crate::repository::leases::{LastNumber, Lease, NumberTaken};
use crate::repository::store::Store;
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

/// Maximum number of numbers that count for nothing and are passed over by one attempt to break a lease.
const PASSED_OVER_MAX: u32 = 8;
/// What may fail here, for messages.
const LEASE: &str = "looking at another host's lease";
const STATEMENTS: &str = "looking at another host's statements";

/// What this desk does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum WatchJob {
    /// Also look at its statements.
    Look {
        host: WriterId,
        has_statements: bool,
    },
    Break {
        host: WriterId,
        number: u64,
        epoch: Epoch,
    },
}

/// The desk.
pub(crate) struct WatchDesk {
    pub store: Store,
    pub me: WriterId,
    pub key: Arc<SigningKey>,
    pub leases: BTreeMap<WriterId, Lease>,
    /// Whether the store's plan has leases.
    pub has_lease: bool,
    pub shared: Arc<Mutex<Arc<StoreState>>>,
    pub inputs: Sender<Message>,
    pub participants: Arc<dyn Participants>,
}

impl WatchDesk {
    pub(crate) fn run(&mut self, job: WatchJob) {
        let state = lock(&self.shared).clone();
        let input = match job {
            WatchJob::Look { host, has_statements } => self.look(&state, host, has_statements).map(Some),
            WatchJob::Break { host, number, epoch } => self.break_lease(&state, host, number, epoch),
        };
        match input {
            // A machine that has ended hears nothing.
            Ok(input) => {
                self.participants.report(Report::Works { what: LEASE });
                if let Some(input) = input {
                    let _ = self.inputs.send(Message::Input(input));
                }
            }
            Err(error) => {
                self.participants.report(Report::Failed { what: LEASE, how: error.to_string() });
            }
        }
    }

    fn lease(&mut self, host: &WriterId) -> &mut Lease {
        let store = &self.store;
        self.leases.entry(host.clone()).or_insert_with(|| Lease::new(store, host))
    }

    fn look(
        &mut self,
        state: &StoreState,
        host: WriterId,
        has_statements: bool,
    ) -> Result<Input, RepositoryError> {
        let (number, renewed) = match self.has_lease {
            true => {
                let lease = self.lease(&host);
                let number = lease.follow(&state.authority.members)?.map_or(0, |last| last.number);
                (number, lease.renewed())
            }
            false => (0, 0),
        };
        let stated = has_statements.then(|| self.store.log().stated(state, &host));
        let closed_at = match stated {
            Some(Ok(closed_at)) => {
                self.participants.report(Report::Works { what: STATEMENTS });
                closed_at
            }
            Some(Err(error)) => {
                self.participants.report(Report::Failed { what: STATEMENTS, how: error.to_string() });
                None
            }
            None => None,
        };
        Ok(Input::Seen { host, number, renewed, closed_at })
    }

    /// Creates the first free number from `number` on, as a break. It is won only if the holder created no later
    /// one. Breaks for other stores are passed over: who takes over many stores breaks one lease for each.
    fn break_lease(
        &mut self,
        state: &StoreState,
        host: WriterId,
        mut number: u64,
        epoch: Epoch,
    ) -> Result<Option<Input>, RepositoryError> {
        let name = self.store.name().clone();
        let is_of_another_store =
            |last: &LastNumber| matches!(&last.note, LeaseNote::Broken { store, .. } if *store != name);
        let note = LeaseNote::Broken { store: name.clone(), epoch };
        let (me, key, members) = (self.me.clone(), self.key.clone(), &state.authority.members);
        let lease = self.lease(&host);
        // Also when the reply to an earlier request was lost.
        let is_mine = |last: &LastNumber| last.maker == me && last.note == note;
        let mut made = None;
        for _ in 0..PASSED_OVER_MAX {
            if let Some(last) = lease.look(members)?.filter(|last| last.number >= number).cloned() {
                let (number_there, renewed) = (last.number, lease.renewed());
                let is_won = is_mine(&last) || made.is_some_and(|made| made > renewed);
                if is_won || !is_of_another_store(&last) {
                    return Ok(Some(Input::Break { host, number: number_there, renewed, epoch, is_won }));
                }
                number = number_there.saturating_add(1);
            }
            let Some(free) = lease.free_from(number) else { return Ok(None) };
            let Ok(signed) = note.sign(&host, free, &me, &key) else { return Ok(None) };
            match lease.create(free, &signed)? {
                // What counts now is looked at.
                NumberTaken::Mine => made = Some(free),
                NumberTaken::Unknown => return Ok(None),
                NumberTaken::Other(bytes) => {
                    if lease.judge(free, &bytes).is_err() {
                        lease.pass_over(free);
                    }
                }
            }
        }
        Ok(None)
    }
}
