//! Samples of every state that a store can be in, for the tests of the pages.

use super::need::Need;
use crate::api::database::{DatabaseDrill, DatabaseServer, DatabaseStatus};
use crate::api::failover::{FailoverBrief, WatchStatus};
use crate::api::store::{StoreStatus, Totals};
use crate::api::upkeep::UpkeepStatus;
use crate::model::access::{Identity, Scope, UserRole};
use crate::model::id::{Sequence, StoreName, WriterId};
use crate::model::plan::PlanName;
use crate::model::role::{Permission, Role};
use crate::support::clock::UnixNanos;
use crate::support::failure::FailureKind;

/// Now: 2027-01-15 08:00 UTC.
pub(super) const NOW: UnixNanos = UnixNanos(1_800_000_000_000_000_000);

/// Names, what each needs, and the first sentence about it.
pub(super) const CASES: [(&str, Need, &str); 24] = [
    ("fine", Need::Fine, "acme is safe as of 07:53, 7 min ago."),
    ("standby", Need::Fine, "This host could take acme over as it was at 07:53, 7 min ago."),
    ("watcher", Need::Fine, "acme is watched from here, and it answers."),
    ("waiting", Need::New, "acme has no snapshot yet."),
    ("new", Need::New, "acme has no snapshot yet."),
    ("running", Need::New, "acme has no snapshot yet; the first is being made."),
    ("down", Need::Down, "acme does not answer: 4 of 4 probes failed."),
    ("dead", Need::Down, "The primary of acme is dead: no lease, no answer."),
    ("promoting", Need::FailingOver, "This host is taking acme over."),
    ("handing over", Need::FailingOver, "acme is being handed over to another host."),
    ("held", Need::Held, "acme is held: the root is empty."),
    ("fenced", Need::Fenced, "Another host is the primary of acme, so this one writes nothing."),
    ("rejoining", Need::Fenced, "This host was the primary of acme, and is rejoining as a standby."),
    ("unassigned", Need::Fenced, "No host resyncs acme."),
    ("damaged", Need::Damaged, "The last verification of acme found 3 problems."),
    ("damaged run", Need::Damaged, "Stored data of acme is damaged: pack ab is gone."),
    ("drill", Need::Damaged, "The last drill of acme failed: a file was not there."),
    ("database", Need::Damaged, "The database of acme on this host is broken: somebody wrote to it."),
    ("late", Need::Late, "acme is late: its newest snapshot is 5 h old, and its plan promises 4 h."),
    ("failing", Need::Failing, "The last run of acme failed: no room."),
    ("unsteady", Need::Failing, "acme answers, but not well: slow."),
    ("clock", Need::Failing, "A clock is wrong, so the age of acme's newest snapshot is not known."),
    ("rivals", Need::Failing, "Two daemons resync acme by turns."),
    ("step fails", Need::Failing, "Something about acme fails and is tried again: the edge does not answer."),
];

pub(super) fn store(name: &str) -> StoreName {
    StoreName::parse(name).unwrap()
}

pub(super) fn identity(role: UserRole) -> Identity {
    let scope = match role {
        UserRole::Customer => Scope::Only([store("acme")].into()),
        _ => Scope::All,
    };
    Identity { who: "token 12 (Anna)".into(), role, scope }
}

fn fine() -> StoreStatus {
    StoreStatus {
        store: store("acme"),
        role: Permission::Primary,
        log_role: Role::Primary,
        plan: PlanName::Standard,
        schedule: "30 */4 * * *".into(),
        objective_seconds: 14_400,
        snapshot: Some(Sequence(42)),
        lag_seconds: Some(420.0),
        clock_skew_seconds: None,
        clock: None,
        running: false,
        next_run: Some(1_800_003_600.0),
        last_run: Some(1_799_999_580.0),
        failures: 0,
        last_error: None,
        last_error_kind: None,
        held: None,
        fenced: false,
        rivals: None,
        failover: None,
        watch: None,
        database: None,
        totals: Totals::default(),
        upkeep: Some(UpkeepStatus {
            proven: Some(1_799_990_000.0),
            proven_snapshot: Some(Sequence(40)),
            ..UpkeepStatus::default()
        }),
        last_report: None,
        progress: None,
    }
}

fn phase(phase: &str) -> Option<FailoverBrief> {
    let primary = Some(WriterId("secret-host-1".into()));
    Some(FailoverBrief {
        phase: phase.into(),
        epoch: 3,
        primary,
        failing: Vec::new(),
        ready: None,
        loss_files_seconds: None,
        loss_database_seconds: None,
    })
}

fn seen(verdict: &str, reason: &str) -> Option<WatchStatus> {
    Some(WatchStatus { verdict: verdict.into(), reasons: vec![reason.into()] })
}

/// Returns a standby that is well.
fn standby() -> StoreStatus {
    StoreStatus {
        role: Permission::Standby,
        log_role: Role::Standby,
        failover: Some(FailoverBrief { ready: Some(true), ..phase("standby").unwrap() }),
        watch: Some(WatchStatus { verdict: "healthy".into(), reasons: Vec::new() }),
        database: Some(DatabaseStatus {
            server: Some(DatabaseServer {
                state: "following".into(),
                lag_seconds: Some(0.2),
                ..DatabaseServer::default()
            }),
            ..DatabaseStatus::default()
        }),
        ..fine()
    }
}

/// Returns a store whose runs fail.
fn failed(kind: FailureKind, error: &str) -> StoreStatus {
    let error = Some(error.into());
    StoreStatus { failures: 2, last_error: error, last_error_kind: Some(kind), ..fine() }
}

/// Returns a state of damage.
fn damaged(name: &str) -> StoreStatus {
    let (fine, standby) = (fine(), standby());
    match name {
        "damaged" => {
            StoreStatus { upkeep: Some(UpkeepStatus { problems: 3, ..UpkeepStatus::default() }), ..fine }
        }
        "damaged run" => failed(FailureKind::Damaged, "pack ab is gone"),
        "drill" => {
            let drill_error = Some("a file was not there".into());
            StoreStatus { upkeep: Some(UpkeepStatus { drill_error, ..UpkeepStatus::default() }), ..fine }
        }
        "database" => {
            let server = DatabaseServer {
                state: "broken".into(),
                meaning: Some("somebody wrote to it".into()),
                mend: Some("seed it again".into()),
                error: Some("1062 on secret-host-1".into()),
                ..DatabaseServer::default()
            };
            let drill = Some(DatabaseDrill::default());
            let database = Some(DatabaseStatus { server: Some(server), drill, ..DatabaseStatus::default() });
            StoreStatus { database, ..standby }
        }
        other => panic!("{other}"),
    }
}

/// Returns the state of this name.
pub(super) fn case(name: &str) -> StoreStatus {
    let (fine, standby) = (fine(), standby());
    let empty = StoreStatus { snapshot: None, lag_seconds: None, ..fine.clone() };
    match name {
        "fine" => fine,
        "standby" => standby,
        "watcher" => {
            let fine = StoreStatus { log_role: Role::Watcher, role: Permission::Watcher, ..empty };
            StoreStatus { watch: standby.watch, ..fine }
        }
        "waiting" => {
            let error = Some("there is no snapshot".to_owned());
            StoreStatus {
                failures: 1,
                last_error: error,
                last_error_kind: Some(FailureKind::Missing),
                ..empty
            }
        }
        "new" => empty,
        "running" => StoreStatus { running: true, ..empty },
        "down" => StoreStatus { watch: seen("unreachable", "4 of 4 probes failed"), ..standby },
        "dead" => {
            let ready = Some(FailoverBrief { ready: Some(false), ..standby.failover.clone().unwrap() });
            StoreStatus { watch: seen("dead", "no lease, no answer"), failover: ready, ..standby }
        }
        "promoting" => {
            StoreStatus { failover: phase("promoting"), held: Some("promoting".into()), ..standby }
        }
        "handing over" => StoreStatus { failover: phase("handing over"), ..fine },
        "held" => StoreStatus { held: Some("the root is empty".into()), ..fine },
        "fenced" => StoreStatus { fenced: true, log_role: Role::Fenced, ..fine },
        "rejoining" => StoreStatus { failover: phase("rejoining"), ..fine },
        "unassigned" => StoreStatus { log_role: Role::Unassigned, ..fine },
        "damaged" | "damaged run" | "drill" | "database" => damaged(name),
        "late" => StoreStatus { lag_seconds: Some(18_000.0), ..fine },
        "failing" => failed(FailureKind::Failed, "no room"),
        "unsteady" => StoreStatus { watch: seen("degraded", "slow"), ..standby },
        "clock" => StoreStatus {
            lag_seconds: None,
            clock_skew_seconds: Some(400.0),
            clock: Some("the snapshot was begun 400 s in the future".into()),
            ..fine
        },
        "rivals" => StoreStatus { rivals: Some("web-1 and web-1".into()), ..fine },
        "step fails" => {
            let failing = vec!["the edge does not answer".to_owned()];
            StoreStatus { failover: Some(FailoverBrief { failing, ..phase("primary").unwrap() }), ..fine }
        }
        other => panic!("{other}"),
    }
}
