//! A drill of a failover, as the process with the keys makes it: its steps in their order, their times, and what is
//! left at its end.

use super::dry::World;
use super::place::SitePlace;
use super::report::{Form, SiteError, SiteReport, Step};
use super::root::GATE_DIR;
use super::services::{others, startable};
use super::sink::Seen;
use super::stage::Stage;
use super::task::{COMMAND, FILES, Files, Task, Told};
use super::trace::{Trace, processes, records_of};
use crate::database::drill::Drill;
use crate::database::drill_command::DrillCommand;
use crate::database::error::DatabaseError;
use crate::database::minimal::Place;
use crate::database::site_copy::{Copied, CopyTask, copy};
use crate::failover::guard::settings::{DatabaseSettings, GateSettings, Setup};
use crate::model::gtid::GtidPosition;
use crate::model::role::Permission;
use crate::mounts::mount::kernel_works;
use crate::service::config::StoreConfig;
use crate::standby::depot::Depot;
use crate::support::{kill_point, trusted};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ChildStdout;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// Interval between looks whether the drill is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Maximum time until nothing is left.
const TRACE_LIMIT: Duration = Duration::from_secs(10);

/// A drill that is to be made.
pub(crate) struct SiteDrill<'a> {
    world: World<'a>,
    depot: Depot,
    /// The store's path; none for a store without files.
    path: Option<PathBuf>,
    customers_wait: bool,
    stop: &'a dyn Fn() -> bool,
}

/// What was found in the namespaces.
#[derive(Default)]
struct Found {
    steps: Vec<Step>,
    not_shown: Vec<String>,
    namespace: String,
    seen: Seen,
}

/// Returns the gate's and the probes' ports: at them the shop listens itself.
fn own_ports(config: &StoreConfig) -> Vec<u16> {
    let gate = config.gate.iter().flat_map(|gate| {
        [gate.upstream.port(), gate.listen.port()].into_iter().chain(gate.ports.iter().copied())
    });
    gate.chain(config.drill.site.ports.iter().copied()).collect()
}

/// Returns the gate as it is in the namespaces: it has nothing that it could fence, and is told nothing by an edge.
fn gate_within(config: &StoreConfig) -> Option<Setup> {
    let gate =
        GateSettings { ports: Vec::new(), last_resort: Vec::new(), socket: None, ..config.gate.clone()? };
    Some(Setup {
        store: config.name.clone(),
        gate,
        services: Vec::new(),
        database: DatabaseSettings::default(),
        socket: Path::new(GATE_DIR).join("socket"),
        socket_is_default: false,
        edge_tells_epoch: false,
    })
}

impl<'a> SiteDrill<'a> {
    /// `stop` is asked often whether the drill is to end.
    pub fn new(
        world: World<'a>,
        depot: &Depot,
        customers_wait: bool,
        stop: &'a dyn Fn() -> bool,
    ) -> Result<Self, SiteError> {
        // The process in the namespaces works in another directory.
        let whole = |path: &Path| {
            let path = path.to_owned();
            std::path::absolute(&path).map_err(|source| SiteError::Directory { path, source })
        };
        let depot = Depot::at(&whole(depot.root())?);
        let path = &world.config.path;
        let path = if path.as_os_str().is_empty() { None } else { Some(whole(path)?) };
        Ok(Self { world, depot, path, customers_wait, stop })
    }

    fn config(&self) -> &StoreConfig {
        self.world.config
    }

    /// Makes the drill.
    pub fn run(&self) -> Result<SiteReport, SiteError> {
        let env = self.world.host.env();
        let (begun, me) = (env.stopwatch(), self.world.host.writer());
        let state = self.world.store.log().state()?;
        let is_primary = match &state.primary {
            Some(primary) => *primary == me,
            // Before a store has members, its log need not say so.
            None => self.config().role == Permission::Primary,
        };
        if is_primary {
            return Err(SiteError::Impossible("this host is the store's primary; drill on a standby".into()));
        }
        if !rustix::process::geteuid().is_root() {
            return Err(SiteError::Impossible("namespaces and mounts need root".into()));
        }
        if self.path.is_some() {
            kernel_works().map_err(|error| SiteError::Impossible(error.to_string()))?;
        }
        let place = SitePlace::take(&self.depot)?;
        kill_point::reached("site: place taken");
        let replica = self.replica()?;
        let before = Trace::take(&self.world, &state, replica.as_ref().map(|(place, _)| place), &me)?;
        let done = self.perform(&place, replica.as_ref());
        let stopped = self.is_stopped(&place);
        place.remove()?;
        if let Some(stopped) = stopped {
            return Err(stopped);
        }
        let (found, mut report) = done?;
        let waited = env.stopwatch();
        loop {
            let left = self.left(&before, replica.as_ref().map(|(place, _)| place), &found.namespace)?;
            if left.is_empty() {
                break;
            }
            // A replica's supervisor looks every second or two.
            if waited.elapsed() >= TRACE_LIMIT {
                return Err(SiteError::Trace(left.join("; ")));
            }
            env.sleep(LOOK_EVERY);
        }
        report.seconds = begun.seconds();
        Ok(report)
    }

    /// Returns what this drill left.
    fn left(
        &self,
        before: &Trace,
        replica: Option<&Place>,
        namespace: &str,
    ) -> Result<Vec<String>, SiteError> {
        let me = self.world.host.writer();
        let state = self.world.store.log().state()?;
        let after = Trace::take(&self.world, &state, replica, &me)?;
        let mut known = records_of(&self.world, before, &state, &me)?;
        let running = processes(namespace);
        known.extend((!running.is_empty()).then(|| format!("processes: {running:?}")));
        let own: Vec<PathBuf> = self.path.iter().cloned().chain([self.depot.root().to_owned()]).collect();
        Ok(before.left(&after, &own, &known))
    }

    /// Returns why the drill is to end; none while it is not.
    fn is_stopped(&self, place: &SitePlace) -> Option<SiteError> {
        match ((self.stop)(), place.gives_way()) {
            (true, _) => Some(SiteError::Stopped),
            (false, true) => Some(SiteError::GaveWay),
            (false, false) => None,
        }
    }

    /// Returns where the replica is that understudy promotes; none where it does not run the database.
    fn replica(&self) -> Result<Option<(Place, PathBuf)>, SiteError> {
        let config = self.config();
        let database = &config.database;
        let place = config.database_place().map_err(|error| SiteError::Impossible(error.to_string()))?;
        let is_own = database.serve.is_some() && database.promote.is_empty();
        Ok(place.zip(database.datadir.clone()).filter(|_| is_own))
    }

    fn perform(
        &self,
        place: &SitePlace,
        replica: Option<&(Place, PathBuf)>,
    ) -> Result<(Found, SiteReport), SiteError> {
        let mut not_proven: Vec<String> = self.not_proven(replica.is_some()).collect();
        let files = match &self.path {
            Some(path) => Some(self.files(place, path)?),
            None => None,
        };
        let copied = replica.map(|replica| self.copy(place, replica)).transpose()?;
        kill_point::reached("site: database copied");
        let mut steps = self.world.before(&mut not_proven)?;
        kill_point::reached("site: dry steps");
        let (copied, database) = copied.unzip();
        let snapshot = files.as_ref().map(|files| files.snapshot);
        let position = database.as_ref().map(|database| database.applied().clone());
        let found = self.on_stage(place, self.task(place, files, database));
        let still_seconds = copied.as_ref().map(|copied| copied.still_seconds);
        // All that had it open has ended.
        let removed = copied.map_or(Ok(()), Copied::remove);
        let found = found?;
        removed.map_err(SiteError::Copy)?;
        kill_point::reached("site: stage gone");
        steps.extend(found.steps.iter().cloned());
        steps.extend(self.world.after()?);
        not_proven.extend(found.not_shown.iter().map(|how| format!("not shown in the drill: {how}")));
        let report = self.report(snapshot, position, steps, (still_seconds, not_proven, found.seen.clone()));
        Ok((found, report))
    }

    /// Keeps the newest snapshot, for the store's path, if that could be mounted on in a failover.
    fn files(&self, place: &SitePlace, path: &Path) -> Result<Files, SiteError> {
        trusted::look_at_way(path).map_err(|error| SiteError::Step {
            step: FILES.into(),
            how: format!("{}: {error}", path.display()),
        })?;
        let snapshot = place.pin(&self.config().name)?;
        Ok(Files { depot: self.depot.root().to_owned(), snapshot, path: path.to_owned() })
    }

    fn report(
        &self,
        snapshot: Option<crate::model::id::Sequence>,
        position: Option<GtidPosition>,
        steps: Vec<Step>,
        (still_seconds, not_proven, seen): (Option<f64>, Vec<String>, Seen),
    ) -> SiteReport {
        let counted = steps.iter().filter(|step| step.form != Form::Check);
        SiteReport {
            store: self.config().name.clone(),
            snapshot,
            position,
            recovery_seconds: counted.map(|step| step.seconds).sum(),
            steps,
            still_seconds,
            seen,
            not_proven,
            seconds: 0.0,
        }
    }

    /// Returns what this drill cannot prove, by the configuration.
    fn not_proven(&self, has_replica: bool) -> impl Iterator<Item = String> {
        let config = self.config();
        let site = &config.drill.site;
        let names: Vec<&str> =
            if site.services.is_empty() { others(&config.service).collect() } else { Vec::new() };
        let services = (!names.is_empty()).then(|| {
            format!(
                "services {}: they are started outside of a drill; give `services` in [store.drill.site]",
                names.join(", ")
            )
        });
        let has_database = !config.database.promote.is_empty() || config.database.datadir.is_some();
        let database = (has_database && !has_replica)
            .then(|| "the database: understudy does not run its server for customers".to_owned());
        let probes = (config.probe.is_empty() && site.command.is_empty()).then(|| {
            "that it serves: there is no [[store.probe]], and no `command` in [store.drill.site]".to_owned()
        });
        services.into_iter().chain(database).chain(probes)
    }

    fn copy(
        &self,
        place: &SitePlace,
        (supervisor, root): &(Place, PathBuf),
    ) -> Result<(Copied, CopyTask), SiteError> {
        let config = self.config();
        let stop = || self.is_stopped(place).is_some();
        let drill = Drill {
            store: config.name.as_str(),
            supervisor,
            root,
            memory_mib: 0,
            queries: &[],
            command: &DrillCommand::default(),
            query_limit: None,
            at: None,
            table_time: None,
            customers_wait: self.customers_wait || config.database.drill.customers_wait,
            env: self.world.host.env(),
            stop: &stop,
            on_step: &|step| kill_point::reached(format!("site: {step}")),
        };
        let customers = config.database.customers().unwrap_or_default();
        copy(&drill, &customers).map_err(|error| match error {
            DatabaseError::Stopped => SiteError::Stopped,
            error => SiteError::Copy(error),
        })
    }

    fn task(&self, place: &SitePlace, files: Option<Files>, database: Option<CopyTask>) -> Task {
        let config = self.config();
        let site = &config.drill.site;
        let services = if site.services.is_empty() { startable(&config.service) } else { Vec::new() };
        Task {
            store: config.name.clone(),
            host: self.world.host.writer(),
            place: place.changes(),
            memory_bytes: site.memory_bytes(),
            files,
            database,
            services,
            foreground: site.services.clone(),
            gate: gate_within(config),
            probes: config.probe.clone(),
            command: site.command.clone(),
            user: site.user.clone(),
            environment: site.environment.clone(),
            limit: site.limit(),
            ports: own_ports(config),
        }
    }

    /// Has a task done in namespaces of their own, and ends them.
    fn on_stage(&self, place: &SitePlace, task: Task) -> Result<Found, SiteError> {
        let failed =
            |error: std::io::Error| SiteError::Step { step: "namespaces".into(), how: error.to_string() };
        let probes =
            task.probes.iter().flat_map(crate::failover::watch::settings::ProbeSettings::environment);
        let services = task.services.iter().flat_map(|service| &service.environment);
        let variables: Vec<String> = task.environment.iter().chain(services).chain(probes).cloned().collect();
        let (mut stage, stdout) = Stage::start(variables.iter()).map_err(failed)?;
        let mut line = serde_json::to_vec(&task).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        let said = stage.leash.as_mut().map_or(Ok(()), |leash| leash.write_all(&line));
        let found = said.map_err(failed).and_then(|()| self.listen(place, stdout));
        match stage.end(self.world.host.env()) {
            true => found,
            // The next one would meet what this one holds.
            false => found.and(Err(SiteError::Trace("its processes do not end".into()))),
        }
    }

    /// Hears what is said on the stage, until all is done.
    fn listen(&self, place: &SitePlace, stdout: ChildStdout) -> Result<Found, SiteError> {
        let told = lines(stdout);
        let mut found = Found::default();
        loop {
            if let Some(stopped) = self.is_stopped(place) {
                return Err(stopped);
            }
            match told.recv_timeout(LOOK_EVERY) {
                Ok(Told::Within(namespace)) => {
                    found.namespace = namespace;
                    kill_point::reached("site: namespaces");
                }
                Ok(Told::NotShown(how)) => found.not_shown.push(how),
                Ok(Told::Did { step, seconds }) => {
                    kill_point::reached(format!("site: {step}"));
                    let form = if step == COMMAND { Form::Check } else { Form::Done };
                    found.steps.push(Step { step, form, seconds });
                }
                Ok(Told::Failed { step, how, .. }) => return Err(SiteError::Step { step, how }),
                Ok(Told::Ended(seen)) => return Ok(Found { seen, ..found }),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let how =
                        "the process in it ended; drill again, and see whether this host has memory left";
                    return Err(SiteError::Step { step: "namespaces".into(), how: how.into() });
                }
            }
        }
    }
}

/// Reads lines on a thread of its own, which ends with the pipe.
fn lines(stdout: ChildStdout) -> Receiver<Told> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let Ok(told) = serde_json::from_str(&line) else { return };
            if sender.send(told).is_err() {
                return;
            }
        }
    });
    receiver
}
