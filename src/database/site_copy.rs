//! The database of a drill of a failover: a copy of the replica, opened as the primary's server is, for customers.
//!
//! The copy is made as for a drill of the replica (see [`super::drill`]), where the replica is. It is opened in another
//! process, in a network of its own: so the server listens where customers' programs expect it.

use super::client::{Address, Client};
use super::customers::{Customers, ForCustomers};
use super::drill::Drill;
use super::drill_copy::{Source, Way};
use super::drill_place::DrillPlace;
use super::error::DatabaseError;
use super::facts::Variables;
use super::minimal::{Identity, Place};
use super::own_files;
use super::process::{Process, check_series};
use super::seed::{SeedNote, data_dir};
use super::server::Server;
use crate::model::gtid::{DomainId, GtidPosition, ServerId};
use crate::support::env::Env;
use crate::support::private;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Name of our account.
const ACCOUNT: &str = "understudy-site";
/// Time for the server to begin to answer: it may have to recover.
const START_LIMIT: Duration = Duration::from_secs(600);
const TRY_EVERY: Duration = Duration::from_millis(20);

/// A copy, and how it is opened.
#[derive(Serialize, Deserialize)]
pub struct CopyTask {
    /// The data.
    pub data: PathBuf,
    /// Directory of the server's files that are not its data.
    pub dir: PathBuf,
    /// Name of the binary logs, where they are not our own.
    log_bin: Option<String>,
    variables: Variables,
    customers: Customers,
    store: String,
    /// What the replica had applied at least.
    applied: GtidPosition,
}

/// A copy that is there.
pub struct Copied {
    place: DrillPlace,
    pub way: Way,
    /// How long the replica stood still.
    pub still_seconds: f64,
}

/// Copies a replica that the drill describes.
///
/// # Errors
/// There is no replica, or no room, or it cannot stand still.
pub fn copy(drill: &Drill, customers: &Customers) -> Result<(Copied, CopyTask), DatabaseError> {
    let Some(made_by) = SeedNote::read(drill.root)? else {
        let text = format!("{}: there is no replica in it", drill.root.display());
        return Err(DatabaseError::Settings(text));
    };
    let place = DrillPlace::take(drill.supervisor, drill.root, drill.env)?;
    let source =
        Source { data: data_dir(drill.root), log_bin: made_by.log_bin.as_deref().map(PathBuf::from) };
    let (way, _, (applied, still_seconds)) = drill.copy(&place, &source)?;
    let task = CopyTask {
        data: place.copy(),
        dir: place.server.dir.clone(),
        log_bin: source.log_name().map(str::to_owned),
        variables: made_by.variables,
        customers: customers.clone(),
        store: drill.store.to_owned(),
        applied,
    };
    Ok((Copied { place, way, still_seconds }, task))
}

impl Copied {
    /// Removes the copy. Its server has ended.
    pub fn remove(self) -> Result<(), DatabaseError> {
        self.place.remove()
    }
}

/// A server that takes writes on a copy.
pub struct Opened {
    process: Process,
    server: Server,
}

impl Opened {
    /// Returns the reason why the server ended; none while it runs.
    pub fn ended(&mut self) -> Option<String> {
        self.process.ended()
    }

    pub fn position(&self) -> Result<GtidPosition, DatabaseError> {
        Ok(self.server.applied_position()?.of_store())
    }
}

impl CopyTask {
    /// Returns what the replica had applied at least.
    pub fn applied(&self) -> &GtidPosition {
        &self.applied
    }

    /// Starts the server as that of customers, waits until it answers, and has it take writes.
    ///
    /// # Errors
    /// It does not start, or has less than the replica had.
    pub fn open(&self, env: &Env, stop: &dyn Fn() -> bool) -> Result<Opened, DatabaseError> {
        check_series("mariadbd", "mariadb-server-core", self.variables.text("version"))?;
        let place = Place { dir: self.dir.clone() };
        let number = |name| self.variables.number(name).try_into().unwrap_or(0);
        let configuration = ForCustomers {
            customers: &self.customers,
            datadir: &self.data,
            place: &place,
            identity: Identity::of(&self.store, "drill of a failover", ServerId(number("server_id"))),
            domain: DomainId(number("gtid_domain_id")),
            made_by: &self.variables,
            log_bin: self.log_bin.as_deref(),
            is_root: rustix::process::geteuid().is_root(),
            // There is no standby.
            waits: false,
        };
        let socket = configuration.socket();
        let file = |path: PathBuf| move |source| DatabaseError::File { path, source };
        private::make_dirs(&place.temporary()).map_err(file(place.temporary()))?;
        if let Some(dir) = socket.parent() {
            std::fs::create_dir_all(dir).map_err(file(dir.to_owned()))?;
        }
        // That of another server, as this namespace shows it: nobody listens there.
        let _ = std::fs::remove_file(&socket);
        own_files::write(env, &place, ACCOUNT, &configuration.text(), "")?;
        let address = Address::Socket(socket);
        let server = Server::new(Client { address, account_file: Some(place.account()), env: env.clone() });
        let mut opened = Opened { process: Process::start(&place)?, server };
        opened.wait(env, stop)?;
        let position = opened.position()?;
        if !position.covers(&self.applied) {
            let applied = &self.applied;
            let text = format!("it recovered to {position}, and the replica had applied {applied}");
            return Err(DatabaseError::Start(text));
        }
        opened.server.open()?;
        Ok(opened)
    }
}

impl Opened {
    fn wait(&mut self, env: &Env, stop: &dyn Fn() -> bool) -> Result<(), DatabaseError> {
        let begun = env.stopwatch();
        loop {
            if let Some(reason) = self.process.ended() {
                return Err(DatabaseError::Start(reason));
            }
            match self.server.ping() {
                Ok(()) => return Ok(()),
                Err(error @ DatabaseError::Program { .. }) => return Err(error),
                Err(error) if begun.elapsed() >= START_LIMIT => return Err(error),
                Err(_) if stop() => return Err(DatabaseError::Stopped),
                Err(_) => env.sleep(TRY_EVERY),
            }
        }
    }
}
