//! `understudy failover`, `switchover`, `pause`, `resume` and `why`.
//!
//! All of them ask this host's daemon, whose agent does the work and goes on when the command ends.

mod args;
mod change;
mod link;
mod many;
mod steps;
mod triage;
mod why;

pub(super) use args::{FailoverArgs, PauseArgs, ResumeArgs, SwitchoverArgs, WhyArgs};
pub(super) use change::{run_failover, run_switchover};
pub(super) use why::{run_pause, run_resume, run_why};
