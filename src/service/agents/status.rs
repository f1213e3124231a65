//! What an agent does, for people and programs.

use super::registry::Running;
use crate::api::failover::{FailoverBrief, FailoverStatus, FailoverStep, ReplicaStatus};
use crate::failover::agent::journal::{Operation, Step};
use crate::failover::decide::reason::why_not;
use crate::failover::decide::view::{Cause, Phase, View};
use crate::model::id::{StoreName, WriterId};
use crate::service::config::ReplicaConfig;
use crate::service::media;
use crate::service::watching;
use crate::support::clock::{BootNanos, seconds};

/// Returns the word for a phase.
fn phase_word(phase: &Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Fenced { .. } => "fenced",
        Phase::Rejoining => "rejoining",
        Phase::Standby => "standby",
        Phase::Promoting { .. } => "promoting",
        Phase::TakingOver { .. } => "taking over",
        Phase::Primary { .. } => "primary",
        Phase::HandingOver { .. } => "handing over",
    }
}

/// Returns the status of a store without an agent.
pub(crate) fn without_agent(store: &StoreName, host: WriterId, why: String) -> FailoverStatus {
    FailoverStatus {
        store: store.clone(),
        host,
        no_agent: Some(why),
        phase: String::new(),
        epoch: 0,
        primary: None,
        members: Vec::new(),
        handover_to: None,
        completed: false,
        synced: Vec::new(),
        paused: false,
        has_lease: false,
        waits_for: Vec::new(),
        why_not: Vec::new(),
        why_not_automatic: Vec::new(),
        refused: Vec::new(),
        failing: Vec::new(),
        watch: None,
        ready: Vec::new(),
        loss_files_seconds: None,
        loss_database_seconds: None,
        replica: None,
        media: None,
        operation: String::new(),
        steps: Vec::new(),
    }
}

fn reasons(view: &View, cause: Cause, now: BootNanos) -> Vec<String> {
    why_not(view, cause, now).iter().map(ToString::to_string).collect()
}

fn step(operation: &Operation, step: &Step) -> FailoverStep {
    FailoverStep {
        step: step.name.to_owned(),
        detail: step.detail.clone(),
        at_seconds: step.begun.since(operation.begun).as_secs_f64(),
        took_seconds: step.ended.map(|ended| ended.since(step.begun).as_secs_f64()),
        failure: step.failure.clone(),
    }
}

/// Returns the status of a store with an agent, in short.
pub(crate) fn brief(running: &Running) -> FailoverBrief {
    let (view, loss) = (running.agent.view(), running.agent.words().loss());
    FailoverBrief {
        phase: phase_word(&view.phase).to_owned(),
        epoch: view.log.epoch.0,
        primary: view.log.primary.clone(),
        failing: running.parts.failing(),
        ready: watching::status::is_ready(running.agent.words()),
        loss_files_seconds: loss.files.map(seconds),
        loss_database_seconds: loss.database.map(seconds),
    }
}

/// Returns the status of a store with an agent.
pub(crate) fn of(
    store: &StoreName,
    running: &Running,
    replica: Option<&ReplicaConfig>,
    now: BootNanos,
) -> FailoverStatus {
    let (view, operation) = (running.agent.view(), running.agent.operation());
    let loss = running.agent.words().loss();
    FailoverStatus {
        store: store.clone(),
        host: view.me.clone(),
        no_agent: None,
        phase: phase_word(&view.phase).to_owned(),
        epoch: view.log.epoch.0,
        primary: view.log.primary.clone(),
        members: view.log.serving.iter().cloned().collect(),
        handover_to: view.log.handover.as_ref().map(|handover| handover.to.clone()),
        completed: view.log.is_completed,
        synced: view.log.synced.iter().cloned().collect(),
        paused: view.log.is_paused,
        has_lease: view.rules.has_lease,
        waits_for: running.agent.waits_for(),
        why_not: reasons(&view, Cause::Person, now),
        why_not_automatic: reasons(&view, Cause::Watchers, now),
        refused: running.parts.refused(),
        failing: running.parts.failing(),
        watch: watching::status::of(running.agent.words()),
        ready: watching::status::ready(running.agent.words()),
        loss_files_seconds: loss.files.map(seconds),
        loss_database_seconds: loss.database.map(seconds),
        replica: replica.map(|replica| ReplicaStatus {
            path: replica.path.display().to_string(),
            address: replica.address.clone(),
            snapshot: running.parts.replica(),
        }),
        media: media::of_epoch(store, view.log.epoch),
        steps: operation.steps.iter().map(|one| step(&operation, one)).collect(),
        operation: operation.what,
    }
}
