//! The description of the API agrees with its types, in both directions, and two versions understand each
//! other.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use understudy::api::OPENAPI;
use understudy::api::change::{ChangeRow, Changes, ChangesQuery, EntryKind};
use understudy::api::database::{
    DatabaseArchive, DatabaseDrill, DatabaseSeeds, DatabaseServer, DatabaseStatus,
};
use understudy::api::error::ErrorBody;
use understudy::api::failover::{
    AttestQuery, FailoverBrief, FailoverQuery, FailoverStatus, FailoverStep, MediaStatus, PauseQuery,
    ReadyItem, ReplicaStatus, ResumeQuery, SwitchoverQuery, WatchStatus,
};
use understudy::api::follow::FollowReport;
use understudy::api::history::HistoryRow;
use understudy::api::progress::ProgressFigures;
use understudy::api::requests::Requests;
use understudy::api::resync::{Phases, ResyncReport, Warning, WarningKind, Warnings};
use understudy::api::run::{HoldQuery, ResyncQuery, RunFailure, RunReport};
use understudy::api::snapshot::SnapshotSummary;
use understudy::api::store::{StoreStatus, Totals};
use understudy::api::stranded::{
    LossCheck, LossVerdict, StrandedCounts, StrandedDropQuery, StrandedDropped, StrandedPath, StrandedPaths,
    StrandedPathsQuery, StrandedTaken, StrandedTree,
};
use understudy::api::upkeep::UpkeepStatus;
use understudy::database::decide::State;
use understudy::database::error::Trouble;
use understudy::failover::peers::question::{Addressee, Ask, Asked, Question};
use understudy::model::diff::{Change, ChangeCounts};
use understudy::model::entry::Kind;
use understudy::model::id::{DaemonId, Incarnation, Sequence, StoreName, WriterId};
use understudy::model::plan::PlanName;
use understudy::model::rivals::Rivals;
use understudy::model::role::{Permission, Role};
use understudy::support::clock::UnixNanos;
use understudy::support::failure::FailureKind;
use understudy::support::signature::SigningKey;

/// Samples name every field, so that the compiler reports a new one that is missing here.
fn counts() -> ChangeCounts {
    ChangeCounts { added: 1, removed: 2, modified: 3, metadata: 4, unchanged: 5 }
}

fn requests() -> Requests {
    Requests { put: 1, get: 2, head: 3, list: 4, retried: 5, sent_bytes: 6, received_bytes: 7 }
}

fn warnings() -> Warnings {
    let kinds = [
        WarningKind::Torn,
        WarningKind::Unreadable,
        WarningKind::Attributes,
        WarningKind::Unsettled,
        WarningKind::ChangedSilently,
    ];
    // The first warning has no reason.
    let warning = |(at, kind)| Warning { kind, path: "a/b".into(), reason: "x".repeat(at) };
    let first = kinds.into_iter().enumerate().map(warning).collect();
    Warnings { torn: 1, unreadable: 2, attributes: 3, unsettled: 4, changed_silently: 5, first }
}

fn resync(full: bool) -> ResyncReport {
    ResyncReport {
        store: StoreName::parse("acme").unwrap(),
        snapshot: Sequence(7),
        scan_start: UnixNanos(u64::MAX),
        entries: 1,
        size_bytes: 2,
        changes: counts(),
        read_bytes: 3,
        new_bytes: 4,
        shipped_bytes: 5,
        vanished: 6,
        left_out: if full { vec!["cache".into()] } else { Vec::new() },
        warnings: if full { warnings() } else { Warnings::default() },
        hook_failed: full.then(|| "hook".into()),
        rebased: 1,
        rivals: full.then(rivals),
        requests: requests(),
        phases: Phases { open_seconds: 0.5, scan_seconds: 1.5, ship_seconds: 2.5, commit_seconds: 3.5 },
        retry: None,
    }
}

fn rivals() -> Rivals {
    let daemon = |number| DaemonId { host: WriterId("web-1".into()), incarnation: Incarnation(number) };
    Rivals { daemon: daemon(1), other: daemon(u64::MAX), snapshot: Sequence(7) }
}

fn follow(full: bool) -> FollowReport {
    FollowReport {
        store: "acme".into(),
        snapshot: Sequence(7),
        before: full.then_some(Sequence(6)),
        published: full,
        entries: 1,
        objects_made: 2,
        objects_seeded: 3,
        copied_bytes: 4,
        objects_repaired: 5,
        snapshots_lost: 6,
        untold: full.then(|| "away".into()),
        renamed_from: full.then(|| "web-1".into()),
        image_bytes: 7,
        attributes_left_out: 8,
        whiteouts: 9,
        snapshots_dropped: 10,
        objects_dropped: 11,
        requests: requests(),
        role: if full { Role::Standby } else { Role::Unassigned },
        lag_seconds: full.then_some(1.5),
    }
}

fn progress() -> ProgressFigures {
    ProgressFigures { entries: 1, expected_entries: 2, read_bytes: 3, shipped_bytes: 4 }
}

fn upkeep(full: bool) -> UpkeepStatus {
    UpkeepStatus {
        pruned: full.then_some(1.5),
        verified: full.then_some(2.5),
        read_whole: full.then_some(3.5),
        problems: 1,
        proven_snapshot: full.then_some(Sequence(6)),
        proven: full.then_some(4.5),
        drill_error: full.then(|| "empty".into()),
        recovery_proven: full.then_some(5.5),
        recovery_seconds: full.then_some(6.5),
        site_drill_error: full.then(|| "no shop".into()),
    }
}

fn database(full: bool, server: State, archive: State, trouble: Option<Trouble>) -> DatabaseStatus {
    let trouble = || trouble.map(|trouble| trouble.name().to_owned());
    let server = DatabaseServer {
        state: server.name().into(),
        supervised: full,
        report_age_seconds: full.then_some(0.5),
        lag_seconds: full.then_some(1.5),
        behind: full.then_some(3),
        applied: full.then(|| "1-11-7".into()),
        epoch: 4,
        resident_bytes: full.then_some(1 << 20),
        trouble: trouble(),
        meaning: full.then(|| "somebody wrote".into()),
        mend: full.then(|| "seed again".into()),
        error: full.then(|| "in words".into()),
    };
    let archive = DatabaseArchive {
        state: archive.name().into(),
        running: full,
        report_age_seconds: full.then_some(0.5),
        lag_seconds: full.then_some(0.5),
        position: full.then(|| "1-11-7".into()),
        epoch: 4,
        number: full.then_some(9),
        // An archive has no server of its own.
        trouble: trouble().filter(|trouble| trouble != Trouble::Crashing.name()),
        error: full.then(|| "in words".into()),
    };
    let seeds = DatabaseSeeds {
        snapshot: full.then_some(Sequence(2)),
        age_seconds: full.then_some(60.5),
        running: full,
        failures: 1,
        error: full.then(|| "no room".into()),
    };
    let drill = DatabaseDrill {
        last: full.then_some(1e9),
        seconds: full.then_some(2.5),
        position: full.then(|| "1-11-7".into()),
        fault: full.then(|| "shop.orders: corrupt".into()),
        proven: full.then_some(1e9),
        hindrance: full.then(|| "customers would wait".into()),
        running: full,
    };
    DatabaseStatus { server: Some(server), archive: Some(archive), seeds: Some(seeds), drill: Some(drill) }
}

fn databases() -> Vec<DatabaseStatus> {
    let troubles = [
        Trouble::Refused,
        Trouble::Diverged,
        Trouble::Gone,
        Trouble::Conflict,
        Trouble::Corrupt,
        Trouble::Full,
        Trouble::Unreachable,
        Trouble::Failed,
        Trouble::Crashing,
    ];
    let broken = troubles.map(|trouble| database(true, State::Broken, State::Broken, Some(trouble)));
    let states = [
        (State::Down, State::Down),
        (State::Following, State::Following),
        (State::Waiting, State::Waiting),
        (State::Serving, State::Following),
        (State::Fenced, State::Down),
        (State::Held, State::Down),
    ];
    let states = states.map(|(server, archive)| database(false, server, archive, None));
    [DatabaseStatus::default()].into_iter().chain(broken).chain(states).collect()
}

fn store(full: bool, role: Permission, log_role: Role, plan: PlanName) -> StoreStatus {
    let report = || match role {
        Permission::Primary => RunReport::Resync(Box::new(resync(full))),
        Permission::Standby | Permission::Watcher => RunReport::Follow(Box::new(follow(full))),
    };
    StoreStatus {
        store: StoreName::parse("acme").unwrap(),
        role,
        log_role,
        plan,
        schedule: "0 * * * *".into(),
        objective_seconds: 3600,
        snapshot: full.then_some(Sequence(7)),
        lag_seconds: full.then_some(0.5),
        clock_skew_seconds: full.then_some(0.0),
        clock: full.then(|| "ahead".into()),
        running: full,
        next_run: full.then_some(1.5),
        last_run: full.then_some(2.5),
        failures: 1,
        last_error: full.then(|| "error".into()),
        last_error_kind: full.then_some(FailureKind::Unavailable),
        held: full.then(|| "held".into()),
        fenced: full,
        rivals: full.then(|| rivals().to_string()),
        failover: full.then(|| brief(role == Permission::Primary)),
        watch: full.then(|| WatchStatus { verdict: "dead".into(), reasons: vec!["no answer".into()] }),
        database: full.then(DatabaseStatus::default),
        totals: Totals {
            runs_done: 1,
            runs_held: 2,
            runs_failed: 3,
            sent_bytes: 4,
            received_bytes: 5,
            torn_files: 6,
            unreadable_files: 7,
        },
        upkeep: full.then(|| upkeep(true)),
        last_report: full.then(report),
        progress: full.then(progress),
    }
}

fn stores() -> Vec<StoreStatus> {
    let plain = [
        store(true, Permission::Primary, Role::Primary, PlanName::Standard),
        store(true, Permission::Primary, Role::Fenced, PlanName::Standard),
        store(true, Permission::Standby, Role::Standby, PlanName::Private),
        store(true, Permission::Standby, Role::Unassigned, PlanName::Private),
        store(true, Permission::Watcher, Role::Watcher, PlanName::Private),
        store(false, Permission::Primary, Role::Primary, PlanName::Continuous),
    ];
    let failed = |kind| StoreStatus {
        last_error_kind: Some(kind),
        ..store(true, Permission::Primary, Role::Primary, PlanName::Standard)
    };
    let of_database = |database| StoreStatus {
        database: Some(database),
        ..store(true, Permission::Primary, Role::Primary, PlanName::Standard)
    };
    let databases = databases().into_iter().map(of_database);
    plain.into_iter().chain(FailureKind::ALL.map(failed)).chain(databases).collect()
}

fn snapshot() -> SnapshotSummary {
    SnapshotSummary {
        snapshot: Sequence(7),
        scan_start: UnixNanos(1),
        scan_end: UnixNanos(2),
        entries: 3,
        size_bytes: 4,
        changes: counts(),
        torn_files: 5,
        unreadable_files: 6,
    }
}

fn changes() -> Changes {
    let kinds = [
        (Change::Added, EntryKind::Directory),
        (Change::Removed, EntryKind::File),
        (Change::Modified, EntryKind::Symlink),
        (Change::Metadata, EntryKind::Fifo),
        (Change::Added, EntryKind::Socket),
        (Change::Added, EntryKind::CharDevice),
        (Change::Added, EntryKind::BlockDevice),
    ];
    let row = |(change, kind)| ChangeRow { change, kind, path: "a/b".into(), size_bytes: 1 };
    let changes = kinds.into_iter().map(row).collect();
    Changes { from: Sequence(1), to: Sequence(2), counts: counts(), changes }
}

fn question() -> Question {
    let (store, asked) = (StoreName::parse("acme").unwrap(), WriterId("web-2".into()));
    let (said, me) = (Asked { at: UnixNanos(1), ask: Ask::Look }, WriterId("web-1".into()));
    let to = Addressee { store, asked, nonce: u64::MAX };
    Question::sign(to, &said, &me, &SigningKey::of(&[1; 32])).unwrap()
}

fn failures() -> Vec<RunFailure> {
    FailureKind::ALL.map(|outcome| RunFailure { outcome, error: "error".into() }).to_vec()
}

fn failover(phase: &str, is_full: bool) -> FailoverStatus {
    let text = |text: &str| is_full.then(|| text.to_owned());
    let texts = |one: &str| text(one).into_iter().collect::<Vec<_>>();
    let host = |name: &str| is_full.then(|| WriterId(name.into()));
    let step = FailoverStep {
        step: "files".into(),
        detail: "mounted".into(),
        at_seconds: 0.5,
        took_seconds: is_full.then_some(1.5),
        failure: text("no space left"),
    };
    FailoverStatus {
        store: StoreName::parse("acme").unwrap(),
        host: WriterId("web-2".into()),
        no_agent: text("none"),
        phase: phase.into(),
        epoch: 3,
        primary: host("web-1"),
        members: host("web-1").into_iter().collect(),
        handover_to: host("web-2"),
        completed: is_full,
        synced: host("web-2").into_iter().collect(),
        paused: is_full,
        has_lease: is_full,
        waits_for: host("web-1").into_iter().collect(),
        why_not: texts("it is"),
        why_not_automatic: texts("it is"),
        refused: texts("not now"),
        failing: texts("the edge"),
        ready: vec![ReadyItem {
            item: "files".into(),
            level: if is_full { "red" } else { "green" }.into(),
            why: "there is no snapshot here".into(),
            remedy: "wait".into(),
        }],
        loss_files_seconds: is_full.then_some(1200.5),
        loss_database_seconds: is_full.then_some(0.0),
        watch: is_full.then(|| WatchStatus { verdict: "degraded".into(), reasons: vec!["no answer".into()] }),
        replica: (!phase.is_empty()).then(|| ReplicaStatus {
            path: "/srv/reports".into(),
            address: text("10.0.0.2:8090"),
            snapshot: is_full.then_some(Sequence(7)),
        }),
        media: is_full.then_some(MediaStatus {
            snapshot: Sequence(7),
            at: 1_764_576_000.5,
            named: 10,
            missing: 1,
            unnamed: 2,
            refused: 3,
        }),
        operation: "taking over".into(),
        steps: vec![step],
    }
}

fn brief(is_primary: bool) -> FailoverBrief {
    let primary = is_primary.then(|| WriterId("web-1".into()));
    let failing = vec!["the edge".into()];
    FailoverBrief {
        phase: "standby".into(),
        epoch: 3,
        primary,
        failing,
        ready: (!is_primary).then_some(true),
        loss_files_seconds: (!is_primary).then_some(1200.5),
        loss_database_seconds: (!is_primary).then_some(0.0),
    }
}

fn failovers() -> Vec<FailoverStatus> {
    let phases = [
        "",
        "starting",
        "fenced",
        "rejoining",
        "standby",
        "promoting",
        "taking over",
        "primary",
        "handing over",
    ];
    let verdicts = ["healthy", "degraded", "not ready", "unreachable", "dead"];
    let levels = ["green", "amber", "red"];
    let one = |(at, phase): (usize, &&str)| {
        let mut status = failover(phase, at % 2 == 0);
        if let Some(watch) = &mut status.watch {
            watch.verdict = verdicts[at / 2 % verdicts.len()].into();
        }
        status.ready[0].level = levels[at % levels.len()].into();
        status
    };
    phases.iter().enumerate().map(one).collect()
}

fn history() -> Vec<HistoryRow> {
    let kinds = [
        "members",
        "promoted",
        "handover",
        "cancelled",
        "completed",
        "paused",
        "resumed",
        "synced",
        "stranded",
        "settled",
        "snapshot",
        "unreadable",
    ];
    let row = |(at, kind): (usize, &&str)| {
        let text = |text: &str| (at % 2 == 0).then(|| text.to_owned());
        HistoryRow {
            record: Sequence(7),
            epoch: 3,
            at: (at % 2 == 0).then_some(0.5),
            host: WriterId("web-1".into()),
            person: text("ops"),
            kind: (*kind).to_owned(),
            what: "it is so".into(),
            irregular: text("a stranger's"),
        }
    };
    kinds.iter().enumerate().map(row).collect()
}

fn loss(is_full: bool, verdict: LossVerdict) -> LossCheck {
    LossCheck {
        stated_seconds: is_full.then_some(60),
        stated_paths: is_full.then_some(0),
        promoted_at: is_full.then_some(0.5),
        found_paths: 3,
        last_change: is_full.then_some(0.5),
        changed_after: 1,
        verdict,
    }
}

fn stranded(is_full: bool, verdict: LossVerdict) -> StrandedTree {
    StrandedTree {
        record: Sequence(7),
        of_epoch: 2,
        host: is_full.then(|| WriterId("web-1".into())),
        base: is_full.then_some(Sequence(5)),
        compared: is_full.then_some(Sequence(6)),
        counts: StrandedCounts {
            only: 1,
            both: 2,
            deleted: 3,
            transient: 4,
            same: 5,
            added: 6,
            size_bytes: 7,
        },
        loss: loss(is_full, verdict),
    }
}

fn stranded_trees() -> [StrandedTree; 4] {
    [
        stranded(true, LossVerdict::AsStated),
        stranded(false, LossVerdict::Unknown),
        stranded(true, LossVerdict::More),
        stranded(true, LossVerdict::After),
    ]
}

fn stranded_paths() -> [StrandedPaths; 2] {
    let path = |(at, class): (usize, &&str)| StrandedPath {
        class: (*class).to_owned(),
        path: "a".into(),
        kind: "file".into(),
        size_bytes: 1,
        mtime: -1,
        size_bytes_there: (at == 0).then_some(1),
        mtime_there: (at == 0).then_some(1),
    };
    let classes = ["only", "both", "deleted", "transient", "same"];
    let paths = classes.iter().enumerate().map(path).collect();
    [StrandedPaths { paths, next: Some(5) }, StrandedPaths { paths: Vec::new(), next: None }]
}

fn stranded_taken(settled: Option<Sequence>) -> StrandedTaken {
    let (chosen, remaining, files_written, files_kept, renamed, missing) = (6, 0, 2, 1, 2, 1);
    StrandedTaken { chosen, remaining, files_written, files_kept, renamed, missing, settled }
}

fn stranded_dropped(settled: Option<Sequence>) -> StrandedDropped {
    StrandedDropped { dropped: 3, settled }
}

fn values<T: Serialize>(samples: &[T]) -> Vec<Value> {
    samples.iter().map(|sample| serde_json::to_value(sample).unwrap()).collect()
}

/// Returns samples with the schemas that describe them.
fn samples() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        ("Problem", values(&[ErrorBody { error: "error".into() }])),
        ("Store", values(&stores())),
        ("Upkeep", values(&[upkeep(false)])),
        ("ResyncReport", values(&[resync(false)])),
        ("FollowReport", values(&[follow(false)])),
        ("Progress", values(&[progress()])),
        ("RunFailure", values(&failures())),
        ("Snapshot", values(&[snapshot()])),
        ("Changes", values(&[changes()])),
        ("Failover", values(&failovers())),
        ("Question", values(&[question()])),
        ("HistoryRow", values(&history())),
        ("Stranded", values(&stranded_trees())),
        ("StrandedPaths", values(&stranded_paths())),
        ("StrandedTaken", values(&[stranded_taken(None), stranded_taken(Some(Sequence(9)))])),
        ("StrandedDropped", values(&[stranded_dropped(None), stranded_dropped(Some(Sequence(9)))])),
    ]
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The values that samples had, by place in the description.
#[derive(Clone, Default)]
struct Seen {
    /// Types, words of an enumeration, and alternatives. One that is documented but was not seen does not
    /// exist.
    has: BTreeMap<String, BTreeSet<String>>,
    wants: BTreeMap<String, BTreeSet<String>>,
}

impl Seen {
    fn see(&mut self, at: &str, what: &str) {
        self.has.entry(at.to_owned()).or_default().insert(what.to_owned());
    }

    fn want(&mut self, at: &str, what: &str) {
        self.wants.entry(at.to_owned()).or_default().insert(what.to_owned());
    }

    /// Compares a value with its schema.
    fn visit(&mut self, schemas: &Value, at: &str, schema: &Value, value: &Value) -> Result<(), String> {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.strip_prefix("#/components/schemas/").unwrap();
            self.see("components", name);
            return self.visit(schemas, name, &schemas[name], value);
        }
        if let Some(alternatives) = schema["anyOf"].as_array() {
            let mut errors = Vec::new();
            for (number, alternative) in alternatives.iter().enumerate() {
                self.want(at, &format!("alternative {number}"));
                let mut tried = self.clone();
                match tried.visit(schemas, at, alternative, value) {
                    Ok(()) => {
                        *self = tried;
                        self.see(at, &format!("alternative {number}"));
                    }
                    Err(error) => errors.push(error),
                }
            }
            let one = errors.len() + 1 == alternatives.len();
            return if one { Ok(()) } else { Err(format!("{at}: not one of the alternatives: {errors:?}")) };
        }
        let types: Vec<&str> = match &schema["type"] {
            Value::String(one) => vec![one],
            Value::Array(all) => all.iter().map(|one| one.as_str().unwrap()).collect(),
            _ => return Err(format!("{at} has no type")),
        };
        types.iter().for_each(|one| self.want(at, one));
        if !types.contains(&type_of(value)) {
            return Err(format!("{at} is {value}, documented as {types:?}"));
        }
        self.see(at, type_of(value));
        if let Some(words) = schema["enum"].as_array() {
            words.iter().for_each(|word| self.want(at, &word.to_string()));
            if !words.contains(value) {
                return Err(format!("{at}: {value} is not documented"));
            }
            self.see(at, &value.to_string());
        }
        match value {
            Value::Object(fields) => self.visit_fields(schemas, at, schema, fields),
            Value::Array(items) => {
                self.want(at, "an item");
                for item in items {
                    self.see(at, "an item");
                    self.visit(schemas, &format!("{at}[]"), &schema["items"], item)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn visit_fields(
        &mut self,
        schemas: &Value,
        at: &str,
        schema: &Value,
        fields: &serde_json::Map<String, Value>,
    ) -> Result<(), String> {
        let documented = schema["properties"].as_object().ok_or(format!("{at} has no properties"))?;
        let required = schema["required"].as_array().ok_or(format!("{at} says not what is required"))?;
        if let Some(name) = fields.keys().find(|name| !documented.contains_key(*name)) {
            return Err(format!("{at}.{name} is not documented"));
        }
        for name in required.iter().map(|name| name.as_str().unwrap()) {
            if !documented.contains_key(name) {
                return Err(format!("{at}.{name} is required and not documented"));
            }
        }
        for (name, property) in documented {
            let place = format!("{at}.{name}");
            let is_required = required.contains(&json!(name));
            self.want(&place, "present");
            if !is_required {
                self.want(&place, "absent");
            }
            match fields.get(name) {
                Some(field) => {
                    self.see(&place, "present");
                    self.visit(schemas, &place, property, field)?;
                }
                None if is_required => return Err(format!("{place} is required, and absent")),
                None => self.see(&place, "absent"),
            }
        }
        Ok(())
    }
}

#[test]
fn every_field_is_documented_and_every_documented_field_exists() {
    let description: Value = serde_json::from_str(OPENAPI).unwrap();
    let schemas = &description["components"]["schemas"];
    let mut seen = Seen::default();
    for (name, values) in samples() {
        seen.see("components", name);
        for value in values {
            seen.visit(schemas, name, &schemas[name], &value).unwrap();
        }
    }
    schemas.as_object().unwrap().keys().for_each(|name| seen.want("components", name));
    let empty = BTreeSet::new();
    let missing: Vec<_> = seen
        .wants
        .iter()
        .flat_map(|(at, wants)| {
            let has = seen.has.get(at).unwrap_or(&empty);
            wants.difference(has).map(move |what| format!("{at}: {what}"))
        })
        .collect();
    assert!(missing.is_empty(), "documented, and never so: {missing:#?}");
}

/// The check above finds differences.
#[test]
fn a_description_that_differs_is_found() {
    let description: Value = serde_json::from_str(OPENAPI).unwrap();
    let schemas = &description["components"]["schemas"];
    let value =
        serde_json::to_value(store(true, Permission::Primary, Role::Primary, PlanName::Standard)).unwrap();
    let visit = |schema: &Value, value: &Value| Seen::default().visit(schemas, "Store", schema, value);
    assert_eq!(visit(&schemas["Store"], &value), Ok(()));
    let mut undocumented = value.clone();
    undocumented["new"] = json!(1);
    assert!(visit(&schemas["Store"], &undocumented).unwrap_err().contains("Store.new is not documented"));
    let mut absent = value.clone();
    absent.as_object_mut().unwrap().remove("held");
    assert!(visit(&schemas["Store"], &absent).unwrap_err().contains("Store.held is required"));
    let mut other = value.clone();
    other["last_report"]["phases"]["open_seconds"] = json!("1 s");
    assert!(visit(&schemas["Store"], &other).is_err());
}

fn taking_over() -> FailoverQuery {
    let text = || Some("x".to_owned());
    FailoverQuery {
        person: text(),
        reason: text(),
        at: Some(1),
        back_to: text(),
        restore: text(),
        lost_transactions: Some(2),
        to: text(),
        dry_run: true,
    }
}

fn attesting() -> AttestQuery {
    AttestQuery { host: "x".into(), person: Some("x".into()), to: Some("x".into()) }
}

fn handing_over() -> SwitchoverQuery {
    SwitchoverQuery { person: Some("x".into()), to: Some("x".into()) }
}

fn pausing() -> PauseQuery {
    PauseQuery { person: Some("x".into()), reason: Some("x".into()) }
}

#[test]
fn the_parameters_that_are_documented_are_those_that_are_read() {
    let description: Value = serde_json::from_str(OPENAPI).unwrap();
    let full = ChangesQuery { from: "1".into(), to: Some("2".into()), limit: Some(3) };
    let listing = StrandedPathsQuery { from: 1, limit: Some(2) };
    let dropping = StrandedDropQuery { paths: 1, person: Some("x".into()) };
    let queries = [
        ("changes", "get", serde_json::to_value(full).unwrap(), vec!["from"]),
        ("resync", "post", serde_json::to_value(ResyncQuery { accept: true }).unwrap(), vec![]),
        ("hold", "post", serde_json::to_value(HoldQuery { reason: Some("x".into()) }).unwrap(), vec![]),
        ("failover", "post", serde_json::to_value(taking_over()).unwrap(), vec![]),
        ("failover/attest", "post", serde_json::to_value(attesting()).unwrap(), vec!["host"]),
        ("switchover", "post", serde_json::to_value(handing_over()).unwrap(), vec![]),
        ("pause", "post", serde_json::to_value(pausing()).unwrap(), vec![]),
        ("stranded/{record}", "get", serde_json::to_value(listing).unwrap(), vec![]),
        ("stranded/{record}/drop", "post", serde_json::to_value(dropping).unwrap(), vec!["paths"]),
        ("resume", "post", serde_json::to_value(ResumeQuery { person: Some("x".into()) }).unwrap(), vec![]),
    ];
    for (path, method, query, required) in queries {
        let operation = &description["paths"][format!("/api/v1/stores/{{store}}/{path}")][method];
        let documented: BTreeMap<_, _> = operation["parameters"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|parameter| parameter["in"] == "query")
            .map(|p| (p["name"].as_str().unwrap(), (p["schema"]["type"].as_str().unwrap(), &p["required"])))
            .collect();
        let read = query.as_object().unwrap();
        let wanted: BTreeMap<_, _> = read
            .iter()
            .map(|(name, value)| (name.as_str(), (type_of(value), required.contains(&name.as_str()))))
            .collect();
        let documented: BTreeMap<_, _> =
            documented.into_iter().map(|(name, (kind, needed))| (name, (kind, *needed == true))).collect();
        assert_eq!(documented, wanted, "{path}");
        // Only those are required.
        let only: Value = read
            .iter()
            .filter(|(name, _)| required.contains(&name.as_str()))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        match path {
            "changes" => drop(serde_json::from_value::<ChangesQuery>(only).unwrap()),
            "failover" => drop(serde_json::from_value::<FailoverQuery>(only).unwrap()),
            "failover/attest" => drop(serde_json::from_value::<AttestQuery>(only).unwrap()),
            "switchover" => drop(serde_json::from_value::<SwitchoverQuery>(only).unwrap()),
            "pause" => drop(serde_json::from_value::<PauseQuery>(only).unwrap()),
            "resume" => drop(serde_json::from_value::<ResumeQuery>(only).unwrap()),
            "resync" => assert!(!serde_json::from_value::<ResyncQuery>(only).unwrap().accept),
            _ => drop(serde_json::from_value::<HoldQuery>(only).unwrap()),
        }
    }
}

/// Adds an unknown field to every object.
fn with_news(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(with_news);
            fields.insert("of_a_newer_version".into(), json!({ "a": [1, null] }));
        }
        Value::Array(items) => items.iter_mut().for_each(with_news),
        _ => {}
    }
}

fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(samples: Vec<T>) {
    for sample in samples {
        let mut value = serde_json::to_value(&sample).unwrap();
        assert_eq!(serde_json::from_value::<T>(value.clone()).unwrap(), sample);
        with_news(&mut value);
        assert_eq!(serde_json::from_value::<T>(value).unwrap(), sample);
    }
}

#[test]
fn a_client_passes_over_what_a_newer_daemon_says_beyond_it() {
    comes_back(stores());
    comes_back(vec![resync(true), resync(false)]);
    comes_back(vec![follow(true), follow(false)]);
    comes_back(vec![RunReport::Resync(Box::new(resync(false))), RunReport::Follow(Box::new(follow(false)))]);
    comes_back(failures());
    comes_back(vec![snapshot()]);
    comes_back(vec![changes()]);
    comes_back(failovers());
    comes_back(history());
    comes_back(stranded_trees().to_vec());
    comes_back(vec![progress()]);
    comes_back(vec![upkeep(true), upkeep(false)]);
    comes_back(vec![ErrorBody { error: "error".into() }]);
    // An unknown kind of failure is read as `Failed`.
    let failure: RunFailure = serde_json::from_value(json!({ "outcome": "new", "error": "e" })).unwrap();
    assert_eq!(failure.outcome, FailureKind::Failed);
    // Options that an older daemon leaves out are none.
    let mut old =
        serde_json::to_value(store(false, Permission::Primary, Role::Primary, PlanName::Standard)).unwrap();
    old.as_object_mut().unwrap().retain(|_, field| !field.is_null());
    let read: StoreStatus = serde_json::from_value(old).unwrap();
    assert_eq!(read, store(false, Permission::Primary, Role::Primary, PlanName::Standard));
}

#[test]
fn kinds_of_entries_are_called_the_same_everywhere() {
    let kinds = [
        Kind::Directory,
        Kind::Symlink { target: b"x".to_vec() },
        Kind::Fifo,
        Kind::Socket,
        Kind::CharDevice { major: 1, minor: 2 },
        Kind::BlockDevice { major: 1, minor: 2 },
    ];
    for kind in kinds {
        assert_eq!(serde_json::to_value(EntryKind::from(&kind)).unwrap(), kind.name());
    }
    assert_eq!(serde_json::to_value(EntryKind::File).unwrap(), "file");
}
