//! Upkeep: pruning, verification and drills, each when it is due by the store's plan.
//!
//! A note in the repository records what was done and how far it got, so that a container that starts without
//! state continues where the last one stopped. One store has its turn at a time, and its runs continue
//! meanwhile: nothing here takes a lock.

use super::config::StoreConfig;
use super::drill::{DrillError, DrillReport, drill};
use super::host::{Host, HostError};
use super::site::dry::World;
use super::site::due::is_possible;
use super::site::report::{SiteError, SiteReport};
use super::site::run::SiteDrill;
use crate::maintain::damage::VerifyReport;
use crate::maintain::prune::{PruneError, PruneReport, PruneRequest, prune};
use crate::maintain::verify::{self, VerifyOptions};
use crate::model::plan::Upkeep;
use crate::model::snapshot_ref::Moment;
use crate::repository::error::RepositoryError;
use crate::repository::store::Store;
use crate::repository::upkeep::{SiteNote, SiteProof, UpkeepNote};
use crate::standby::depot::Depot;
use crate::support::clock::{HOUR, UnixNanos};
use crate::support::failure::{Failure, FailureKind};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;

/// Tolerance of the configured hours: a job that runs every day at the same time must not be late by a
/// minute.
const SLACK: Duration = Duration::from_mins(15);

/// The reason why a duty was not done.
#[derive(Debug, Error)]
pub(crate) enum UpkeepError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error(transparent)]
    Prune(#[from] PruneError),
    #[error(transparent)]
    Drill(#[from] DrillError),
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error(
        "store '{store}': {problems} objects are damaged and {touched} files affected; run `understudy verify {store} --repair` to ship again what the source or a standby has"
    )]
    Unsound { store: String, problems: u64, touched: u64 },
}

impl Failure for UpkeepError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Host(error) => error.kind(),
            Self::Repository(error) => error.kind(),
            Self::Prune(error) => error.kind(),
            Self::Drill(error) => error.kind(),
            Self::Site(error) => error.kind(),
            Self::Unsound { .. } => FailureKind::Damaged,
        }
    }
}

/// A duty that may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum UpkeepTask {
    Prune,
    Verify,
    Drill,
    Site,
}

/// The report of a duty.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TaskReport {
    Prune(Box<PruneReport>),
    Verify(Box<VerifyReport>),
    Drill(Box<DrillReport>),
    Site(Box<SiteReport>),
}

/// The result of a duty.
pub(crate) type TaskResult = (UpkeepTask, Result<TaskReport, UpkeepError>);

/// Returns the duties that are due now. Pure.
pub(crate) fn due(note: &UpkeepNote, upkeep: &Upkeep, now: UnixNanos) -> Vec<UpkeepTask> {
    let is_due = |last: Option<UnixNanos>, hours: u32| {
        let period = hours * HOUR;
        // After the clock was set back, a duty is due rather than forgotten.
        hours > 0 && last.is_none_or(|last| last > now || now.since(last) + SLACK.min(period / 4) >= period)
    };
    let mut duties = Vec::new();
    if is_due(note.pruned, upkeep.prune_hours) {
        duties.push(UpkeepTask::Prune);
    }
    if is_due(note.verified, upkeep.verify_hours) {
        duties.push(UpkeepTask::Verify);
    }
    if is_due(note.drilled, upkeep.drill_hours) {
        duties.push(UpkeepTask::Drill);
    }
    if is_due(note.site.as_ref().map(|site| site.at), upkeep.site_drill_hours) {
        duties.push(UpkeepTask::Site);
    }
    duties
}

/// Returns the percentage of the packs that one verification reads, so that all are read within
/// `verify_days`.
fn share_percent(upkeep: &Upkeep) -> u8 {
    let hours = u64::from(upkeep.verify_days) * 24;
    match hours {
        0 => 0,
        hours => (100 * u64::from(upkeep.verify_hours)).div_ceil(hours).clamp(1, 100) as u8,
    }
}

/// The resources that upkeep needs.
pub(crate) struct UpkeepRun<'a> {
    pub host: &'a Host,
    pub store: &'a Store,
    pub config: &'a StoreConfig,
    /// Set when this process is asked to end; then no further duty begins.
    pub stop: &'a AtomicBool,
}

impl UpkeepRun<'_> {
    /// Does what is due, and notes it. A store without a snapshot needs no upkeep.
    pub(crate) fn keep_up(&self) -> Result<Vec<TaskResult>, UpkeepError> {
        let mut note = self.store.notes().upkeep_of(&self.host.writer())?;
        let mut done = Vec::new();
        for duty in due(&note, &self.config.upkeep(), self.host.env().wall()) {
            let state = self.store.log().state()?;
            if self.stop.load(Ordering::Relaxed) || state.latest().is_none() {
                break;
            }
            let is_primary = state.primary.as_ref() == Some(&self.host.writer());
            if duty == UpkeepTask::Site && !is_possible(self.config, is_primary) {
                continue;
            }
            let result = self.one(duty, &mut note);
            // The results are returned, whether the note could be written or not.
            let noted = self.store.notes().note_upkeep(&note).map_err(UpkeepError::from);
            done.push((duty, result.and_then(|done| noted.map(|()| done))));
        }
        Ok(done)
    }

    fn one(&self, duty: UpkeepTask, note: &mut UpkeepNote) -> Result<TaskReport, UpkeepError> {
        let env = self.host.env();
        match duty {
            UpkeepTask::Prune => {
                let request = PruneRequest::new(self.config.retention(), self.host.writer());
                note.pruned = Some(env.wall());
                Ok(TaskReport::Prune(Box::new(prune(self.store, &request, &|_| {})?)))
            }
            UpkeepTask::Verify => {
                let read_data_percent = share_percent(&self.config.upkeep());
                let is_over = || self.stop.load(Ordering::Relaxed);
                let report = verify_on(
                    self.store,
                    note,
                    VerifyOptions { read_data_percent, after: None, is_over: &is_over },
                    env.wall(),
                )?;
                if report.is_sound() {
                    return Ok(TaskReport::Verify(Box::new(report)));
                }
                Err(UpkeepError::Unsound {
                    store: self.store.name().to_string(),
                    problems: report.problems.len() as u64,
                    touched: report.touched_count,
                })
            }
            UpkeepTask::Drill => {
                let begun = env.wall();
                let is_over = || self.stop.load(Ordering::Relaxed);
                let depot = Depot::new(&self.host.standby(None)?, self.store.name());
                let drilled = drill(self.store, &depot, Moment::Latest, &self.config.drill, &is_over);
                note_drill(note, &drilled, begun, env.wall());
                Ok(TaskReport::Drill(Box::new(drilled?)))
            }
            UpkeepTask::Site => {
                let begun = env.wall();
                let stop = || self.stop.load(Ordering::Relaxed);
                let depot = Depot::new(&self.host.standby(None)?, self.store.name());
                let world = World { host: self.host, store: self.store, config: self.config };
                let drilled = SiteDrill::new(world, &depot, false, &stop).and_then(|drill| drill.run());
                note_site(note, &drilled, begun);
                Ok(TaskReport::Site(Box::new(drilled?)))
            }
        }
    }
}

/// Notes the result of a drill; an interrupted drill leaves no note.
pub(crate) fn note_drill(
    note: &mut UpkeepNote,
    drilled: &Result<DrillReport, DrillError>,
    begun: UnixNanos,
    now: UnixNanos,
) {
    if let Err(DrillError::Stopped { .. }) = drilled {
        return;
    }
    note.drilled = Some(begun);
    match drilled {
        Ok(report) => {
            note.prove(report.proof(now));
            note.drill_error = None;
        }
        Err(error) => note.drill_error = Some(error.to_string()),
    }
}

/// Notes how a drill of a failover ended that began at a time. Returns false where nothing was found out.
pub(crate) fn note_site(
    note: &mut UpkeepNote,
    drilled: &Result<SiteReport, SiteError>,
    begun: UnixNanos,
) -> bool {
    let before = note.site.take().and_then(|site| site.proven);
    let (error, proven) = match drilled {
        Ok(report) => {
            let SiteReport { recovery_seconds, snapshot, .. } = *report;
            (None, Some(SiteProof { at: begun, recovery_seconds, snapshot }))
        }
        Err(error) if error.is_verdict() => (Some(error.to_string()), before),
        Err(_) => return false,
    };
    note.site = Some(SiteNote { at: begun, error, proven });
    true
}

/// Verifies from where the last reading ended, and notes where this one ended.
pub(crate) fn verify_on(
    store: &Store,
    note: &mut UpkeepNote,
    options: VerifyOptions,
    now: UnixNanos,
) -> Result<VerifyReport, RepositoryError> {
    let report = verify::verify(store, VerifyOptions { after: note.read_until, ..options })?;
    note.verified = Some(now);
    note.problems = report.problems.len() as u64 + report.touched_count;
    if let Some(last) = report.read_until {
        note.read_until = Some(last);
        if report.came_round || report.packs_read >= report.packs {
            note.round = Some(now);
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duty_comes_when_its_hours_are_over() {
        let upkeep = Upkeep { prune_hours: 24, verify_hours: 12, verify_days: 30, ..Upkeep::default() };
        let never = UpkeepNote::default();
        assert_eq!(
            due(&never, &upkeep, UnixNanos::EPOCH.plus(100 * HOUR)),
            [UpkeepTask::Prune, UpkeepTask::Verify]
        );
        let note = UpkeepNote {
            pruned: Some(UnixNanos::EPOCH.plus(100 * HOUR)),
            verified: Some(UnixNanos::EPOCH.plus(100 * HOUR)),
            ..Default::default()
        };
        assert_eq!(due(&note, &upkeep, UnixNanos::EPOCH.plus(111 * HOUR)), []);
        assert_eq!(due(&note, &upkeep, UnixNanos::EPOCH.plus(112 * HOUR)), [UpkeepTask::Verify]);
        assert_eq!(
            due(&note, &upkeep, UnixNanos::EPOCH.plus(124 * HOUR)),
            [UpkeepTask::Prune, UpkeepTask::Verify]
        );
        // The clock was set back.
        assert_eq!(
            due(&note, &upkeep, UnixNanos::EPOCH.plus(99 * HOUR)),
            [UpkeepTask::Prune, UpkeepTask::Verify]
        );
        assert_eq!(share_percent(&upkeep), 2);
    }
}
