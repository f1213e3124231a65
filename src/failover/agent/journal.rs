//! The steps of what this host is doing now, each with its time: shown live to the person who waits for a
//! promotion or a handover, and kept in the log with its completion.
//!
//! It is kept in memory: the log says what was decided, and each step may be repeated. After a restart the
//! steps of the new process are shown.

use crate::failover::decide::view::{Phase, View};
use crate::model::decision::StepTime;
use crate::model::id::WriterId;
use crate::support::clock::BootNanos;
use crate::support::env::Env;
use crate::support::kill_point;
use crate::support::lock::lock;
use std::sync::Mutex;

/// Steps of a handover during which the store is served.
pub(crate) const CATCH_UP: &str = "snapshot before";
pub(crate) const FOLLOWS: &str = "standby follows";
const BEFORE: [&str; 2] = [CATCH_UP, FOLLOWS];
/// Maximum number of steps that are kept.
const STEPS_MAX: usize = 48;

/// One step.
#[derive(Clone, Debug)]
pub struct Step {
    pub name: &'static str,
    pub detail: String,
    pub begun: BootNanos,
    /// None while it is being done.
    pub ended: Option<BootNanos>,
    /// Why its last attempt failed; it is tried again.
    pub failure: Option<String>,
}

/// The operation under way, or the last one, and its steps.
#[derive(Clone, Debug, Default)]
pub struct Operation {
    pub what: String,
    pub begun: BootNanos,
    pub steps: Vec<Step>,
}

/// The step that says that a handover was cancelled.
const CANCELLED: &str = "handover cancelled";

impl Operation {
    /// Returns why this is not a handover to `to` that goes on; empty if it is.
    pub(crate) fn why_no_handover(&self, to: &WriterId) -> Vec<String> {
        if self.what != handover(to) {
            return vec![format!(
                "it is not handing over to '{to}'; its daemon was started again meanwhile, or it was asked for something else"
            )];
        }
        let failed = |step: &Step| step.failure.as_ref().map(|how| format!("{}: {how}", step.name));
        let failures: Vec<_> = self.steps.iter().filter_map(failed).collect();
        match self.steps.iter().any(|step| step.name == CANCELLED) {
            true if failures.is_empty() => vec!["the handover was cancelled".to_owned()],
            true => failures,
            // What failed before customers were kept out ended it; what fails later is tried again.
            false if self.steps.iter().any(|step| !BEFORE.contains(&step.name)) => Vec::new(),
            false => failures,
        }
    }
}

fn handover(to: &WriterId) -> String {
    format!("handing over to '{to}'")
}

/// The steps of one store's agent.
pub struct Journal {
    env: Env,
    operation: Mutex<Operation>,
}

impl Journal {
    pub fn new(env: Env) -> Self {
        Self { env, operation: Mutex::default() }
    }

    pub fn operation(&self) -> Operation {
        lock(&self.operation).clone()
    }

    /// Returns the steps that are done, for the log.
    pub fn times(&self) -> Vec<StepTime> {
        let done = |step: &Step| {
            let took = step.ended?.since(step.begun);
            Some(StepTime { step: step.name.to_owned(), ms: took.as_millis().try_into().unwrap_or(u64::MAX) })
        };
        lock(&self.operation).steps.iter().filter_map(done).collect()
    }

    /// Notes that a handover is being prepared.
    pub(crate) fn begin_handover(&self, to: &WriterId) {
        self.begin(handover(to));
    }

    /// Begins a new operation.
    fn begin(&self, what: String) {
        *lock(&self.operation) = Operation { what, begun: self.env.boot(), steps: Vec::new() };
    }

    /// Does a step and notes how it went. A step of the same name that failed before goes on.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn run<T>(&self, name: &'static str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        self.enter(name, String::new(), None);
        kill_point::reached(format_args!("{name}: begun"));
        let result = work();
        if result.is_ok() {
            kill_point::reached(format_args!("{name}: done"));
        }
        let ended = self.env.boot();
        let mut operation = lock(&self.operation);
        if let Some(step) = operation.steps.iter_mut().rev().find(|step| step.name == name) {
            match &result {
                Ok(_) => (step.ended, step.failure) = (Some(ended), None),
                Err(how) => step.failure = Some(how.clone()),
            }
        }
        result
    }

    /// Notes a step that took no time of its own.
    pub fn mark(&self, name: &'static str, detail: String) {
        self.enter(name, detail, Some(self.env.boot()));
        kill_point::reached(name);
    }

    fn enter(&self, name: &'static str, detail: String, ended: Option<BootNanos>) {
        let begun = self.env.boot();
        let mut operation = lock(&self.operation);
        let last = operation.steps.iter_mut().rev().find(|step| step.name == name);
        if let Some(step) = last.filter(|step| step.ended.is_none()) {
            (step.detail, step.ended) = (detail, ended);
            return;
        }
        if operation.steps.len() == STEPS_MAX {
            operation.steps.remove(0);
        }
        operation.steps.push(Step { name, detail, begun, ended, failure: None });
    }

    /// Notes what a step of the machine changed.
    pub(crate) fn note(&self, before: &View, after: &View, now: BootNanos) {
        match (&before.phase, &after.phase) {
            (Phase::HandingOver { .. }, Phase::HandingOver { .. }) => {}
            (_, Phase::HandingOver { to, .. }) if self.operation().what == handover(to) => {}
            (_, Phase::HandingOver { to, .. }) => self.begin(handover(to)),
            (Phase::HandingOver { .. }, Phase::Fenced { .. }) if !after.is_primary() => {
                self.mark("replaced", String::new());
            }
            (Phase::HandingOver { .. }, Phase::Primary { .. }) => {
                self.mark(CANCELLED, "this host serves again".to_owned());
            }
            // After a start, and where another host has taken over from another one; else it belongs to the closing.
            (Phase::Standby, Phase::Rejoining) => self.begin("following".to_owned()),
            (_, Phase::Rejoining) if self.operation().what.is_empty() => self.begin("following".to_owned()),
            (Phase::Promoting { .. }, Phase::Promoting { .. }) => {}
            (_, Phase::Promoting { .. }) => self.begin("taking over".to_owned()),
            (Phase::Promoting { .. }, Phase::TakingOver { epoch, .. }) => {
                self.mark("promoted", format!("epoch {}", epoch.0));
            }
            (Phase::TakingOver { .. }, Phase::TakingOver { .. }) => {}
            (_, Phase::TakingOver { epoch, .. }) => self.begin(format!("serving again in epoch {}", epoch.0)),
            (Phase::TakingOver { .. }, Phase::Primary { epoch, .. }) => {
                self.mark("gate open", format!("epoch {}", epoch.0));
            }
            (Phase::Primary { .. } | Phase::HandingOver { .. }, Phase::Fenced { .. }) => {
                self.begin("closing".to_owned());
            }
            _ => {}
        }
        if let Phase::TakingOver { .. } = after.phase {
            let is_open = |view: &View, host| view.open_reigns(now).any(|reign| reign.host == host);
            for reign in after.log.reigns.iter().filter(|reign| reign.host != after.me) {
                if let Some(proof) = after.proof(reign, now)
                    && (is_open(before, reign.host.clone())
                        || !matches!(before.phase, Phase::TakingOver { .. }))
                {
                    self.mark("former primary closed", format!("'{}': {}", reign.host, proof.text()));
                }
            }
        }
        if before.log.handover.is_none() && after.log.handover.is_some() && after.is_primary() {
            self.mark("handover recorded", String::new());
        }
        if !before.log.is_completed && after.log.is_completed && after.is_primary() && before.is_primary() {
            self.mark("completed", String::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::decide::timing::Timing;
    use crate::failover::decide::view::{Cause, Rules};
    use crate::model::id::Epoch;

    fn journal() -> Journal {
        Journal::new(Env::system())
    }

    fn view(phase: Phase) -> View {
        let rules = Rules { timing: Timing::DEFAULT, has_lease: false, needs_set: true };
        View { phase, ..View::new(WriterId("b".into()), rules, BootNanos(0)) }
    }

    fn steps(journal: &Journal) -> Vec<(&'static str, bool, Option<String>)> {
        let steps = journal.operation().steps;
        steps.into_iter().map(|step| (step.name, step.ended.is_some(), step.failure)).collect()
    }

    #[test]
    fn a_handover_that_does_not_go_on_says_why() {
        let (journal, to) = (journal(), WriterId("b".into()));
        let why = |journal: &Journal| journal.operation().why_no_handover(&to);
        assert!(why(&journal)[0].contains("its daemon was started again"));
        journal.begin_handover(&to);
        assert!(why(&journal).is_empty());
        let _ = journal.run(FOLLOWS, || Err::<(), _>("it is away".into()));
        assert_eq!(why(&journal), ["standby follows: it is away"]);
        journal.begin_handover(&to);
        let _ = journal.run("consumers stopped", || Err::<(), _>("one is deaf".into()));
        assert!(why(&journal).is_empty(), "it is tried again");
        journal.mark(CANCELLED, String::new());
        assert_eq!(why(&journal), ["consumers stopped: one is deaf"]);
        journal.begin_handover(&to);
        journal.mark(CANCELLED, String::new());
        assert_eq!(why(&journal), ["the handover was cancelled"]);
    }

    #[test]
    fn a_step_that_failed_goes_on_and_is_one_step() {
        let journal = journal();
        journal.begin("taking over".into());
        assert_eq!(journal.run("files", || Err::<(), _>("no space".into())), Err("no space".into()));
        assert_eq!(steps(&journal), [("files", false, Some("no space".into()))]);
        assert!(journal.times().is_empty(), "a step that is not done is not in the log");
        assert_eq!(journal.run("files", || Ok(7)), Ok(7));
        assert_eq!(steps(&journal), [("files", true, None)]);
        // What is done, and done again, is another step.
        journal.run("files", || Ok(())).unwrap();
        journal.mark("promoted", "epoch 2".into());
        assert_eq!(steps(&journal).len(), 3);
        assert_eq!(
            journal.times().iter().map(|time| &*time.step).collect::<Vec<_>>(),
            ["files", "files", "promoted"]
        );
    }

    #[test]
    fn an_operation_that_begins_again_keeps_no_step_of_the_one_before() {
        let journal = journal();
        let (standby, promoting) = (view(Phase::Standby), view(Phase::Promoting { cause: Cause::Person }));
        let taking_over = view(Phase::TakingOver { epoch: Epoch(2), is_prepared: false });
        journal.note(&standby, &promoting, BootNanos(1));
        journal.note(&promoting, &promoting, BootNanos(2));
        journal.note(&promoting, &taking_over, BootNanos(3));
        journal.run("files", || Ok(())).unwrap();
        let operation = journal.operation();
        assert_eq!((operation.what.as_str(), operation.steps.len()), ("taking over", 2));
        // It fails, and is asked for again.
        journal.note(&taking_over, &standby, BootNanos(4));
        journal.note(&standby, &promoting, BootNanos(5));
        let operation = journal.operation();
        assert_eq!((operation.what.as_str(), operation.steps.len()), ("taking over", 0));
        assert!(operation.begun > BootNanos(0));
        // A process that finds itself promoted says so.
        journal.note(&view(Phase::Starting), &taking_over, BootNanos(6));
        assert_eq!(journal.operation().what, "serving again in epoch 2");
    }

    #[test]
    fn what_a_standby_does_for_a_new_primary_has_its_own_beginning() {
        let journal = journal();
        let rejoining = view(Phase::Rejoining);
        journal.note(&view(Phase::Fenced { is_closed: true }), &rejoining, BootNanos(1));
        journal.run("stranded files", || Ok(())).unwrap();
        let operation = journal.operation();
        assert_eq!((operation.what.as_str(), operation.steps.len()), ("following", 1));
        assert!(operation.steps[0].begun.since(operation.begun) < std::time::Duration::from_secs(60));
        journal.note(&view(Phase::Standby), &rejoining, BootNanos(2));
        assert_eq!(journal.operation().steps.len(), 0, "another primary, another beginning");
        // For a host that was the primary, it is the end of its closing.
        journal.begin("closing".into());
        journal.note(&view(Phase::Fenced { is_closed: true }), &rejoining, BootNanos(3));
        assert_eq!(journal.operation().what, "closing");
    }

    #[test]
    fn the_oldest_of_more_than_48_steps_goes() {
        let journal = journal();
        journal.begin("taking over".into());
        journal.mark("first", String::new());
        for _ in 1..STEPS_MAX {
            journal.mark("more", String::new());
        }
        assert_eq!((steps(&journal).len(), steps(&journal)[0].0), (48, "first"));
        journal.mark("last", String::new());
        assert_eq!(
            (steps(&journal).len(), steps(&journal)[0].0, steps(&journal)[47].0),
            (48, "more", "last")
        );
        assert_eq!(journal.times().len(), 48);
    }
}
