//! `understudy resync`.

use super::context::{Context, kill_at, name_from_path};
use super::error::{Result, UsageError};
use super::exit::Exit;
use super::remote::Remote;
use super::{Global, due, progress, show, warnings};
use crate::model::id::StoreName;
use crate::model::role::Permission;
use crate::service::config::StoreConfig;
use crate::service::run::{RunObserver, between_positions, request, resync_between_hooks};
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(super) struct ResyncArgs {
    /// Name of a configured store, or a directory
    #[arg(value_name = "PATH|STORE", required_unless_present = "due")]
    target: Option<String>,
    /// Resync all configured stores that are due (for a scheduled job)
    #[arg(long, conflicts_with_all = ["target", "store", "exclude", "one_filesystem", "accept"])]
    due: bool,
    /// Name of the store when a directory is given (default: derived from the directory's name)
    #[arg(long, value_name = "NAME")]
    store: Option<String>,
    /// Exclude paths that match (syntax of .gitignore); may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Exclude other filesystems that are mounted below the directory
    #[arg(long)]
    one_filesystem: bool,
    /// Commit even if the run would be held
    #[arg(long)]
    accept: bool,
}

pub(super) fn run(global: &Global, args: ResyncArgs) -> Result<Exit> {
    let Some(target) = args.target.clone() else { return due::run_due(global) };
    let context = Context::new(global)?;
    let (store, configured) = choose(&context, &target, &args)?;
    // A running daemon that has the store makes the run itself, so that the two never race.
    let is_asked = configured
        && global.repository.is_none()
        // These options are given to this process only, so it makes the run itself.
        && !global.trust_keyring
        && !global.allow_unencrypted;
    let remote = if is_asked { Remote::find(&context) } else { None };
    let remote = remote.filter(|remote| remote.knows(&store.name));
    // Where a store has a failover agent, its role is that of its log.
    let role = remote.as_ref().and_then(|remote| remote.role(&store.name)).unwrap_or(store.role);
    if role != Permission::Primary {
        let text = format!("'{}' is only followed on this host; resync it on its primary", store.name);
        return Err(UsageError(text).into());
    }
    if let Some(remote) = remote {
        return remote.resync(global, &store.name, args.accept);
    }
    let made = context.key_to_be_made();
    let repository = context.repository(Some(&store))?;
    let mut request = between_positions(request(&context, &store, args.accept), &context, &store);
    request.excludes.extend(args.exclude.iter().cloned());
    request.one_filesystem |= args.one_filesystem;
    let progress = super::context::progress();
    let watch = RunObserver { progress: &progress, on_step: &kill_at };
    let report = progress::watched(global, context.env(), &progress, "scanned", || {
        resync_between_hooks(&repository, &store, &request, watch)
    })
    .inspect(|_| show::announce_key(made.as_deref()))?;
    if let Some(rivals) = &report.rivals {
        complain!("understudy: {}: {rivals}", store.name);
    }
    if global.json {
        show::json(&report)?;
    } else if !global.quiet {
        show::resync(&report, &format!("committed to {}", repository.location()))?;
    }
    warnings::scan(&report.warnings);
    if let Some(failed) = &report.hook_failed {
        complain!("understudy: warning: the snapshot is committed; {failed}");
    }
    Ok(if report.has_warnings() { Exit::Warnings } else { Exit::Done })
}

/// Returns the store that is meant, and whether it is in the configuration.
fn choose(context: &Context, target: &str, args: &ResyncArgs) -> Result<(StoreConfig, bool)> {
    if let Some(store) = context.config.store(target) {
        return Ok((store.clone(), true));
    }
    let path = Path::new(target);
    if !target.contains('/') && !path.is_dir() {
        let known: Vec<_> = context.config.store.iter().map(|s| s.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(UsageError(format!(
            "'{}' is neither a directory nor a configured store (configured: {known})",
            target
        ))
        .into());
    }
    let name = match &args.store {
        Some(name) => StoreName::parse(name)?,
        None => name_from_path(path)?,
    };
    let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    Ok((StoreConfig::of(name, path), false))
}
