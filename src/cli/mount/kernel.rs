//! `understudy mount` by the kernel: the mount outlives the command, which stays with --follow only.

use super::args::{MountArgs, MountReport, Printer, follow, swap, tell_link};
use crate::cli::Global;
use crate::cli::error::Result;
use crate::cli::exit::Exit;
use crate::model::snapshot_ref::{Moment, SnapshotRef};
use crate::mounts::live::{KernelMounts, Live, Method};
use crate::mounts::mount::{self, MountOptions};
use crate::standby::depot::Depot;
use crate::support::env::Env;

pub(super) fn run(
    global: &Global,
    env: &Env,
    args: &MountArgs,
    wanted: &SnapshotRef,
    depot: &Depot,
) -> Result<Exit> {
    let options = MountOptions { writable: args.writable.clone(), trusted: args.suid_dev };
    let started = env.stopwatch();
    let mounted = |snapshot| MountReport {
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
    let mut mounts = KernelMounts { depot, store: &wanted.store, options, env };
    let snapshot = mounts.find(Moment::Latest)?;
    mounts.show(snapshot, &mut live)?;
    mounted(snapshot).print(global)?;
    tell_link(global, args, swap)?;
    let printer = Printer { dir: &args.dir, store: &wanted.store, prints_moves: !global.quiet };
    // When asked to end, the command leaves the mount, which is the kernel's.
    follow(&mut mounts, &mut live, snapshot, Some(KernelMounts::EVERY), &printer)?;
    Ok(Exit::Done)
}
