//! A store's files on this host: the tree that is served, the last snapshot of a handover, and what a former
//! primary has to commit before it follows.

use super::around::Daemon;
use crate::api::run::RunReport;
use crate::failover::place::{Place, Tree};
use crate::failover::stranded::former::Changes;
use crate::failover::stranded::rejoin::{RejoinReport, rejoin};
use crate::model::id::{Sequence, WriterId};
use crate::model::role::Permission;
use crate::model::snapshot_ref::Moment;
use crate::mounts::mount;
use crate::replicate::resync::ResyncContext;
use crate::repository::decide::Maker;
use crate::repository::store::Store;
use crate::service::config::{StoreConfig, state_dir};
use crate::service::host::Host;
use crate::service::run::{follow_request, request};
use crate::source::disk::Disk;
use crate::standby::depot::Depot;
use crate::standby::follow::{self, follow};
use crate::support::durable;
use crate::support::env::Env;
use crate::support::progress::Progress;
use std::path::PathBuf;
use std::time::Duration;

/// Maximum time for a standby to have a snapshot before a handover to it, and the time between two looks.
const FOLLOW_LIMIT: Duration = Duration::from_secs(120);
const FOLLOW_LOOK: Duration = Duration::from_millis(250);

/// The files of one store on this host.
pub(crate) struct Files<'a> {
    pub daemon: &'a Daemon,
    pub host: &'a Host,
    pub config: &'a StoreConfig,
    pub store: &'a Store,
}

/// Returns the file that names the last promotion of another host whose former primary's files were dealt
/// with here.
fn rejoined_file(config: &StoreConfig) -> Option<PathBuf> {
    state_dir().ok().flatten().map(|dir| dir.join(format!("rejoined-{}", config.name)))
}

/// Notes that what only this host has was committed after that promotion.
///
/// # Errors
/// The file cannot be written; the tree is then compared again.
pub(crate) fn note_rejoined(env: &Env, config: &StoreConfig, promotion: Sequence) -> Result<(), String> {
    let Some(path) = rejoined_file(config) else { return Ok(()) };
    let written = durable::replace(env, &path, 0o600, promotion.to_string().as_bytes());
    written.map_err(|error| format!("{}: {error}", path.display()))
}

fn is_rejoined(config: &StoreConfig, promotion: Sequence) -> bool {
    let noted = rejoined_file(config).and_then(|path| std::fs::read_to_string(path).ok());
    noted.is_some_and(|text| text.trim() == promotion.to_string())
}

impl Files<'_> {
    fn depot(&self) -> Result<Depot, String> {
        let standby = self.host.standby(None).map_err(|error| error.to_string())?;
        Ok(Depot::new(&standby, &self.config.name))
    }

    fn place(&self, me: &WriterId) -> Result<Option<Place>, String> {
        let state = self.store.log().state().map_err(|error| error.to_string())?;
        Ok(Place::of_primary(&state, me))
    }

    /// Brings the tree that this host serves to the store's path.
    pub(crate) fn make_ready(&self, me: &WriterId) -> Result<(), String> {
        if self.config.path.as_os_str().is_empty() {
            return Ok(());
        }
        let place = self.place(me)?.ok_or("the log does not say that this host was promoted")?;
        let depot = self.depot()?;
        if let Place::Mounted { base, .. } = place {
            self.publish(&depot, base)?;
        }
        let tree = Tree { store: &self.config.name, path: &self.config.path, depot: &depot };
        tree.show(place).map_err(|error| error.to_string())
    }

    /// Returns whether the tree that this host serves is at the store's path already.
    pub(crate) fn is_ready(&self, me: &WriterId) -> Result<bool, String> {
        let Some(place) = self.place(me)? else { return Ok(false) };
        let depot = self.depot()?;
        let tree = Tree { store: &self.config.name, path: &self.config.path, depot: &depot };
        tree.is_shown(place).map_err(|error| error.to_string())
    }

    /// Publishes a snapshot here, unless it is.
    fn publish(&self, depot: &Depot, snapshot: Sequence) -> Result<(), String> {
        let at = Moment::At(snapshot);
        if mount::find(depot, &self.config.name, at).is_ok() {
            return Ok(());
        }
        let request = follow_request(self.host, at);
        let (progress, on_step) = (Progress::default(), |_| {});
        let observer = follow::Observer { progress: &progress, on_step: &on_step };
        follow(self.store, depot, &request, &observer).map(drop).map_err(|error| error.to_string())
    }

    /// Commits a snapshot of a handover: the one before, while customers are served, and then the last one of this
    /// host's reign.
    ///
    /// The tree is watched from the first one on, whatever is configured, so that the last one looks at what
    /// changed in between, and the store is closed for as long with a million files as with a thousand. What the
    /// kernel reports to no watch, such as a write through memory that stays mapped, the closed host's rejoin
    /// finds: it looks at everything.
    pub(crate) fn commit_for_handover(&self) -> Result<Sequence, String> {
        let role = Permission::Primary;
        let config = StoreConfig { role, hints: Some(true), ..self.config.clone() };
        match self.daemon.run_now(&config) {
            Ok(RunReport::Resync(report)) => Ok(report.snapshot),
            Ok(RunReport::Follow(_)) => Err("the store was followed instead".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until a standby says that it has a snapshot, or a later one.
    pub(crate) fn wait_for_standby(
        &self,
        host: &WriterId,
        snapshot: Sequence,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        let begun = self.host.env().stopwatch();
        loop {
            let reports = self.store.notes().standbys().map_err(|error| error.to_string())?;
            let has = reports.iter().find(|report| report.host == *host).map(|report| report.snapshot);
            if has >= Some(snapshot) {
                return Ok(());
            }
            if stop() {
                return Err("given up, since this host has to close".into());
            }
            if begun.elapsed() >= FOLLOW_LIMIT {
                let has = has.map_or("no snapshot".to_owned(), |has| format!("snapshot {has}"));
                let seconds = FOLLOW_LIMIT.as_secs();
                return Err(format!(
                    "'{host}' has {has}, and not {snapshot}, after {seconds} s; see whether it follows"
                ));
            }
            self.host.env().sleep(FOLLOW_LOOK);
        }
    }

    /// Fetches the snapshot of a handover to this host.
    pub(crate) fn fetch(&self, handover: Sequence) -> Result<(), String> {
        let state = self.store.log().state().map_err(|error| error.to_string())?;
        let underway = state.authority.handover.filter(|underway| underway.sequence == handover);
        let snapshot = underway.ok_or("the handover is not in progress any more")?.snapshot;
        let depot = self.depot()?;
        let is_here = || mount::find(&depot, &self.config.name, Moment::At(snapshot)).is_ok();
        if !is_here() {
            let config = StoreConfig { role: Permission::Standby, ..self.config.clone() };
            self.daemon.run_now(&config).map_err(|error| error.to_string())?;
        }
        is_here().then_some(()).ok_or_else(|| format!("snapshot {snapshot} is not published here yet"))
    }

    /// Commits what only this host has, if it was the primary and that was not done, and takes away its tree if
    /// that was a mount.
    pub(crate) fn rejoin(&self, maker: Maker) -> Result<Option<RejoinReport>, String> {
        let history = self.store.log().history().map_err(|error| error.to_string())?;
        let Some(replaced) = Changes::of(&history).replaced(maker.name).cloned() else { return Ok(None) };
        let place = Place::of(&history, maker.name);
        let (Some(place), false) = (place, is_rejoined(self.config, replaced.promotion)) else {
            return Ok(None);
        };
        if self.config.path.as_os_str().is_empty() {
            // It serves no files, so it has none to commit or to take away.
            note_rejoined(self.host.env(), self.config, replaced.promotion)?;
            return Ok(None);
        }
        let depot = self.depot()?;
        let tree = Tree { store: &self.config.name, path: &self.config.path, depot: &depot };
        let report = match !tree.exists(place) {
            true => None,
            false => {
                tree.show(place).map_err(|error| error.to_string())?;
                Some(self.commit_stranded(maker)?)
            }
        };
        tree.forget().map_err(|error| error.to_string())?;
        note_rejoined(self.host.env(), self.config, replaced.promotion)?;
        Ok(report)
    }

    fn commit_stranded(&self, maker: Maker) -> Result<RejoinReport, String> {
        let request = request(self.host, self.config, false);
        let (progress, tree) = (Progress::default(), Disk::new(self.host.env()));
        let around = ResyncContext { tree: &tree, progress: &progress, on_step: &|_| {} };
        let transient = &self.config.stranded.transient;
        rejoin(self.store, maker, &request, transient, &around).map_err(|error| error.to_string())
    }
}
