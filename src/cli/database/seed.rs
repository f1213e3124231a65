//! `understudy database seed`.

use super::Configured;
use crate::cli::context::kill_at;
use crate::cli::error::{Result, UsageError};
use crate::cli::exit::Exit;
use crate::cli::{Global, ending, progress, show, warnings};
use crate::model::gtid::GtidPosition;
use crate::model::role::Permission;
use crate::service::databases::seeding;
use crate::service::run::RunObserver;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct SeedArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// Where the copy is made that is shipped, with room for the whole database; kept, so that the next seed is one of the same directory (default: `seed_directory`, else below ~/.local/share/understudy/seed)
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
    let directory = match args.directory {
        Some(directory) => std::path::absolute(&directory).unwrap_or(directory),
        None => configured.here().seed_directory()?,
    };
    let _turn = seeding::turn()?;
    let client = configured.here().server()?;
    let seed = seeding::copy(configured.here(), &client, &directory, &ending::is_asked)?;
    let store = configured.database_store(directory)?;
    let made = context.key_to_be_made();
    let repository = context.repository(Some(&store))?;
    let progress = crate::cli::context::progress();
    let watch = RunObserver { progress: &progress, on_step: &kill_at };
    let report = progress::watched(global, context.env(), &progress, "scanned", || {
        seeding::ship(context.host(), &repository, &store, &seed, args.accept, watch)
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
