//! Reads the log for the machine, and appends to it: the only thread of an agent that uses the local cache.

use super::lease_judge::{Judgement, LeaseJudge};
use super::lease_lines::Verdict;
use super::message::Message;
use super::participants::{Participants, Report};
use super::terms::{self, Terms, decision_of, event_of};
use crate::failover::decide::input::{Input, Outcome};
use crate::failover::decide::log_view::Event;
use crate::failover::log_view::log_view;
use crate::model::closed::Closed;
use crate::model::id::{ContentHash, Sequence, WriterId};
use crate::model::record::{self, StoreState};
use crate::repository::decide::Maker;
use crate::repository::error::RepositoryError;
use crate::repository::store::Store;
use crate::support::failure::{Failure, FailureKind};
use crate::support::kill_point;
use crate::support::lock::lock;
use crate::support::signature::SigningKey;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

/// Number of heads of the log whose hash is remembered.
const HEADS_MAX: usize = 64;

/// Number of readings of which one lists the log.
const LIST_EVERY: u32 = 30;

/// What may fail here, for messages.
const READING: &str = "reading the log";
const APPENDING: &str = "appending to the log";
const STATING: &str = "stating that this host is closed";

/// What this desk does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum LogJob {
    Read,
    Append {
        after: Sequence,
        event: Event,
        terms: Box<Terms>,
    },
    State {
        at: Sequence,
    },
    /// An object at a number of the own lease is signed by no member that is known here: the log is read, and
    /// then it is judged again. So a break by a member that this host had not heard of counts.
    Judge {
        number: u64,
        bytes: Bytes,
    },
}

/// The desk.
pub(crate) struct LogDesk {
    pub store: Store,
    pub me: WriterId,
    pub key: Arc<SigningKey>,
    pub state: StoreState,
    /// The state, for the other desks.
    pub shared: Arc<Mutex<Arc<StoreState>>>,
    pub inputs: Sender<Message>,
    pub participants: Arc<dyn Participants>,
    /// Hashes of records that were the head when the machine was told.
    pub heads: BTreeMap<Sequence, ContentHash>,
    /// Number of readings since the log was listed.
    pub probed: u32,
    pub judge: Arc<LeaseJudge>,
    /// Takes what a number of the own lease turned out to be.
    pub judged: Box<dyn Fn(u64, Verdict) + Send>,
}

impl LogDesk {
    pub(crate) fn run(&mut self, job: LogJob) {
        match job {
            LogJob::Read => {
                self.read();
            }
            LogJob::Append { after, event, terms } => {
                let outcome = self.append(after, &event, &terms);
                self.tell(Input::Appended { after, outcome });
            }
            LogJob::State { at } => self.state_closed(at),
            LogJob::Judge { number, bytes } => self.judge(number, &bytes),
        }
    }

    /// Gives an input to the machine. A machine that has ended hears nothing.
    fn tell(&self, input: Input) {
        let _ = self.inputs.send(Message::Input(input));
    }

    fn failed(&self, what: &'static str, error: &RepositoryError) {
        self.participants.report(Report::Failed { what, how: error.to_string() });
    }

    /// Reads the log, and tells the machine. Returns whether it could.
    fn read(&mut self) -> bool {
        let asked = self.store.env().boot();
        match self.refresh() {
            Ok(()) => {
                self.share();
                self.participants.report(Report::Works { what: READING });
                self.tell(Input::Log { log: log_view(&self.state), asked });
                true
            }
            Err(error) => {
                self.failed(READING, &error);
                false
            }
        }
    }

    /// Reads what is new. Most times, that is nothing; where the next number has no record, the log is listed
    /// only now and then, for a gap.
    fn refresh(&mut self) -> Result<(), RepositoryError> {
        let log = self.store.log();
        self.probed = if self.state.head.is_some() { self.probed + 1 } else { LIST_EVERY };
        if self.probed < LIST_EVERY && !log.has_news(&self.state)? {
            return Ok(());
        }
        log.refresh(&mut self.state)?;
        self.probed = 0;
        Ok(())
    }

    fn share(&mut self) {
        if let Some((head, hash)) = self.state.head {
            self.heads.insert(head, hash);
            if self.heads.len() > HEADS_MAX {
                self.heads.pop_first();
            }
        }
        *lock(&self.shared) = Arc::new(self.state.clone());
    }

    fn append(&mut self, after: Sequence, event: &Event, terms: &Terms) -> Outcome {
        if let Err(error) = self.store.log().refresh(&mut self.state) {
            self.failed(READING, &error);
            return Outcome::Unknown;
        }
        self.share();
        if self.state.next_sequence() != after.next() {
            return self.found(after, event);
        }
        let not_appended = |how: String| Report::NotAppended { decision: terms::name(event), how };
        let decision = match decision_of(event, &self.state, terms, self.store.env().wall()) {
            Ok(decision) => decision,
            // Nothing was sent, now or before: it follows from the same state.
            Err(how) => {
                self.participants.report(not_appended(how.to_owned()));
                return Outcome::Lost;
            }
        };
        let (store, maker) = (self.store.clone(), Maker { name: &self.me, key: &self.key });
        // One attempt: what is decided is right in this place only.
        let next = |state: &StoreState| {
            let is_here = state.next_sequence() == after.next();
            Ok::<_, RepositoryError>(is_here.then(|| decision.clone()))
        };
        let name = terms::name(event);
        kill_point::reached(format_args!("append {name}: begun"));
        match store.log().decide(&mut self.state, maker, next) {
            Ok(Some(_)) => {
                kill_point::reached(format_args!("append {name}: done"));
                self.participants.report(Report::Works { what: APPENDING });
                self.share();
                Outcome::Won
            }
            Ok(None) => self.found(after, event),
            Err(error @ RepositoryError::Decision { .. }) => {
                self.participants.report(not_appended(error.to_string()));
                Outcome::Lost
            }
            Err(error) => {
                if error.kind() != FailureKind::Unavailable {
                    self.failed(APPENDING, &error);
                }
                Outcome::Unknown
            }
        }
    }

    /// Returns whether the record after `after` is the one that was to be appended.
    fn found(&self, after: Sequence, event: &Event) -> Outcome {
        if self.state.head.is_none_or(|(head, _)| head <= after) {
            return Outcome::Unknown;
        }
        let Ok(found) = self.store.log().record_at(after.next()) else { return Outcome::Unknown };
        let record::Event::Decided(decided) = &found.event else { return Outcome::Lost };
        let is_irregular =
            self.state.authority.irregular.last.iter().any(|record| record.sequence == after.next());
        let said = decided.statement().and_then(|statement| event_of(&statement.decision));
        let is_mine = decided.member == self.me && said.as_ref() == Some(event) && !is_irregular;
        if is_mine { Outcome::Won } else { Outcome::Lost }
    }

    fn state_closed(&self, at: Sequence) {
        // The machine asks again at a later record.
        let Some(record) = self.heads.get(&at) else { return };
        let closed = Closed { record: *record };
        let Ok(signed) = closed.sign(self.store.name(), &self.me, at, &self.key) else { return };
        match self.store.log().put_statement(&self.me, at, &signed) {
            Ok(()) => {
                self.participants.report(Report::Works { what: STATING });
                self.tell(Input::Stated { at });
            }
            Err(error) => self.failed(STATING, &error),
        }
    }

    fn judge(&mut self, number: u64, bytes: &Bytes) {
        if !self.read() {
            return;
        }
        let members = &self.state.authority.members;
        let Judgement { verdict, why } = self.judge.judge(bytes, number, self.store.name(), members);
        // What no member of the store signed by now counts for nothing.
        let verdict = if verdict == Verdict::Doubtful { Verdict::Passed } else { verdict };
        if let Some(why) = why {
            let how = format!("number {number} of this host's lease counts for nothing: {why}");
            self.participants.report(Report::Failed { what: "a number of the lease", how });
        }
        (self.judged)(number, verdict);
    }
}
