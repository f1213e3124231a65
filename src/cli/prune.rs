//! `understudy prune`.

use super::context::Context;
use super::error::{Result, StoppedError, UsageError};
use super::exit::Exit;
use super::{Global, ending, select, show};
use crate::maintain::prune::{PruneReport, PruneRequest, SILENCE, prune};
use crate::model::id::WriterId;
use crate::model::retention::Retention;
use crate::support::clock::{DAY, hours};
use crate::support::kill_point;
use clap::Args;

#[derive(Args)]
pub(super) struct PruneArgs {
    /// Names of stores; default: all configured stores
    #[arg(value_name = "STORE")]
    stores: Vec<String>,
    /// Show what would be dropped and deleted, why, and how much; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Delete even if another record dropped snapshots that the rules keep
    #[arg(long)]
    accept: bool,
    #[command(flatten)]
    keep: Keep,
    /// Hours that a doomed pack is kept before it is deleted
    #[arg(long, value_name = "HOURS", default_value_t = 72)]
    grace: u64,
    /// Further records that must exist before a doomed pack is deleted
    #[arg(long, value_name = "RECORDS", default_value_t = 2)]
    grace_records: u64,
    /// Keep unreferenced objects younger than this; a running resync may own them
    #[arg(long, value_name = "HOURS", default_value_t = 168)]
    orphan_age: u64,
    /// Copy packs together when a larger share of their bytes than this is no longer needed
    #[arg(long, value_name = "PERCENT", default_value_t = 10)]
    max_unused: u64,
    /// Days without news of a standby after which nothing is kept for it
    #[arg(long, value_name = "DAYS", default_value_t = SILENCE.as_secs() / DAY.as_secs())]
    standby_age: u64,
    /// Name of a standby that no longer exists; nothing is kept for it any more
    #[arg(long, value_name = "HOST")]
    forget: Vec<String>,
}

/// In place of the plan's rules.
#[derive(Args)]
struct Keep {
    /// Keep the last N snapshots; any of these options replaces the plan's rules
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the newest snapshot of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// The same for days
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// The same for weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// The same for months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// The same for years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<u32>,
}

impl Keep {
    fn rules(&self) -> Option<Retention> {
        let given = [
            self.keep_last,
            self.keep_hourly,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
            self.keep_yearly,
        ];
        let [last, hours, days, weeks, months, years] = given.map(|n| n.unwrap_or(0));
        let any = given.iter().any(Option::is_some);
        any.then_some(Retention { last, hours, days, weeks, months, years })
    }
}

pub(super) fn run(global: &Global, args: PruneArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let mut reports = Vec::new();
    for config in select::chosen(&context, &args.stores)? {
        if ending::is_asked() {
            return Err(StoppedError(format!("{}: stopped before it was pruned", config.name)).into());
        }
        let store = context.repository(Some(&config))?.store(&config.name);
        for host in &args.forget {
            if !store.notes().forget_standby(&WriterId(host.clone()))? {
                return Err(UsageError(format!("store '{}' has no standby '{host}'", config.name)).into());
            }
        }
        let retention = args.keep.rules().unwrap_or_else(|| config.retention());
        let mut request = PruneRequest::new(retention, context.writer());
        request.grace.time = hours(args.grace);
        request.grace.records = args.grace_records;
        request.bounds.orphan_age = hours(args.orphan_age);
        request.bounds.unused_percent = args.max_unused;
        request.silence = hours(args.standby_age.saturating_mul(24));
        (request.dry_run, request.accept) = (args.dry_run, args.accept);
        let report = prune(&store, &request, &at_step)?;
        if !global.json && !global.quiet {
            print(&report, args.dry_run)?;
        }
        show::pruning_warnings(&report);
        reports.push(report);
    }
    if global.json {
        show::json(&reports)?;
    }
    Ok(Exit::Done)
}

/// Ends this process at the step before the commit when it is asked to end, and kills it at the step that the
/// tests name.
fn at_step(step: &'static str) {
    if step != "committed" && ending::is_asked() {
        complain!("understudy: stopped before the commit");
        std::process::exit(Exit::Failed.code().into());
    }
    kill_point::reached(step);
}

fn print(report: &PruneReport, all: bool) -> Result<()> {
    let name = &report.store;
    if all {
        let head = ["snapshot", "scan started (UTC)", "", "why"];
        let mut rows = vec![head.map(String::from).to_vec()];
        for verdict in &report.snapshots {
            let why: Vec<_> = verdict.kept_for.iter().map(ToString::to_string).collect();
            let (what, why) = match why.is_empty() {
                true => ("drop", "no rule keeps it".to_owned()),
                false => ("keep", why.join(", ")),
            };
            rows.push(vec![
                format!("{name}@{}", verdict.snapshot),
                show::time(verdict.scan_start),
                what.to_owned(),
                why,
            ]);
        }
        show::table(&rows)?;
    }
    let kept = report.snapshots.len() as u64 - report.snapshots_dropped;
    let would = if report.dry_run { "would be " } else { "" };
    show::line(&format!(
        "{name}: {kept} snapshots kept, {} {would}dropped; {} of {} in {} packs are needed",
        report.snapshots_dropped,
        show::bytes(report.alive_bytes),
        show::bytes(report.packs_bytes),
        report.packs,
    ))?;
    let of = |count: u64, bytes: u64, what: &str| {
        (count > 0).then(|| format!("{count} {what} ({}) ", show::bytes(bytes)))
    };
    let doomed = of(report.packs_doomed, report.doomed_bytes, "packs").map(|t| format!("{t}{would}doomed"));
    let copied = of(report.packs_repacked, report.copied_bytes, "of them copied");
    let deleted = of(report.objects_deleted, report.deleted_bytes, "objects").map(|t| format!("{t}deleted"));
    let waiting = of(report.packs_waiting, report.waiting_bytes, "packs doomed earlier");
    let waiting = waiting.map(|text| format!("{text}wait for the end of their grace"));
    let leftovers = (report.leftovers_deleted > 0)
        .then(|| format!("{} leftovers of interrupted uploads deleted", report.leftovers_deleted));
    let segments = report.archive_segments_deleted;
    let archive = (segments > 0).then(|| format!("{segments} archived segments {would}deleted"));
    let parts: Vec<_> =
        [doomed, copied, deleted, waiting, archive, leftovers].into_iter().flatten().collect();
    if !parts.is_empty() {
        let parts: Vec<_> = parts.iter().map(|part| part.trim()).collect();
        show::line(&format!("  {}", parts.join(", ")))?;
    }
    Ok(())
}
