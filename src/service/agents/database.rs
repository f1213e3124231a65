//! A store's database on this host, as an agent directs it: by the commands that are configured, or, where
//! understudy runs the server, by its own.
//!
//! A command is told the epoch, and what a fence is for. What it prints last may be a line `position 1-11-4711`:
//! the last transaction of a fence for a handover, or what a promoted server had applied.
//!
//! Nothing is waited for that a broken database would never do: a server that diverged follows nobody and is
//! named by `database status`, while the store's files go on.

use crate::database::decide::State;
use crate::database::minimal::Place;
use crate::database::report::{Report, STALE};
use crate::database::restored::GoBack;
use crate::database::role_file;
use crate::model::gtid::GtidPosition;
use crate::model::id::Epoch;
use crate::model::plan::PlanName;
use crate::service::config::{StoreConfig, own_command};
use crate::support::child::THIS;
use crate::support::configured::Configured;
use crate::support::env::Env;
use std::path::Path;
use std::time::Duration;

/// Age up to which a supervisor's report says what is so.
const RECENT: Duration = Duration::from_secs(6);

/// What a fence is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FenceFor {
    /// A handover: the database refuses writes, and hands out what it has.
    Handover,
    /// Whatever it takes, at once.
    Closing,
}

impl FenceFor {
    fn name(self) -> &'static str {
        match self {
            Self::Handover => "planned",
            Self::Closing => "now",
        }
    }
}

/// The database of one store on this host.
pub(crate) struct Database<'a> {
    pub config: &'a StoreConfig,
    pub env: &'a Env,
}

impl Database<'_> {
    /// Returns whether anything makes this host's database take writes.
    pub(crate) fn is_directed(&self) -> bool {
        self.config.database_commands().is_ok_and(|commands| !commands.promote.is_empty())
    }

    /// Returns the place of the server's supervisor; none where the database is not run by understudy.
    fn supervised(&self) -> Option<Place> {
        let database = &self.config.database;
        let is_own = database.serve.is_some() && database.promote.is_empty();
        self.config.database_place().ok().flatten().filter(|_| is_own)
    }

    pub(crate) fn fence(&self, epoch: Epoch, why: FenceFor) -> Result<Option<GtidPosition>, String> {
        let fence = self.config.database_commands().map_err(|error| error.to_string())?.fence;
        let why = ("UNDERSTUDY_FENCE", why.name().to_owned());
        self.run("the database's fence", &fence, epoch, vec![why]).map(|printed| position(&printed))
    }

    pub(crate) fn promote(&self, epoch: Epoch) -> Result<Option<GtidPosition>, String> {
        let promote = self.config.database_commands().map_err(|error| error.to_string())?.promote;
        self.run("promoting the database", &promote, epoch, Vec::new()).map(|printed| position(&printed))
    }

    /// Has a restored database take the place of the replica's, and take writes.
    pub(crate) fn go_back(&self, epoch: Epoch, back: &GoBack) -> Result<Option<GtidPosition>, String> {
        let place = self.supervised().ok_or("understudy does not run the database of this host")?;
        let mut command = own_command("promote", &self.config.name, &place);
        let shown = |path: &Path| path.display().to_string();
        command.extend([
            "--restored".to_owned(),
            shown(&back.restored),
            "--aside".to_owned(),
            shown(&back.aside),
        ]);
        command.extend(["--restore".to_owned(), format!("{}@{}", back.id, back.position)]);
        self.run("bringing the database back", &command, epoch, Vec::new()).map(|printed| position(&printed))
    }

    pub(crate) fn demote(&self, epoch: Epoch) -> Result<(), String> {
        let demote = self.config.database_commands().map_err(|error| error.to_string())?.demote;
        self.run("demoting the database", &demote, epoch, Vec::new()).map(drop)
    }

    /// Waits until this host's server has applied a position, where understudy runs it.
    pub(crate) fn reach(&self, epoch: Epoch, wanted: &GtidPosition) -> Result<(), String> {
        let Some(place) = self.supervised() else { return Ok(()) };
        let mut command = own_command("wait", &self.config.name, &place);
        command.push(wanted.to_string());
        self.run("the transactions of a handover", &command, epoch, Vec::new()).map(drop)
    }

    /// Returns the place of the server's supervisor, where transactions are acknowledged by a standby.
    fn semi_sync(&self) -> Option<Place> {
        let is_on = self.config.database.semi_sync.unwrap_or(self.config.plan != PlanName::Standard);
        self.supervised().filter(|_| is_on)
    }

    pub(crate) fn has_semi_sync(&self) -> bool {
        self.semi_sync().is_some()
    }

    /// Has this host's replica acknowledge what it receives, or not any more.
    pub(crate) fn acknowledge(&self, epoch: Epoch, on: bool) -> Result<(), String> {
        // One that was told to before acknowledges, whatever is configured by now.
        let place = if on { self.semi_sync() } else { self.supervised() };
        let Some(place) = place else { return Ok(()) };
        let acknowledges = role_file::read(&place).map_or(true, |note| note.acks);
        let is_done = if on { acknowledges } else { !acknowledges && !self.has_semi_sync() };
        if is_done || !place.dir.exists() {
            return Ok(());
        }
        self.switch("acks", &place, epoch, on).map(drop)
    }

    /// Has the primary's server wait for a standby, or for nobody. Returns what was committed until then.
    pub(crate) fn wait_for_standby(&self, epoch: Epoch, on: bool) -> Result<Option<GtidPosition>, String> {
        let place = if on { self.semi_sync() } else { self.supervised() };
        match place {
            Some(place) => self.switch("semi-sync", &place, epoch, on).map(|printed| position(&printed)),
            // The log has a standby that this configuration leaves out: it is taken out of the set.
            None => Ok(None),
        }
    }

    fn switch(&self, verb: &str, place: &Place, epoch: Epoch, on: bool) -> Result<String, String> {
        let mut command = own_command(verb, &self.config.name, place);
        command.push(if on { "on" } else { "off" }.to_owned());
        self.run("semi-synchronous replication", &command, epoch, Vec::new())
    }

    /// Returns what the supervisor of this host's server saw in the last seconds, where a standby acknowledges.
    pub(crate) fn acks(&self) -> Option<Report> {
        let now = self.env.wall();
        Report::read(&self.semi_sync()?).filter(|report| now.since(report.at) < RECENT)
    }

    /// Returns why this host's replica does not acknowledge, or has not received all up to a position.
    pub(crate) fn has_received(&self, wanted: &GtidPosition) -> Result<(), String> {
        let report =
            self.acks().ok_or("its replica of the database does not run, or acknowledges nothing")?;
        if report.acks.is_none_or(|acks| acks.acknowledging == 0) {
            return Err("its replica of the database acknowledges nothing".into());
        }
        match report.received.covers(wanted) || report.applied.covers(wanted) {
            true => Ok(()),
            false => Err(format!("its replica has received {}, and not {wanted}", report.received)),
        }
    }

    /// Returns why this host's server could not take over; it takes writes, or is sound, otherwise.
    pub(crate) fn is_fit(&self) -> Result<(), String> {
        let (Some(place), name) = (self.supervised(), &self.config.name) else { return Ok(()) };
        let report = Report::read(&place).filter(|report| report.is_fresh(self.env.wall()));
        let Some(report) = report else {
            return Err(format!(
                "nobody runs the database's server on this host; start: understudy database run {name}"
            ));
        };
        let accepts_loss = role_file::read(&place).is_ok_and(|note| note.accepts_loss);
        match (report.state, report.trouble) {
            (State::Broken, Some(trouble)) if !accepts_loss => Err(format!(
                "its replica of the database is broken ({}); mend it (understudy database status {name}), or take it as it is: understudy database promote {name} --accept-loss",
                trouble.name(),
            )),
            (State::Down, _) => Err(format!(
                "the database's server does not run on this host: {}",
                report.error.unwrap_or_default()
            )),
            _ => Ok(()),
        }
    }

    /// Returns whether this host's server takes writes, as far as understudy runs it.
    pub(crate) fn serves(&self) -> bool {
        self.serves_by_report(STALE)
    }

    /// Returns by how much this host's replica is behind; none where that is not known, or there is none.
    pub(crate) fn lag(&self) -> Option<Duration> {
        let report = Report::read(&self.supervised()?).filter(|report| report.is_fresh(self.env.wall()))?;
        Duration::try_from_secs_f64(report.lag_seconds?).ok()
    }

    /// As [`Self::serves`], by a report of the last seconds.
    pub(crate) fn serves_now(&self) -> bool {
        self.serves_by_report(RECENT)
    }

    fn serves_by_report(&self, max_age: Duration) -> bool {
        let now = self.env.wall();
        let is_serving = |report: Report| report.state == State::Serving && now.since(report.at) < max_age;
        self.supervised().is_none_or(|place| Report::read(&place).is_some_and(is_serving))
    }

    fn run(
        &self,
        what: &'static str,
        command: &[String],
        epoch: Epoch,
        variables: Vec<(&'static str, String)>,
    ) -> Result<String, String> {
        let database = &self.config.database;
        let configured = Configured {
            what,
            command,
            user: database.user.as_deref(),
            environment: &database.environment,
            timeout_seconds: database.timeout_seconds,
        };
        let usual =
            [("UNDERSTUDY_STORE", self.config.name.to_string()), ("UNDERSTUDY_EPOCH", epoch.0.to_string())];
        configured.run(self.env, Path::new(THIS), usual.into_iter().chain(variables).collect())
    }
}

/// Returns the position that a command printed in its last line.
fn position(printed: &str) -> Option<GtidPosition> {
    printed.lines().last()?.strip_prefix("position ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_what_the_last_line_says() {
        let of = |text: &str| position(text).map(|position| position.to_string());
        assert_eq!(of("done\nposition 1-11-4711,2-3-4\n"), Some("1-11-4711,2-3-4".into()));
        for none in ["", "position 1-11-4711\ndone\n", "position\n", "position x\n", "at 1-11-4711"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
