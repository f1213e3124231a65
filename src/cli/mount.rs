//! `understudy mount`, `umount` and `mounts`.

use super::context::Context;
use super::exit::{Exit, UsageError};
use super::{Global, StandbyArgs, show};
use crate::model::id::{Sequence, StoreName};
use crate::model::snapshot_ref::{Moment, SnapshotRef};
use crate::standby::depot::Depot;
use crate::standby::mounted::{self, MountOptions};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often a mount that follows looks for a new snapshot.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(super) struct MountArgs {
    /// STORE, STORE@latest, STORE@42 or STORE@2026-11-23T10:00 (UTC)
    #[arg(value_name = "STORE[@SNAPSHOT]")]
    snapshot: String,
    /// The directory to mount on
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Allow changes, and keep them in this directory; it belongs to this snapshot from then on
    #[arg(long, value_name = "UPPER", conflicts_with = "follow")]
    writable: Option<PathBuf>,
    /// Stay, and move the mount on to each new snapshot
    #[arg(long)]
    follow: bool,
    /// Obey set-user-id bits and device nodes of the snapshot
    #[arg(long)]
    suid_dev: bool,
    #[command(flatten)]
    standby: StandbyArgs,
}

pub(super) fn run(global: &Global, args: MountArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let wanted = SnapshotRef::parse(&args.snapshot)?;
    if args.follow && wanted.moment != Moment::Latest {
        return Err(UsageError("--follow moves on to each new snapshot: name the store alone".into()).into());
    }
    let depot = Depot::new(&args.standby.dir(&context)?, &wanted.store);
    let options = MountOptions { writable: args.writable.clone(), trusted: args.suid_dev };
    let started = Instant::now();
    let sequence = mounted::mount(&depot, &wanted, &args.dir, &options)?;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    let (store, dir) = (&wanted.store, args.dir.display());
    if !global.quiet {
        let how = match &args.writable {
            Some(upper) => format!(", changes go to {}", upper.display()),
            None => ", read-only".to_owned(),
        };
        show::line(&format!("{store}@{sequence} mounted on {dir}{how}, {ms:.1} ms"))?;
    }
    if args.follow {
        stay(global, &args, &depot, &wanted.store, sequence, &options)?;
    }
    Ok(Exit::Done)
}

/// Moves the mount on to each new snapshot, for as long as this process lives.
fn stay(
    global: &Global,
    args: &MountArgs,
    depot: &Depot,
    store: &StoreName,
    mut sequence: Sequence,
    options: &MountOptions,
) -> Result<()> {
    let dir = args.dir.display();
    let mut last_error = String::new();
    loop {
        std::thread::sleep(LOOK_EVERY);
        match mounted::move_on(depot, store, sequence, &args.dir, options) {
            Ok(None) => {}
            Ok(Some((next, old))) => {
                sequence = next;
                last_error.clear();
                if !global.quiet {
                    show::line(&format!("{dir} moved on to {store}@{sequence}"))?;
                }
                // It may take seconds to take a large one apart.
                std::thread::spawn(move || drop(old));
            }
            // What is mounted stays; the next look may succeed.
            Err(error) => {
                let text = error.to_string();
                if text != last_error {
                    eprintln!("understudy: {dir} stays at {store}@{sequence}: {text}");
                    last_error = text;
                }
            }
        }
    }
}

#[derive(Args)]
pub(super) struct UmountArgs {
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Take it away now, and let what is open in it go on
    #[arg(long)]
    lazy: bool,
    #[command(flatten)]
    standby: StandbyArgs,
}

pub(super) fn run_umount(global: &Global, args: UmountArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let was = mounted::unmount(&args.standby.dir(&context)?, &args.dir, args.lazy)?;
    if !global.quiet {
        let kept = match &was.writable {
            Some(upper) => format!("; its changes stay in {}", upper.display()),
            None => String::new(),
        };
        show::line(&format!("{}@{} unmounted from {}{kept}", was.store, was.snapshot, was.dir.display()))?;
    }
    Ok(Exit::Done)
}

#[derive(Args)]
pub(super) struct MountsArgs {}

pub(super) fn run_mounts(global: &Global, _args: MountsArgs) -> Result<Exit> {
    let shown = mounted::shown()?;
    if global.json {
        show::json(&shown)?;
        return Ok(Exit::Done);
    }
    let mut rows = vec![["directory", "snapshot", "changes"].map(String::from).to_vec()];
    for mount in shown {
        let changes = mount.writable.map_or("read-only".to_owned(), |upper| upper.display().to_string());
        rows.push(vec![
            mount.dir.display().to_string(),
            format!("{}@{}", mount.store, mount.snapshot),
            changes,
        ]);
    }
    if rows.len() == 1 {
        return show::line("no snapshot is mounted").map(|()| Exit::Done);
    }
    show::table(&rows)?;
    Ok(Exit::Done)
}
