//! `understudy database seed`.

use super::Configured;
use crate::cli::context::kill_at;
use crate::cli::error::{LocalError, Result, UsageError};
use crate::cli::exit::Exit;
use crate::cli::{Global, ending, progress, show, warnings};
use crate::database::check::{Weight, check};
use crate::database::seed::back_up;
use crate::database::server::Server;
use crate::model::gtid::GtidPosition;
use crate::model::role::Permission;
use crate::replicate::resync::Request;
use crate::service::config::default_seeds;
use crate::service::run::{RunObserver, request, resync_between_hooks};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct SeedArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// Where the copy is made that is shipped, with room for the whole database; kept, so that the next seed is one of the same directory (default: below ~/.local/share/understudy/seed)
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Commit even if the copy looks like a mishap: most of it deleted, another filesystem
    #[arg(long)]
    accept: bool,
}

#[derive(Serialize)]
struct Output {
    position: GtidPosition,
    #[serde(flatten)]
    report: crate::api::resync::ResyncReport,
}

pub(super) fn seed(global: &Global, args: SeedArgs) -> Result<Exit> {
    let configured = Configured::open(global, &args.store)?;
    let (context, name) = (&configured.context, &configured.store.name);
    let says = configured.log_says()?;
    if let Some(primary) = says.primary.filter(|_| !says.is_here) {
        let text = format!("store '{name}': '{primary}' is its primary; seed there");
        return Err(UsageError(text).into());
    }
    if !says.is_here && configured.store.role == Permission::Standby {
        return Err(
            UsageError(format!("store '{name}' is only followed on this host; seed on its primary")).into()
        );
    }
    let client = configured.primary()?;
    let findings = check(&Server::new(client.clone()).facts()?);
    let musts: Vec<&str> = findings
        .iter()
        .filter(|finding| finding.weight == Weight::Must)
        .map(|finding| finding.what)
        .collect();
    if !musts.is_empty() {
        return Err(UsageError(format!(
            "store '{name}', {}: not fit for a replica ({}); what mends it: understudy database check {name}",
            client.address,
            musts.join(", ")
        ))
        .into());
    }
    let directory = match args.directory {
        Some(directory) => std::path::absolute(&directory).unwrap_or(directory),
        None => default_seeds()?
            .ok_or_else(|| LocalError::new("no place for the copy; give --directory"))?
            .join(name.as_str()),
    };
    let stop = ending::is_asked;
    let seed = back_up(&client, &directory, &stop)?;
    let store = configured.database_store(directory)?;
    let made = context.key_to_be_made();
    let repository = context.repository(Some(&store))?;
    let position = Some(seed.position.to_string());
    let request = Request { database_position: position, ..request(context, &store, args.accept) };
    let progress = crate::cli::context::progress();
    let watch = RunObserver { progress: &progress, on_step: &kill_at };
    let report = progress::watched(global, context.env(), &progress, "scanned", || {
        resync_between_hooks(&repository, &store, &request, watch)
    })
    .inspect(|_| show::announce_key(made.as_deref()))?;
    let (scan, has_warnings) = (report.warnings.clone(), report.has_warnings());
    if global.json {
        show::json(&Output { position: seed.position, report })?;
    } else if !global.quiet {
        show::resync(&report, &format!("committed to {}", repository.location()))?;
        show::line(&format!("  the database at {}", seed.position))?;
    }
    warnings::scan(&scan);
    Ok(if has_warnings { Exit::Warnings } else { Exit::Done })
}
