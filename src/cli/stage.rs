//! The hidden command that is the stage of a drill of a failover: see [`crate::service::site`].

use crate::service::site::stage;
use clap::Args;

#[derive(Args)]
pub(super) struct StageArgs {
    /// The namespaces are there
    #[arg(long)]
    within: bool,
}

/// Runs it, and ends this process.
pub(super) fn run(args: &StageArgs) -> ! {
    stage::run(args.within)
}
