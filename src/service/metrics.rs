//! Metrics for Prometheus, in its text format. Pure: statuses in, text out.

use super::notify::notifier::ReceiverFigures;
use crate::api::database::{DatabaseArchive, DatabaseDrill, DatabaseSeeds, DatabaseServer};
use crate::api::failover::FailoverBrief;
use crate::api::run::RunReport;
use crate::api::store::StoreStatus;
use crate::api::upkeep::UpkeepStatus;
use crate::model::role::Role;
use std::fmt::Write;

/// Figures that concern the daemon rather than one store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overall {
    pub queued: usize,
    pub running: usize,
    pub log_lines_lost: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// The source of a metric family's samples.
enum Value {
    /// The version of this program, as a label.
    Version,
    Overall(fn(Overall) -> f64),
    /// One sample for each receiver of notifications.
    Receiver(fn(&ReceiverFigures) -> f64),
    /// One sample for each store that has a value.
    Store(fn(&StoreStatus) -> Option<f64>),
    /// Several samples for each store, distinguished by a label.
    By(&'static str, fn(&StoreStatus) -> Vec<(&str, f64)>),
}

struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: Value,
}

const fn family(name: &'static str, kind: Kind, help: &'static str, value: Value) -> Family {
    Family { name, kind, help, value }
}

use Kind::{Counter, Gauge};
use Value::{By, Overall as OfAll, Receiver, Store, Version};

/// All families, in the order in which they are written.
#[rustfmt::skip]
const FAMILIES: [Family; 57] = [
    family("understudy_build_info", Gauge, "The running version.", Version),
    family("understudy_queued_stores", Gauge, "Stores that are due and waiting for a free slot.", OfAll(|o| o.queued as f64)),
    family("understudy_running_stores", Gauge, "Stores that are running.", OfAll(|o| o.running as f64)),
    family("understudy_log_lines_lost_total", Counter, "Log lines that could not be written.", OfAll(|o| o.log_lines_lost as f64)),
    family("understudy_notify_failing", Gauge, "1 while a receiver of notifications cannot be told.", Receiver(|r| f64::from(u8::from(r.is_failing)))),
    family("understudy_notify_waiting", Gauge, "Events and pings that a receiver was not told yet.", Receiver(|r| r.waiting as f64)),
    family("understudy_notify_sent_total", Counter, "Messages and pings that a receiver has taken.", Receiver(|r| r.sent as f64)),
    family("understudy_lag_seconds", Gauge, "Seconds since the start of the newest snapshot's scan.", Store(|s| s.lag_seconds)),
    family("understudy_clock_skew_seconds", Gauge, "Seconds by which the start of the newest snapshot's scan lies in the future. Above 0 a clock is wrong, and the lag is unknown.", Store(|s| s.clock_skew_seconds)),
    family("understudy_objective_seconds", Gauge, "The lag that the plan promises.", Store(|s| Some(s.objective_seconds as f64))),
    family("understudy_snapshot", Gauge, "Number of the newest snapshot.", Store(|s| s.snapshot.map(|n| n.0 as f64))),
    family("understudy_entries", Gauge, "Entries in the newest snapshot.", Store(|s| s.last_report.as_ref().map(|report| report.entries() as f64))),
    family("understudy_running", Gauge, "1 while the store is running.", Store(|s| flag(s.running))),
    family("understudy_held", Gauge, "1 when the store is held until an operator decides.", Store(|s| flag(s.held.is_some()))),
    family("understudy_fenced", Gauge, "1 when another host is the primary.", Store(|s| flag(s.fenced))),
    family("understudy_unassigned", Gauge, "1 when the log names this host as the primary, but its configuration only lets it follow.", Store(|s| flag(s.log_role == Role::Unassigned))),
    family("understudy_rivals", Gauge, "1 when two daemons take turns at resyncing the store.", Store(|s| flag(s.rivals.is_some()))),
    family("understudy_failover_primary", Gauge, "1 while this host serves the store, 0 while it stands by or is on its way.", Store(|s| flag(failover(s)?.phase == "primary"))),
    family("understudy_failover_epoch", Gauge, "The epoch by the store's log; it grows when another host becomes the primary.", Store(|s| Some(failover(s)?.epoch as f64))),
    family("understudy_failover_failing", Gauge, "Number of things about the store's failover that fail and are tried again.", Store(|s| Some(failover(s)?.failing.len() as f64))),
    family("understudy_failover_ready", Gauge, "1 when this host would become the primary by itself, 0 when something forbids it.", Store(|s| flag(failover(s)?.ready?))),
    family("understudy_expected_loss_seconds", Gauge, "What would be lost if this host took over now, in seconds.", By("what", expected_loss)),
    family("understudy_watch_healthy", Gauge, "1 while this host's watcher finds that the store's primary serves customers, 0 while anything fails.", Store(|s| flag(s.watch.as_ref()?.verdict == "healthy"))),
    family("understudy_database_supervised", Gauge, "1 while the supervisor of the store's database server runs on this host.", Store(|s| flag(server(s)?.supervised))),
    family("understudy_database_state", Gauge, "1 for the state of the store's database server on this host, 0 for the others.", By("state", database_states)),
    family("understudy_database_trouble", Gauge, "1 for what is wrong with the store's database server on this host.", By("trouble", database_trouble)),
    family("understudy_database_report_age_seconds", Gauge, "Seconds since the supervisor of the database server said anything.", Store(|s| server(s)?.report_age_seconds)),
    family("understudy_database_lag_seconds", Gauge, "Seconds by which the replica of the database is behind.", Store(|s| server(s)?.lag_seconds)),
    family("understudy_database_behind_transactions", Gauge, "Transactions of the primary's server that the replica has not applied.", Store(|s| server(s)?.behind.map(|n| n as f64))),
    family("understudy_database_resident_bytes", Gauge, "Memory that the database server holds.", Store(|s| server(s)?.resident_bytes.map(|n| n as f64))),
    family("understudy_database_archive_running", Gauge, "1 while this host, the primary, archives the database.", Store(|s| flag(archive(s)?.running))),
    family("understudy_database_archive_state", Gauge, "1 for the state of the database's archive, 0 for the others.", By("state", archive_states)),
    family("understudy_database_archive_trouble", Gauge, "1 for what is wrong with the database's archive.", By("trouble", archive_trouble)),
    family("understudy_database_archive_lag_seconds", Gauge, "Age of what the database has committed and the archive does not have.", Store(|s| archive(s)?.lag_seconds)),
    family("understudy_database_seed_age_seconds", Gauge, "Age of the newest seed of the database.", Store(|s| seeds(s)?.age_seconds)),
    family("understudy_database_seed_missing", Gauge, "1 while the database has no seed.", Store(|s| flag(seeds(s)?.snapshot.is_none()))),
    family("understudy_database_drill_timestamp_seconds", Gauge, "When the last drill of the replica that came to its end began.", Store(|s| drill(s)?.last)),
    family("understudy_database_drill_seconds", Gauge, "How long it took.", Store(|s| drill(s)?.seconds)),
    family("understudy_database_drill_failed", Gauge, "1 when it found the replica's data unsound.", Store(|s| drill(s)?.last.and(flag(drill(s)?.fault.is_some())))),
    family("understudy_database_proven_timestamp_seconds", Gauge, "When a drill last found the replica's data sound.", Store(|s| drill(s)?.proven)),
    family("understudy_database_seed_failures", Gauge, "Failures to make a seed of the database since the last success.", Store(|s| Some(f64::from(seeds(s)?.failures)))),
    family("understudy_consecutive_failures", Gauge, "Failed runs since the last successful one.", Store(|s| Some(f64::from(s.failures)))),
    family("understudy_last_run_timestamp_seconds", Gauge, "When the last run began.", Store(|s| s.last_run)),
    family("understudy_proven_timestamp_seconds", Gauge, "When a drill last proved a snapshot restorable.", Store(|s| upkeep(s)?.proven)),
    family("understudy_drill_failed", Gauge, "1 when the last drill failed.", Store(|s| flag(upkeep(s)?.drill_error.is_some()))),
    family("understudy_proven_rto_seconds", Gauge, "How long a failover took in the last drill of one that succeeded, from the decision to a store that serves.", Store(|s| upkeep(s)?.recovery_seconds)),
    family("understudy_proven_rto_timestamp_seconds", Gauge, "When a drill of a failover last succeeded.", Store(|s| upkeep(s)?.recovery_proven)),
    family("understudy_site_drill_failed", Gauge, "1 when the last drill of a failover failed.", Store(|s| flag(upkeep(s)?.site_drill_error.is_some()))),
    family("understudy_verified_timestamp_seconds", Gauge, "When the store was last verified.", Store(|s| upkeep(s)?.verified)),
    family("understudy_verify_problems", Gauge, "Damaged objects and affected files that the last verification found.", Store(|s| Some(upkeep(s)?.problems as f64))),
    family("understudy_pruned_timestamp_seconds", Gauge, "When the store was last pruned.", Store(|s| upkeep(s)?.pruned)),
    family("understudy_sent_bytes_total", Counter, "Bytes sent to the repository.", Store(|s| Some(s.totals.sent_bytes as f64))),
    family("understudy_received_bytes_total", Counter, "Bytes fetched from the repository.", Store(|s| Some(s.totals.received_bytes as f64))),
    family("understudy_torn_files_total", Counter, "Files that changed during every attempt to read them.", Store(|s| Some(s.totals.torn_files as f64))),
    family("understudy_unreadable_files_total", Counter, "Files that could not be read.", Store(|s| Some(s.totals.unreadable_files as f64))),
    family("understudy_runs_total", Counter, "Runs by their outcome.", By("outcome", runs)),
    family("understudy_phase_seconds", Gauge, "Seconds that each phase of the last run took.", By("phase", phases)),
];

/// Returns all metrics as text.
pub(crate) fn text(statuses: &[StoreStatus], notified: &[ReceiverFigures], overall: Overall) -> String {
    let mut out = Text(String::new());
    for Family { name, kind, help, value } in &FAMILIES {
        out.head(name, *kind, help);
        match value {
            Version => out.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
            OfAll(value) => out.sample(name, &[], value(overall)),
            Receiver(value) => {
                for receiver in notified {
                    let labels = [("receiver", receiver.name.as_str()), ("kind", receiver.kind)];
                    out.sample(name, &labels, value(receiver));
                }
            }
            Store(value) => {
                for status in statuses {
                    if let Some(value) = value(status) {
                        out.sample(name, &labels(status), value);
                    }
                }
            }
            By(label, values) => {
                for status in statuses {
                    let [store, role] = labels(status);
                    for (word, value) in values(status) {
                        out.sample(name, &[store, role, (label, word)], value);
                    }
                }
            }
        }
    }
    out.0
}

fn flag(is: bool) -> Option<f64> {
    Some(f64::from(u8::from(is)))
}

fn failover(status: &StoreStatus) -> Option<&FailoverBrief> {
    status.failover.as_ref()
}

fn server(status: &StoreStatus) -> Option<&DatabaseServer> {
    status.database.as_ref()?.server.as_ref()
}

fn archive(status: &StoreStatus) -> Option<&DatabaseArchive> {
    status.database.as_ref()?.archive.as_ref()
}

fn drill(status: &StoreStatus) -> Option<&DatabaseDrill> {
    status.database.as_ref()?.drill.as_ref()
}

fn seeds(status: &StoreStatus) -> Option<&DatabaseSeeds> {
    status.database.as_ref()?.seeds.as_ref()
}

/// States of a server, in the order of their samples.
const SERVER_STATES: [&str; 7] = ["down", "following", "waiting", "broken", "held", "serving", "fenced"];
/// States of an archive.
const ARCHIVE_STATES: [&str; 4] = ["down", "following", "waiting", "broken"];

fn database_states(status: &StoreStatus) -> Vec<(&str, f64)> {
    server(status).map_or(Vec::new(), |server| one_of(&SERVER_STATES, &server.state))
}

fn archive_states(status: &StoreStatus) -> Vec<(&str, f64)> {
    archive(status).map_or(Vec::new(), |archive| one_of(&ARCHIVE_STATES, &archive.state))
}

/// Returns a sample of each word, of which one is 1.
fn one_of(words: &'static [&'static str], word: &str) -> Vec<(&'static str, f64)> {
    words.iter().map(|each| (*each, f64::from(u8::from(*each == word)))).collect()
}

fn expected_loss(status: &StoreStatus) -> Vec<(&str, f64)> {
    let Some(failover) = failover(status) else { return Vec::new() };
    let files = failover.loss_files_seconds.map(|seconds| ("files", seconds));
    let database = failover.loss_database_seconds.map(|seconds| ("database", seconds));
    files.into_iter().chain(database).collect()
}

fn database_trouble(status: &StoreStatus) -> Vec<(&str, f64)> {
    let trouble = server(status).and_then(|server| server.trouble.as_deref());
    trouble.map(|trouble| (trouble, 1.0)).into_iter().collect()
}

fn archive_trouble(status: &StoreStatus) -> Vec<(&str, f64)> {
    let trouble = archive(status).and_then(|archive| archive.trouble.as_deref());
    trouble.map(|trouble| (trouble, 1.0)).into_iter().collect()
}

fn upkeep(status: &StoreStatus) -> Option<&UpkeepStatus> {
    status.upkeep.as_ref()
}

fn runs(status: &StoreStatus) -> Vec<(&str, f64)> {
    let totals = &status.totals;
    let counts = [("done", totals.runs_done), ("held", totals.runs_held), ("failed", totals.runs_failed)];
    counts.map(|(outcome, count)| (outcome, count as f64)).to_vec()
}

fn phases(status: &StoreStatus) -> Vec<(&str, f64)> {
    let Some(RunReport::Resync(report)) = &status.last_report else { return Vec::new() };
    let phases = report.phases;
    vec![
        ("open", phases.open_seconds),
        ("scan", phases.scan_seconds),
        ("ship", phases.ship_seconds),
        ("commit", phases.commit_seconds),
    ]
}

fn labels(status: &StoreStatus) -> [(&'static str, &str); 2] {
    [("store", status.store.as_str()), ("role", status.role.name())]
}

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Counter => "counter",
            Gauge => "gauge",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Label values are names of stores, roles and words of this program; none needs escaping.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}
