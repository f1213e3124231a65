//! What is known of a store's database on this host: by the reports that its supervisor and its archiver leave, which
//! outlive them. A report that is old says that nobody is there to make a new one.

use super::here::DatabaseHere;
use crate::api::database::{DatabaseArchive, DatabaseDrill, DatabaseServer, DatabaseStatus};
use crate::database::archive::ArchiveReport;
use crate::database::decide::State;
use crate::database::drill_note::DrillNote;
use crate::database::error::Trouble;
use crate::database::report::{Report, STALE};
use crate::model::id::StoreName;
use crate::service::config::StoreConfig;
use crate::support::clock::UnixNanos;
use crate::support::env::Env;

/// Returns what is known of a store's database; none where its configuration names none. `archives` says that this
/// host is the one that archives.
pub(crate) fn observe(store: &StoreConfig, env: &Env, archives: bool) -> Option<DatabaseStatus> {
    let database = &store.database;
    let (has_server, archives) =
        (database.datadir.is_some() && database.mode.replicates(), archives && database.mode.archives());
    if !has_server && !database.mode.archives() && database.primary(env).is_none() {
        return None;
    }
    let now = env.wall();
    let server = has_server.then(|| {
        let place = store.database_place().ok().flatten();
        server(&store.name, place.and_then(|place| Report::read(&place)), now)
    });
    let archive = archives.then(|| {
        let dir = DatabaseHere { store, env }.archive_dir().ok();
        archive(dir.and_then(|dir| ArchiveReport::read(&dir)), now)
    });
    let drill = has_server.then(|| {
        let note = store.database_place().ok().flatten().map(|place| DrillNote::read(&place));
        drill(note.unwrap_or_default())
    });
    Some(DatabaseStatus { server, archive, seeds: None, drill })
}

/// Returns what a supervisor's last report says now. Pure.
fn server(store: &StoreName, report: Option<Report>, now: UnixNanos) -> DatabaseServer {
    let Some(report) = report else {
        return DatabaseServer {
            state: State::Down.name().into(),
            mend: Some(start(store)),
            ..Default::default()
        };
    };
    let supervised = report.is_fresh(now);
    let seen = |text: String| supervised.then_some(text);
    let trouble = report.trouble.filter(|_| supervised);
    DatabaseServer {
        state: if supervised { report.state } else { State::Down }.name().to_owned(),
        supervised,
        report_age_seconds: Some(now.since(report.at).as_secs_f64()),
        lag_seconds: report.lag_seconds.filter(|_| supervised),
        behind: report.behind.filter(|_| supervised),
        applied: Some(report.applied.to_string()),
        epoch: report.epoch.0,
        resident_bytes: report.resident_bytes.filter(|_| supervised),
        trouble: trouble.map(|trouble| trouble.name().to_owned()),
        meaning: trouble.map(|trouble| trouble.meaning().to_owned()),
        mend: match (supervised, trouble) {
            (false, _) => Some(start(store)),
            (true, trouble) => trouble.map(|trouble| trouble.mend(store.as_str())),
        },
        error: report.error.and_then(seen),
    }
}

fn start(store: &StoreName) -> String {
    format!("understudy database run {store}")
}

/// Returns what is noted of drills. Pure.
fn drill(note: DrillNote) -> DatabaseDrill {
    let seconds = |time: UnixNanos| time.0 as f64 / 1e9;
    let DrillNote { last, proven, hindrance, .. } = note;
    DatabaseDrill {
        last: last.as_ref().map(|last| seconds(last.at)),
        seconds: last.as_ref().map(|last| last.seconds),
        position: last.as_ref().map(|last| last.position.to_string()),
        fault: last.and_then(|last| last.fault),
        proven: proven.map(seconds),
        hindrance,
        running: false,
    }
}

/// Returns what an archiver's last report says now. Pure.
fn archive(report: Option<ArchiveReport>, now: UnixNanos) -> DatabaseArchive {
    let Some(report) = report else {
        return DatabaseArchive { state: State::Down.name().into(), ..Default::default() };
    };
    let running = report.state != State::Down && now.since(report.at) < STALE;
    DatabaseArchive {
        state: if running { report.state } else { State::Down }.name().to_owned(),
        running,
        report_age_seconds: Some(now.since(report.at).as_secs_f64()),
        lag_seconds: report.lag_seconds.filter(|_| running),
        position: Some(report.position.to_string()),
        epoch: report.epoch.0,
        number: report.number,
        trouble: report.trouble.map(Trouble::name).map(str::to_owned),
        error: report.error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gtid::GtidPosition;
    use crate::model::id::Epoch;
    use std::time::Duration;

    fn report(state: State, trouble: Option<Trouble>) -> Report {
        Report {
            state,
            acks: None,
            hold: None,
            trouble,
            error: Some("in words".into()),
            applied: "1-11-7".parse().unwrap(),
            received: GtidPosition::default(),
            primary: None,
            behind: Some(3),
            lag_seconds: Some(2.5),
            resident_bytes: Some(1 << 20),
            epoch: Epoch(4),
            branch: None,
            beyond: None,
            reports: None,
            at: UnixNanos::EPOCH.plus(Duration::from_secs(1000)),
        }
    }

    fn at(seconds: u64) -> UnixNanos {
        UnixNanos::EPOCH.plus(Duration::from_secs(seconds))
    }

    fn acme() -> StoreName {
        StoreName::parse("acme").unwrap()
    }

    #[test]
    fn a_supervisor_that_is_gone_shows_and_nothing_of_its_last_report_is_taken_for_now() {
        let fresh = server(&acme(), Some(report(State::Broken, Some(Trouble::Conflict))), at(1010));
        assert_eq!((fresh.state.as_str(), fresh.supervised), ("broken", true));
        assert_eq!((fresh.behind, fresh.lag_seconds), (Some(3), Some(2.5)));
        assert_eq!(fresh.trouble.as_deref(), Some("conflict"));
        assert!(fresh.mend.unwrap().contains("--reseed"));
        let old = server(&acme(), Some(report(State::Broken, Some(Trouble::Conflict))), at(1031));
        assert_eq!((old.state.as_str(), old.supervised), ("down", false));
        assert_eq!((old.behind, old.lag_seconds, old.resident_bytes), (None, None, None));
        assert_eq!((old.report_age_seconds, old.trouble), (Some(31.0), None));
        for gone in [old.mend, server(&acme(), None, at(1)).mend] {
            assert_eq!(gone.as_deref(), Some("understudy database run acme"));
        }
    }
}
