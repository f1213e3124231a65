//! `understudy failover`, `switchover`, `pause`, `resume` and `why`.
//!
//! All of them ask this host's daemon, whose agent does the work and goes on when the command ends.

mod args;
mod at;
mod back;
mod change;
mod elsewhere;
mod link;
mod many;
mod one;
mod steps;
mod triage;
mod why;

pub(super) use args::{FailoverArgs, PauseArgs, ResumeArgs, SwitchoverArgs, WhyArgs};
pub(super) use change::run_switchover;
pub(super) use why::{run_pause, run_resume, run_why};

use super::Global;
use super::error::Result;
use super::exit::Exit;

pub(super) fn run_failover(global: &Global, args: &FailoverArgs) -> Result<Exit> {
    match &args.store {
        Some(store) => one::run_failover(global, args, store),
        None => many::run(global, args),
    }
}
