//! `understudy mount`.

use crate::cli::Global;
use crate::cli::StandbyArgs;
use crate::cli::context::Context;
use crate::cli::ending;
use crate::cli::exit::{Exit, UsageError};
use crate::cli::show;
use crate::model::id::{Sequence, StoreName};
use crate::model::snapshot_ref::{Moment, SnapshotRef};
use crate::mounts::live::{Live, Swap, can_beneath};
use crate::mounts::mount::{self, MountOptions};
use crate::standby::depot::Depot;
use crate::support::env::Env;
use anyhow::Result;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a mount that follows looks for a new snapshot on this host.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(crate) struct MountArgs {
    /// STORE, STORE@latest, STORE@42 or STORE@2026-11-23T10:00 (UTC)
    #[arg(value_name = "STORE[@SNAPSHOT]")]
    pub snapshot: String,
    /// The directory to mount on
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Allow changes, and keep them in this directory; it belongs to this snapshot from then on
    #[arg(long, value_name = "UPPER", conflicts_with = "follow")]
    pub writable: Option<PathBuf>,
    /// Stay, and move the mount on to each new snapshot
    #[arg(long)]
    pub follow: bool,
    /// Who shows it; left out, the kernel where it can, else FUSE
    #[arg(long, value_enum)]
    pub method: Option<Method>,
    /// How --follow moves on; left out, beneath where that can be, else by a symlink
    #[arg(long, value_enum, requires = "follow")]
    pub swap: Option<SwapArg>,
    /// FUSE: do not go to the background
    #[arg(long)]
    pub foreground: bool,
    /// FUSE: content that is kept in memory
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = crate::service::config::parse_bytes)]
    pub cache: u64,
    /// FUSE with --follow: seconds between looks at the repository
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub every: u64,
    /// Obey set-user-id bits and device nodes of the snapshot
    #[arg(long)]
    pub suid_dev: bool,
    #[command(flatten)]
    pub standby: StandbyArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// A snapshot that `follow` brought here; takes root
    Kernel,
    /// Any snapshot, straight from the repository; served by this program
    Fuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SwapArg {
    /// DIR stays a mount point
    Beneath,
    /// DIR is a symlink
    Symlink,
}

/// What was mounted.
#[derive(Serialize)]
pub(crate) struct Mounted<'a> {
    pub store: &'a StoreName,
    pub snapshot: Sequence,
    #[serde(serialize_with = "mount::as_text")]
    pub dir: &'a Path,
    pub method: &'static str,
    #[serde(serialize_with = "mount::some_as_text")]
    pub writable: Option<&'a Path>,
    pub seconds: f64,
}

impl Mounted<'_> {
    pub(crate) fn print(&self, global: &Global) -> Result<()> {
        if global.json {
            return show::json(self);
        }
        if global.quiet {
            return Ok(());
        }
        let how = match (self.writable, self.method) {
            (Some(upper), _) => format!(", changes go to {}", upper.display()),
            (None, "fuse") => ", read-only, from the repository".to_owned(),
            (None, _) => ", read-only".to_owned(),
        };
        let (store, sequence, ms) = (self.store, self.snapshot, self.seconds * 1e3);
        show::line(&format!("{store}@{sequence} mounted on {}{how}, {ms:.1} ms", self.dir.display()))
    }
}

pub(crate) fn run(global: &Global, args: MountArgs) -> Result<Exit> {
    let wanted = SnapshotRef::parse(&args.snapshot)?;
    if args.follow && wanted.moment != Moment::Latest {
        return Err(UsageError("--follow moves on to each new snapshot: name the store alone".into()).into());
    }
    let context = Context::new(global)?;
    let depot = Depot::new(&args.standby.dir(&context)?, &wanted.store);
    match method(&args, || {
        mount::find(&depot, &wanted.store, wanted.moment).is_ok() && mount::kernel_works().is_ok()
    }) {
        Method::Fuse if args.writable.is_some() => {
            let text = "changes take a mount by the kernel: --method kernel, as root, on a host that follows the store";
            Err(UsageError(text.into()).into())
        }
        Method::Fuse => super::fuse::run(global, &context, &args, &wanted, depot),
        Method::Kernel => by_kernel(global, context.env(), &args, &wanted, &depot),
    }
}

/// The method that is given, else the best that works.
fn method(args: &MountArgs, kernel_can: impl FnOnce() -> bool) -> Method {
    match args.method {
        Some(method) => method,
        // Only the kernel can, and if it cannot it says why.
        None if args.writable.is_some() || kernel_can() => Method::Kernel,
        None => Method::Fuse,
    }
}

/// How the mount moves on.
pub(crate) fn swap(args: &MountArgs, may_mount: bool) -> Swap {
    match args.swap {
        Some(SwapArg::Beneath) => Swap::Beneath,
        Some(SwapArg::Symlink) => Swap::Link,
        None if args.follow && !(may_mount && can_beneath()) => Swap::Link,
        None => Swap::Beneath,
    }
}

/// Says so when a symlink is what moves on.
pub(crate) fn tell_link(global: &Global, args: &MountArgs, swap: Swap) -> Result<()> {
    if swap == Swap::Link && !global.quiet && !global.json {
        show::line(&format!("{} is a symlink that moves on to each new snapshot", args.dir.display()))?;
    }
    Ok(())
}

fn by_kernel(
    global: &Global,
    env: &Env,
    args: &MountArgs,
    wanted: &SnapshotRef,
    depot: &Depot,
) -> Result<Exit> {
    let options = MountOptions { writable: args.writable.clone(), trusted: args.suid_dev };
    let started = env.stopwatch();
    let mounted = |snapshot| Mounted {
        store: &wanted.store,
        snapshot,
        dir: &args.dir,
        method: "kernel",
        writable: args.writable.as_deref(),
        seconds: started.seconds(),
    };
    if !args.follow {
        let sequence = mount::mount(depot, wanted, &args.dir, &options)?;
        mounted(sequence).print(global)?;
        return Ok(Exit::Done);
    }
    let swap = swap(args, true);
    let mut live = Live::new(&args.dir, swap, &wanted.store)?;
    let mut sequence = mount::find(depot, &wanted.store, Moment::Latest)?;
    mount::move_on(depot, &wanted.store, sequence, &mut live, &options)?;
    mounted(sequence).print(global)?;
    tell_link(global, args, swap)?;
    let dir = args.dir.display();
    let mut last_error = String::new();
    loop {
        if !ending::sleep(LOOK_EVERY) {
            // The mount is the kernel's, and stays.
            return Ok(Exit::Done);
        }
        if !live.is_there()? {
            // Unmounted by somebody: there is nothing to move on.
            return Ok(Exit::Done);
        }
        let moved = mount::find(depot, &wanted.store, Moment::Latest).and_then(|latest| {
            if latest == sequence {
                return Ok(None);
            }
            Ok(Some((latest, mount::move_on(depot, &wanted.store, latest, &mut live, &options)?)))
        });
        match moved {
            Ok(None) => {}
            Ok(Some((latest, before))) => {
                sequence = latest;
                last_error.clear();
                if !global.quiet {
                    show::line(&format!("{dir} moved on to {}@{sequence}", wanted.store))?;
                }
                let (env, standby) = (env.clone(), depot.standby().to_owned());
                // It may take seconds to take a large one apart.
                std::thread::spawn(move || before.map(|before| before.retire(&env, &standby)));
            }
            // What is mounted stays; the next look may succeed.
            Err(error) => {
                let text = error.to_string();
                if text != last_error {
                    complain!("understudy: {dir} stays at {}@{sequence}: {text}", wanted.store);
                    last_error = text;
                }
            }
        }
    }
}
