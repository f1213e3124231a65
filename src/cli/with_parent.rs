//! What a drill starts others by, so that they end with it: see [`crate::service::drill_place`].

use super::error::{Error, LocalError};
use crate::service::drill_place::become_with_parent;
use clap::Args;
use std::ffi::OsString;

#[derive(Args)]
pub(super) struct WithParentArgs {
    /// The number of the process that asks
    parent: u32,
    /// What the other is sent when that ends
    signal: i32,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

/// Returns only when it cannot be.
pub(super) fn run(args: WithParentArgs) -> Error {
    let Some((program, arguments)) = args.program.split_first() else {
        return LocalError::new("no program").into();
    };
    let error = become_with_parent(args.parent, args.signal, program, arguments);
    LocalError::new(format!("{}: {error}", program.display())).into()
}
