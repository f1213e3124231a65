//! `understudy umount` and `understudy mounts`.

use super::context::Context;
use super::error::Result;
use super::exit::Exit;
use super::{Global, StandbyArgs, show};
use crate::mounts::error::StageError;
use crate::mounts::table::mounted_snapshots;
use crate::mounts::unmount::{forget_gone, unmount};
use crate::vfs::error::MountError;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct UmountArgs {
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Detach the mount now; files that are open in it stay usable
    #[arg(long)]
    lazy: bool,
    #[command(flatten)]
    standby: StandbyArgs,
}

pub(super) fn run(global: &Global, args: UmountArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let standby = args.standby.dir(&context)?;
    let was = match unmount(&standby, &args.dir, args.lazy) {
        Err(error @ StageError::Mount(MountError::NotOurs(_))) => {
            let kept = forget_gone(&standby, &args.dir)?;
            if kept.is_empty() {
                return Err(error.into());
            }
            if !global.quiet {
                let dir = args.dir.display();
                show::line(&format!(
                    "{dir} was unmounted already; {} is no longer kept for it",
                    kept.join(", ")
                ))?;
            }
            return Ok(Exit::Done);
        }
        was => was?,
    };
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
    let shown = mounted_snapshots()?;
    if global.json {
        show::json(&shown)?;
        return Ok(Exit::Done);
    }
    let mut rows = vec![["directory", "snapshot", "method", "changes"].map(String::from).to_vec()];
    for mount in shown {
        let changes = mount.writable.map_or("read-only".to_owned(), |upper| upper.display().to_string());
        rows.push(vec![
            mount.dir.display().to_string(),
            format!("{}@{}", mount.store, mount.snapshot),
            mount.method.to_owned(),
            changes,
        ]);
    }
    if rows.len() == 1 {
        return show::line("no snapshot is mounted").map(|()| Exit::Done);
    }
    show::table(&rows)?;
    Ok(Exit::Done)
}
