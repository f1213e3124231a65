//! The read-only instance of a hot standby: the store's newest snapshot, mounted at a path of its own, and
//! services that read it (a web server for reports).
//!
//! It exists only while this host stands by: once it is to become the primary, or has lost touch with its
//! role, the instance's services stop and its mount goes away. It is never part of a failover: nothing waits
//! for it, and what fails of it is reported and tried again. What can race: the daemon ends and leaves it as it
//! is; the next daemon goes on with the mount and the services that it finds.

use super::around::Daemon;
use super::parts::HostParts;
use crate::failover::agent::run::Agent;
use crate::failover::decide::view::Phase;
use crate::failover::services::attend::{Manner, Services};
use crate::failover::services::kind::Standing;
use crate::failover::services::order::Part;
use crate::model::id::Sequence;
use crate::model::snapshot_ref::Moment;
use crate::mounts::live::{Live, Swap, move_on};
use crate::mounts::mount::{self, MountOptions};
use crate::mounts::unmount::unmount;
use crate::service::config::ReplicaConfig;
use crate::standby::depot::Depot;
use crate::support::child::THIS;
use crate::support::clock::BootNanos;
use crate::support::trusted;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Time between two looks at whether the services still run.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// The read-only instance of one store.
struct Replica {
    daemon: Daemon,
    parts: Arc<HostParts>,
    shown: Option<Sequence>,
    /// When its services were last seen to run.
    seen: Option<BootNanos>,
    /// Whether it may still be there, from an earlier process too.
    may_be_there: bool,
}

/// Keeps the instance as long as the agent lives, on a thread of its own.
pub(crate) fn keep(daemon: &Daemon, agent: Weak<Agent>, parts: Arc<HostParts>) {
    let daemon = daemon.clone();
    std::thread::spawn(move || {
        let mut replica = Replica { daemon, parts, shown: None, seen: None, may_be_there: true };
        while let Some(agent) = agent.upgrade() {
            let stands_by = agent.view().phase == Phase::Standby;
            drop(agent);
            replica.look(stands_by);
            replica.parts.store.env().sleep(LOOK_EVERY);
        }
    });
}

impl Replica {
    fn look(&mut self, stands_by: bool) {
        let config = self.daemon.host().config.store(self.parts.name.as_str()).cloned();
        let Some(replica) = config.and_then(|config| config.replica) else { return };
        let done = match stands_by {
            true => self.show(&replica),
            false if self.may_be_there => self.remove(&replica),
            false => Ok(()),
        };
        let snapshot = self.shown;
        self.parts.note_replica(done.map(|()| snapshot));
    }

    fn services<'a>(&'a self, replica: &'a ReplicaConfig, stop: &'a dyn Fn() -> bool) -> Services<'a> {
        let (store, env) = (&self.parts.name, self.parts.store.env());
        Services { store, list: &replica.service, this: Path::new(THIS), env, stop }
    }

    /// Shows the newest snapshot, and starts the services unless they run.
    fn show(&mut self, replica: &ReplicaConfig) -> Result<(), String> {
        let standby = self.daemon.host().standby(None).map_err(|error| error.to_string())?;
        let depot = Depot::new(&standby, &self.parts.name);
        let wrong = |error: crate::mounts::error::StageError| error.to_string();
        let latest = mount::find(&depot, &self.parts.name, Moment::Latest).map_err(wrong)?;
        self.may_be_there = true;
        if self.shown != Some(latest) {
            trusted::look_at_way(&replica.path)
                .and_then(|()| std::fs::create_dir_all(&replica.path))
                .map_err(|error| format!("{}: {error}", replica.path.display()))?;
            let mut live = Live::new(&replica.path, Swap::Beneath, &self.parts.name).map_err(wrong)?;
            let before = move_on(&depot, &self.parts.name, latest, &mut live, &MountOptions::default());
            self.shown = Some(latest);
            if let Some(before) = before.map_err(wrong)? {
                before.retire(self.parts.store.env(), &standby).map_err(wrong)?;
            }
        }
        let now = self.parts.store.env().boot();
        if self.seen.is_none_or(|seen| now >= seen.plus(ASK_EVERY)) {
            let services = self.services(replica, &|| false);
            if !services.standings().iter().all(|(_, standing)| *standing == Standing::Running) {
                services.start(Part::Serving).map_err(|error| error.to_string())?;
            }
            self.seen = Some(now);
        }
        Ok(())
    }

    fn remove(&mut self, replica: &ReplicaConfig) -> Result<(), String> {
        let failed = self.services(replica, &|| false).stop(Part::Serving, Manner::Orderly);
        (self.seen, self.shown) = (None, None);
        if let Some(error) = failed.first() {
            return Err(error.to_string());
        }
        let standby = self.daemon.host().standby(None).map_err(|error| error.to_string())?;
        // There may be none.
        let is_there = crate::mounts::table::is_mounted(&replica.path).map_err(|error| error.to_string())?;
        if is_there {
            unmount(&standby, &replica.path, true).map_err(|error| error.to_string())?;
        }
        self.may_be_there = false;
        Ok(())
    }
}
