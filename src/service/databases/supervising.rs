//! The supervisors of the stores' database servers, as the daemon starts them where the configuration says so.
//!
//! A supervisor is a process of its own, of its own session: it and its server go on when the daemon ends, is killed,
//! or is replaced by another version, and the next daemon finds it. One that was killed is started again. One that a
//! person ended stays ended, so that the data can be worked on, until a person or the next daemon starts it.
//!
//! What can race: a person, or a unit, that starts a supervisor at the same moment. Its lock lets one of them run; the
//! other says so and ends.

use super::due::again_in;
use crate::database::minimal::Place;
use crate::database::orders;
use crate::database::supervisor::{is_taken, was_ended};
use crate::model::id::StoreName;
use crate::service::config::StoreConfig;
use crate::service::host::Host;
use crate::support::child::THIS;
use crate::support::clock::BootNanos;
use crate::support::lock::lock;
use crate::support::private;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Time between two looks at a supervisor that runs.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longest time until one that failed is started again.
const AGAIN_MAX: Duration = Duration::from_mins(1);
/// Time after which one that ended had run well.
const WELL: Duration = Duration::from_mins(1);
/// Size from which its log is begun anew at the next start; the last one is kept.
const LOG_MAX_BYTES: u64 = 8 << 20;
/// Number of bytes of its log in which its last words are.
const SAID_MAX_BYTES: u64 = 2000;
/// Name of the log, in the directory of the server's files.
const LOG: &str = "supervisor.log";

/// The supervisors of this host's stores.
#[derive(Default)]
pub(super) struct Supervisors(Mutex<BTreeMap<StoreName, Supervised>>);

/// What is known of one.
#[derive(Default)]
struct Supervised {
    /// One that this daemon started.
    child: Option<(Child, BootNanos)>,
    again: BootNanos,
    failures: u32,
    error: Option<String>,
    /// Whether this daemon has looked before.
    is_known: bool,
}

impl Supervisors {
    /// Starts the supervisors that do not run.
    pub fn look(&self, host: &Host) {
        let now = host.env().boot();
        let mut all = lock(&self.0);
        let wants = |store: &&StoreConfig| store.database.supervise;
        for store in host.config.store.iter().filter(wants) {
            let known = all.entry(store.name.clone()).or_default();
            if known.again > now {
                continue;
            }
            let before = known.error.clone();
            known.look(host, store, now);
            if let Some(error) = known.error.as_ref().filter(|error| before.as_ref() != Some(*error)) {
                tracing::error!(store = %store.name, %error, "the database's supervisor does not run");
            }
        }
        // Those of other configurations run on; they are left to whoever changed that.
        all.retain(|name, _| host.config.store(name.as_str()).is_some_and(|store| wants(&store)));
    }

    /// Returns why a store's supervisor does not run, where this daemon is to start it.
    pub fn error(&self, store: &StoreName) -> Option<String> {
        lock(&self.0).get(store)?.error.clone()
    }
}

impl Supervised {
    fn look(&mut self, host: &Host, store: &StoreConfig, now: BootNanos) {
        self.again = now.plus(LOOK_EVERY);
        let place = match store.database_place() {
            Ok(Some(place)) => place,
            Ok(None) => return self.error = Some(super::here::no_place().to_string()),
            Err(error) => return self.error = Some(error.to_string()),
        };
        if let Some((child, begun)) = &mut self.child {
            match child.try_wait() {
                Ok(None) => return self.error = None,
                ended => {
                    let ran = now.since(*begun);
                    self.child = None;
                    self.ended(&place, ended, ran, now);
                    if self.again > now.plus(LOOK_EVERY) {
                        return;
                    }
                }
            }
        }
        // What a person ended before this daemon began was ended for another one.
        let is_first = !std::mem::replace(&mut self.is_known, true);
        if orders::is_answered(&place) || is_taken(&place) {
            (self.error, self.failures) = (None, 0);
        } else if !is_first && was_ended(&place) {
            let text = format!(
                "a person ended it; understudy database run {}, or a restart of the daemon, starts it",
                store.name
            );
            self.error = Some(text);
        } else {
            match start(host, store, &place) {
                Ok(child) => {
                    tracing::info!(store = %store.name, id = child.id(), "started the database's supervisor");
                    self.child = Some((child, now));
                }
                Err(error) => self.failed(now, error.to_string()),
            }
        }
    }

    /// Notes the end of one that this daemon started.
    fn ended(
        &mut self,
        place: &Place,
        status: io::Result<Option<ExitStatus>>,
        ran: Duration,
        now: BootNanos,
    ) {
        if ran > WELL {
            self.failures = 0;
        }
        match status {
            Ok(Some(status)) if status.success() => self.error = None,
            Ok(Some(status)) => self.failed(now, format!("{status}: {}", last_words(place))),
            Ok(None) => {}
            Err(error) => self.failed(now, error.to_string()),
        }
    }

    fn failed(&mut self, now: BootNanos, error: String) {
        self.failures = self.failures.saturating_add(1);
        self.again = now.plus(again_in(self.failures).min(AGAIN_MAX));
        self.error = Some(error);
    }
}

/// Starts a supervisor by this program, with what this process was given.
fn start(host: &Host, store: &StoreConfig, place: &Place) -> io::Result<Child> {
    private::own(&place.dir)?;
    let path = place.dir.join(LOG);
    if std::fs::metadata(&path).is_ok_and(|meta| meta.len() > LOG_MAX_BYTES) {
        std::fs::rename(&path, place.dir.join("supervisor.log.old"))?;
    }
    let log = File::options().create(true).append(true).open(&path)?;
    let mut command = Command::new(THIS);
    command.arg0("understudy").args(["database", "run", store.name.as_str(), "--detached"]);
    let config = host.config.origin.as_ref().map(std::path::absolute).transpose()?;
    let key_file = host.given_keys.key_file.as_ref().map(std::path::absolute).transpose()?;
    command.envs(config.map(|path| ("UNDERSTUDY_CONFIG", path)));
    command.envs(key_file.map(|path| ("UNDERSTUDY_KEY_FILE", path)));
    command.envs(host.given_repository.as_ref().map(|url| ("UNDERSTUDY_REPOSITORY", url)));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()
}

/// Returns the last line of a supervisor's log.
fn last_words(place: &Place) -> String {
    let path = place.dir.join(LOG);
    let read = || {
        let mut file = File::open(&path)?;
        let length_bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(length_bytes.saturating_sub(SAID_MAX_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(SAID_MAX_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.map_or_else(|| format!("it said nothing (in {})", path.display()), |line| line.trim().to_owned())
}
