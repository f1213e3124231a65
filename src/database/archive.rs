//! The archiver: puts what a server commits into the repository, as segments.
//!
//! It reads the server's binary logs as files, on the server's own host, where a seed is made, too. So it needs
//! neither a spool nor a connection that streams, and the backlog while the repository is away is the server's own
//! logs. It keeps nothing that it would miss: the last segment in the repository says where it goes on, after its own
//! death, the server's, or both. A segment that was put and whose reply was lost is met again, and is the same.
//!
//! It writes under the epoch in which its host is the primary. It looks at the store's log from time to time, and
//! whenever the server has transactions of another one behind its own; once the host is no longer the primary, what
//! the server has committed alone is put under the old epoch, and the archiver ends.
//!
//! What can race: see [`crate::repository::binlog`] and [`super::binlog_files`]. Two archivers on one host are kept
//! apart by a lock.

use super::archive_start::{Opening, gone};
use super::binlog_files::BinlogFile;
use super::client::Client;
use super::cutter::Cutter;
use super::decide::State;
use super::error::{DatabaseError, Trouble};
use super::server::{BinlogPlace, Server};
use crate::format::binlog_segment::SegmentPlace;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, StoreName};
use crate::repository::binlog::Put;
use crate::repository::store::{Repository, Store};
use crate::support::clock::{BootNanos, UnixNanos};
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Interval between looks at the size of the server's files.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Interval between reports.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// Size of what is not read yet from which it is read at once.
const READ_AT_BYTES: u64 = crate::format::binlog_segment::SEGMENT_BYTES as u64;
/// Time after which the store's log is looked at before the next segment, and without one.
const STANDING_BUSY: Duration = Duration::from_secs(60);
const STANDING_IDLE: Duration = Duration::from_secs(600);
/// Time after which keys are looked up anew: another host may have changed them.
const KEYS_FOR: Duration = Duration::from_secs(300);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// What an archiver saw last; kept for `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArchiveReport {
    pub state: State,
    pub trouble: Option<Trouble>,
    pub error: Option<String>,
    pub epoch: Epoch,
    /// The last segment; none before the first.
    pub number: Option<u64>,
    /// All up to here is in the archive.
    pub position: GtidPosition,
    /// Age of what is committed and not yet in the archive.
    pub lag_seconds: Option<f64>,
    /// What this process has put.
    pub segments: u64,
    pub events_bytes: u64,
    pub stored_bytes: u64,
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
}

impl ArchiveReport {
    /// Reads what an archiver wrote; none if there was none.
    pub fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(report_path(dir)).ok()?).ok()
    }
}

fn report_path(dir: &Path) -> PathBuf {
    dir.join("archive.json")
}

/// Whether this host may archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the primary, in this epoch.
    Primary(Epoch),
    /// That host is.
    Other(String),
}

/// An archive as it is to be.
pub struct ArchiveSettings {
    pub repository: Repository,
    /// The store of the seeds and of the archive.
    pub store: StoreName,
    /// The store whose database it is, to be named in messages.
    pub name: StoreName,
    /// Maximum time for which something that is committed waits to be put.
    pub every: Duration,
    pub level: i32,
    pub client: Client,
    /// Directory of this process's own files.
    pub dir: PathBuf,
}

/// What is lent to an archiver.
pub struct ArchiveAround<'a> {
    pub env: &'a Env,
    pub stop: &'a dyn Fn() -> bool,
    pub standing: &'a dyn Fn() -> Result<Standing, DatabaseError>,
    pub on_report: &'a mut dyn FnMut(&ArchiveReport),
    /// Called at each step, with its name.
    pub on_step: &'a dyn Fn(&'static str),
}

/// Archives until `stop` returns true.
///
/// # Errors
/// What another try does not change, and [`DatabaseError::Fenced`].
pub fn archive(settings: &ArchiveSettings, around: &mut ArchiveAround) -> Result<(), DatabaseError> {
    let mut back_off = Duration::from_secs(1);
    let mut tally = Tally { hint: ArchiveReport::read(&settings.dir), ..Tally::default() };
    while !(around.stop)() {
        let before = tally.segments;
        let ended = Session::open(settings, around, &mut tally).and_then(|mut session| session.run());
        let error = match ended {
            Ok(()) | Err(DatabaseError::Stopped) => {
                tally.tell_end(settings, around);
                return Ok(());
            }
            Err(error @ (DatabaseError::Fenced(_) | DatabaseError::Settings(_))) => {
                tally.tell_end(settings, around);
                return Err(error);
            }
            Err(error) => error,
        };
        if tally.segments > before {
            back_off = Duration::from_secs(1);
        }
        tally.tell_error(settings, around, &error);
        sleep(around, back_off);
        back_off = (back_off * 2).min(BACK_OFF_MAX);
    }
    Ok(())
}

fn sleep(around: &ArchiveAround, time: Duration) {
    let begun = around.env.stopwatch();
    while !(around.stop)() && begun.elapsed() < time {
        around.env.sleep(LOOK_EVERY);
    }
}

/// What an archiver knows across its sessions.
#[derive(Default)]
struct Tally {
    /// What it, or an earlier process, reported.
    hint: Option<ArchiveReport>,
    segments: u64,
    events_bytes: u64,
    stored_bytes: u64,
    told: Option<(State, BootNanos)>,
}

impl Tally {
    fn tell(&mut self, settings: &ArchiveSettings, around: &mut ArchiveAround, report: ArchiveReport) {
        self.told = Some((report.state, around.env.boot()));
        let text = serde_json::to_vec(&report).unwrap_or_default();
        // On a full disk the old one stays, whose age shows.
        let _ = crate::support::files::replace(&report_path(&settings.dir), &text);
        (around.on_report)(&report);
        self.hint = Some(report);
    }

    /// Notes that nobody archives from here on.
    fn tell_end(&mut self, settings: &ArchiveSettings, around: &mut ArchiveAround) {
        if let Some(last) = self.hint.clone() {
            let report = ArchiveReport { state: State::Down, at: around.env.wall(), ..last };
            self.tell(settings, around, report);
        }
    }

    fn tell_error(&mut self, settings: &ArchiveSettings, around: &mut ArchiveAround, error: &DatabaseError) {
        let is_held = error.kind() == FailureKind::Held || error.kind() == FailureKind::Damaged;
        let report = ArchiveReport {
            state: if is_held { State::Broken } else { State::Waiting },
            trouble: error.trouble(),
            error: Some(error.to_string()),
            lag_seconds: None,
            segments: self.segments,
            events_bytes: self.events_bytes,
            stored_bytes: self.stored_bytes,
            at: around.env.wall(),
            ..self.hint.clone().unwrap_or_else(|| ArchiveReport {
                state: State::Down,
                trouble: None,
                error: None,
                epoch: Epoch(0),
                number: None,
                position: GtidPosition::default(),
                lag_seconds: None,
                segments: 0,
                events_bytes: 0,
                stored_bytes: 0,
                at: UnixNanos::EPOCH,
            })
        };
        self.tell(settings, around, report);
    }
}

/// What is looked at to see whether the server has written anything.
type Fingerprint = (u64, Option<(u64, SystemTime)>);

/// The work from one opening of the server's files to the next trouble.
struct Session<'a, 'b> {
    settings: &'a ArchiveSettings,
    around: &'a mut ArchiveAround<'b>,
    tally: &'a mut Tally,
    store: Store,
    opened: BootNanos,
    server: Server,
    place: BinlogPlace,
    epoch: Epoch,
    looked: BootNanos,
    number: u64,
    file: String,
    cutter: Cutter,
}

impl<'a, 'b> Session<'a, 'b> {
    fn open(
        settings: &'a ArchiveSettings,
        around: &'a mut ArchiveAround<'b>,
        tally: &'a mut Tally,
    ) -> Result<Self, DatabaseError> {
        let epoch = match (around.standing)()? {
            Standing::Primary(epoch) => epoch,
            Standing::Other(host) => return Err(fenced(settings, &host)),
        };
        let server = Server::new(settings.client.clone());
        let place = server.binlog_place()?;
        if server.replica_status()?.is_some() {
            return Err(DatabaseError::Held(format!(
                "{}: this server follows another one; what it received is archived on the primary",
                server.address()
            )));
        }
        let store = settings.repository.store(&settings.store);
        let opening = Opening { name: &settings.name, server: &server, place: &place, store: &store, epoch };
        let hint = tally.hint.as_ref().filter(|hint| hint.epoch == epoch).and_then(|hint| hint.number);
        let start = opening.start(hint.unwrap_or(0))?;
        store.binlog().admit()?;
        let mut cutter = Cutter::new(start.link, place.server, start.position);
        cutter.begin(&start.cursor.file, &start.cursor.format, start.cursor.offset_bytes, start.cursor.begun);
        (around.on_step)("opened");
        let (opened, looked) = (around.env.boot(), around.env.boot());
        let (number, file) = (start.number, start.cursor.file);
        Ok(Self {
            settings,
            around,
            tally,
            store,
            opened,
            server,
            place,
            epoch,
            looked,
            number,
            file,
            cutter,
        })
    }

    fn run(&mut self) -> Result<(), DatabaseError> {
        let (mut seen, mut since): (Option<Fingerprint>, Option<BootNanos>) = (None, None);
        loop {
            let is_last = (self.around.stop)();
            let (now, fingerprint) = (self.around.env.boot(), self.fingerprint());
            if seen != Some(fingerprint) {
                let begun = *since.get_or_insert(now);
                let unread_bytes = fingerprint.0.saturating_sub(self.cutter.offset_bytes());
                let is_due = now.since(begun) >= self.settings.every || unread_bytes >= READ_AT_BYTES;
                // The first look finds what was committed while nobody looked.
                if is_due || is_last || seen.is_none() {
                    self.pull(Some(begun))?;
                    (seen, since) = (Some(fingerprint), None);
                }
            } else if now.since(self.looked) >= STANDING_IDLE {
                self.check_standing()?;
            }
            if is_last {
                return Ok(());
            }
            let is_told = self
                .tally
                .told
                .is_some_and(|(state, at)| state == State::Following && now.since(at) < TELL_EVERY);
            if !is_told {
                self.tell(since, State::Following, None);
            }
            self.around.env.sleep(LOOK_EVERY);
        }
    }

    /// Returns what changes when the server writes, without asking it.
    fn fingerprint(&self) -> Fingerprint {
        let size = std::fs::metadata(self.place.dir.join(&self.file)).map_or(0, |meta| meta.len());
        let index = std::fs::metadata(&self.place.index).ok();
        (size, index.and_then(|meta| Some((meta.len(), meta.modified().ok()?))))
    }

    /// Reads and puts all that the server has written.
    fn pull(&mut self, since: Option<BootNanos>) -> Result<(), DatabaseError> {
        let end = self.server.written_end()?;
        (self.around.on_step)("asked");
        let mut offset_bytes = self.cutter.offset_bytes();
        loop {
            let path = self.place.dir.join(&self.file);
            let Some(mut file) = BinlogFile::open(&path)? else {
                return Err(self.gone(format!("{}: the server has deleted it", path.display())));
            };
            let is_newest = self.file == end.file;
            let limit = if is_newest { end.offset_bytes } else { u64::MAX };
            if file.format.bytes != self.cutter.format_bytes() || offset_bytes > limit {
                let text = format!("{}: the server has begun its binary logs anew", path.display());
                return Err(DatabaseError::Held(text));
            }
            file.seek(offset_bytes)?;
            self.read(&mut file, limit, is_newest, since)?;
            if is_newest {
                break;
            }
            offset_bytes = self.begin_next()?;
        }
        if self.cutter.has_news() {
            self.put(since)?;
        }
        Ok(())
    }

    /// Reads a file up to its end, or that of what is written.
    fn read(
        &mut self,
        file: &mut BinlogFile,
        limit: u64,
        is_newest: bool,
        since: Option<BootNanos>,
    ) -> Result<(), DatabaseError> {
        while let Some(length) = file.next(limit, &mut self.cutter.events)? {
            match self.cutter.note(length) {
                Ok(_) => {}
                // What a crash left at the end of an old file; whether it is that, the next file's begin says.
                Err(_) if !is_newest => return Ok(()),
                Err(source) => return Err(DatabaseError::Binlog { path: file.path.clone(), source }),
            }
            if self.cutter.is_full() {
                self.put(since)?;
                (self.around.on_step)("full");
                if (self.around.stop)() {
                    return Err(DatabaseError::Stopped);
                }
            }
        }
        Ok(())
    }

    /// Goes on with the next file; returns where its events begin.
    fn begin_next(&mut self) -> Result<u64, DatabaseError> {
        let names = self.server.binlog_names()?;
        let next = match names.iter().position(|name| *name == self.file) {
            Some(at) => names.get(at + 1),
            None => names.iter().find(|name| **name > self.file),
        };
        let Some(next) = next.cloned() else {
            return Err(DatabaseError::Held(format!("{}: no binary log follows it", self.file)));
        };
        let path = self.place.dir.join(&next);
        let Some(mut file) = BinlogFile::open(&path)? else {
            return Err(self.gone(format!("{}: the server has deleted it", path.display())));
        };
        let begins_after = file.begins_after()?;
        let position = self.cutter.position();
        // A server that was seeded does not list what it never wrote itself.
        if begins_after.gtids().any(|last| position.of(last.domain) != Some(last)) {
            let text = format!(
                "{}: it begins after {begins_after}, and what was read before it ends at {position}",
                path.display()
            );
            return Err(match begins_after.covers(position) {
                true => self.gone(text),
                false => DatabaseError::Diverged(text),
            });
        }
        let offset_bytes = file.format.end();
        self.cutter.begin(&next, &file.format, offset_bytes, None);
        self.file = next;
        (self.around.on_step)("next file");
        Ok(offset_bytes)
    }

    fn gone(&self, text: String) -> DatabaseError {
        gone(&self.settings.name, &text)
    }

    /// Puts the segment that was filled. Waits as long as the repository is away.
    fn put(&mut self, since: Option<BootNanos>) -> Result<(), DatabaseError> {
        if self.cutter.has_foreign() || self.around.env.boot().since(self.looked) >= STANDING_BUSY {
            self.check_standing_before_put()?;
        }
        if self.around.env.boot().since(self.opened) >= KEYS_FOR {
            self.store = self.settings.repository.store(&self.settings.store);
            self.opened = self.around.env.boot();
        }
        let segment = self.cutter.cut();
        let place = SegmentPlace { epoch: self.epoch, number: self.number };
        let bytes = self.store.binlog().seal(&segment, place, self.settings.level)?;
        let events_bytes = segment.events.len() as u64;
        drop(segment);
        (self.around.on_step)("sealed");
        self.put_sealed(place, &bytes, since)?;
        (self.around.on_step)("put");
        self.number += 1;
        self.tally.segments += 1;
        self.tally.events_bytes += events_bytes;
        self.tally.stored_bytes += bytes.len() as u64;
        Ok(())
    }

    fn put_sealed(
        &mut self,
        place: SegmentPlace,
        bytes: &Bytes,
        since: Option<BootNanos>,
    ) -> Result<(), DatabaseError> {
        let mut back_off = Duration::from_secs(1);
        loop {
            match self.store.binlog().put(place, bytes) {
                Ok(Put::Mine(this)) => {
                    self.cutter.put(this);
                    return Ok(());
                }
                Ok(Put::Taken) => {
                    let key = self.store.binlog().key(place);
                    return Err(DatabaseError::Held(format!(
                        "{key}: another archiver has put it; one host archives a database"
                    )));
                }
                Err(error) if error.kind() == FailureKind::Unavailable => {
                    self.tell(since, State::Waiting, Some(error.to_string()));
                }
                Err(error) => return Err(error.into()),
            }
            sleep(self.around, back_off);
            if (self.around.stop)() {
                return Err(DatabaseError::Stopped);
            }
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    fn tell(&mut self, since: Option<BootNanos>, state: State, error: Option<String>) {
        let env = self.around.env;
        let report = ArchiveReport {
            state,
            trouble: None,
            error,
            epoch: self.epoch,
            number: self.number.checked_sub(1).filter(|number| *number > 0),
            position: self.cutter.put_position().clone(),
            lag_seconds: Some(since.map_or(0.0, |since| env.boot().since(since).as_secs_f64())),
            segments: self.tally.segments,
            events_bytes: self.tally.events_bytes,
            stored_bytes: self.tally.stored_bytes,
            at: env.wall(),
        };
        self.tally.tell(self.settings, self.around, report);
    }

    /// Ends the session if this host is no longer the primary.
    fn check_standing(&mut self) -> Result<(), DatabaseError> {
        self.looked = self.around.env.boot();
        match (self.around.standing)()? {
            Standing::Primary(epoch) if epoch == self.epoch => Ok(()),
            // It was the primary before, is it again, and goes on under the new epoch.
            Standing::Primary(epoch) => {
                Err(DatabaseError::Held(format!("epoch {} has begun; the archive goes on in it", epoch.0)))
            }
            Standing::Other(host) => Err(fenced(self.settings, &host)),
        }
    }

    /// Like [`Self::check_standing`], and puts before it ends what the server has committed by itself.
    fn check_standing_before_put(&mut self) -> Result<(), DatabaseError> {
        match self.check_standing() {
            // A log that is away fences nobody: the segment lies under this epoch in any case.
            Err(error) if error.kind() == FailureKind::Unavailable => Ok(()),
            Err(error) if !self.cutter.has_foreign() && self.cutter.has_news() => {
                let segment = self.cutter.cut();
                let place = SegmentPlace { epoch: self.epoch, number: self.number };
                let bytes = self.store.binlog().seal(&segment, place, self.settings.level)?;
                self.put_sealed(place, &bytes, None)?;
                Err(error)
            }
            other => other,
        }
    }
}

fn fenced(settings: &ArchiveSettings, host: &str) -> DatabaseError {
    DatabaseError::Fenced(format!(
        "store '{}': '{host}' is its primary; its database is archived there",
        settings.name
    ))
}
