//! The namespaces of a drill: two processes of this program, the first of which makes them and waits for the second.
//!
//! The second is the first process of its namespace: when it ends, the kernel ends all others in it. Both have the
//! drill's pipe as their standard input, and end when that is closed. So it suffices that one of the three is killed.
//!
//! A process that makes a process namespace is not in it, its children are; and only a process with a single thread may
//! make one. That is why there are two.

use super::perform;
use crate::support::child::{self, THIS};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::UnshareFlags;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// The hidden command that [`run`] serves.
pub(crate) const STAGE: &str = "stage";
/// The option by which it runs itself in the namespaces.
const WITHIN: &str = "--within";
/// Maximum time for all to end.
const END_LIMIT: Duration = Duration::from_secs(10);
/// The processes, as the drill sees them.
pub(super) struct Stage {
    child: Child,
    /// The pipe whose end ends everything.
    pub leash: Option<ChildStdin>,
}

impl Stage {
    /// Starts both, with these of this process's variables. Returns what they write as well.
    pub fn start<'a>(variables: impl Iterator<Item = &'a String>) -> io::Result<(Self, ChildStdout)> {
        let mut command = Command::new(THIS);
        command.arg0("understudy").arg(STAGE).env_clear().env("PATH", child::own_path()).current_dir("/");
        for name in variables.filter(|name| child::may_be_handed_on(name)) {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.envs(std::env::var_os("LANG").map(|lang| ("LANG", lang)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let leash = child.stdin.take();
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((Self { child, leash }, stdout))
    }

    /// Ends everything, and returns once nothing of it runs any more; false if that takes too long.
    pub fn end(mut self, env: &crate::support::env::Env) -> bool {
        drop(self.leash.take());
        let is_over = crate::support::program::wait(env, &mut self.child, END_LIMIT).is_some();
        if !is_over {
            let _ = self.child.kill();
        }
        is_over
    }
}

/// Runs one of both processes. Ends this process.
pub(crate) fn run(is_within: bool) -> ! {
    let ended = if is_within { perform::run() } else { around() };
    let code = match ended {
        Ok(code) => code,
        Err(error) => {
            tracing::debug!(%error, "the stage of a drill");
            1
        }
    };
    std::process::exit(code)
}

/// Makes the namespaces, and waits for the process in them.
fn around() -> io::Result<i32> {
    // A terminal's signals are the drill's.
    let _ = rustix::process::setsid();
    let all = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    // The function is marked since it could take the file descriptors of other threads away, which these flags do not.
    #[allow(deprecated)]
    rustix::thread::unshare(all)?;
    let mut command = Command::new(THIS);
    command.arg0("understudy").args([STAGE, WITHIN]);
    let mut within =
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::null()).spawn()?;
    let id = Pid::from_raw(within.id().try_into().unwrap_or_default()).ok_or(Errno::SRCH)?;
    let other = rustix::process::pidfd_open(id, PidfdFlags::empty())?;
    let leash = io::stdin();
    loop {
        // Only its end: what is said in it is for the other process.
        let mut ends = [PollFd::new(&leash, PollFlags::empty()), PollFd::new(&other, PollFlags::IN)];
        match poll(&mut ends, None) {
            Ok(_) if !ends[1].revents().is_empty() => break,
            Ok(_) if !ends[0].revents().is_empty() => {
                within.kill()?;
                break;
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // It has ended once all others in its namespace have.
    let status = within.wait()?;
    Ok(status.code().unwrap_or(1))
}
