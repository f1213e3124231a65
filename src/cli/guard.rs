//! The guard of a store, which the daemon starts: see [`crate::failover::guard`].

use super::error::{Context as _, Result};
use super::exit::Exit;
use crate::failover::guard::process;
use crate::failover::guard::settings::Setup;
use crate::support::env::Env;
use clap::Args;
use std::io::{Read, Write};

/// Maximum size of what a guard is given.
const SETUP_MAX_BYTES: u64 = 1 << 20;

#[derive(Args)]
pub(super) struct GuardArgs {}

pub(super) fn run(_: &GuardArgs) -> Result<Exit> {
    let mut text = Vec::new();
    std::io::stdin().take(SETUP_MAX_BYTES).read_to_end(&mut text).context("standard input")?;
    let setup: Setup = serde_json::from_slice(&text).context("standard input")?;
    process::run(setup, &Env::system(), || {
        // A daemon that waits reads it. Afterwards nothing is said, and nobody needs to read.
        let _ = std::io::stdout().write_all(b"\n").and_then(|()| std::io::stdout().flush());
        if let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") {
            let _ = rustix::stdio::dup2_stdin(&null);
            let _ = rustix::stdio::dup2_stdout(&null);
            let _ = rustix::stdio::dup2_stderr(&null);
        }
    })?;
    Ok(Exit::Done)
}
