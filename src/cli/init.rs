//! `understudy init`.

use super::error::{Context as _, Result, UsageError};
use super::exit::Exit;
use crate::service::config::{FILE_NAME, SAMPLE};
use crate::support::durable;
use crate::support::env::Env;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct InitArgs {
    /// File to write
    #[arg(default_value = FILE_NAME, value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: InitArgs) -> Result<Exit> {
    let shown = args.file.display();
    match durable::create(&Env::system(), &args.file, 0o666, SAMPLE.as_bytes()) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(UsageError(format!("{shown} exists and was not changed; name another file")).into());
        }
        Err(error) => return Err(error).with_context(|| shown.to_string()),
    }
    super::show::line(&format!("wrote {shown}; edit it, then run: understudy resync acme"))?;
    Ok(Exit::Done)
}
