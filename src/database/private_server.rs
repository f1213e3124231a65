//! A server that only this process uses: on a copy of a database, without a network, for as long as it is worked on.

use super::client::{Address, Client};
use super::error::DatabaseError;
use super::facts::Variables;
use super::minimal::{Identity, Minimal, Place, Size};
use super::own_files;
use super::process::{Process, check_series};
use super::server::Server;
use crate::model::gtid::{GtidPosition, ServerId};
use crate::support::env::Env;
use crate::support::private;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for a server to begin to answer: it may have to recover.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Time for a server to end: it may have to write much.
const END_LIMIT: Duration = Duration::from_secs(600);
const TRY_EVERY: Duration = Duration::from_millis(50);
/// Name of our account, which is dropped at the end.
const ACCOUNT: &str = "understudy-restore";
/// Those of a restore: nothing is lost by a crash that is not begun anew in any case.
pub const RESTORE: &str = "read-only=0\nsync-binlog=0\ninnodb-flush-log-at-trx-commit=0\nmax-allowed-packet=1G\nmax-binlog-size=1G\n";
/// What the server's own binary logs are called.
const BINLOG: &str = "binlog.";

/// What a private server is made of.
pub struct PrivateSettings<'a> {
    /// Directory of the server's files that are not its data.
    pub place: Place,
    pub data: &'a Path,
    /// The variables of the server whose data it is.
    pub variables: &'a Variables,
    pub memory_mib: u32,
    /// The store's name.
    pub store: &'a str,
    /// What it is for: part of its identity.
    pub purpose: &'a str,
    /// Name of the binary logs, where they are not our own.
    pub log_bin: Option<&'a str>,
    /// Settings in addition to a replica's.
    pub extra: &'a str,
}

/// A private server.
pub struct PrivateServer {
    process: Process,
    pub server: Server,
    data: PathBuf,
    env: Env,
}

impl PrivateServer {
    /// Starts a server, and waits until it answers.
    pub fn start(
        settings: &PrivateSettings,
        env: &Env,
        stop: &dyn Fn() -> bool,
    ) -> Result<Self, DatabaseError> {
        check_series("mariadbd", "mariadb-server-core", settings.variables.text("version"))?;
        let place = &settings.place;
        prepare(settings, env)?;
        let address = Address::Socket(place.socket());
        let client = Client { address, account_file: Some(place.account()), env: env.clone() };
        let process = Process::start(place)?;
        let mut this =
            Self { process, server: Server::new(client), data: settings.data.to_owned(), env: env.clone() };
        let begun = env.stopwatch();
        loop {
            if let Some(reason) = this.process.ended() {
                return Err(DatabaseError::Start(reason));
            }
            match this.server.ping() {
                Ok(()) => break,
                Err(error @ DatabaseError::Program { .. }) => return Err(error),
                Err(error) if begun.elapsed() >= START_LIMIT => return Err(error),
                Err(_) if stop() => return Err(DatabaseError::Stopped),
                Err(_) => env.sleep(TRY_EVERY),
            }
        }
        // Its password is in the account's file alone from now on.
        let _ = std::fs::remove_file(place.init());
        Ok(this)
    }

    /// Leaves the data at this position, for whatever server is started on it: without our account, without binary
    /// logs. Ends the server, and returns once it has written all.
    pub fn finish(mut self, position: &GtidPosition) -> Result<(), DatabaseError> {
        self.server.begin_history(position)?;
        self.server.drop_account_and_end(ACCOUNT)?;
        let begun = self.env.stopwatch();
        let ended = loop {
            match self.process.ended() {
                Some(ended) => break ended,
                None if begun.elapsed() >= END_LIMIT => {
                    return Err(DatabaseError::Start("it does not end".into()));
                }
                None => self.env.sleep(TRY_EVERY),
            }
        };
        if !ended.starts_with("exit status: 0") {
            return Err(DatabaseError::Start(ended));
        }
        tidy(&self.data).map_err(|source| DatabaseError::File { path: self.data.clone(), source })
    }
}

/// Makes the files that a server is started with.
fn prepare(settings: &PrivateSettings, env: &Env) -> Result<(), DatabaseError> {
    let place = &settings.place;
    let file = |path: PathBuf| move |source| DatabaseError::File { path, source };
    private::own(&place.dir).map_err(file(place.dir.clone()))?;
    private::make_dirs(&place.temporary()).map_err(file(place.temporary()))?;
    let primary = ServerId(settings.variables.number("server_id").try_into().unwrap_or(0));
    let configuration = Minimal {
        size: Size::Standard,
        memory_mib: settings.memory_mib,
        datadir: settings.data,
        place,
        identity: Identity::of(settings.store, settings.purpose, primary),
        primary: settings.variables,
        log_bin: settings.log_bin,
        is_root: rustix::process::geteuid().is_root(),
        acks: false,
        undoes: false,
    };
    own_files::write(env, place, ACCOUNT, &(configuration.text() + settings.extra), "")
}

/// Removes the server's binary logs, and gives all to the user whose database it is.
fn tidy(data: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    for entry in std::fs::read_dir(data)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(BINLOG) && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = std::fs::symlink_metadata(data)?;
    let mut dirs = vec![data.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            std::os::unix::fs::lchown(entry.path(), Some(owner.uid()), Some(owner.gid()))?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    Ok(())
}
