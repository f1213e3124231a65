//! `understudy restore`.

use super::context::Context;
use super::error::{Result, UsageError};
use super::exit::Exit;
use super::{Global, StandbyArgs, show, warnings};
use crate::api::requests::Requests;
use crate::model::id::Sequence;
use crate::model::snapshot_ref::SnapshotRef;
use crate::model::tree_path::TreePath;
use crate::repository::chunks::ChunkReader;
use crate::repository::index::Index;
use crate::restore::request::{Existing, RestoreReport, RestoreRequest};
use crate::restore::run::restore;
use crate::standby::depot::Depot;
use crate::support::progress::Progress;
use clap::Args;
use serde::Serialize;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

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
    let shortfalls = report.warnings.clone();
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
    warnings::shortfalls(&shortfalls, "the restored tree differs from the snapshot");
    Ok(if shortfalls.total() > 0 { Exit::Warnings } else { Exit::Done })
}
