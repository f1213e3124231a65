//! The arguments of `understudy mount` and its output, for both methods.

use crate::cli::error::Result;
use crate::cli::{Global, StandbyArgs, ending, show};
use crate::model::id::{Sequence, StoreName};
use crate::mounts::live::{self, End, Live, News, Swap, can_beneath, follow_mount};
use crate::mounts::table;
use crate::support::chain::chain;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Args)]
pub(crate) struct MountArgs {
    /// STORE, STORE@latest, STORE@42 or STORE@2026-11-23T10:00 (UTC)
    #[arg(value_name = "STORE[@SNAPSHOT]")]
    pub snapshot: String,
    /// The directory to mount on
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Allow changes and keep them in this directory, which belongs to this snapshot from then on
    #[arg(long, value_name = "UPPER", conflicts_with = "follow")]
    pub writable: Option<PathBuf>,
    /// Keep running, and switch the mount to each new snapshot
    #[arg(long)]
    pub follow: bool,
    /// How to mount; default: the kernel if it can, otherwise FUSE
    #[arg(long, value_enum)]
    pub method: Option<Method>,
    /// How --follow switches snapshots; default: beneath if possible, otherwise symlink
    #[arg(long, value_enum, requires = "follow")]
    pub swap: Option<SwapArg>,
    /// FUSE: stay in the foreground
    #[arg(long)]
    pub foreground: bool,
    /// FUSE: memory for cached content
    #[arg(long, value_name = "SIZE", default_value = "128MiB", value_parser = crate::service::config::parse_bytes)]
    pub cache: u64,
    /// FUSE with --follow: seconds between checks of the repository
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub every: u64,
    /// Honour set-user-id bits and device nodes of the snapshot
    #[arg(long)]
    pub suid_dev: bool,
    #[command(flatten)]
    pub standby: StandbyArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// A snapshot that `follow` brought here; requires root
    Kernel,
    /// Any snapshot, read from the repository and served by this program
    Fuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SwapArg {
    /// DIR stays a mount point; each new snapshot is mounted beneath the old one
    Beneath,
    /// DIR is a symlink to the newest snapshot
    Symlink,
}

/// The snapshot that was mounted, and how.
#[derive(Serialize)]
pub(crate) struct MountReport<'a> {
    pub store: &'a StoreName,
    pub snapshot: Sequence,
    #[serde(serialize_with = "table::as_text")]
    pub dir: &'a Path,
    pub method: &'static str,
    #[serde(serialize_with = "table::some_as_text")]
    pub writable: Option<&'a Path>,
    pub seconds: f64,
}

impl MountReport<'_> {
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

/// Returns how the mount moves on to the next snapshot.
pub(crate) fn swap(args: &MountArgs, may_mount: bool) -> Swap {
    match args.swap {
        Some(SwapArg::Beneath) => Swap::Beneath,
        Some(SwapArg::Symlink) => Swap::Link,
        None if args.follow && !(may_mount && can_beneath()) => Swap::Link,
        None => Swap::Beneath,
    }
}

/// Prints a note when a symlink is exchanged to move on.
pub(crate) fn tell_link(global: &Global, args: &MountArgs, swap: Swap) -> Result<()> {
    if swap == Swap::Link && !global.quiet && !global.json {
        show::line(&format!(
            "{} is a symlink that always points to the newest snapshot",
            args.dir.display()
        ))?;
    }
    Ok(())
}

/// Moves the mount on as `--follow` says, and prints each move. Ends with the mount, when this process is
/// asked to end, or when the reader of its output is gone.
pub(super) fn follow(
    method: &mut dyn live::Method,
    live: &mut Live,
    shown: Sequence,
    every: Option<Duration>,
    printer: &Printer,
) -> Result<End> {
    let lost = RefCell::new(None);
    let wait = |time| lost.borrow().is_none() && ending::sleep(time);
    let mut observe = |news: News| {
        if let Err(error) = printer.print(&news) {
            lost.replace(Some(error));
        }
    };
    let end = follow_mount(method, live, shown, every, &wait, &mut observe)?;
    match lost.take() {
        Some(error) => Err(error),
        None => Ok(end),
    }
}

/// Prints the events of a mount that is followed.
pub(super) struct Printer<'a> {
    pub dir: &'a Path,
    pub store: &'a StoreName,
    /// Whether moves are printed in addition to errors.
    pub prints_moves: bool,
}

impl Printer<'_> {
    fn print(&self, news: &News) -> Result<()> {
        let (dir, store) = (self.dir.display(), self.store);
        match news {
            News::Moved(snapshot) if self.prints_moves => {
                show::line(&format!("{dir} switched to {store}@{snapshot}"))?;
            }
            News::Moved(_) => {}
            News::Stays { snapshot, error } => {
                complain!(
                    "understudy: {dir} could not be switched and stays at {store}@{snapshot}: {}",
                    chain(*error)
                );
            }
        }
        Ok(())
    }
}
