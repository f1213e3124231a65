//! `understudy status`: a table that can be read at a glance.

use super::context::Context;
use super::database_cell::{cell, complaints};
use super::error::Result;
use super::exit::Exit;
use super::remote::Remote;
use super::{Global, out, show};
use crate::api::database::DatabaseStatus;
use crate::api::store::StoreStatus;
use crate::api::upkeep::UpkeepStatus;
use crate::maintain::prune::SILENCE;
use crate::model::authority::Authority;
use crate::model::escape;
use crate::model::id::{Sequence, StoreName};
use crate::model::plan::PlanName;
use crate::model::record::{SnapshotRecord, StoreState};
use crate::model::rivals::rivals;
use crate::model::role::{Permission, Role};
use crate::repository::standbys::StandbyReport;
use crate::repository::store::{Repository, Store};
use crate::service::alert::Alert;
use crate::service::board::{clock_text, job, upkeep_status};
use crate::service::config::StoreConfig;
use crate::service::daemon::role_of;
use crate::service::databases::observed::observe;
use crate::support::clock::{UnixNanos, seconds};
use crate::support::failure::{Failure, FailureKind};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

#[derive(Args)]
pub(super) struct StatusArgs {
    /// Refresh the output at this interval
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
}

#[derive(Serialize)]
struct Row {
    store: StoreName,
    repository: String,
    /// The configured role; none for a store that is not configured here.
    role: Option<Permission>,
    /// The role of this host by the log.
    log_role: Option<Role>,
    plan: Option<PlanName>,
    snapshots: u64,
    latest: Option<Sequence>,
    /// Time since the START of the last committed scan; none when that lies in the future.
    lag_seconds: Option<f64>,
    /// How far that start lies in the future.
    clock_skew_seconds: Option<f64>,
    /// A text about a wrong clock.
    clock: Option<String>,
    objective_seconds: Option<u64>,
    entries: u64,
    size_bytes: u64,
    primary: Option<String>,
    epoch: u64,
    /// The members of the store, if it has any.
    members: Vec<String>,
    /// The member that the primary hands over to.
    handover: Option<String>,
    /// Whether automatic promotions are paused, and why.
    paused: Option<String>,
    /// Number of trees of former primaries that no person has settled.
    stranded: u64,
    /// Number of records that have no effect, or whose writer was not admitted.
    irregular: u64,
    /// A text about the last such record.
    irregular_last: Option<String>,
    /// Whether another host is the primary although this one was configured to be.
    fenced: bool,
    /// The daemons that resync the store by turns, if the log shows two.
    rivals: Option<String>,
    /// What this host is in the store's failover, by its daemon.
    phase: Option<String>,
    /// What of the failover fails now, and is tried again.
    failing: Vec<String>,
    /// The store's database on this host.
    database: Option<DatabaseStatus>,
    /// Whether a daemon on this host reports a run.
    running: bool,
    last_run: Option<f64>,
    next_run: Option<f64>,
    held: Option<String>,
    last_error: Option<String>,
    standbys: Vec<Standby>,
    upkeep: Option<UpkeepStatus>,
    /// A suggestion for an improvement.
    advice: Option<String>,
    last_error_kind: Option<FailureKind>,
    error: Option<String>,
    error_kind: Option<FailureKind>,
}

#[derive(Serialize)]
struct Standby {
    host: String,
    snapshot: Sequence,
    /// Time since the START of the scan of the standby's snapshot; none when the log no longer has it.
    lag_seconds: Option<f64>,
    /// When the standby last wrote its note, in seconds since 1970 by the store's clock.
    noted: f64,
    /// Whether that is so long ago that nothing is kept for the standby.
    silent: bool,
}

pub(super) fn run(global: &Global, args: StatusArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    loop {
        let exit = once(global, &context, args.watch.is_some())?;
        let Some(seconds) = args.watch else { return Ok(exit) };
        context.env().sleep(Duration::from_secs(seconds));
    }
}

fn once(global: &Global, context: &Context, clear: bool) -> Result<Exit> {
    let rows = rows(global, context)?;
    if clear && !global.json && std::io::stdout().is_terminal() {
        out::bytes(b"\x1b[H\x1b[2J")?;
    }
    if global.json {
        show::json(&rows)?;
    } else if rows.is_empty() {
        let location = context.repository(None)?.location().to_owned();
        show::line(&format!("no stores in {location}; start with: understudy resync PATH"))?;
    } else {
        table(&rows, context.env().wall())?;
    }
    let exits = rows.iter().filter_map(|row| row.error_kind).map(Exit::from);
    Ok(exits.max().unwrap_or(Exit::Done))
}

fn rows(global: &Global, context: &Context) -> Result<Vec<Row>> {
    // Configured stores may have repositories of their own; the main repository may hold further stores.
    let mut places: BTreeMap<StoreName, _> = BTreeMap::new();
    let main = context.repository(None)?;
    for name in main.stores()? {
        places.insert(name, main.clone());
    }
    for store in &context.config.store {
        places.insert(store.name.clone(), context.repository(Some(store))?);
    }
    // A daemon only knows the configured repository.
    let statuses = match global.repository {
        None if !context.config.store.is_empty() => Remote::find(context).map(|remote| remote.statuses()),
        _ => None,
    };
    let statuses = statuses.unwrap_or_default();
    let row = |(name, repository): (StoreName, Repository)| {
        let mut row = row(context, name, &repository);
        if let Some(status) = statuses.iter().find(|status| status.store == row.store) {
            row.take_daemons(status);
        }
        row
    };
    Ok(places.into_iter().map(row).collect())
}

/// Returns a row of the log's and the configuration's data.
fn row(context: &Context, name: StoreName, repository: &Repository) -> Row {
    let now = context.env().wall();
    let config: Option<&StoreConfig> = context.config.store(name.as_str());
    let mut row = Row::new(name.clone(), repository, config);
    let store = repository.store(&name);
    match store.log().state() {
        Ok(state) => {
            row.advice = keyring_advice(&store);
            row.upkeep = store.notes().upkeep().ok().map(|notes| upkeep_status(&notes, now));
            row.snapshots = state.snapshots.len() as u64;
            row.primary = state.primary.as_ref().map(|p| p.0.clone());
            row.take_authority(&state);
            row.log_role = config.map(|store| role_of(store, &state, &context.writer()));
            row.fenced = row.log_role == Some(Role::Fenced);
            row.rivals = rivals(&state).map(|rivals| rivals.to_string());
            if let Some((sequence, record)) = state.latest() {
                row.latest = Some(sequence);
                row.lag_seconds = record.scan_start.age_at(now).map(seconds);
                row.clock_skew_seconds = Some(record.scan_start.ahead_of(now).map_or(0.0, seconds));
                row.clock = clock_text(now, record.scan_start);
                row.entries = record.manifest.entries;
                row.size_bytes = record.manifest.size_bytes;
                row.last_run = Some(record.scan_start.seconds());
                let next = config.map(|store| job(store, None).due(record.scan_start, now));
                row.next_run = next.map(|next| next.max(now).seconds());
            }
            row.standbys = standbys(&store, &state, now);
        }
        Err(error) => {
            (row.error, row.error_kind) = (Some(error.to_string()), Some(error.kind()));
        }
    }
    let is_primary = row.log_role == Some(Role::Primary);
    row.database = config.and_then(|store| observe(store, context.env(), is_primary));
    row
}

/// Returns the snapshots that the standbys of a store have. Their notes are only a hint; the store's own
/// state does not depend on them.
fn standbys(store: &Store, state: &StoreState, now: UnixNanos) -> Vec<Standby> {
    let lag = |record: &SnapshotRecord| record.scan_start.age_at(now).map(seconds);
    let standby = |report: StandbyReport| Standby {
        silent: report.is_silent(now, SILENCE),
        noted: report.noted.seconds(),
        lag_seconds: state.snapshots.get(&report.snapshot).and_then(lag),
        host: report.host.0,
        snapshot: report.snapshot,
    };
    store.notes().standbys().unwrap_or_default().into_iter().map(standby).collect()
}

/// Returns advice for a store whose keyring does not prove who made it.
fn keyring_advice(store: &Store) -> Option<String> {
    let holders = store.keyrings().holders().ok().flatten().filter(|holders| holders.version == 1)?;
    Some(format!(
        "keyring {} does not prove who made it; once all hosts have this version, run `understudy key upgrade {}`",
        holders.sequence,
        store.name()
    ))
}

/// The columns; `database` is there only where some store has one.
const HEAD: [&str; 13] = [
    "store",
    "plan",
    "role",
    "latest",
    ">lag",
    ">objective",
    "state",
    "next run",
    ">entries",
    ">size",
    "proven",
    "standbys",
    "database",
];

fn table(rows: &[Row], now: UnixNanos) -> Result<()> {
    let has_databases = rows.iter().any(|row| row.database.is_some());
    let columns = HEAD.len() - usize::from(!has_databases);
    let mut table = vec![HEAD[..columns].iter().map(ToString::to_string).collect::<Vec<_>>()];
    let now = now.seconds();
    for row in rows {
        let next = match row.next_run {
            _ if row.running => "runs".to_owned(),
            Some(at) if at <= now + 1.0 => "due".to_owned(),
            Some(at) => format!("in {}", show::age(at - now)),
            None => "-".to_owned(),
        };
        table.push(vec![
            row.store.to_string(),
            row.plan.map_or("-", PlanName::name).to_owned(),
            row.role_shown().to_owned(),
            row.latest.map_or("never".to_owned(), |latest| format!("@{latest}")),
            match (row.lag_seconds, &row.clock) {
                (Some(lag), _) => show::age(lag),
                (None, Some(_)) => "?".to_owned(),
                (None, None) => "-".to_owned(),
            },
            row.objective_seconds.map_or("-".to_owned(), |seconds| show::age(seconds as f64)),
            row.state().to_owned(),
            next,
            show::count(row.entries),
            show::bytes(row.size_bytes),
            row.proven(now),
            row.standbys.iter().map(Standby::show).collect::<Vec<_>>().join(", "),
            cell(row.database.as_ref()),
        ]);
        table.last_mut().into_iter().for_each(|cells| cells.truncate(columns));
    }
    show::table(&table)?;
    for row in rows {
        let unsound = row.unsound();
        let told = [
            ("", &row.error),
            ("held: ", &row.held),
            ("last run: ", &row.last_error),
            ("upkeep: ", &unsound),
        ];
        // A hold is reported as the last run's error as well.
        let told = told.into_iter().filter_map(|(what, text)| Some((what, text.as_ref()?)));
        let unassigned = (row.log_role == Some(Role::Unassigned)).then(|| Role::UNASSIGNED.to_owned());
        let irregular = row.irregular_text();
        let more =
            row.rivals.iter().chain(&unassigned).chain(&row.clock).chain(&irregular).chain(&row.advice);
        let more = more.map(|text| ("", text));
        let failing = row.failing.iter().map(|text| ("", text));
        let database = row.database.as_ref().map(|database| complaints(&row.store, database));
        let database = database.iter().flatten().map(|text| ("", text));
        for (what, text) in told.take(1).chain(failing).chain(database).chain(more) {
            complain!("understudy: {}: {what}{text}", row.store);
        }
    }
    Ok(())
}

impl Row {
    /// Returns the row of a store of which nothing is known but its configuration.
    fn new(store: StoreName, repository: &Repository, config: Option<&StoreConfig>) -> Self {
        Self {
            store,
            repository: repository.location().to_owned(),
            role: config.map(|store| store.role),
            log_role: None,
            plan: config.map(|store| store.plan),
            snapshots: 0,
            latest: None,
            lag_seconds: None,
            clock_skew_seconds: None,
            clock: None,
            objective_seconds: config.map(|store| u64::from(store.plan.plan().objective_minutes) * 60),
            entries: 0,
            size_bytes: 0,
            primary: None,
            epoch: 0,
            members: Vec::new(),
            handover: None,
            paused: None,
            stranded: 0,
            irregular: 0,
            irregular_last: None,
            fenced: false,
            rivals: None,
            phase: None,
            failing: Vec::new(),
            database: None,
            running: false,
            last_run: None,
            next_run: None,
            held: None,
            last_error: None,
            standbys: Vec::new(),
            upkeep: None,
            advice: None,
            last_error_kind: None,
            error: None,
            error_kind: None,
        }
    }

    /// Adds what members decided.
    fn take_authority(&mut self, state: &StoreState) {
        let Authority { members, handover, paused, stranded, irregular, .. } = &state.authority;
        self.epoch = state.epoch.0;
        self.members = members.iter().map(|member| member.name.0.clone()).collect();
        self.handover = handover.as_ref().map(|underway| underway.to.0.clone());
        self.paused = paused.as_ref().map(|pause| format!("{} ({})", pause.reason, pause.person));
        self.stranded = stranded.len() as u64;
        self.irregular = irregular.count;
        let last = irregular.last.last();
        self.irregular_last =
            last.map(|last| format!("record {} by '{}': {}", last.sequence, last.host, last.why));
    }

    /// Returns a text about records that nobody entitled to it appended.
    fn irregular_text(&self) -> Option<String> {
        let last = self.irregular_last.as_ref()?;
        Some(format!(
            "irregular records: {}, the last is {last}; see: understudy history {}",
            self.irregular, self.store
        ))
    }

    /// Adds the data that only a daemon knows.
    fn take_daemons(&mut self, status: &StoreStatus) {
        self.running = status.running;
        (self.last_run, self.next_run) = (status.last_run, status.next_run);
        (self.held, self.last_error) = (status.held.clone(), status.last_error.clone());
        self.last_error_kind = status.last_error_kind;
        self.fenced |= status.fenced;
        if status.database.is_some() {
            self.database.clone_from(&status.database);
        }
        if let Some(failover) = &status.failover {
            (self.phase, self.failing) = (Some(failover.phase.clone()), failover.failing.clone());
        }
    }

    /// Returns the snapshot that was last proven restorable, and the time since then.
    fn proven(&self, now: f64) -> String {
        match self.upkeep.as_ref().map(|upkeep| (upkeep.proven_snapshot, upkeep.proven)) {
            Some((Some(snapshot), Some(at))) => {
                format!("@{snapshot} {} ago", show::age(now - at))
            }
            _ => "never".to_owned(),
        }
    }

    /// Returns the findings of upkeep that an operator must look at.
    fn unsound(&self) -> Option<String> {
        let upkeep = self.upkeep.as_ref()?;
        match (&upkeep.drill_error, upkeep.problems) {
            (_, 1..) => Some(format!("the last verification found {} problems", upkeep.problems)),
            (Some(error), _) => Some(escape::line(error).into_owned()),
            (None, _) => upkeep.site_drill_error.as_ref().map(|error| escape::line(error).into_owned()),
        }
    }

    /// Returns the role to show: by the log for a member, else by the configuration.
    fn role_shown(&self) -> &'static str {
        match (self.log_role, self.role) {
            (Some(Role::Primary), _) => Role::Primary.name(),
            (Some(Role::Standby), _) => Role::Standby.name(),
            (_, role) => role.map_or("-", Permission::name),
        }
    }

    /// Returns the state as one word; the most important one comes first.
    fn state(&self) -> &str {
        let late = match (self.lag_seconds, self.objective_seconds) {
            (Some(lag), Some(objective)) => lag > objective as f64,
            _ => false,
        };
        match self {
            Row { error_kind: Some(kind), .. } => Alert::from(*kind).word,
            Row { fenced: true, .. } => "fenced",
            Row { log_role: Some(Role::Unassigned), .. } => "unassigned",
            Row { phase: Some(phase), .. } if !["primary", "standby"].contains(&phase.as_str()) => phase,
            Row { failing, .. } if !failing.is_empty() => "failing",
            Row { rivals: Some(_), .. } => "rivals",
            Row { held: Some(_), .. } => "held",
            Row { last_error_kind: Some(kind), .. } => Alert::from(*kind).word,
            // The clock is wrong, so the lag is unknown.
            Row { clock: Some(_), .. } => "clock",
            _ if self.unsound().is_some() => "unsound",
            // There is no snapshot to restore, so the store is not well.
            Row { latest: None, running: false, .. } => "never",
            _ if late => "late",
            _ => "ok",
        }
    }
}

impl Standby {
    /// Formats as `web-2 @42 (5 min)`: the snapshot with which the standby would take over, and its lag.
    fn show(&self) -> String {
        if self.silent {
            let day = show::time(UnixNanos((self.noted * 1e9) as u64)).chars().take(10).collect::<String>();
            return format!("{} @{} (not seen since {day})", self.host, self.snapshot);
        }
        let lag = self.lag_seconds.map(|s| format!(" ({})", show::age(s)));
        format!("{} @{}{}", self.host, self.snapshot, lag.unwrap_or_default())
    }
}
