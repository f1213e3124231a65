//! `understudy database status`.

use super::run::place;
use super::{Configured, OfStore, stranded};
use crate::cli::error::Result;
use crate::cli::exit::Exit;
use crate::cli::{Global, show};
use crate::database::archive::ArchiveReport;
use crate::database::decide::State;
use crate::database::desk::local;
use crate::database::drill_note::DrillNote;
use crate::database::error::Trouble;
use crate::database::report::{Report, STALE};
use crate::database::reporting::ReportsSeen;
use crate::database::seed::store_name;
use crate::database::server::Server;
use crate::format::binlog_segment::SegmentPlace;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, StoreName};
use crate::support::clock::UnixNanos;
use serde::Serialize;
use std::time::Duration;

#[derive(Serialize)]
struct Output<'a> {
    store: &'a StoreName,
    /// The primary's position, where this host reaches it.
    primary: Option<GtidPosition>,
    /// The replica on this host.
    replica: Option<&'a Report>,
    /// Whether its supervisor runs.
    supervised: bool,
    /// What drills of it found.
    drill: DrillNote,
    archive: Option<Archive>,
    meaning: Option<&'static str>,
    mend: Option<String>,
}

/// The archive, as the repository has it, and its archiver on this host.
#[derive(Serialize)]
struct Archive {
    epoch: Option<Epoch>,
    /// The last segment.
    number: Option<u64>,
    /// A restore can go to any transaction from here on, as far as there is a seed before it.
    first_position: Option<GtidPosition>,
    position: Option<GtidPosition>,
    /// When the last transaction in it was committed, by the server's clock.
    committed_ns: Option<UnixNanos>,
    age_seconds: Option<f64>,
    /// Number of the primary's transactions that are not in it, where the primary is reached.
    behind: Option<u64>,
    lag_seconds: Option<f64>,
    /// What the archiver on this host saw last.
    archiver: Option<ArchiveReport>,
    supervised: bool,
}

fn archive(configured: &Configured, primary: Option<&GtidPosition>) -> Result<Archive> {
    let archiver = ArchiveReport::read(&configured.here().archive_dir()?);
    let store = configured.database_repository()?.store(&store_name(&configured.store.name)?);
    let line = store.binlog().line()?;
    let first = line.0.first().map(|span| SegmentPlace { epoch: span.epoch, number: span.first });
    let read = |place: Option<SegmentPlace>| place.map(|place| store.binlog().read(place)).transpose();
    let (first, last) = (read(first)?, read(line.last())?);
    let now = configured.context.env().wall();
    let header = last.as_ref().map(|last| &last.segment.header);
    let committed = header
        .filter(|header| header.last_s > 0)
        .map(|header| UnixNanos::EPOCH.plus(Duration::from_secs(header.last_s.into())));
    let position = header.map(|header| header.after.clone());
    let supervised =
        archiver.as_ref().is_some_and(|report| report.state != State::Down && now.since(report.at) < STALE);
    Ok(Archive {
        epoch: last.as_ref().map(|last| last.this.epoch),
        number: last.as_ref().map(|last| last.this.number),
        first_position: first.map(|first| first.segment.header.before),
        committed_ns: committed,
        age_seconds: committed.map(|time| now.since(time).as_secs_f64()),
        behind: primary.map(|primary| position.clone().unwrap_or_default().behind(primary)),
        lag_seconds: archiver.as_ref().filter(|_| supervised).and_then(|report| report.lag_seconds),
        position,
        archiver,
        supervised,
    })
}

pub(super) fn status(global: &Global, of: &OfStore) -> Result<Exit> {
    let configured = Configured::open(global, &of.store)?;
    let (context, name) = (&configured.context, &configured.store.name);
    let place = place(&configured)?;
    let mut report = Report::read(&place);
    let supervised = report.as_ref().is_some_and(|report| report.is_fresh(context.env().wall()));
    let primary = configured.primary().ok().map(|client| Server::new(client).binlog_position());
    // One that stands still for a drill's copy answers nobody.
    if let Some(report) = report.as_mut().filter(|_| !place.still().exists()) {
        ask(
            report,
            &Server::new(local(&place, context.env())),
            primary.as_ref().and_then(|p| p.as_ref().ok()),
        );
    }
    let trouble = report.as_ref().and_then(|report| report.trouble);
    let reached = primary.as_ref().and_then(|position| position.as_ref().ok().cloned());
    let archives = configured.store.database.mode.archives();
    let archive = archives.then(|| archive(&configured, reached.as_ref())).transpose()?;
    let output = Output {
        store: name,
        primary: reached,
        archive,
        replica: report.as_ref(),
        supervised,
        drill: DrillNote::read(&place),
        meaning: trouble.map(Trouble::meaning),
        mend: trouble.map(|trouble| trouble.mend(name.as_str())),
    };
    match global.json {
        true => show::json(&output)?,
        false => {
            say(&output)?;
            if let Some(report) = report.as_ref().filter(|_| trouble == Some(Trouble::Diverged)) {
                stranded::say_in_status(&configured, report)?;
            }
        }
    }
    if output.replica.is_none() {
        // A primary has no replica; what it says is all there is.
        primary.transpose()?;
    }
    Ok(exit(&output))
}

/// Takes what the server itself says now, rather than what its supervisor saw.
fn ask(report: &mut Report, server: &Server, primary: Option<&GtidPosition>) {
    match report.state {
        State::Fenced => {}
        State::Serving => match server.binlog_position() {
            Ok(position) => report.applied = position,
            Err(_) => report.state = State::Down,
        },
        // A primary's server that takes no writes.
        State::Waiting if report.branch.is_some() => {}
        _ => match server.replica_status() {
            Ok(Some(status)) => {
                report.behind = primary.map_or(report.behind, |primary| Some(status.applied.behind(primary)));
                report.applied = status.applied;
            }
            _ => report.state = State::Down,
        },
    }
}

fn is_replica(report: &Report) -> bool {
    report.branch.is_none() && !matches!(report.state, State::Serving | State::Fenced)
}

fn exit(output: &Output) -> Exit {
    let of_archive = output.archive.as_ref().map(|archive| {
        let state = archive.archiver.as_ref().map(|report| report.state);
        exit_of(state.unwrap_or(State::Down), archive.supervised)
    });
    let of_server = output.replica.map(|report| exit_of(report.state, output.supervised));
    // What a person must act on comes first.
    let both = || [of_archive, of_server].into_iter().flatten();
    both()
        .find(|exit| *exit == Exit::Held)
        .or_else(|| both().find(|exit| *exit != Exit::Done))
        .unwrap_or(Exit::Done)
}

fn exit_of(state: State, supervised: bool) -> Exit {
    match state {
        State::Broken | State::Held => Exit::Held,
        State::Down | State::Waiting => Exit::Unavailable,
        State::Fenced => Exit::Fenced,
        State::Following | State::Serving if !supervised => Exit::Unavailable,
        State::Following | State::Serving => Exit::Done,
    }
}

fn say_archive(store: &StoreName, archive: &Archive) -> Result<()> {
    let state = archive.archiver.as_ref().map_or(State::Down, |report| report.state);
    let behind = archive.behind.map_or("an unknown number of".to_owned(), show::count);
    match (&archive.first_position, &archive.position) {
        (Some(first), Some(position)) => {
            let age = archive.age_seconds.map_or_else(|| "unknown".to_owned(), show::age);
            show::line(&format!(
                "  archive {} from {first} to {position}, committed {age} ago: {behind} transactions behind",
                state.name()
            ))?;
        }
        _ => show::line(&format!(
            "  archive {}, nothing in it yet: {behind} transactions behind",
            state.name()
        ))?,
    }
    let report = archive.archiver.as_ref();
    if let Some(trouble) = report.and_then(|report| report.trouble) {
        show::line(&format!("  {}", trouble.name()))?;
    }
    if let Some(error) = report.and_then(|report| report.error.as_ref()) {
        show::line(&format!("  {error}"))?;
    }
    match archive.supervised {
        true => Ok(()),
        false => show::line(&format!("  nobody archives here: understudy database archive {store}")),
    }
}

fn say(output: &Output) -> Result<()> {
    let position = |position: &GtidPosition| match position.is_empty() {
        true => "nothing".to_owned(),
        false => position.to_string(),
    };
    let primary = output.primary.as_ref().map_or_else(|| "not reached from here".to_owned(), position);
    show::line(&format!("store '{}': primary at {primary}", output.store))?;
    if let Some(archive) = &output.archive {
        say_archive(output.store, archive)?;
    }
    let Some(report) = output.replica else {
        if output.archive.is_some() {
            return Ok(());
        }
        return show::line("  no replica on this host");
    };
    let applied = position(&report.applied);
    if !is_replica(report) {
        let word = report.state.name();
        show::line(&format!("  this host's server: {word} in epoch {}, at {applied}", report.epoch.0))?;
        if let Some(branch) = &report.branch {
            show::line(&format!("  it was a replica until {}", position(branch)))?;
        }
        if let Some(acks) = report.acks.filter(|acks| acks.waits) {
            let waiting = show::count(acks.waiting);
            show::line(&format!("  a commit is done once the standby has it; {waiting} wait now"))?;
        }
        return end(output, report);
    }
    let behind = report.behind.map_or("an unknown number of".to_owned(), show::count);
    let lag = report.lag_seconds.map_or_else(|| "unknown".to_owned(), show::age);
    show::line(&format!(
        "  replica {} at {applied}: {behind} transactions behind, lag {lag}",
        report.state.name()
    ))?;
    if let Some(hold) = &report.hold {
        let of = hold.snapshot.as_ref().map_or_else(String::new, |snapshot| format!(" of {snapshot}"));
        let (position, since) = (&hold.position, show::time(hold.since));
        show::line(&format!(
            "  held at the position{of}, {position}, since {since} (UTC); what ends it: understudy database release {}",
            output.store
        ))?;
    }
    if let Some(reports) = &report.reports {
        say_reports(reports)?;
    }
    if report.acks.is_some_and(|acks| acks.acknowledging > 0) {
        show::line("  it acknowledges what it receives: customers wait for that")?;
    }
    say_drill(&output.drill, report)?;
    end(output, report)
}

/// Says what the last drill found.
fn say_drill(drill: &DrillNote, report: &Report) -> Result<()> {
    if let Some(last) = &drill.last {
        let ago = show::age(report.at.since(last.at).as_secs_f64());
        let found =
            last.fault.as_deref().map_or_else(|| "sound".to_owned(), |fault| format!("NOT sound: {fault}"));
        show::line(&format!("  drilled {ago} ago, at {}: {found}", last.position))?;
    }
    match &drill.hindrance {
        Some(hindrance) => show::line(&format!("  no drill since: {hindrance}")),
        None => Ok(()),
    }
}

/// Says whether reports are read.
fn say_reports(reports: &ReportsSeen) -> Result<()> {
    match &reports.error {
        Some(error) => show::line(&format!("  no reports: {error}")),
        None => show::line(&format!(
            "  reports: {} clients; {} sessions were ended, over a limit or in the replica's way",
            reports.clients, reports.ended
        )),
    }
}

/// Says what is said of every server.
fn end(output: &Output, report: &Report) -> Result<()> {
    if let Some(bytes) = report.resident_bytes {
        show::line(&format!("  memory {}", show::bytes(bytes)))?;
    }
    if let Some(trouble) = report.trouble {
        show::line(&format!("  {}: {}", trouble.name(), trouble.meaning()))?;
    }
    if let Some(error) = &report.error {
        show::line(&format!("  {error}"))?;
    }
    if let Some(mend) = &output.mend {
        show::line(&format!("  what mends it: {mend}"))?;
    }
    match output.supervised {
        true => Ok(()),
        false => show::line(&format!("  nobody supervises it: understudy database run {}", output.store)),
    }
}
