//! A run of a replica's server: it follows the primary's, as long as its role says so.
//!
//! The server starts without replication. Then the position of the seed is set, once, the primary is named, and
//! replication starts, each time only after the store's log was asked whether this host stands by. Where it does
//! not, or where somebody has made the server forget its primary (`RESET SLAVE ALL`), the server is left running
//! as it is, and nothing is told to it.
//!
//! A server that was a primary's counts what it wrote itself as applied. If that is more than the new primary
//! has, the servers refuse each other: nothing is thrown away, and a person decides. If its commits waited for a
//! standby, and every primary since had all that a standby acknowledged, it is started as
//! `--init-rpl-role=SLAVE` first: so the server itself undoes what it had not told its customers when it was
//! killed. In any other case that would undo what customers were told is done (measured: one of five
//! transactions, since the engine's own commit is not on the disk yet).
//!
//! What can race: the primary may be replaced after the log was read. When its successor's replica meets it, the
//! servers refuse each other's transactions.

use super::background::Background;
use super::client::Address;
use super::decide::{self, Act, Judgement, Room, State};
use super::desk::{Desk, Ended, local};
use super::drill_place;
use super::error::{DatabaseError, Trouble};
use super::hold;
use super::lag::Lag;
use super::minimal::Minimal;
use super::orders::{Answer, Asked, What};
use super::process::Process;
use super::promote::Promotion;
use super::received::Received;
use super::report::Report;
use super::reporting::Reporting;
use super::role::{self, LogSays, Role};
use super::server::{Acks, ReplicaStatus, Server, Source};
use super::still;
use crate::model::gtid::{GtidPosition, STANDBY_DOMAINS};
use crate::support::env::Stopwatch;
use std::path::Path;
use std::time::Duration;

/// Interval between looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Interval between readings of the log while all is well.
const LOG_EVERY: Duration = Duration::from_secs(30);
/// Time that others have to answer, before a look goes on without them: an order may be waiting.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time for a server to end.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A run of a replica's server.
struct Replica<'d, 'a, 'b> {
    desk: &'d mut Desk<'a, 'b>,
    process: Process,
    server: Server,
    lag: Lag,
    refetches: u32,
    /// The server that is followed, and when the log was asked for it.
    source: Option<(String, Server)>,
    asked: Option<Stopwatch>,
    /// A look at the primary's position that may be underway.
    seeing: Background<Option<GtidPosition>>,
    /// Where the primary's own transactions begin, by the log.
    branch: Option<GtidPosition>,
    /// Whether the server acknowledges what it receives.
    acks: bool,
    /// Whether the server was started to undo what it had told nobody.
    undoes: bool,
    /// What servers before this one had received, until all of it is applied.
    received: Option<Received>,
    reporting: Reporting<'a>,
}

/// Runs a replica's server until its role changes, or this process is to end.
///
/// # Errors
/// The server has ended.
pub(super) fn run(desk: &mut Desk) -> Result<Ended, DatabaseError> {
    let (settings, data) = (desk.settings, desk.data());
    let note = desk.note()?;
    let undoes = match note.branch.is_some() && note.waits {
        // A server that was started in any other way keeps what nobody was told of.
        true => note.undoes(desk.log()?.lossless_since),
        false => false,
    };
    let acks = note.acks || undoes;
    let mut received = Received::of(&settings.place);
    desk.wait_for_data()?;
    received.keep(&data)?;
    let (reporting, start) = Reporting::new(settings.reports.as_ref());
    let configuration = Minimal {
        size: settings.size,
        memory_mib: settings.memory_mib,
        datadir: &data,
        place: &settings.place,
        identity: desk.identity(),
        primary: &desk.made_by.variables,
        log_bin: desk.made_by.log_bin.as_deref(),
        is_root: rustix::process::geteuid().is_root(),
        acks,
        undoes,
    }
    .text()
        + &start.configuration;
    let process = desk.start_with(&configuration, &settings.place.socket(), &start.statements)?;
    let server = Server::new(local(&settings.place, desk.env()));
    let (lag, seeing) = (Lag::default(), Background::default());
    let mut run = Replica {
        desk,
        process,
        server,
        lag,
        refetches: 0,
        source: None,
        asked: None,
        seeing,
        branch: None,
        acks,
        undoes,
        received: Some(received),
        reporting,
    };
    let ended = run.follow();
    let Replica { desk, process, .. } = run;
    process.stop(desk.env(), END_LIMIT);
    ended
}

impl Replica<'_, '_, '_> {
    fn follow(&mut self) -> Result<Ended, DatabaseError> {
        let ready = self.desk.wait_until_ready(&mut self.process, &self.server);
        if let Err(DatabaseError::Start(_)) = &ready
            && self.undoes
        {
            // It cannot undo what a table without transactions has. It keeps all then, and a person decides.
            self.desk.change(|note| note.waits = false)?;
        }
        ready?;
        self.settle_position()?;
        while !self.desk.stops() {
            if let Some(reason) = self.process.ended() {
                return Err(DatabaseError::Start(reason));
            }
            if let Some(asked) = self.desk.waiting.pop_front() {
                match self.take(asked)? {
                    Some(ended) => return Ok(ended),
                    None => continue,
                }
            }
            let note = self.desk.note()?;
            let report = match note.role {
                Role::Follow => {
                    self.attend_reports();
                    self.look()
                }
                // It was told to serve when its supervisor or its server ended.
                Role::Serve if note.branch.is_none() => match self.promote(None, note.accepts_loss) {
                    Ok(()) => return Ok(Ended::Again),
                    Err(error) => Err(error),
                },
                _ => return Ok(Ended::Again),
            };
            let report = self.in_words(report);
            self.desk.tell(report);
            drill_place::tidy(&self.desk.settings.place, &self.desk.settings.root);
            if let Some(asked) = self.desk.next(LOOK_EVERY)
                && let Some(ended) = self.take(asked)?
            {
                return Ok(ended);
            }
        }
        Ok(Ended::Stopped)
    }

    /// A server that is busy, or a log that is away, is no reason to end what runs.
    fn in_words(&self, report: Result<Report, DatabaseError>) -> Report {
        report.unwrap_or_else(|error| Report {
            trouble: error.trouble(),
            resident_bytes: self.process.resident_bytes(),
            reports: self.reporting.seen(),
            ..Report::of(State::Waiting, Some(error.to_string()), self.desk.env().wall())
        })
    }

    /// Takes an order. Returns how this run ends with it.
    fn take(&mut self, asked: Asked) -> Result<Option<Ended>, DatabaseError> {
        match asked.order.what.clone() {
            What::Follow => {
                match self.desk.obey(&asked.order, |note| (note.role, note.back) = (Role::Follow, None)) {
                    Ok(_) => {
                        let report = self.look();
                        asked.answer(self.followed(report));
                    }
                    Err(error) => asked.answer(Answer::failed(&error)),
                }
            }
            What::Serve { back: Some(_), .. } => match self.accept_back(&asked) {
                Ok(()) => {
                    self.desk.waiting.push_back(asked);
                    return Ok(Some(Ended::Again));
                }
                Err(error) => asked.answer(Answer::failed(&error)),
            },
            What::Serve { position, accept_loss, back: None } => {
                if accept_loss && self.note_loss(&asked) {
                    let note = "noted: the next promotion takes this replica as it is".to_owned();
                    asked.answer(Answer::Done { position: None, note: Some(note) });
                    return Ok(None);
                }
                let accepted = self.accept(&asked, accept_loss);
                match accepted.and_then(|accepts_loss| self.promote(position, accepts_loss)) {
                    Ok(()) => {
                        self.desk.waiting.push_back(asked);
                        return Ok(Some(Ended::Again));
                    }
                    Err(error) => asked.answer(Answer::failed(&error)),
                }
            }
            What::Hold { position, snapshot } => {
                let held = self.hold(&asked, position, snapshot);
                asked.answer(held.unwrap_or_else(|error| Answer::failed(&error)));
            }
            What::Release => {
                let released = self.desk.obey(&asked.order, |note| note.hold = None);
                let gone_on = released.and_then(|_| hold::go_on(&self.server)).and_then(|()| self.look());
                asked.answer(gone_on.map_or_else(
                    |error| Answer::failed(&error),
                    |report| Answer::done(Some(report.applied)),
                ));
            }
            What::Still { customers_wait } => {
                let how = (self.acks, customers_wait);
                still::stand_still(self.desk, &mut self.process, &self.server, how, asked);
            }
            What::Hand => asked.answer(Answer::failed(&DatabaseError::Held(
                "this host's server is a replica, and has nothing to hand over".into(),
            ))),
            What::Wait { .. } => asked.answer(Answer::failed(&DatabaseError::Held(
                "this host's server is a replica, and has no customers that wait".into(),
            ))),
            What::Acknowledge { on } => {
                let noted = self.desk.obey(&asked.order, |note| note.acks = on);
                let done = noted.and_then(|_| self.acknowledge(on));
                asked.answer(done.map_or_else(|error| Answer::failed(&error), |()| Answer::done(None)));
            }
        }
        Ok(None)
    }

    /// Has the server acknowledge what it receives, or not any more.
    fn acknowledge(&mut self, on: bool) -> Result<(), DatabaseError> {
        if self.acks != on {
            self.server.acknowledge(on)?;
            self.acks = on;
        }
        Ok(())
    }

    /// Has the replica stand at a position, or where it is.
    fn hold(
        &mut self,
        asked: &Asked,
        position: Option<GtidPosition>,
        snapshot: Option<String>,
    ) -> Result<Answer, DatabaseError> {
        let position = hold::stand_at(self.desk, &self.server, &asked.order, position, snapshot)?;
        let report = self.look()?;
        let note = (report.applied != position).then(|| format!("it is on its way to {position}"));
        let done = Answer::Done { position: Some(report.applied.clone()), note };
        self.desk.tell(report);
        Ok(done)
    }

    /// Answers an order to follow: what is broken is no failure of the order.
    fn followed(&mut self, report: Result<Report, DatabaseError>) -> Answer {
        let report = self.in_words(report);
        let note = match (report.state, report.trouble, &report.error) {
            (State::Broken, Some(trouble), error) => {
                let store = &self.desk.settings.store;
                let error = error.as_deref().unwrap_or_default();
                Some(format!("{}: {}; {}. {error}", trouble.name(), trouble.meaning(), trouble.mend(store)))
            }
            (_, _, error) => error.clone(),
        };
        let position = Some(report.applied.clone());
        self.desk.tell(report);
        Answer::Done { position, note }
    }

    /// Notes, while another host is the primary, that a person takes this replica as it is.
    fn note_loss(&self, asked: &Asked) -> bool {
        let is_early = asked.order.epoch.is_none()
            && self.desk.log().is_ok_and(|says| says.primary.is_some() && !says.is_here);
        is_early && self.desk.obey(&asked.order, |note| note.accepts_loss = true).is_ok()
    }

    /// Notes that a restored database is to take the place of this one, and to serve, if it may.
    fn accept_back(&self, asked: &Asked) -> Result<(), DatabaseError> {
        self.check_customers()?;
        let note = self.desk.note()?;
        let log = if asked.order.epoch.is_none() { Some(self.desk.log()?) } else { None };
        let epoch = role::may_serve(&note, asked.order.epoch, log.as_ref()).map_err(DatabaseError::Fenced)?;
        let Some(back) = asked.order.back() else { return Ok(()) };
        back.check()?;
        let (boot, back) = (self.desk.boot.clone(), Box::new(back.clone()));
        self.desk.obey(&asked.order, |note| {
            (note.role, note.branch, note.hold) = (Role::Serve, None, None);
            note.serve_in(epoch, boot);
            note.back = Some(back);
        })?;
        Ok(())
    }

    fn check_customers(&self) -> Result<(), DatabaseError> {
        match self.desk.settings.customers {
            Some(_) => Ok(()),
            None => Err(DatabaseError::Settings(
                "customers would not reach this server; set `listen` or `socket` in [store.database.serve]"
                    .into(),
            )),
        }
    }

    /// Notes that this server is to serve, if it may. Returns whether it is taken as it is.
    fn accept(&self, asked: &Asked, accept_loss: bool) -> Result<bool, DatabaseError> {
        self.check_customers()?;
        let note = self.desk.note()?;
        let log = if asked.order.epoch.is_none() { Some(self.desk.log()?) } else { None };
        let epoch = role::may_serve(&note, asked.order.epoch, log.as_ref()).map_err(DatabaseError::Fenced)?;
        let accepts_loss = note.accepts_loss || accept_loss;
        self.promotion(None, accepts_loss, &|| None).check()?;
        let boot = self.desk.boot.clone();
        self.desk.obey(&asked.order, |note| {
            (note.role, note.branch, note.hold) = (Role::Serve, None, None);
            note.serve_in(epoch, boot);
            (note.accepts_loss, note.back) = (accepts_loss, None);
        })?;
        if note.hold.is_some() {
            // All that was received meanwhile is applied first.
            hold::go_on(&self.server)?;
        }
        Ok(accepts_loss)
    }

    fn promotion<'p>(
        &'p self,
        position: Option<&'p GtidPosition>,
        accepts_loss: bool,
        given_up: &'p dyn Fn() -> Option<DatabaseError>,
    ) -> Promotion<'p> {
        let store = &self.desk.settings.store;
        let (server, env, received) = (&self.server, self.desk.env(), self.received.as_ref());
        Promotion { store, server, env, position, accepts_loss, given_up, received }
    }

    /// Stops being a replica. On an error it is one again.
    fn promote(&mut self, position: Option<GtidPosition>, accepts_loss: bool) -> Result<(), DatabaseError> {
        let given_up = || match self.desk.note() {
            _ if self.desk.stops() => Some(DatabaseError::Stopped),
            Ok(note) if note.role != Role::Serve => {
                Some(DatabaseError::Fenced("it was fenced meanwhile".into()))
            }
            Ok(_) => None,
            Err(error) => Some(error),
        };
        // Nothing that reads is in the way of what is still to be applied.
        self.reporting.close(&self.server);
        let done = self.promotion(position.as_ref(), accepts_loss, &given_up).carry_out();
        match done {
            Ok(branch) => {
                let branch = branch.filtered(|domain| domain.0 < STANDBY_DOMAINS);
                self.desk.change(|note| (note.branch, note.accepts_loss) = (Some(branch), false))?;
                if let Some(received) = self.received.take() {
                    received.forget();
                }
                Ok(())
            }
            // It is killed or told to end: the next run goes on.
            Err(error @ DatabaseError::Stopped) => Err(error),
            Err(error) if self.process.ended().is_some() => Err(error),
            Err(error) => {
                self.desk.change(|note| {
                    if note.role == Role::Serve {
                        note.role = Role::Follow;
                    }
                })?;
                Err(error)
            }
        }
    }

    /// Sets the position of the seed, unless the server knows better where it stands.
    fn settle_position(&self) -> Result<(), DatabaseError> {
        let seeded = &self.desk.made_by.position;
        let knows = self.server.replica_status()?.is_some() || self.desk.note()?.branch.is_some();
        if !knows && !self.server.applied_position()?.covers(seeded) {
            self.server.set_applied_position(seeded)?;
        }
        Ok(())
    }

    /// Looks at the replica once, and does what is to be done about it.
    fn look(&mut self) -> Result<Report, DatabaseError> {
        let may_start = self.find_source();
        let may_start = match &self.source {
            None => Ok(may_start?),
            Some(_) => may_start,
        };
        let Some(status) = self.server.replica_status()? else {
            let text =
                "somebody has made this server forget its primary, as a promotion does; it is left as it is";
            return Err(DatabaseError::Held(text.to_owned()));
        };
        if self.received.as_ref().is_some_and(|kept| kept.end().is_ok_and(|end| status.applied.covers(&end)))
            && let Some(received) = self.received.take()
        {
            received.forget();
        }
        let note = self.desk.note()?;
        if note.was_primary && note.follows_another(&status.applied, &self.desk.numbers()) {
            self.desk.change(|note| note.was_primary = false)?;
        }
        self.acknowledge(note.acks)?;
        let (room, hold) = (room(&self.desk.settings.root), note.hold);
        let mut judgement = decide::judge(&status, room, &mut self.refetches);
        if let Some(hold) = &hold {
            judgement = hold::judge(judgement, &status, room, hold);
        }
        match judgement.act {
            Act::Nothing => {}
            Act::Stop => self.server.stop_replica()?,
            Act::StopApplying => self.server.stop_applying()?,
            Act::Receive => {
                may_start?;
                self.server.start_receiving()?;
            }
            Act::Start => {
                may_start?;
                hold::start(&self.server, hold.as_ref())?;
            }
            Act::Refetch => {
                may_start?;
                self.server.stop_replica()?;
                hold::start(&self.server, hold.as_ref())?;
            }
        }
        // A primary that is away is seen by the replica itself.
        let seen = match &self.source {
            Some((_, primary)) if status.receives => {
                let primary = primary.clone();
                self.seeing.ask(move || primary.binlog_position().ok(), PATIENCE).flatten()
            }
            _ => None,
        };
        Ok(self.report(status, judgement, seen))
    }

    /// Reads the log, when it is time, and names the primary's server if it is another one than before.
    fn find_source(&mut self) -> Result<(), DatabaseError> {
        let is_held = self.desk.note()?.hold.is_some();
        let follows = self
            .server
            .replica_status()?
            .is_some_and(|status| status.receives && (status.applies || is_held));
        let is_due = self.asked.as_ref().is_none_or(|asked| asked.elapsed() >= LOG_EVERY);
        if self.source.is_some() && follows && !is_due {
            return Ok(());
        }
        let says = self
            .desk
            .log_within(PATIENCE)
            .unwrap_or_else(|| Err(DatabaseError::Log("it has not answered yet".into())))?;
        self.asked = Some(self.desk.env().stopwatch());
        self.branch.clone_from(&says.branch);
        if says.is_here {
            return Err(DatabaseError::Held(
                "this host is the store's primary, and follows nobody; understudy database promote makes its server take writes".into(),
            ));
        }
        self.name_source(&says)
    }

    fn name_source(&mut self, says: &LogSays) -> Result<(), DatabaseError> {
        let client = self.desk.settings.source(says, self.desk.env())?;
        let name = client.address.to_string();
        if self.source.as_ref().is_some_and(|(named, _)| *named == name) {
            return Ok(());
        }
        let Address::Tcp { host, port, tls_ca } = &client.address else {
            return Err(DatabaseError::Settings(format!(
                "{name}: MariaDB replicates over TCP only, also on one host; set `host` and `port` in [store.database]"
            )));
        };
        let account = self.desk.settings.account()?;
        // One that is held may be connecting, which its status calls neither.
        let is_held = self.desk.note()?.hold.is_some();
        let runs = |status: ReplicaStatus| status.receives || status.applies || is_held;
        if self.server.replica_status()?.is_some_and(runs) {
            self.server.stop_replica()?;
        }
        // A name would be taken for a socket.
        let host = if host == "localhost" { "127.0.0.1" } else { host };
        let tls_ca = tls_ca.as_ref().map(|path| path.display().to_string());
        let is_demoted = self.desk.note()?.branch.is_some();
        if is_demoted {
            self.server.count_own_as_applied()?;
        }
        self.server.follow(&Source {
            host,
            port: *port,
            user: &account.user,
            password: &account.password,
            tls_ca: tls_ca.as_deref(),
        })?;
        let before = self.desk.note()?.source;
        if before.is_some_and(|before| before != name)
            && let Some(received) = self.received.take()
        {
            // What it had of another primary may not be what this one has.
            received.forget();
        }
        let source = Some(name.clone());
        self.desk.change(|note| {
            note.source = source;
            // What it undoes, it has undone.
            note.waits &= !is_demoted;
            if is_demoted {
                note.branch = None;
            }
        })?;
        self.source = Some((name, Server::new(client.clone())));
        Ok(())
    }

    /// Keeps reports as they are to be, also while the primary is away.
    fn attend_reports(&mut self) {
        let socket = self.desk.settings.place.socket();
        self.reporting.attend(&self.server, &socket, self.desk.env());
    }

    fn report(
        &mut self,
        status: ReplicaStatus,
        judgement: Judgement,
        primary: Option<GtidPosition>,
    ) -> Report {
        let env = self.desk.env();
        if let Some(position) = &primary {
            self.lag.look(position, env.boot());
        }
        let error = status.apply_error.as_ref().or(status.receive_error.as_ref());
        let error = error.map(|(code, text)| format!("{text} (error {code})"));
        let is_ahead = judgement.trouble == Some(Trouble::Diverged);
        let branch = self.branch.as_ref().filter(|_| is_ahead);
        Report {
            beyond: branch.map(|branch| role::beyond(branch, &status.applied)),
            trouble: judgement.trouble,
            behind: primary.as_ref().map(|primary| status.applied.behind(primary)),
            lag_seconds: self.lag.of(&status.applied, env.boot()).map(|lag| lag.as_secs_f64()),
            applied: status.applied,
            received: status.received,
            reports: self.reporting.seen(),
            acks: self.acks.then_some(Acks { acknowledging: u64::from(status.receives), ..Acks::default() }),
            primary,
            resident_bytes: self.process.resident_bytes(),
            ..Report::of(judgement.state, error.filter(|_| judgement.trouble.is_some()), env.wall())
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
