//! `understudy upkeep`.

use super::context::Context;
use super::error::Result;
use super::exit::Exit;
use super::{Global, due, select};
use clap::Args;

#[derive(Args)]
pub(super) struct UpkeepArgs {
    /// Names of stores; default: all configured stores
    #[arg(value_name = "STORE")]
    stores: Vec<String>,
}

pub(super) fn run(global: &Global, args: UpkeepArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let stores = select::chosen(&context, &args.stores)?;
    due::keep_up(global, &context, &stores)
}
