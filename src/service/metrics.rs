//! Figures for Prometheus, in its text format. Pure: statuses in, text out.

use crate::api::run::RunReport;
use crate::api::store::StoreStatus;
use std::fmt::Write;

/// What is not of one store.
#[derive(Clone, Copy, Debug)]
pub struct Overall {
    pub queued: usize,
    pub running: usize,
    pub log_lines_lost: u64,
}

/// All figures.
pub fn text(statuses: &[StoreStatus], overall: Overall) -> String {
    let mut out = Text(String::new());
    let version = env!("CARGO_PKG_VERSION");
    out.family("understudy_build_info", "gauge", "The version that runs.");
    out.sample("understudy_build_info", &[("version", version)], 1.0);
    out.family("understudy_queued_stores", "gauge", "Stores whose time has come and that wait for a place.");
    out.sample("understudy_queued_stores", &[], overall.queued as f64);
    out.family("understudy_running_stores", "gauge", "Stores that run.");
    out.sample("understudy_running_stores", &[], overall.running as f64);
    let name = "understudy_log_lines_lost_total";
    out.family(name, "counter", "Lines of the log that could not be written.");
    out.sample(name, &[], overall.log_lines_lost as f64);
    type Figure = fn(&StoreStatus) -> Option<f64>;
    let gauges: [(&str, &str, Figure); 15] = [
        ("understudy_lag_seconds", "Since the start of the newest snapshot's scan.", |s| s.lag_seconds),
        (
            "understudy_clock_skew_seconds",
            "How far that start lies in the future: then a clock is wrong, and the lag is not known.",
            |s| s.clock_skew_seconds,
        ),
        ("understudy_objective_seconds", "The lag that the plan promises.", |s| {
            Some(s.objective_seconds as f64)
        }),
        ("understudy_snapshot", "The newest snapshot's number.", |s| s.snapshot.map(|n| n.0 as f64)),
        ("understudy_entries", "Entries of the newest snapshot.", |s| {
            s.last_report.as_ref().map(|report| report.entries() as f64)
        }),
        ("understudy_running", "1 while the store runs.", |s| Some(f64::from(u8::from(s.running)))),
        ("understudy_held", "1 when an operator has to look.", |s| {
            Some(f64::from(u8::from(s.held.is_some())))
        }),
        ("understudy_fenced", "1 when another host is the primary.", |s| Some(f64::from(u8::from(s.fenced)))),
        ("understudy_consecutive_failures", "Runs that failed since the last that did not.", |s| {
            Some(f64::from(s.failures))
        }),
        ("understudy_last_run_timestamp_seconds", "When the last run began.", |s| s.last_run),
        ("understudy_proven_timestamp_seconds", "When a drill last proved a snapshot restorable.", |s| {
            s.upkeep.as_ref()?.proven
        }),
        ("understudy_drill_failed", "1 when the last drill failed.", |s| {
            Some(f64::from(u8::from(s.upkeep.as_ref()?.drill_error.is_some())))
        }),
        ("understudy_verified_timestamp_seconds", "When the store was last verified.", |s| {
            s.upkeep.as_ref()?.verified
        }),
        ("understudy_verify_problems", "Broken objects and files that the last verification found.", |s| {
            Some(s.upkeep.as_ref()?.problems as f64)
        }),
        ("understudy_pruned_timestamp_seconds", "When the store was last pruned.", |s| {
            s.upkeep.as_ref()?.pruned
        }),
    ];
    for (name, help, figure) in gauges {
        out.family(name, "gauge", help);
        for status in statuses {
            if let Some(value) = figure(status) {
                out.sample(name, &labels(status), value);
            }
        }
    }
    let counters: [(&str, &str, Figure); 4] = [
        ("understudy_sent_bytes_total", "Sent to the repository.", |s| Some(s.totals.sent_bytes as f64)),
        ("understudy_received_bytes_total", "Fetched from the repository.", |s| {
            Some(s.totals.received_bytes as f64)
        }),
        ("understudy_torn_files_total", "Files that changed under every reading.", |s| {
            Some(s.totals.torn_files as f64)
        }),
        ("understudy_unreadable_files_total", "Files that could not be read.", |s| {
            Some(s.totals.unreadable_files as f64)
        }),
    ];
    for (name, help, figure) in counters {
        out.family(name, "counter", help);
        for status in statuses {
            if let Some(value) = figure(status) {
                out.sample(name, &labels(status), value);
            }
        }
    }
    out.family("understudy_runs_total", "counter", "Runs, by how they ended.");
    for status in statuses {
        let totals = &status.totals;
        let ends = [("done", totals.runs_done), ("held", totals.runs_held), ("failed", totals.runs_failed)];
        for (outcome, count) in ends {
            let [store, role] = labels(status);
            out.sample("understudy_runs_total", &[store, role, ("outcome", outcome)], count as f64);
        }
    }
    out.family("understudy_phase_seconds", "gauge", "What the last run's phases took.");
    for status in statuses {
        if let Some(RunReport::Resync(report)) = &status.last_report {
            let phases = report.phases;
            for (phase, seconds) in [
                ("open", phases.open_seconds),
                ("scan", phases.scan_seconds),
                ("ship", phases.ship_seconds),
                ("commit", phases.commit_seconds),
            ] {
                let [store, role] = labels(status);
                out.sample("understudy_phase_seconds", &[store, role, ("phase", phase)], seconds);
            }
        }
    }
    out.0
}

fn labels(status: &StoreStatus) -> [(&'static str, &str); 2] {
    [("store", status.store.as_str()), ("role", status.role.name())]
}

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Values of labels are names of stores, roles and words of this file: nothing needs an escape.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}
