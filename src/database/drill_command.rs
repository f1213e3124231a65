//! A command of the user's on a drill's copy, such as the shop's own check of its database.
//!
//! It runs as a user without rights, and reaches the copy's server through a door that lets the account in which
//! only reads, and no other. The door, and the account's password, are in a directory of the drill's own that each
//! user can pass and only this one can list; it is removed with the drill's place.

use super::client::Account;
use super::door::{Door, DoorPlace};
use super::drill_fault::Fault;
use super::error::DatabaseError;
use super::minimal::Place;
use crate::model::gtid::GtidPosition;
use crate::support::child::{Confinement, THIS};
use crate::support::durable;
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use crate::support::program::{self, Program};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the account that a drill's queries and command run with.
pub(super) const READER: &str = "understudy-drill";
/// Number of clients that the command may have at a time.
const CLIENTS: u32 = 8;
const ACCOUNT_MODE: u32 = 0o400;

/// A command as it is configured.
#[derive(Clone, Debug, Default)]
pub struct DrillCommand {
    /// The program and its arguments; empty for none.
    pub command: Vec<String>,
    pub(crate) how: Confinement,
}

/// The copy's server, as a command is told of it.
pub(super) struct OnCopy<'a> {
    pub store: &'a str,
    pub server: &'a Place,
    /// The directory that the command's user can pass.
    pub passage: &'a Path,
    pub account: &'a Account,
    pub position: &'a GtidPosition,
    pub limit: Duration,
}

/// Runs a command on a copy. Returns what it found wrong: it says so by its exit code.
///
/// # Errors
/// It cannot be run.
pub(super) fn check(
    command: &DrillCommand,
    on: &OnCopy,
    env: &Env,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Fault>, DatabaseError> {
    let (socket, account) = (on.passage.join("socket"), on.passage.join("account.cnf"));
    let file = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |source| DatabaseError::File { path, source }
    };
    let place = DoorPlace { listen: None, socket: Some(socket.clone()), account: READER, clients: CLIENTS };
    let _door = Door::open(&place, &on.server.socket()).map_err(file(&socket))?;
    let text = format!(
        "[client]\nuser={READER}\npassword={}\nsocket={}\nprotocol=socket\n",
        on.account.password.as_str(),
        socket.display()
    );
    durable::replace(env, &account, ACCOUNT_MODE, text.as_bytes()).map_err(file(&account))?;
    let is_root = rustix::process::geteuid().is_root();
    if let Some(user) = command.how.user.as_ref().filter(|_| is_root) {
        chown(&account, Some(user.uid), Some(user.gid)).map_err(file(&account))?;
    }
    let shown = |path: &Path| path.display().to_string();
    let variables = vec![
        ("UNDERSTUDY_STORE", on.store.to_owned()),
        ("UNDERSTUDY_DATABASE_SOCKET", shown(&socket)),
        ("UNDERSTUDY_DATABASE_ACCOUNT", shown(&account)),
        ("UNDERSTUDY_DATABASE_POSITION", on.position.to_string()),
    ];
    let (this, how) = (Path::new(THIS), command.how.clone());
    let program = Program { this, command: &command.command, how, variables, limit: on.limit };
    let what = command.command.join(" ");
    let fault = |reason: String| Ok(Some(Fault { what, reason }));
    let ended = program::run_until(env, program, stop, |command| {
        command.current_dir("/");
    });
    match ended {
        Ok(output) if output.status.success() => Ok(None),
        Ok(output) => fault(format!("{}{}", output.status, output.said)),
        Err(error) => match error.kind() {
            FailureKind::Stopped => Err(DatabaseError::Stopped),
            FailureKind::Usage => Err(DatabaseError::Settings(error.to_string())),
            _ => fault(error.to_string()),
        },
    }
}
