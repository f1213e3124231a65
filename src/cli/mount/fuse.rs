//! `understudy mount` by FUSE: this program serves the mount, from the background unless `--foreground` is
//! given.
//!
//! For the background the command starts itself once more and waits until that process has the mount, or has
//! failed: output and exit code are the same either way. Later failures are reported with `--foreground`
//! only.

use super::args::{MountArgs, MountReport, Printer, follow, swap, tell_link};
use crate::cli::Global;
use crate::cli::context::Context;
use crate::cli::ending;
use crate::cli::error::{Context as _, Result};
use crate::cli::exit::Exit;
use crate::cli::out;
use crate::model::snapshot_ref::SnapshotRef;
use crate::mounts::live::{End, Live, Method};
use crate::mounts::served::{FuseMounts, ServeOptions};
use crate::mounts::unmount::unmount;
use crate::standby::depot::Depot;
use crate::vfs::fuse;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Variable that is set for the process that serves from the background.
const SERVE: &str = "UNDERSTUDY_SERVE";
/// Byte that this process writes when its mount is there.
const READY: u8 = 0;

pub(super) fn run(
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
    let started = context.env().stopwatch();
    let store = context.repository_of(&wanted.store)?.store(&wanted.store);
    let may_mount = fuse::is_privileged();
    let swap = swap(args, may_mount);
    let mut live = Live::new(&args.dir, swap, store.name())?;
    let mut mounts = FuseMounts::new(ServeOptions {
        store: &store,
        depot: &depot,
        cache_bytes: args.cache,
        trusted: args.suid_dev,
        may_mount,
        complain: &|| Box::new(complain),
    });
    let snapshot = mounts.find(wanted.moment)?;
    mounts.show(snapshot, &mut live)?;
    let seconds = started.seconds();
    let (method, dir, writable) = ("fuse", args.dir.as_path(), None);
    MountReport { store: store.name(), snapshot, dir, method, writable, seconds }.print(global)?;
    tell_link(global, args, swap)?;
    if serves {
        detach_from_terminal()?;
    }
    let printer = Printer { dir, store: store.name(), prints_moves: !global.quiet && !serves };
    let every = args.follow.then(|| Duration::from_secs(args.every));
    match follow(&mut mounts, &mut live, snapshot, every, &printer)? {
        // Files that are open in the mount cannot be served after this process has ended.
        End::Asked => drop(unmount(depot.standby(), live.dir(), true)?),
        End::Removed => mounts.wait().with_context(|| dir.display().to_string())?,
    }
    Ok(Exit::Done)
}

/// Writes one line to standard error, which may be closed by now.
fn complain(text: &str) {
    complain!("understudy: {text}");
}

/// Starts the process that serves; returns once it has the mount, or has failed.
fn in_background() -> Result<Exit> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(SERVE, "1")
        // Many threads allocate and free chunks. Smaller blocks would stay in the C library's arena of each
        // thread.
        .env("MALLOC_MMAP_THRESHOLD_", "262144")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting the process that serves the mount")?;
    let id = rustix::process::Pid::from_raw(child.id() as i32);
    ending::on_end(move || {
        // The process removes the mount, if it has it already.
        let _ = id.map(|id| rustix::process::kill_process(id, rustix::process::Signal::TERM));
    });
    let (mut said, mut errors) = (Vec::new(), Vec::new());
    // Both pipes end when the process has the mount or has ended; its output fits a pipe.
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
    // The process has reported the reason.
    std::process::exit(status.code().unwrap_or(Exit::Failed.code().into()));
}

/// Reports that the mount is there, and closes the pipes that the parent process waits for.
fn detach_from_terminal() -> Result<()> {
    out::bytes(&[READY])?;
    let nothing = std::fs::File::options().write(true).open("/dev/null").context("/dev/null")?;
    rustix::stdio::dup2_stdout(&nothing).context("/dev/null")?;
    rustix::stdio::dup2_stderr(&nothing).context("/dev/null")?;
    // A hang-up of the terminal must not end this process. The call fails if it leads a session already.
    let _ = rustix::process::setsid();
    Ok(())
}
