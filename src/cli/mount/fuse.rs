//! `understudy mount` by FUSE: this program serves the mount, from the background unless it is told not to.
//!
//! For the background the command starts itself once more and waits until that process has the mount, or has
//! failed: what is said, and the exit code, are the same either way. What fails later is told with --foreground only.

use super::args::{MountArgs, Mounted, swap, tell_link};
use crate::cli::Global;
use crate::cli::context::Context;
use crate::cli::ending;
use crate::cli::error::{Context as _, Result};
use crate::cli::exit::Exit;
use crate::cli::out;
use crate::cli::show;
use crate::model::id::Sequence;
use crate::model::record::{SnapshotRecord, StoreState};
use crate::model::snapshot_ref::{Moment, SnapshotRef};
use crate::mounts::live::{Before, Live};
use crate::mounts::mount;
use crate::mounts::tree::{Complain, View};
use crate::repository::store::Store;
use crate::standby::depot::Depot;
use crate::support::chain::chain;
use crate::vfs::fuse::{self, FuseOptions, Serving};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Set for the process that is to serve from the background.
const SERVE: &str = "UNDERSTUDY_SERVE";
/// What that process says when its mount is there.
const READY: u8 = 0;
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) fn run(
    global: &Global,
    context: &Context,
    args: &MountArgs,
    wanted: &SnapshotRef,
    depot: Depot,
) -> Result<Exit> {
    let serves = std::env::var_os(SERVE).is_some();
    if !args.foreground && !serves {
        return in_background();
    }
    let env = context.env().clone();
    let started = env.stopwatch();
    let store = context.repository_of(&wanted.store)?.store(&wanted.store);
    let state = store.state()?;
    let (mut sequence, record) = store.find(&state, wanted.moment)?;
    let may_mount = fuse::is_privileged();
    let swap = swap(args, may_mount);
    let mut live = Live::new(&args.dir, swap, store.name())?;
    let served = Served { args, store: &store, depot: &depot, may_mount };
    let (mut serving, _) = served.show(&state, sequence, &record, &mut live)?;
    let seconds = started.seconds();
    let (method, dir, writable) = ("fuse", args.dir.as_path(), None);
    Mounted { store: store.name(), snapshot: sequence, dir, method, writable, seconds }.print(global)?;
    tell_link(global, args, swap)?;
    if serves {
        detach_from_terminal()?;
    }
    let standby = depot.standby().to_owned();
    let mut looked = env.stopwatch();
    let mut last_error = String::new();
    while !serving.is_over() {
        if !ending::sleep(LOOK_EVERY) {
            // What is open in it ends with this process.
            mount::unmount(&standby, live.dir(), true)?;
            return Ok(Exit::Done);
        }
        if !args.follow || looked.elapsed() < Duration::from_secs(args.every) {
            continue;
        }
        looked = env.stopwatch();
        match served.move_on(sequence, &mut live) {
            Ok(None) => {}
            Ok(Some((next, new, before))) => {
                (sequence, serving) = (next, new);
                last_error.clear();
                if !global.quiet && !serves {
                    show::line(&format!("{} moved on to {}@{sequence}", args.dir.display(), store.name()))?;
                }
                let (env, standby) = (env.clone(), standby.clone());
                std::thread::spawn(move || before.map(|before| before.retire(&env, &standby)));
            }
            Err(error) => {
                let text = chain(error.as_ref());
                if text != last_error {
                    complain(&format!("{} stays at {}@{sequence}: {text}", args.dir.display(), store.name()));
                    last_error = text;
                }
            }
        }
    }
    serving.wait().with_context(|| args.dir.display().to_string())?;
    Ok(Exit::Done)
}

struct Served<'a> {
    args: &'a MountArgs,
    store: &'a Store,
    depot: &'a Depot,
    may_mount: bool,
}

impl Served<'_> {
    fn show(
        &self,
        state: &StoreState,
        sequence: Sequence,
        record: &SnapshotRecord,
        live: &mut Live,
    ) -> Result<(Serving, Option<Before>)> {
        self.depot.look()?;
        let depot = self.depot.objects().is_dir().then(|| self.depot.clone());
        let told: Complain = Box::new(complain);
        let view = View::open(self.store, state, record, depot, self.args.cache, told)?;
        let source = mount::source(self.store.name(), sequence);
        let options = FuseOptions { source, trusted: self.args.suid_dev };
        let place = live.place(sequence)?;
        if self.may_mount {
            let (mount, serving) = fuse::serve_detached(view, &options)?;
            return Ok((serving, live.show(place, Some(mount))?));
        }
        let serving = fuse::serve_by_helper(view, &options, &place)?;
        Ok((serving, live.show(place, None)?))
    }

    fn move_on(
        &self,
        shown: Sequence,
        live: &mut Live,
    ) -> Result<Option<(Sequence, Serving, Option<Before>)>> {
        let state = self.store.state()?;
        let (latest, record) = self.store.find(&state, Moment::Latest)?;
        if latest == shown {
            return Ok(None);
        }
        let (serving, before) = self.show(&state, latest, &record, live)?;
        Ok(Some((latest, serving, before)))
    }
}

/// One line on standard error; there may be none any more.
fn complain(text: &str) {
    complain!("understudy: {text}");
}

/// Starts the process that serves; returns once it has the mount, or has failed.
fn in_background() -> Result<Exit> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(SERVE, "1")
        // Chunks come and go on many threads; below this size the C library would keep each thread's for itself.
        .env("MALLOC_MMAP_THRESHOLD_", "262144")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting the process that serves the mount")?;
    let id = rustix::process::Pid::from_raw(child.id() as i32);
    ending::on_end(move || {
        // It takes the mount away, if it has it already.
        let _ = id.map(|id| rustix::process::kill_process(id, rustix::process::Signal::TERM));
    });
    let (mut said, mut errors) = (Vec::new(), Vec::new());
    // Both end when it has the mount, or is gone; what it says fits a pipe.
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut said)?;
    }
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut errors)?;
    }
    out::complain_bytes(&errors);
    let ready = said.last() == Some(&READY);
    if ready {
        said.pop();
    }
    out::bytes(&said)?;
    if ready {
        return Ok(Exit::Done);
    }
    let status = child.wait().context("waiting for the process that serves the mount")?;
    // It has said why.
    std::process::exit(status.code().unwrap_or(Exit::Failed.code().into()));
}

/// Says that the mount is there, and lets go of whoever waits for that.
fn detach_from_terminal() -> Result<()> {
    out::bytes(&[READY])?;
    let nothing = std::fs::File::options().write(true).open("/dev/null").context("/dev/null")?;
    rustix::stdio::dup2_stdout(&nothing).context("/dev/null")?;
    rustix::stdio::dup2_stderr(&nothing).context("/dev/null")?;
    // A hang-up of the terminal is for others. The first of a session is one already.
    let _ = rustix::process::setsid();
    Ok(())
}
