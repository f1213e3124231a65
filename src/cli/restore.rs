//! `understudy restore`.

use super::context::Context;
use super::error::{Result, UsageError};
use super::exit::Exit;
use super::{Global, StandbyArgs, show};
use crate::api::requests::Requests;
use crate::model::id::Sequence;
use crate::model::snapshot_ref::SnapshotRef;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::index::Index;
use crate::restore::request::{Existing, RestoreReport, RestoreRequest};
use crate::restore::run::restore;
use crate::restore::shortfall::{NAMED_MAX, ShortfallKind, Shortfalls};
use crate::standby::depot::Depot;
use crate::support::progress::Progress;
use clap::Args;
use serde::Serialize;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Maximum number of warnings that are printed to standard error.
const SHOWN_MAX: usize = 10;

#[derive(Args)]
pub(super) struct RestoreArgs {
    /// STORE, STORE@latest, STORE@42 or STORE@2026-11-23T10:00 (UTC)
    #[arg(value_name = "STORE[@SNAPSHOT]")]
    snapshot: String,
    /// Destination directory; it must be empty or not exist, unless --overwrite is given
    #[arg(value_name = "DEST")]
    destination: PathBuf,
    /// Restore only this entry and what is below it
    #[arg(long, value_name = "SUB")]
    path: Option<OsString>,
    /// Restore into a directory that is not empty, and replace entries that differ
    #[arg(long)]
    overwrite: bool,
    /// With --overwrite: also remove entries that the snapshot does not have
    #[arg(long, requires = "overwrite")]
    delete: bool,
    /// Use the log as it was up to this record: also finds snapshots that a later record dropped, until they are deleted
    #[arg(long, value_name = "N")]
    until_record: Option<u64>,
    #[command(flatten)]
    standby: StandbyArgs,
}

#[derive(Serialize)]
struct Output {
    snapshot: Sequence,
    #[serde(flatten)]
    report: RestoreReport,
    requests: Requests,
    seconds: f64,
}

pub(super) fn run(global: &Global, args: RestoreArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let started = context.env().stopwatch();
    let wanted = SnapshotRef::parse(&args.snapshot)?;
    let path = match &args.path {
        Some(path) => {
            let bytes = path.as_bytes();
            let trimmed = bytes.strip_prefix(b"/").unwrap_or(bytes);
            let trimmed = trimmed.strip_suffix(b"/").unwrap_or(trimmed);
            TreePath::parse(trimmed).map_err(|e| UsageError(format!("--path: {e}")))?
        }
        None => TreePath::root(),
    };
    let repository = context.repository_of(&wanted.store)?;
    let store = repository.store(&wanted.store);
    let state = match args.until_record {
        Some(last) => store.log().state_until(Sequence(last))?,
        None => store.log().state()?,
    };
    let (sequence, record) = store.log().find(&state, wanted.moment)?;
    let index = Arc::new(Index::open(&store, &state)?);
    let request = RestoreRequest {
        destination: args.destination.clone(),
        path,
        existing: match (args.overwrite, args.delete) {
            (_, true) => Existing::Mirror,
            (true, false) => Existing::Replace,
            (false, false) => Existing::Refuse,
        },
        threads: context.threads(),
        own: context.own_places().into_iter().chain(context.keys()?.key_file).collect(),
        // A host without a standby directory is not searched for every file.
        local: args
            .standby
            .dir(&context)
            .ok()
            .filter(|dir| dir.is_dir())
            .map(|dir| Depot::new(&dir, &wanted.store).local_objects()),
    };
    let progress = Progress::default();
    // The temporary directory is tied to the restored manifest, so that a restore of another snapshot never
    // continues in it.
    let tag = record.manifest.page.to_string()[..16].to_owned();
    let report = super::progress::watched(global, context.env(), &progress, "restored", || {
        restore(ChunkReader::new(store, index), &record.manifest, &tag, &request, &progress)
    })?;
    let seconds = started.seconds();
    let warnings = report.warnings.clone();
    if global.json {
        show::json(&Output { snapshot: sequence, report, requests: repository.requests(), seconds })?;
    } else if !global.quiet {
        show::line(&format!("{}@{sequence} restored to {}", wanted.store, args.destination.display()))?;
        show::line(&format!(
            "  {} entries, {} files written ({}){}, {} kept, {} removed, {seconds:.2} s",
            show::count(report.entries),
            show::count(report.files_written),
            show::bytes(report.written_bytes),
            match report.files_local {
                0 => String::new(),
                local => format!(", {} of them from this standby", show::count(local)),
            },
            show::count(report.files_kept),
            show::count(report.removed),
        ))?;
    }
    warn(&warnings, "the restored tree differs from the snapshot");
    Ok(if warnings.total() > 0 { Exit::Warnings } else { Exit::Done })
}

/// Prints warnings to standard error, also in a pipe, so that a scheduler's mail shows them.
pub(super) fn warn(warnings: &Shortfalls, what: &str) {
    if warnings.total() == 0 {
        return;
    }
    for warning in warnings.first.iter().take(SHOWN_MAX) {
        complain!("understudy: warning: {}: {}: {}", warning.path, words(warning.kind), warning.reason);
    }
    let named = warnings.first.len().min(SHOWN_MAX) as u64;
    if warnings.total() > named {
        let more = show::count(warnings.total() - named);
        complain!("understudy: warning: {more} more; --json names the first {NAMED_MAX}");
    }
    let counts = [
        (warnings.damaged, "left out because of damage in the repository"),
        (warnings.missing, "not created"),
        (warnings.wider, "more accessible than before"),
        (warnings.left, "not removed"),
        (warnings.orphaned, "directories created in place of lost ones"),
        (warnings.renamed, "under another name"),
        (warnings.separate, "separate files that were hard links"),
        (warnings.modes, "modes"),
        (warnings.owners, "owners"),
        (warnings.attributes, "attributes"),
        (warnings.times, "times"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let told: Vec<_> = counts.map(|(count, what)| format!("{} {what}", show::count(*count))).collect();
    complain!("understudy: warning: {what}: {}", told.join(", "));
    let denied = warnings.owners + warnings.attributes + warnings.missing > 0;
    if denied && !rustix::process::geteuid().is_root() {
        complain!(
            "understudy: warning: this user is not allowed to set everything; run as root for an exact copy"
        );
    }
}

fn words(kind: ShortfallKind) -> &'static str {
    match kind {
        ShortfallKind::Damaged => "left out, its content is damaged or lost",
        ShortfallKind::Missing => "could not be created",
        ShortfallKind::Wider => "more accessible than before",
        ShortfallKind::Left => "not removed",
        ShortfallKind::Orphaned => "created in place of a lost directory",
        ShortfallKind::Renamed => "has a different name",
        ShortfallKind::Separate => "no longer a hard link to the same file",
        ShortfallKind::Mode => "different mode",
        ShortfallKind::Owner => "different owner",
        ShortfallKind::Attribute => "attribute not restored",
        ShortfallKind::Time => "different time",
    }
}
