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
use crate::support::lock::lock;
use std::sync::Mutex;

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
        let result = work();
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
                self.mark("handover cancelled", "this host serves again".to_owned());
            }
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
