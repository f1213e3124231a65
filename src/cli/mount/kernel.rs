//! `understudy mount` by the kernel: a snapshot that `follow` brought here.

use super::args::{MountArgs, Mounted, swap, tell_link};
use crate::cli::error::Result;
use crate::cli::exit::Exit;
use crate::cli::{Global, ending, show};
use crate::model::snapshot_ref::{Moment, SnapshotRef};
use crate::mounts::live::Live;
use crate::mounts::mount::{self, MountOptions};
use crate::standby::depot::Depot;
use crate::support::env::Env;
use std::time::Duration;

/// How often a mount that follows looks for a new snapshot on this host.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) fn run(
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
