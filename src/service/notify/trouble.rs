//! What is wrong with a store, by the status that the API, the metrics and the panel show as well. Pure.
//!
//! What is not known (a store that has not run since the daemon started) is neither a trouble nor its end: the end of
//! a trouble that an earlier process told waits until this one knows.

use super::event::Event;
use crate::api::failover::FailoverStatus;
use crate::api::store::StoreStatus;
use crate::model::role::{Permission, Role};
use crate::support::failure::FailureKind;

/// Failed runs in a row that are a trouble; fewer pass by themselves.
const FAILURES: u32 = 3;
/// Lag of a database, and of its archive, in seconds.
const DATABASE_LAG_SECONDS: f64 = 300.0;
/// Age of a database's newest seed, in seconds: a seed is made each week.
const SEED_AGE_SECONDS: f64 = 9.0 * 86_400.0;
/// Failures to make a seed in a row.
const SEED_FAILURES: u32 = 2;

/// A store, as this host knows it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub status: StoreStatus,
    /// Its failover; none where no agent runs here.
    pub failover: Option<FailoverStatus>,
}

/// Whether a kind of trouble is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// It is; a text says what is so.
    Present(String),
    Absent,
    Unknown,
}

use Sight::{Absent, Present, Unknown};

fn when(is: bool, text: impl FnOnce() -> String) -> Sight {
    if is { Present(text()) } else { Absent }
}

/// Returns what is seen of each kind of trouble. What a failover does is in [`super::reign`].
pub(crate) fn sights(seen: &Seen) -> Vec<(Event, Sight)> {
    let status = &seen.status;
    let of_runs = [
        (Event::Behind, behind(status)),
        (Event::Held, held(status)),
        (Event::Fenced, fenced(status)),
        (Event::Rivals, of_run(status, status.rivals.clone())),
        (Event::Failing, failing(status)),
        (Event::Clock, clock(status)),
    ];
    let of_failover = [
        (Event::NotReady, not_ready(seen)),
        (Event::NotServed, not_served(seen)),
        (Event::Degraded, degraded(status)),
        (Event::FailoverFailing, failover_failing(status)),
    ];
    let of_upkeep = [(Event::Drill, drill(status)), (Event::Damage, damage(status))];
    let of_database = [
        (Event::Database, database(status)),
        (Event::DatabaseBehind, database_behind(status)),
        (Event::Archive, archive(status)),
        (Event::Seed, seed(status)),
        (Event::DatabaseDrill, database_drill(status)),
    ];
    of_runs.into_iter().chain(of_failover).chain(of_upkeep).chain(of_database).collect()
}

/// Returns whether a run has ended since this process started, so that what runs find out is known.
fn has_run(status: &StoreStatus) -> bool {
    status.last_report.is_some() || status.last_error.is_some()
}

/// Returns whether the store's failover is on its way, which holds the runs for a moment.
fn is_moving(status: &StoreStatus) -> bool {
    phase(status).is_some_and(|phase| !["primary", "standby"].contains(&phase))
}

fn phase(status: &StoreStatus) -> Option<&str> {
    status.failover.as_ref().map(|brief| brief.phase.as_str())
}

fn of_run(status: &StoreStatus, text: Option<String>) -> Sight {
    match text {
        Some(text) => Present(text),
        None if has_run(status) || status.role == Permission::Watcher => Absent,
        None => Unknown,
    }
}

fn behind(status: &StoreStatus) -> Sight {
    match status.lag_seconds {
        Some(lag) => when(lag > status.objective_seconds as f64, || {
            let (lag, objective) = (minutes(lag), minutes(status.objective_seconds as f64));
            let why =
                status.last_error.as_ref().map(|error| format!("; last run: {error}")).unwrap_or_default();
            format!("the newest snapshot is {lag} old, and the plan promises {objective}{why}")
        }),
        // By a wrong clock, or since there is no snapshot; both have words of their own.
        None => Unknown,
    }
}

/// Returns a time for people, in minutes or hours.
fn minutes(seconds: f64) -> String {
    let minutes = (seconds / 60.0) as u64;
    if minutes < 120 { format!("{minutes} min") } else { format!("{} h {} min", minutes / 60, minutes % 60) }
}

fn held(status: &StoreStatus) -> Sight {
    match is_moving(status) {
        true => Unknown,
        false => of_run(status, status.held.clone()),
    }
}

fn fenced(status: &StoreStatus) -> Sight {
    match status.log_role {
        _ if phase(status) == Some("fenced") => Present(
            "this host is closed, since another one is the primary, and does not follow it yet".to_owned(),
        ),
        // A member that is on its way follows by itself.
        _ if is_moving(status) => Unknown,
        Role::Fenced => Present("another host is the primary; the store does not run here".to_owned()),
        Role::Unassigned => Present(Role::UNASSIGNED.to_owned()),
        _ => of_run(status, None),
    }
}

fn failing(status: &StoreStatus) -> Sight {
    let told = match status.last_error_kind {
        // A wrong configuration does not mend itself; the others have words of their own.
        Some(FailureKind::Usage) => status.failures > 0,
        Some(FailureKind::Held | FailureKind::Fenced | FailureKind::Stopped | FailureKind::Damaged) => false,
        _ => status.failures > FAILURES,
    };
    of_run(status, status.last_error.clone().filter(|_| told))
}

fn clock(status: &StoreStatus) -> Sight {
    match (&status.clock, status.snapshot) {
        (Some(text), _) => Present(text.clone()),
        (None, Some(_)) => Absent,
        (None, None) => Unknown,
    }
}

fn not_ready(seen: &Seen) -> Sight {
    let Some(brief) = &seen.status.failover else { return Unknown };
    let items = seen.failover.iter().flat_map(|failover| &failover.ready);
    match brief.ready {
        Some(false) => {
            let red = items.filter(|item| item.level == "red");
            let red: Vec<_> = red.map(|item| format!("{}: {}", item.item, item.why)).collect();
            Present(red.join("; "))
        }
        Some(true) => Absent,
        // Who serves stands by for nobody.
        None if brief.phase == "primary" => Absent,
        None => Unknown,
    }
}

/// Returns what this host's watcher concludes; none on the primary, and where nobody watches.
fn verdict(status: &StoreStatus) -> Option<(&str, String)> {
    let watch = status.watch.as_ref()?;
    Some((&watch.verdict, watch.reasons.join("; ")))
}

fn is_primary(status: &StoreStatus) -> bool {
    phase(status) == Some("primary")
}

fn not_served(seen: &Seen) -> Sight {
    match verdict(&seen.status) {
        Some(("healthy" | "degraded", _)) => Absent,
        Some((word, reasons)) => {
            let why = seen.failover.as_ref().map(|failover| failover.why_not_automatic.join("; "));
            let why = why.filter(|why| !why.is_empty());
            let why = why.map(|why| format!("; this host does not take over: {why}")).unwrap_or_default();
            Present(format!("the primary is {word}: {reasons}{why}"))
        }
        None if is_primary(&seen.status) => Absent,
        None => Unknown,
    }
}

fn degraded(status: &StoreStatus) -> Sight {
    match verdict(status) {
        Some(("degraded", reasons)) => Present(reasons),
        Some(("healthy", _)) => Absent,
        // It is worse, which has words of its own.
        Some(_) => Unknown,
        None if is_primary(status) => Absent,
        None => Unknown,
    }
}

fn failover_failing(status: &StoreStatus) -> Sight {
    match &status.failover {
        Some(brief) => when(!brief.failing.is_empty(), || brief.failing.join("; ")),
        None => Unknown,
    }
}

fn drill(status: &StoreStatus) -> Sight {
    match &status.upkeep {
        Some(upkeep) => upkeep.drill_error.clone().map_or(Absent, Present),
        None => Unknown,
    }
}

fn damage(status: &StoreStatus) -> Sight {
    let by_run = status.last_error_kind == Some(FailureKind::Damaged);
    match (&status.upkeep, by_run) {
        (_, true) => Present(status.last_error.clone().unwrap_or_default()),
        (Some(upkeep), false) if upkeep.problems > 0 => {
            let problems = upkeep.problems;
            Present(format!("the last verification found {problems} damaged objects and affected files"))
        }
        (Some(_), false) => of_run(status, None),
        (None, false) => Unknown,
    }
}

fn database(status: &StoreStatus) -> Sight {
    let Some(server) = status.database.as_ref().and_then(|database| database.server.as_ref()) else {
        return Absent;
    };
    let is_wrong = !server.supervised || ["broken", "down"].contains(&server.state.as_str());
    when(is_wrong, || {
        let supervised = if server.supervised { "" } else { "nobody supervises the database's server" };
        let parts = [Some(supervised), server.meaning.as_deref(), server.error.as_deref()];
        let mend = server.mend.as_ref().map(|mend| format!("mend it by: {mend}"));
        let parts = parts.into_iter().flatten().filter(|part| !part.is_empty()).map(str::to_owned);
        parts.chain(mend).collect::<Vec<_>>().join("; ")
    })
}

fn database_behind(status: &StoreStatus) -> Sight {
    let Some(database) = &status.database else { return Absent };
    let server = database.server.as_ref();
    let is_late = |lag: Option<f64>| lag.is_some_and(|lag| lag > DATABASE_LAG_SECONDS);
    let server_lag = server.and_then(|server| server.lag_seconds);
    let archive_lag = database.archive.as_ref().and_then(|archive| archive.lag_seconds);
    let trouble = server.and_then(|server| server.trouble.as_ref().and(server.meaning.as_ref()));
    if is_late(server_lag) {
        Present(format!("the replica is {} behind", minutes(server_lag.unwrap_or_default())))
    } else if is_late(archive_lag) {
        Present(format!("the archive is {} behind", minutes(archive_lag.unwrap_or_default())))
    } else if let Some(meaning) = trouble {
        Present(meaning.clone())
    } else {
        Absent
    }
}

fn archive(status: &StoreStatus) -> Sight {
    let Some(archive) = status.database.as_ref().and_then(|database| database.archive.as_ref()) else {
        return Absent;
    };
    when(!archive.running || archive.state == "broken", || {
        let error = archive.error.as_ref().or(archive.trouble.as_ref()).cloned();
        error.unwrap_or_else(|| "nobody archives the database".to_owned())
    })
}

fn seed(status: &StoreStatus) -> Sight {
    let Some(database) = &status.database else { return Absent };
    let Some(seeds) = &database.seeds else { return Unknown };
    let error = || seeds.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    if seeds.snapshot.is_none() {
        Present(format!("there is no seed{}", error()))
    } else if seeds.failures > SEED_FAILURES {
        Present(format!("making a seed failed {} times{}", seeds.failures, error()))
    } else {
        when(seeds.age_seconds.is_some_and(|age| age > SEED_AGE_SECONDS), || {
            format!("the newest seed is older than 9 days{}", error())
        })
    }
}

fn database_drill(status: &StoreStatus) -> Sight {
    match status.database.as_ref().and_then(|database| database.drill.as_ref()) {
        Some(drill) => drill.fault.clone().map_or(Absent, Present),
        None => Absent,
    }
}
