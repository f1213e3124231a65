//! A replica of a primary's server on this host, as long as this process wants it.
//!
//! The server starts without replication. Our account is made by the server itself at each start, with a
//! password that nobody else has seen, and is not written to the binary log. Then the position of the seed is
//! set, once, the primary is named, and replication starts, each time only after the store's log was asked
//! whether this host stands by. Where it does not, or where somebody has made the server forget its primary
//! (`RESET SLAVE ALL`, as a promotion does), the server is left running as it is, and nothing is told to it.
//!
//! What can race: two supervisors; the second finds the first one's lock. The primary may be replaced after the
//! log was read: when its successor's replica meets it, the servers refuse each other's transactions.

use super::client::{Account, Address, Client};
use super::decide::{self, Act, Judgement, Room, State};
use super::error::{DatabaseError, Trouble};
use super::lag::Lag;
use super::minimal::{Identity, Minimal, Place, Size};
use super::process::{Process, check_series};
use super::seed::{DATA, SeedNote};
use super::server::{ReplicaStatus, Server, Source};
use crate::model::gtid::{GtidPosition, ServerId};
use crate::support::clock::UnixNanos;
use crate::support::env::Env;
use crate::support::{durable, private};
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Interval between looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Time for a server to begin to answer: it may have to recover.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Time for a server to end.
const END_LIMIT: Duration = Duration::from_secs(20);
/// Interval between tries while a server starts.
const TRY_EVERY: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// Name of our account on a replica.
const ACCOUNT: &str = "understudy-replica";
/// Maximum length of a socket's path.
const SOCKET_MAX_BYTES: usize = 107;
const PRIVATE_MODE: u32 = 0o600;

/// What a supervisor saw last; kept for `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub state: State,
    pub trouble: Option<Trouble>,
    /// The error in the server's words.
    pub error: Option<String>,
    /// All up to here is applied.
    pub applied: GtidPosition,
    pub received: GtidPosition,
    /// The primary's last transaction, where it was asked.
    pub primary: Option<GtidPosition>,
    /// Number of the primary's transactions that are not applied.
    pub behind: Option<u64>,
    pub lag_seconds: Option<f64>,
    /// Memory that the server holds.
    pub resident_bytes: Option<u64>,
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
}

impl Report {
    fn down(error: String, at: UnixNanos) -> Self {
        Self {
            state: State::Down,
            trouble: None,
            error: Some(error),
            applied: GtidPosition::default(),
            received: GtidPosition::default(),
            primary: None,
            behind: None,
            lag_seconds: None,
            resident_bytes: None,
            at,
        }
    }

    /// Reads what a supervisor wrote; none if there was none.
    pub fn read(place: &Place) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(place.report()).ok()?).ok()
    }
}

/// A replica as it is to be.
pub struct Settings {
    pub store: String,
    /// This host's name.
    pub host: String,
    pub size: Size,
    pub memory_mib: u32,
    /// Directory with a seed's note and data.
    pub root: PathBuf,
    pub place: Place,
    /// The primary, which must be reached by TCP.
    pub primary: Client,
}

/// What is lent to a supervisor.
pub struct Around<'a> {
    pub env: &'a Env,
    pub stop: &'a dyn Fn() -> bool,
    /// Fails if this host may not follow.
    pub may_follow: &'a dyn Fn() -> Result<(), DatabaseError>,
    pub on_report: &'a mut dyn FnMut(&Report),
}

/// Returns what asks a replica's server on this host.
pub fn local(place: &Place, env: &Env) -> Client {
    Client { address: Address::Socket(place.socket()), account_file: Some(place.account()), env: env.clone() }
}

/// Takes the place of a replica for this process; it is free again when the result is dropped.
///
/// # Errors
/// [`DatabaseError::Taken`], and those of the directory.
pub fn take(place: &Place) -> Result<OwnedFd, DatabaseError> {
    let file = |path: &Path, source| DatabaseError::File { path: path.to_owned(), source };
    private::own(&place.dir).map_err(|source| file(&place.dir, source))?;
    let path = place.lock();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(&path, flags, Mode::from_raw_mode(PRIVATE_MODE))
        .map_err(|errno| file(&path, errno.into()))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(DatabaseError::Taken(path)),
        Err(errno) => Err(file(&path, errno.into())),
    }
}

/// Runs a replica's server until `stop` returns true, and starts it again whenever it ends. The caller has
/// taken its place.
///
/// # Errors
/// What another try does not change: settings, or an account file.
pub fn supervise(settings: &Settings, around: &mut Around) -> Result<(), DatabaseError> {
    let Some(note) = SeedNote::read(&settings.root)? else {
        let text = format!("{}: there is no seed in it", settings.root.display());
        return Err(DatabaseError::Settings(text));
    };
    let account = source_account(settings)?;
    check_series("mariadbd", "mariadb-server-core", note.variables.text("version"))?;
    let mut back_off = Duration::from_secs(1);
    let mut lag = Lag::default();
    while !(around.stop)() {
        let begun = around.env.stopwatch();
        prepare(settings, &note, around.env)?;
        let process = Process::start(&settings.place)?;
        let mut run =
            Run { settings, process, server: Server::new(local(&settings.place, around.env)), refetches: 0 };
        let ended = run.follow(&note, &account, &mut lag, around);
        run.process.stop(around.env, END_LIMIT);
        match ended {
            Ok(()) | Err(DatabaseError::Stopped) => return Ok(()),
            Err(error @ DatabaseError::Settings(_)) => return Err(error),
            Err(error) => tell(settings, around, Report::down(error.to_string(), around.env.wall())),
        }
        if begun.elapsed() > BACK_OFF_MAX {
            back_off = Duration::from_secs(1);
        }
        sleep(around, back_off);
        back_off = (back_off * 2).min(BACK_OFF_MAX);
    }
    Ok(())
}

/// Returns the account by which the primary is followed.
fn source_account(settings: &Settings) -> Result<Account, DatabaseError> {
    match (&settings.primary.address, &settings.primary.account_file) {
        (Address::Socket(path), _) => Err(DatabaseError::Settings(format!(
            "{}: MariaDB replicates over TCP only, also on one host; set `host` and `port` in [store.database]",
            path.display()
        ))),
        (Address::Tcp { .. }, None) => Err(DatabaseError::Settings(
            "a replica needs an account; set `account_file` in [store.database]".into(),
        )),
        (Address::Tcp { .. }, Some(path)) => Account::read(path),
    }
}

fn sleep(around: &Around, time: Duration) {
    let begun = around.env.stopwatch();
    while !(around.stop)() && begun.elapsed() < time {
        around.env.sleep(TRY_EVERY);
    }
}

fn tell(settings: &Settings, around: &mut Around, report: Report) {
    let text = serde_json::to_vec(&report).unwrap_or_default();
    // On a full disk the old one stays, whose age shows.
    let _ = crate::support::files::replace(&settings.place.report(), &text);
    (around.on_report)(&report);
}

/// Makes the files that a server is started with.
fn prepare(settings: &Settings, note: &SeedNote, env: &Env) -> Result<(), DatabaseError> {
    let place = &settings.place;
    let file = |path: PathBuf| move |source| DatabaseError::File { path, source };
    let socket = place.socket();
    if socket.as_os_str().len() > SOCKET_MAX_BYTES {
        return Err(DatabaseError::Settings(format!(
            "{}: the path of the server's socket is longer than {SOCKET_MAX_BYTES} bytes; set a shorter XDG_STATE_HOME",
            socket.display()
        )));
    }
    private::make_dirs(&place.temporary()).map_err(file(place.temporary()))?;
    let mut bytes = [0; 16];
    env.fill(&mut bytes);
    let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let init = format!(
        "SET sql_log_bin=0;\nCREATE OR REPLACE USER '{ACCOUNT}'@'localhost' IDENTIFIED BY '{password}';\n\
         GRANT ALL PRIVILEGES ON *.* TO '{ACCOUNT}'@'localhost';\n"
    );
    let account = format!("[client]\nuser={ACCOUNT}\npassword={password}\n");
    let primary = ServerId(note.variables.number("server_id").try_into().unwrap_or(0));
    let configuration = Minimal {
        size: settings.size,
        memory_mib: settings.memory_mib,
        datadir: &settings.root.join(DATA),
        place,
        identity: Identity::of(&settings.store, &settings.host, primary),
        primary: &note.variables,
        is_root: rustix::process::geteuid().is_root(),
    }
    .text();
    let files = [(place.init(), init), (place.account(), account), (place.configuration(), configuration)];
    for (path, text) in files {
        durable::replace(env, &path, PRIVATE_MODE, text.as_bytes()).map_err(file(path))?;
    }
    Ok(())
}

/// A run of a replica's server.
struct Run<'a> {
    settings: &'a Settings,
    process: Process,
    server: Server,
    refetches: u32,
}

impl Run<'_> {
    /// Follows the primary until this process is asked to end, or the server ends.
    fn follow(
        &mut self,
        note: &SeedNote,
        account: &Account,
        lag: &mut Lag,
        around: &mut Around,
    ) -> Result<(), DatabaseError> {
        self.wait_until_ready(around)?;
        let mut is_named = false;
        let primary = Server::new(self.settings.primary.clone());
        while !(around.stop)() {
            if let Some(reason) = self.process.ended() {
                return Err(DatabaseError::Start(reason));
            }
            let report = self.look(note, account, &mut is_named, &primary, lag, around);
            // A server that is busy, or a log that is away, is no reason to end what runs.
            let report = report.unwrap_or_else(|error| Report {
                state: State::Waiting,
                trouble: error.trouble(),
                resident_bytes: self.process.resident_bytes(),
                ..Report::down(error.to_string(), around.env.wall())
            });
            tell(self.settings, around, report);
            sleep(around, LOOK_EVERY);
        }
        Ok(())
    }

    /// Looks at the replica once, and does what is to be done about it.
    fn look(
        &mut self,
        note: &SeedNote,
        account: &Account,
        is_named: &mut bool,
        primary: &Server,
        lag: &mut Lag,
        around: &Around,
    ) -> Result<Report, DatabaseError> {
        if !*is_named {
            (around.may_follow)()?;
            self.name_the_primary(note, account)?;
            *is_named = true;
        }
        let Some(status) = self.server.replica_status()? else {
            let text =
                "somebody has made this server forget its primary, as a promotion does; it is left as it is";
            return Err(DatabaseError::Held(text.to_owned()));
        };
        let judgement = decide::judge(&status, room(&self.settings.root), &mut self.refetches);
        self.act(judgement.act, around)?;
        // A primary that is away is seen by the replica itself.
        let seen = if status.receives { primary.binlog_position().ok() } else { None };
        Ok(self.report(status, judgement, seen, lag, around.env))
    }

    fn wait_until_ready(&mut self, around: &Around) -> Result<(), DatabaseError> {
        let begun = around.env.stopwatch();
        loop {
            if let Some(reason) = self.process.ended() {
                return Err(DatabaseError::Start(reason));
            }
            match self.server.ping() {
                Ok(()) => {
                    // Its password is in the account's file alone from now on.
                    let _ = std::fs::remove_file(self.settings.place.init());
                    return Ok(());
                }
                Err(error) if begun.elapsed() >= START_LIMIT => return Err(error),
                Err(DatabaseError::Program { program, package, source }) => {
                    return Err(DatabaseError::Program { program, package, source });
                }
                Err(_) if (around.stop)() => return Err(DatabaseError::Stopped),
                Err(_) => around.env.sleep(TRY_EVERY),
            }
        }
    }

    /// Names the primary, and before that, once, the position of the seed.
    fn name_the_primary(&self, note: &SeedNote, account: &Account) -> Result<(), DatabaseError> {
        let Address::Tcp { host, port, tls_ca } = &self.settings.primary.address else { return Ok(()) };
        // Later than its first start, the server knows better than the seed where it stands.
        let knows = self.server.replica_status()?.is_some();
        if !knows && !self.server.applied_position()?.covers(&note.position) {
            self.server.set_applied_position(&note.position)?;
        }
        // A name would be taken for a socket.
        let host = if host == "localhost" { "127.0.0.1" } else { host };
        let tls_ca = tls_ca.as_ref().map(|path| path.display().to_string());
        self.server.follow(&Source {
            host,
            port: *port,
            user: &account.user,
            password: &account.password,
            tls_ca: tls_ca.as_deref(),
        })
    }

    fn act(&self, act: Act, around: &Around) -> Result<(), DatabaseError> {
        match act {
            Act::Nothing => Ok(()),
            Act::Stop => self.server.stop_replica(),
            Act::Start => {
                (around.may_follow)()?;
                self.server.start_replica()
            }
            Act::Refetch => {
                (around.may_follow)()?;
                self.server.stop_replica()?;
                self.server.start_replica()
            }
        }
    }

    fn report(
        &self,
        status: ReplicaStatus,
        judgement: Judgement,
        primary: Option<GtidPosition>,
        lag: &mut Lag,
        env: &Env,
    ) -> Report {
        if let Some(position) = &primary {
            lag.look(position, env.boot());
        }
        let error = status.apply_error.as_ref().or(status.receive_error.as_ref());
        let error = error.map(|(code, text)| format!("{text} (error {code})"));
        Report {
            state: judgement.state,
            trouble: judgement.trouble,
            error: error.filter(|_| judgement.trouble.is_some()),
            behind: primary.as_ref().map(|primary| status.applied.behind(primary)),
            lag_seconds: lag.of(&status.applied, env.boot()).map(|lag| lag.as_secs_f64()),
            applied: status.applied,
            received: status.received,
            primary,
            resident_bytes: self.process.resident_bytes(),
            at: env.wall(),
        }
    }
}

/// Judges the room on the disk that holds a directory. Unknown room is no reason to stop.
fn room(root: &Path) -> Room {
    match rustix::fs::statvfs(root) {
        Ok(disk) => Room::of(disk.f_bavail, disk.f_blocks),
        Err(_) => Room::Enough,
    }
}
