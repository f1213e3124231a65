//! A run of the server that customers reach.
//!
//! It starts read-only, and takes writes after the note of its role was read once more: so a fence that came
//! meanwhile either finds it, by its lock on the data, or is found here. For a handover it refuses writes again,
//! ends all sessions, and says what its last transaction was once that stands still; its replicas go on reading.
//!
//! What can race: this host is replaced while its supervisor alone runs, without an agent or a guard. The log is
//! read from time to time, and a server that finds itself replaced is killed.

use super::customers::ForCustomers;
use super::decide::State;
use super::desk::{Desk, Ended, local};
use super::error::DatabaseError;
use super::fence;
use super::orders::{Answer, Asked, Order, What};
use super::process::Process;
use super::report::Report;
use super::role::{self, Role, RoleNote};
use super::server::Server;
use crate::model::gtid::GtidPosition;
use crate::support::env::Stopwatch;
use std::time::Duration;

/// Interval between looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Interval between readings of the log.
const LOG_EVERY: Duration = Duration::from_secs(15);
/// Time between two rows that are written to see whether the server takes writes.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// Time for a server to end.
const END_LIMIT: Duration = Duration::from_secs(60);
/// Time for a server's last transaction to stand still, and the time between two looks at it.
const QUIET_LIMIT: Duration = Duration::from_secs(10);
const QUIET_LOOK: Duration = Duration::from_millis(50);

/// A run of the customers' server.
struct Serving<'d, 'a, 'b> {
    desk: &'d mut Desk<'a, 'b>,
    process: Process,
    server: Server,
    read: Stopwatch,
    /// When the server last took a row; none if it has just refused one, or was not asked.
    beaten: Option<Stopwatch>,
}

/// Runs the customers' server until its role changes, or this process is to end.
///
/// # Errors
/// The server has ended.
pub(super) fn run(desk: &mut Desk) -> Result<Ended, DatabaseError> {
    let (settings, data) = (desk.settings, desk.data());
    let Some(customers) = &settings.customers else {
        return Err(DatabaseError::Settings(
            "this host's server serves customers, and [store.database.serve] is gone from the configuration; fence it first".into(),
        ));
    };
    let configuration = ForCustomers {
        customers,
        datadir: &data,
        place: &settings.place,
        identity: desk.identity(),
        domain: desk.domain(),
        made_by: &desk.made_by.variables,
        log_bin: desk.made_by.log_bin.as_deref(),
        is_root: rustix::process::geteuid().is_root(),
        waits: desk.note()?.waits,
    };
    let (text, socket) = (configuration.text(), configuration.socket());
    // From here on a fence kills whoever has the data.
    let noted = data.clone();
    let note = desk.change(|note| (note.is_open, note.data) = (true, noted))?;
    if !is_for_customers(&note) {
        return Ok(Ended::Again);
    }
    // Whatever an earlier supervisor saw, it does not take writes yet. Why it ended, if it did, is said already.
    if desk.ends == 0 {
        let starting = Report::of(State::Down, Some("its server starts".to_owned()), desk.env().wall());
        desk.tell(starting);
    }
    let process = desk.start(text, &socket)?;
    let server = Server::new(local(&settings.place, desk.env()));
    let read = desk.env().stopwatch();
    let mut run = Serving { desk, process, server, read, beaten: None };
    let ended = run.serve();
    let Serving { desk, process, .. } = run;
    match ended {
        Ok(Ended::Stopped) => process.stop(desk.env(), END_LIMIT),
        // Whatever it has not told its replicas, it must not tell them any more.
        _ => drop(process),
    }
    let note = desk.change(|note| note.is_open = false)?;
    // What a fence killed has not failed.
    if is_for_customers(&note) || matches!(ended, Ok(Ended::Stopped)) { ended } else { Ok(Ended::Again) }
}

fn is_for_customers(note: &RoleNote) -> bool {
    matches!(note.role, Role::Serve | Role::Hand)
}

impl Serving<'_, '_, '_> {
    fn serve(&mut self) -> Result<Ended, DatabaseError> {
        self.desk.wait_until_ready(&mut self.process, &self.server)?;
        if !self.open()? {
            return Ok(Ended::Again);
        }
        while !self.desk.stops() {
            if let Some(reason) = self.process.ended() {
                return Err(DatabaseError::Start(reason));
            }
            let note = self.desk.note()?;
            if !is_for_customers(&note) || self.is_replaced(&note)? {
                return Ok(Ended::Again);
            }
            let report = self.report(&note);
            self.desk.tell(report);
            if let Some(asked) = self.desk.next(LOOK_EVERY)
                && let Some(ended) = self.take(asked)?
            {
                return Ok(ended);
            }
        }
        Ok(Ended::Stopped)
    }

    /// Lets the server take writes, if it still may. Returns whether it may run on.
    fn open(&self) -> Result<bool, DatabaseError> {
        let note = self.desk.note()?;
        if note.role == Role::Serve {
            self.begin_binlog(&note)?;
            // Before the first write.
            self.server.wait_for_standby(note.waits)?;
            self.server.open()?;
            self.server.enable_events()?;
        }
        Ok(is_for_customers(&self.desk.note()?))
    }

    /// Has a database that was restored count on from where it is: it has no binary logs yet.
    fn begin_binlog(&self, note: &RoleNote) -> Result<(), DatabaseError> {
        let Some(branch) = &note.branch else { return Ok(()) };
        let applied = self.server.applied_position()?;
        let is_new = !branch.is_empty() && applied.of_store() == *branch && self.server.has_no_binlog()?;
        match is_new {
            true => self.server.begin_binlog(&applied),
            false => Ok(()),
        }
    }

    /// Takes an order. Returns how this run ends with it.
    fn take(&mut self, asked: Asked) -> Result<Option<Ended>, DatabaseError> {
        let note = self.desk.note()?;
        if !is_for_customers(&note) {
            // A fence has ended this server, and the order may be of after that.
            self.desk.waiting.push_back(asked);
            return Ok(Some(Ended::Again));
        }
        match &asked.order.what {
            What::Follow => {
                match self.desk.obey(&asked.order, |note| (note.role, note.back) = (Role::Follow, None)) {
                    Ok(_) => {
                        self.desk.waiting.push_back(asked);
                        return Ok(Some(Ended::Again));
                    }
                    Err(error) => asked.answer(Answer::failed(&error)),
                }
            }
            What::Serve { .. } if asked.order.back().is_some_and(|back| !back.is_done(&note)) => asked
                .answer(Answer::failed(&DatabaseError::Held(
                    "this host's server takes writes; fence it before another database takes its place"
                        .into(),
                ))),
            What::Serve { .. } => {
                let done = self.go_on(&note, &asked);
                asked.answer(match done {
                    Ok(()) => Answer::done(note.branch),
                    Err(error) => Answer::failed(&error),
                });
            }
            What::Hand => {
                let done = self.hand(&asked.order);
                asked.answer(match done {
                    Ok(position) => Answer::done(Some(position)),
                    Err(error) => Answer::failed(&error),
                });
            }
            What::Wait { on } => {
                let done = self.wait(&asked.order, *on);
                asked.answer(match done {
                    Ok(position) => Answer::done(Some(position)),
                    Err(error) => Answer::failed(&error),
                });
            }
            What::Acknowledge { on: false } => asked.answer(Answer::done(None)),
            What::Hold { .. } | What::Release => asked.answer(Answer::failed(&DatabaseError::Held(
                "this host's server is the primary's, and is held nowhere; hold a standby's".into(),
            ))),
            What::Still { .. } => asked.answer(Answer::failed(&DatabaseError::Held(
                "this host's server is the primary's, and stands still for nobody; drill on a standby".into(),
            ))),
            What::Acknowledge { on: true } => asked.answer(Answer::failed(&DatabaseError::Held(
                "this host's server is the primary's, and acknowledges nothing".into(),
            ))),
        }
        Ok(None)
    }

    /// Serves on, in a later epoch or after a handover that was cancelled.
    fn go_on(&self, note: &RoleNote, asked: &Asked) -> Result<(), DatabaseError> {
        let given = asked.order.epoch;
        let log = if given.is_none() { Some(self.desk.log()?) } else { None };
        let epoch = role::may_serve(note, given, log.as_ref()).map_err(DatabaseError::Fenced)?;
        let boot = self.desk.boot.clone();
        self.desk.obey(&asked.order, |note| {
            note.role = Role::Serve;
            note.serve_in(epoch, boot);
        })?;
        match self.open()? {
            true => Ok(()),
            false => Err(DatabaseError::Fenced("it was fenced meanwhile".into())),
        }
    }

    /// Has commits wait for a standby's acknowledgement, or not any more. Returns what was committed until then: a
    /// standby that has it, and acknowledges, has all that any customer was told.
    fn wait(&self, order: &Order, on: bool) -> Result<GtidPosition, DatabaseError> {
        // An agent has seen to it that the log says so first.
        if !on && order.epoch.is_none() && self.desk.log()?.has_synced {
            return Err(DatabaseError::Held(
                "the log says that a standby has all that customers are told; the agent of this host takes it out of the log, and then commits go on".into(),
            ));
        }
        // A server that is started again waits as well.
        self.desk.obey(order, |note| note.waits = on)?;
        self.server.wait_for_standby(on)?;
        self.server.binlog_position()
    }

    /// Refuses writes, and returns the position of the last one.
    fn hand(&self, order: &Order) -> Result<GtidPosition, DatabaseError> {
        self.desk.obey(order, |note| note.role = Role::Hand)?;
        self.server.close()?;
        let begun = self.desk.env().stopwatch();
        loop {
            self.server.end_sessions()?;
            let before = self.server.binlog_position()?;
            self.desk.env().sleep(QUIET_LOOK);
            let left = self.server.end_sessions()?;
            if left == 0 && self.server.binlog_position()? == before {
                return Ok(before);
            }
            if begun.elapsed() >= QUIET_LIMIT {
                return Err(DatabaseError::Held(format!(
                    "its last transaction did not stand still for {} s though it is read-only: {left} sessions were open, perhaps of an account with READ ONLY ADMIN or SUPER",
                    QUIET_LIMIT.as_secs()
                )));
            }
        }
    }

    /// Reads the log, when it is time, and fences this server if another host is the primary.
    fn is_replaced(&mut self, note: &RoleNote) -> Result<bool, DatabaseError> {
        if self.read.elapsed() < LOG_EVERY {
            return Ok(false);
        }
        // A log that is away fences nobody, and holds no order up.
        let Some(read) = self.desk.log_within(Duration::ZERO) else { return Ok(false) };
        self.read = self.desk.env().stopwatch();
        let Ok(says) = read else { return Ok(false) };
        let is_replaced = says.primary.is_some() && !says.is_here && says.epoch > note.epoch;
        if is_replaced {
            fence::fence(&self.desk.settings.place, self.desk.env(), Some(says.epoch))?;
        }
        Ok(is_replaced)
    }

    fn report(&mut self, note: &RoleNote) -> Report {
        let (state, now) =
            (if note.role == Role::Serve { State::Serving } else { State::Fenced }, self.desk.env().wall());
        let resident_bytes = self.process.resident_bytes();
        let is_due = self.beaten.as_ref().is_none_or(|beaten| beaten.elapsed() >= BEAT_EVERY);
        let beat = (state == State::Serving && is_due).then_some(now.0);
        let status = self.server.serving_status(beat);
        match &status {
            Ok(_) if beat.is_some() => self.beaten = Some(self.desk.env().stopwatch()),
            Ok(_) => {}
            Err(_) => self.beaten = None,
        }
        match status {
            Ok((applied, acks)) => {
                Report { applied, resident_bytes, acks: Some(acks), ..Report::of(state, None, now) }
            }
            Err(error) => Report {
                trouble: error.trouble(),
                resident_bytes,
                ..Report::of(State::Waiting, Some(error.to_string()), now)
            },
        }
    }
}
