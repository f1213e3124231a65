//! The intermediate process between this program and a hook or a drill's command: see
//! [`crate::support::child`].

use crate::support::child::{CONFINED, Told, User, not_started, run_confined};
use clap::Args;
use std::ffi::OsString;

#[derive(Args)]
pub(super) struct ConfinedArgs {
    /// Who asks holds the other end of its standard input
    #[arg(long)]
    leashed: bool,
    /// Nothing that it started outlives it
    #[arg(long)]
    ends_all: bool,
    /// What the other creates it with, in octal digits
    #[arg(long, value_parser = |text: &str| u32::from_str_radix(text, 8))]
    umask: u32,
    /// Whom it becomes: UID:GID:GROUPS
    #[arg(long)]
    user: Option<User>,
    /// Nothing that it starts gets more rights
    #[arg(long)]
    no_new_privileges: bool,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

/// Runs the command and ends this process.
pub(super) fn run(args: ConfinedArgs) -> ! {
    let mut again: Vec<OsString> =
        vec![CONFINED.into(), "--umask".into(), format!("{:o}", args.umask).into()];
    if let Some(user) = &args.user {
        again.extend(["--user".into(), user.to_string().into()]);
    }
    again.extend(args.no_new_privileges.then(|| "--no-new-privileges".into()));
    again.push("--".into());
    again.extend(args.program.iter().cloned());
    let told = Told {
        is_leashed: args.leashed,
        umask: args.umask,
        user: args.user,
        ends_all: args.ends_all,
        no_new_privileges: args.no_new_privileges,
        program: args.program,
    };
    complain!("understudy: {}", run_confined(&told, &again));
    not_started()
}
