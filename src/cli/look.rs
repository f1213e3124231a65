//! The hidden command that looks at a drill's mount: see [`crate::service::drill_look`].

use super::error::Result;
use super::exit::Exit;
use crate::service::drill_look;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct LookArgs {
    /// Directory where this host keeps the stores that it follows
    standby: PathBuf,
    /// Directory that the drill mounts on
    dir: PathBuf,
}

pub(super) fn run(args: &LookArgs) -> Result<Exit> {
    drill_look::run(&args.standby, &args.dir)?;
    Ok(Exit::Done)
}
