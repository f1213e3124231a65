//! The supervisor of a store's server on this host: it runs the server in the role that the last order gave it,
//! and starts it again whenever it ends.
//!
//! The role is on the disk before anything follows from it ([`super::role_file`]), so that a supervisor that was
//! killed at any point is followed by one that does the same, or less. The server ends with its supervisor, also
//! when that is killed.
//!
//! What can race: two supervisors; the second finds the first one's lock. A fence does not wait for this process
//! (see [`super::fence`]): a role that changed on the disk is found at the next look, before a server is opened,
//! and when the server has ended.

use super::decide::State;
use super::desk::{Around, Desk, Ended, Settings};
use super::drill_place;
use super::error::{DatabaseError, Trouble};
use super::holder;
use super::minimal::Place;
use super::orders::{self, Answer, Asked, What};
use super::process::check_series;
use super::replica;
use super::report::Report;
use super::role::{self, Plan, Role};
use super::seed::SeedNote;
use super::serving;
use super::still;
use crate::support::private;
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::time::Duration;

const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// How often in a row a server ends, soon after its start, before that is called crashing.
const ENDS_MAX: u32 = 3;
const PRIVATE_MODE: u32 = 0o600;
/// Interval between looks while no server runs.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Time for a server of an earlier supervisor to be gone.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

/// Takes a place for this process; it is free again when the result is dropped.
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
        Ok(()) => {
            // A person who is to end it finds it.
            let id = format!("{}\n", std::process::id());
            let written =
                rustix::fs::ftruncate(&lock, 0).and_then(|()| rustix::io::write(&lock, id.as_bytes()));
            written.map_err(|errno| file(&path, errno.into()))?;
            Ok(lock)
        }
        Err(Errno::WOULDBLOCK) => Err(DatabaseError::Taken(path)),
        Err(errno) => Err(file(&path, errno.into())),
    }
}

/// Returns whether a process has taken a place.
pub fn is_taken(place: &Place) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let Ok(lock) = rustix::fs::open(place.lock(), flags, Mode::empty()) else { return false };
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

/// Returns the mark of a supervisor that a person ended.
fn ended_mark(place: &Place) -> PathBuf {
    place.dir.join("ended")
}

/// Notes that a supervisor was asked to end, so that nothing starts another one by itself, or that one begins.
///
/// # Errors
/// The note cannot be changed.
pub fn note_end(place: &Place, is_ended: bool) -> Result<(), DatabaseError> {
    let path = ended_mark(place);
    let done = match is_ended {
        true => std::fs::write(&path, b""),
        false => std::fs::remove_file(&path).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }),
    };
    done.map_err(|source| DatabaseError::File { path, source })
}

/// Returns whether the last supervisor was asked to end.
pub fn was_ended(place: &Place) -> bool {
    ended_mark(place).exists()
}

/// Runs the store's server until `stop` returns true. The caller has taken its place.
///
/// # Errors
/// What another try does not change: settings, or an account file.
pub fn supervise(settings: &Settings, around: &mut Around) -> Result<(), DatabaseError> {
    let Some(made_by) = SeedNote::read(&settings.root)? else {
        let text = format!("{}: there is no seed in it", settings.root.display());
        return Err(DatabaseError::Settings(text));
    };
    settings.account()?;
    check_series("mariadbd", "mariadb-server-core", made_by.variables.text("version"))?;
    let inbox = orders::listen(&settings.place)?;
    let mut supervisor = Supervisor { desk: Desk::new(settings, around, made_by, inbox), goes_on: false };
    let mut back_off = Duration::from_secs(1);
    while !supervisor.desk.stops() {
        let begun = supervisor.desk.env().stopwatch();
        supervisor.desk.answered = false;
        let ended = supervisor.run();
        let lasted = begun.elapsed() > BACK_OFF_MAX;
        if lasted {
            back_off = Duration::from_secs(1);
        }
        if ended.is_ok() || lasted && supervisor.desk.answered {
            supervisor.desk.ends = 0;
        }
        match ended {
            Ok(Ended::Again) => continue,
            Ok(Ended::Stopped) | Err(DatabaseError::Stopped) => break,
            Err(error @ DatabaseError::Settings(_)) => return Err(error),
            Err(error) => supervisor.failed(&error),
        }
        if let Some(asked) = supervisor.desk.next(back_off) {
            supervisor.desk.waiting.push_back(asked);
        }
        back_off = (back_off * 2).min(BACK_OFF_MAX);
    }
    Ok(())
}

struct Supervisor<'a, 'b> {
    desk: Desk<'a, 'b>,
    /// Whether this process has run the server in its role, or was told to.
    goes_on: bool,
}

impl Supervisor<'_, '_> {
    /// Runs the server in its role.
    fn run(&mut self) -> Result<Ended, DatabaseError> {
        let note = self.desk.note()?;
        let place = &self.desk.settings.place;
        still::forget(place);
        drill_place::tidy(place, &self.desk.settings.root);
        if note.is_open {
            // An earlier supervisor was killed, and its server is ending.
            holder::kill(&note.data, self.desk.env(), LEAVE_LIMIT)?;
            self.desk.change(|note| note.is_open = false)?;
        }
        let log = match note.role {
            Role::Serve | Role::Hand if !self.goes_on => self.desk.log().ok(),
            _ => None,
        };
        match role::plan(&note, &self.desk.boot, log.as_ref(), self.goes_on) {
            Plan::None(reason) => self.wait(reason),
            Plan::Replica if note.role == Role::Serve && note.back.is_some() => {
                self.goes_on = true;
                self.go_back(&note).map(|()| Ended::Again)
            }
            Plan::Replica => {
                self.goes_on = true;
                replica::run(&mut self.desk)
            }
            Plan::Customers => {
                self.goes_on = true;
                serving::run(&mut self.desk)
            }
        }
    }

    /// Has a restored database take the place of the replica's data, as was ordered. No server runs.
    fn go_back(&mut self, note: &role::RoleNote) -> Result<(), DatabaseError> {
        let Some(back) = note.back.clone() else { return Ok(()) };
        back.carry_out(self.desk.settings)?;
        if let Some(made_by) = SeedNote::read(&self.desk.settings.root)? {
            self.desk.made_by = made_by;
        }
        self.desk.change(|note| {
            // A fence, or another order, may have come meanwhile.
            if note.back.as_ref() == Some(&back) {
                note.went_back(back.position.clone());
            }
        })?;
        Ok(())
    }

    fn failed(&mut self, error: &DatabaseError) {
        self.desk.fail(error);
        self.desk.ends += u32::from(matches!(error, DatabaseError::Start(_)));
        let crashing = (self.desk.ends >= ENDS_MAX).then_some(Trouble::Crashing);
        let now = self.desk.env().wall();
        self.desk.tell(Report {
            trouble: error.trouble().or(crashing),
            ..Report::of(State::Down, Some(error.to_string()), now)
        });
    }

    /// Waits for an order, without a server.
    fn wait(&mut self, reason: String) -> Result<Ended, DatabaseError> {
        let now = self.desk.env().wall();
        self.desk.tell(Report::of(State::Fenced, Some(reason), now));
        match self.desk.next(LOOK_EVERY) {
            None if self.desk.stops() => Ok(Ended::Stopped),
            None => Ok(Ended::Again),
            Some(asked) => self.take(asked),
        }
    }

    fn take(&mut self, asked: Asked) -> Result<Ended, DatabaseError> {
        let taken = match &asked.order.what {
            What::Follow => {
                self.desk.obey(&asked.order, |note| (note.role, note.back) = (Role::Follow, None))
            }
            What::Serve { .. } => self.serve(&asked),
            What::Hand => {
                Err(DatabaseError::Held("no server runs, so that there is nothing to hand over".into()))
            }
            What::Wait { .. } => Err(DatabaseError::Held("no server runs, so that nothing waits".into())),
            What::Hold { .. } | What::Release => {
                Err(DatabaseError::Held("no server runs, so that there is no replica to hold".into()))
            }
            What::Still { .. } => {
                Err(DatabaseError::Held("no server runs, so that there is no replica to copy".into()))
            }
            What::Acknowledge { on } => {
                let noted = self.desk.obey(&asked.order, |note| note.acks = *on);
                asked.answer(noted.map_or_else(|error| Answer::failed(&error), |_| Answer::done(None)));
                return Ok(Ended::Again);
            }
        };
        match taken {
            Ok(_) => {
                self.goes_on = true;
                self.desk.waiting.push_back(asked);
            }
            Err(error) => asked.answer(Answer::failed(&error)),
        }
        Ok(Ended::Again)
    }

    fn serve(&self, asked: &Asked) -> Result<role::RoleNote, DatabaseError> {
        let (note, given) = (self.desk.note()?, asked.order.epoch);
        let log = if given.is_none() { Some(self.desk.log()?) } else { None };
        let epoch = role::may_serve(&note, given, log.as_ref()).map_err(DatabaseError::Fenced)?;
        let boot = self.desk.boot.clone();
        let back = asked.order.back().filter(|back| !back.is_done(&note));
        back.map_or(Ok(()), |back| back.check())?;
        if let Some(back) = back {
            return self.desk.obey(&asked.order, |note| {
                (note.role, note.branch, note.back) = (Role::Serve, None, Some(Box::new(back.clone())));
                note.serve_in(epoch, boot);
            });
        }
        self.desk.obey(&asked.order, |note| {
            note.back = None;
            // What stopped being a replica goes on; any other one has to do that first.
            note.role = if note.branch.is_some() { Role::Serve } else { Role::Follow };
            note.serve_in(epoch, boot);
        })
    }
}
