//! What a supervisor has in its hands, whichever role its server has: the settings, the orders that wait, and
//! how a server is started.
//!
//! Our account is made by the server itself at each start, with a password that nobody else has seen, and is not
//! written to the binary log.

use super::background::Background;
use super::check::SUPERVISOR_ACCOUNT;
use super::client::{Account, Address, Client, is_near};
use super::customers::Customers;
use super::error::DatabaseError;
use super::holder::{self, Holder};
use super::minimal::{Identity, Place, Size};
use super::orders::{Answer, Asked, Order, What};
use super::own_files;
use super::process::Process;
use super::report::Report;
use super::report_account::Reports;
use super::role::{LogSays, Role, RoleNote};
use super::role_file;
use super::seed::{SeedNote, data_dir};
use super::server::Server;
use crate::model::gtid::{DomainId, ServerId};
use crate::support::env::Env;
use crate::support::{files, private};
use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Time for a server to begin to answer: it may have to recover.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Time for the last server to have left its data.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);
/// Interval between tries while a server starts, and between looks whether this process is to end.
const TRY_EVERY: Duration = Duration::from_millis(50);
/// Maximum length of a socket's path.
const SOCKET_MAX_BYTES: usize = 107;

/// A server as it is to be.
pub struct Settings {
    pub store: String,
    /// This host's name.
    pub host: String,
    pub size: Size,
    pub memory_mib: u32,
    /// Directory with a seed's note and data.
    pub root: PathBuf,
    pub place: Place,
    /// Where the primary's server is, unless the list of members says.
    pub primary: Option<Client>,
    pub account_file: Option<PathBuf>,
    pub tls_ca: Option<PathBuf>,
    /// How customers reach this host's server; none where it only ever follows.
    pub customers: Option<Customers>,
    /// How reports reach it while it is a replica.
    pub reports: Option<Reports>,
}

impl Settings {
    /// Returns the account by which a primary is followed.
    pub fn account(&self) -> Result<Account, DatabaseError> {
        match &self.account_file {
            Some(path) => Account::read(path),
            None => Err(DatabaseError::Settings(
                "a replica needs an account; set `account_file` in [store.database]".into(),
            )),
        }
    }

    /// Returns what asks the server of the log's primary.
    pub fn source(&self, says: &LogSays, env: &Env) -> Result<Client, DatabaseError> {
        let Some(given) = &says.database else {
            return self.primary.clone().ok_or_else(|| {
                DatabaseError::Settings(
                    "nothing says where the primary's server is; set `database` in its [store.member], or `host` in [store.database]".into(),
                )
            });
        };
        let wrong = |how: &str| DatabaseError::Held(format!("'{given}', the database of the primary: {how}"));
        let (host, port) = given.rsplit_once(':').ok_or_else(|| wrong("it is no HOST:PORT"))?;
        let port = port.parse().map_err(|_| wrong("it is no HOST:PORT"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        if self.tls_ca.is_none() && !is_near(&host) {
            return Err(wrong(
                "it is neither this host nor in a private network, and passwords and data would go there in the clear; set `tls_ca` in [store.database]",
            ));
        }
        let address = Address::Tcp { host, port, tls_ca: self.tls_ca.clone() };
        Ok(Client { address, account_file: self.account_file.clone(), env: env.clone() })
    }
}

/// What reads a store's log.
pub type ReadLog = dyn Fn() -> Result<LogSays, DatabaseError> + Send + Sync;

/// What is lent to a supervisor.
pub struct Around<'a> {
    pub env: &'a Env,
    pub stop: &'a dyn Fn() -> bool,
    /// Reads the store's log.
    pub log: Arc<ReadLog>,
    pub on_report: &'a mut dyn FnMut(&Report),
}

/// How the run of a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// This process is to end.
    Stopped,
    /// The server is to have another role.
    Again,
}

/// Returns what asks the server of a place.
///
/// Root reads no option file of another user's, who could have its programs load anything: where a server runs as a
/// user of its own, it knows root by the socket.
pub fn local(place: &Place, env: &Env) -> Client {
    let is_root = rustix::process::geteuid().is_root();
    let is_another_s = is_root && std::fs::metadata(place.account()).is_ok_and(|meta| meta.uid() != 0);
    let account_file = (!is_another_s).then(|| place.account());
    Client { address: Address::Socket(place.socket()), account_file, env: env.clone() }
}

/// What a supervisor has in its hands.
pub(super) struct Desk<'a, 'b> {
    pub settings: &'a Settings,
    pub around: &'a mut Around<'b>,
    /// What is known of the data.
    pub made_by: SeedNote,
    pub inbox: Receiver<Asked>,
    /// Orders that wait for a server in another role than it had when they came.
    pub waiting: VecDeque<Asked>,
    pub boot: String,
    /// A reading of the log that may be underway.
    pub reading: Background<Result<LogSays, DatabaseError>>,
    /// Whether the server that was started last has answered.
    pub answered: bool,
    /// How often in a row the server has ended by itself.
    pub ends: u32,
}

impl<'a, 'b> Desk<'a, 'b> {
    pub(super) fn new(
        settings: &'a Settings,
        around: &'a mut Around<'b>,
        made_by: SeedNote,
        inbox: Receiver<Asked>,
    ) -> Self {
        let (waiting, boot, reading) = (VecDeque::new(), role_file::this_boot(), Background::default());
        Self { settings, around, made_by, inbox, waiting, boot, reading, answered: false, ends: 0 }
    }
}

impl Desk<'_, '_> {
    pub(super) fn env(&self) -> &Env {
        self.around.env
    }

    pub(super) fn stops(&self) -> bool {
        (self.around.stop)()
    }

    pub(super) fn note(&self) -> Result<RoleNote, DatabaseError> {
        role_file::read(&self.settings.place)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut RoleNote)) -> Result<RoleNote, DatabaseError> {
        role_file::change(&self.settings.place, self.around.env, change)
    }

    /// Notes what an order makes of the server, unless it was fenced since the order was given.
    pub(super) fn obey(
        &self,
        order: &Order,
        change: impl FnOnce(&mut RoleNote),
    ) -> Result<RoleNote, DatabaseError> {
        let mut is_fenced = false;
        let note = self.change(|note| {
            is_fenced = note.fences != order.fences;
            if !is_fenced {
                note.epoch = note.epoch.max(order.epoch.unwrap_or_default());
                change(note);
            }
        })?;
        match is_fenced {
            true => Err(DatabaseError::Fenced("it was fenced since that order was given".into())),
            false => Ok(note),
        }
    }

    pub(super) fn log(&self) -> Result<LogSays, DatabaseError> {
        (self.around.log)()
    }

    /// Reads the log, and waits for it no longer than `patience`; none then.
    pub(super) fn log_within(&mut self, patience: Duration) -> Option<Result<LogSays, DatabaseError>> {
        let log = self.around.log.clone();
        self.reading.ask(move || log(), patience)
    }

    pub(super) fn data(&self) -> PathBuf {
        data_dir(&self.settings.root)
    }

    pub(super) fn identity(&self) -> Identity {
        let primary = self.made_by.variables.number("server_id").try_into().unwrap_or(0);
        Identity::of(&self.settings.store, &self.settings.host, ServerId(primary))
    }

    /// Returns the numbers that this host's server may have had.
    pub(super) fn numbers(&self) -> [ServerId; 4] {
        Identity::numbers(&self.settings.store, &self.settings.host)
    }

    /// Returns the domain of the store's transactions.
    pub(super) fn domain(&self) -> DomainId {
        DomainId(self.made_by.variables.number("gtid_domain_id").try_into().unwrap_or(0))
    }

    /// Returns the next order, as soon as there is one; none after `time`, or when this process is to end.
    pub(super) fn next(&mut self, time: Duration) -> Option<Asked> {
        if let Some(asked) = self.waiting.pop_front() {
            return Some(asked);
        }
        let begun = self.around.env.stopwatch();
        while !self.stops() {
            let left = time.saturating_sub(begun.elapsed());
            if let Ok(asked) = self.inbox.recv_timeout(left.min(TRY_EVERY)) {
                return Some(asked);
            }
            if left.is_zero() {
                break;
            }
        }
        None
    }

    /// Answers all that wait with an error. A server that does not start is no failure of an order to follow, like
    /// anything else that is broken: it is a replica's from now on, and is started again.
    pub(super) fn fail(&mut self, error: &DatabaseError) {
        for asked in std::mem::take(&mut self.waiting) {
            let answer = match (&asked.order.what, error) {
                (What::Follow, DatabaseError::Start(_)) => {
                    let noted = self.obey(&asked.order, |note| note.role = Role::Follow);
                    let note = Some(error.to_string());
                    noted.map_or_else(
                        |error| Answer::failed(&error),
                        |_| Answer::Done { position: None, note },
                    )
                }
                _ => Answer::failed(error),
            };
            asked.answer(answer);
        }
    }

    pub(super) fn tell(&mut self, mut report: Report) {
        if let Ok(note) = self.note() {
            (report.epoch, report.branch, report.hold) = (note.epoch, note.branch, note.hold);
        }
        let text = serde_json::to_vec(&report).unwrap_or_default();
        // On a full disk the old one stays, whose age shows.
        let _ = files::replace(&self.settings.place.report(), &text);
        (self.around.on_report)(&report);
    }

    /// Starts a server with this configuration, once no other one has its data.
    pub(super) fn start(&self, configuration: String, socket: &Path) -> Result<Process, DatabaseError> {
        self.start_with(&configuration, socket, "")
    }

    /// Starts one that runs these statements, too, before it answers.
    pub(super) fn start_with(
        &self,
        configuration: &str,
        socket: &Path,
        statements: &str,
    ) -> Result<Process, DatabaseError> {
        self.wait_for_data()?;
        let place = &self.settings.place;
        let file = |path: PathBuf| move |source| DatabaseError::File { path, source };
        for path in [&place.socket(), socket] {
            if path.as_os_str().len() > SOCKET_MAX_BYTES {
                return Err(DatabaseError::Settings(format!(
                    "{}: the path of the server's socket is longer than {SOCKET_MAX_BYTES} bytes; set a shorter `directory` in [store.database]",
                    path.display()
                )));
            }
        }
        private::make_dirs(&place.temporary()).map_err(file(place.temporary()))?;
        // The last server may have been killed, and had its socket elsewhere.
        let _ = std::fs::remove_file(place.socket());
        if socket != place.socket() {
            std::os::unix::fs::symlink(socket, place.socket()).map_err(file(place.socket()))?;
        }
        own_files::write(self.env(), place, SUPERVISOR_ACCOUNT, configuration, statements)?;
        Process::start(place)
    }

    pub(super) fn wait_for_data(&self) -> Result<(), DatabaseError> {
        let (data, begun) = (self.data(), self.env().stopwatch());
        loop {
            let holder = holder::holder(&data)?;
            let who = match holder {
                Holder::Nobody => return Ok(()),
                Holder::Process(id) => format!("process {}", id.as_raw_nonzero()),
                Holder::Unseen => "a process of another container".to_owned(),
            };
            if begun.elapsed() >= LEAVE_LIMIT || self.stops() {
                return Err(DatabaseError::Held(format!(
                    "{}: another server, {who}, has this data; stop it, and keep it from starting by itself",
                    data.display()
                )));
            }
            self.env().sleep(TRY_EVERY);
        }
    }

    /// Waits until the server answers.
    pub(super) fn wait_until_ready(
        &mut self,
        process: &mut Process,
        server: &Server,
    ) -> Result<(), DatabaseError> {
        let begun = self.env().stopwatch();
        loop {
            if let Some(reason) = process.ended() {
                return Err(DatabaseError::Start(reason));
            }
            // The client takes longer to find no server than the server's socket takes to appear.
            let answer = if self.settings.place.socket().exists() { Some(server.ping()) } else { None };
            match answer {
                Some(Ok(())) => {
                    self.answered = true;
                    // Its password is in the account's file alone from now on.
                    let _ = std::fs::remove_file(self.settings.place.init());
                    return Ok(());
                }
                Some(Err(error)) if begun.elapsed() >= START_LIMIT => return Err(error),
                Some(Err(error @ DatabaseError::Program { .. })) => return Err(error),
                _ if self.stops() => return Err(DatabaseError::Stopped),
                _ => self.env().sleep(TRY_EVERY / 2),
            }
        }
    }
}
