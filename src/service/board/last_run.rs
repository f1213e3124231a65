//! A store's runs so far: the one that is under way, the result of the last one, and totals.

use crate::api::progress::ProgressFigures;
use crate::api::run::{RunFailure, RunReport};
use crate::api::store::Totals;
use crate::service::run::RunError;
use crate::service::scheduler::RunOutcome;
use crate::support::clock::UnixNanos;
use crate::support::failure::Failure;
use crate::support::progress::Progress;
use std::sync::Arc;

/// How a run ended: its number, and its report or its error.
#[derive(Clone, Debug)]
pub struct RunResult {
    pub number: u64,
    pub result: Result<RunReport, RunFailure>,
}

/// The last run, and the totals of all runs since the daemon started.
#[derive(Debug, Default)]
pub(crate) struct LastRun {
    /// Number of runs begun, which is also the number of the last one.
    number: u64,
    begun: Option<UnixNanos>,
    progress: Option<Arc<Progress>>,
    ended: Option<RunResult>,
    totals: Totals,
    /// Report of the last run that succeeded.
    report: Option<RunReport>,
}

impl LastRun {
    pub fn begin(&mut self, now: UnixNanos) -> Arc<Progress> {
        let progress = Arc::new(Progress::default());
        self.progress = Some(progress.clone());
        self.number += 1;
        self.begun = Some(now);
        progress
    }

    pub(crate) fn end(&mut self, result: Result<RunReport, RunError>, outcome: RunOutcome) {
        self.progress = None;
        match &result {
            Ok(report) => self.count(report),
            Err(error) if error.hold().is_some() => self.totals.runs_held += 1,
            Err(_) if outcome == RunOutcome::Waiting => {}
            Err(_) => self.totals.runs_failed += 1,
        }
        let result = result.map_err(|error| RunFailure { outcome: error.kind(), error: error.to_string() });
        self.ended = Some(RunResult { number: self.number, result });
    }

    fn count(&mut self, report: &RunReport) {
        let totals = &mut self.totals;
        totals.runs_done += 1;
        let requests = match report {
            RunReport::Resync(report) => {
                totals.torn_files += report.warnings.torn;
                totals.unreadable_files += report.warnings.partial() - report.warnings.torn;
                &report.requests
            }
            RunReport::Follow(report) => &report.requests,
        };
        totals.sent_bytes += requests.sent_bytes;
        totals.received_bytes += requests.received_bytes;
        self.report = Some(report.clone());
    }

    /// Asks the run that is under way to stop.
    pub(crate) fn stop(&self) {
        if let Some(progress) = &self.progress {
            progress.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Returns the result of a run once it or a later one has ended, and the progress of the one under way.
    pub fn follow(&self, number: u64) -> (Option<RunResult>, Option<ProgressFigures>) {
        let ended = self.ended.clone().filter(|ended| ended.number >= number);
        (ended, self.progress().filter(|_| self.number >= number))
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn is_running(&self) -> bool {
        self.progress.is_some()
    }

    pub(crate) fn begun(&self) -> Option<UnixNanos> {
        self.begun
    }

    pub(crate) fn progress(&self) -> Option<ProgressFigures> {
        self.progress.as_deref().map(ProgressFigures::from)
    }

    pub(crate) fn failure(&self) -> Option<&RunFailure> {
        self.ended.as_ref()?.result.as_ref().err()
    }

    /// Returns the daemons that resync the store by turns, if the log that the last report saw shows two.
    pub fn rivals(&self) -> Option<String> {
        match self.report.as_ref()? {
            RunReport::Resync(report) => report.rivals.as_ref().map(ToString::to_string),
            RunReport::Follow(_) => None,
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) fn report(&self) -> Option<&RunReport> {
        self.report.as_ref()
    }
}
