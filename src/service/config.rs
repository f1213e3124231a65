//! `understudy.toml`: strict, with errors that name the nearest valid key.

use super::database::DatabaseConfig;
use super::notify::settings::{self as notify_settings, NotifySettings};
use super::panel::settings::PanelSettings;
use super::schedule::Schedule;
use super::site::settings::SiteDrillConfig;
use crate::database::minimal::Place;
use crate::edge::address::Address;
use crate::edge::config::EdgeConfig;
use crate::edge::customer::CustomerUrl;
use crate::failover::guard::settings::{DatabaseSettings, GateSettings, Setup};
use crate::failover::services::settings::{self, ServiceSettings};
use crate::failover::watch::settings::{ProbeSettings, WatchSettings};
use crate::model::id::StoreName;
use crate::model::plan::{PlanName, Upkeep};
use crate::model::retention::Retention;
use crate::model::role::Permission;
use crate::repository::key_source::Encryption;
use crate::support::child::{self, THIS};
use crate::support::failure::{Failure, FailureKind};
use crate::support::trusted;
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// The commented sample that `understudy init` writes.
pub const SAMPLE: &str = include_str!("../../understudy.sample.toml");
pub(crate) const FILE_NAME: &str = "understudy.toml";
/// Value of an address or a path that disables it.
pub(crate) const OFF: &str = "off";
/// Default time for which a trouble must be gone before its end is told.
const ALL_CLEAR_SECONDS: u64 = 60;
/// Default address at which HTTP requests are answered.
const LISTEN: &str = "127.0.0.1:9184";

/// The reason why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {message}", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("{}: two stores are named '{name}'; rename one of them", path.display())]
    Duplicate { path: PathBuf, name: StoreName },
    #[error(
        "{source}; this configuration was found in the current directory: name the right one with --config"
    )]
    Found { source: std::io::Error },
    #[error("{}: the file contains no passphrase; write one to it, or remove `passphrase_file`", .0.display())]
    EmptyPassphrase(PathBuf),
    #[error("{}: {variable} is not an absolute path, and nothing is kept relative to the current directory; set it to an absolute path", path.display())]
    NotAbsolute { variable: &'static str, path: PathBuf },
}

impl Failure for ConfigError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// The content of `understudy.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub repository: Option<String>,
    pub writer: Option<String>,
    pub cache: Option<PathBuf>,
    /// Whether new stores are encrypted.
    #[serde(default)]
    pub encryption: Encryption,
    /// File with the key of the stores, as age writes it.
    pub key_file: Option<PathBuf>,
    /// File with a passphrase, instead of a key file.
    pub passphrase_file: Option<PathBuf>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub standby: StandbyConfig,
    #[serde(default)]
    pub service: ServiceConfig,
    #[serde(default)]
    pub panel: PanelSettings,
    #[serde(default)]
    pub store: Vec<StoreConfig>,
    /// Who is told when something of a store is wrong, or of its runs.
    #[serde(default)]
    pub notify: Vec<NotifySettings>,
    /// The directory that the configuration was read from; relative paths start there.
    #[serde(skip)]
    pub origin: Option<PathBuf>,
    /// Whether the file was found in the current directory, without being named by the user.
    #[serde(skip)]
    pub is_found: bool,
}

/// Limits on the resources of a run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes per second: a number, or a text with KiB, MiB, GiB, KB, MB or GB.
    #[serde(default, deserialize_with = "bytes")]
    pub bandwidth: Option<u64>,
    pub threads: Option<usize>,
    #[serde(default, deserialize_with = "level")]
    pub compression_level: Option<i32>,
    /// Maximum number of bytes of holes that a run hashes.
    #[serde(default, deserialize_with = "bytes")]
    pub holes: Option<u64>,
}

/// Settings for the stores that this host follows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StandbyConfig {
    pub path: Option<PathBuf>,
    pub keep: Option<u32>,
}

/// Settings of the daemon.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceConfig {
    /// Address at which HTTP requests are answered; `off` disables it.
    pub listen: Option<String>,
    /// File with the token that a request at the port must show.
    pub token_file: Option<PathBuf>,
    /// Names that a request at the port may give as its host, in addition to the daemon's addresses.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Socket at which this host's own commands reach the daemon; `off` disables it.
    pub socket: Option<PathBuf>,
    /// File with a line for each request that changes something or reads content.
    pub audit_file: Option<PathBuf>,
    /// Maximum number of stores that run at the same time.
    pub stores_at_once: Option<usize>,
    /// Seconds between a standby's looks at the repository.
    pub look_seconds: Option<u64>,
    /// Seconds between looks at what upkeep is due.
    pub upkeep_seconds: Option<u64>,
    /// Seconds for which a trouble must be gone before its end is told.
    pub all_clear_seconds: Option<u64>,
}

impl ServiceConfig {
    /// Returns the address at which HTTP requests are answered, or [`OFF`].
    pub(crate) fn listen(&self) -> &str {
        self.listen.as_deref().unwrap_or(LISTEN)
    }

    /// Returns the time for which a trouble must be gone before its end is told.
    pub(crate) fn all_clear(&self) -> Duration {
        Duration::from_secs(self.all_clear_seconds.unwrap_or(ALL_CLEAR_SECONDS))
    }
}

/// Commands around a scan: a program and its arguments, run without a shell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// Command that runs before anything is read; if it fails, nothing is read.
    #[serde(default)]
    pub before: Vec<String>,
    /// Command that runs after the scan, also when the scan failed.
    #[serde(default)]
    pub after: Vec<String>,
    /// Maximum run time of each command in seconds; it is ended after that.
    pub timeout_seconds: Option<u64>,
    /// User that the commands run as; default: the user of this process.
    pub user: Option<String>,
    /// Names of this process's variables that are handed on to the commands.
    #[serde(default)]
    pub environment: Vec<String>,
}

/// One store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    pub name: StoreName,
    /// Root of the tree; a standby needs none.
    #[serde(default)]
    pub path: PathBuf,
    /// The role that this host may have; the log says which one it has.
    #[serde(default)]
    pub role: Permission,
    #[serde(default)]
    pub plan: PlanName,
    /// Overrides the plan's schedule.
    pub schedule: Option<String>,
    /// Whether the tree is watched, so that runs scan only what changed. Default: only under the Continuous
    /// plan.
    pub hints: Option<bool>,
    pub repository: Option<String>,
    /// Overrides the configuration's encryption.
    pub encryption: Option<Encryption>,
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Whether filesystems that are mounted below the root are left out.
    #[serde(default)]
    pub one_filesystem: bool,
    #[serde(default)]
    pub hooks: Hooks,
    /// Overrides the plan's retention.
    pub retention: Option<Retention>,
    /// Overrides the plan's upkeep.
    pub upkeep: Option<Upkeep>,
    #[serde(default)]
    pub drill: DrillConfig,
    /// With it this host takes part in the store's failover: its daemon serves the store, or stands by.
    pub member: Option<MemberConfig>,
    /// The read-only instance that this host has while it stands by.
    pub replica: Option<ReplicaConfig>,
    /// What stops another host that may still serve.
    #[serde(default)]
    pub fence: FenceConfig,
    #[serde(default)]
    pub stranded: StrandedConfig,
    /// Services of the store on this host, in their order of start.
    #[serde(default)]
    pub service: Vec<ServiceSettings>,
    /// Gate in front of the store's web server on this host.
    pub gate: Option<GateSettings>,
    #[serde(default)]
    pub database: DatabaseConfig,
    /// Address at which the customers reach the store.
    pub customer_url: Option<CustomerUrl>,
    /// What sends the customers to the primary.
    #[serde(default)]
    pub edge: Vec<EdgeConfig>,
    /// What must answer on this host while it is the primary.
    #[serde(default)]
    pub probe: Vec<ProbeSettings>,
    /// How this host watches the primary.
    #[serde(default)]
    pub watch: WatchSettings,
}

/// What this host tells the other members of a store about itself when it joins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// Where its daemon answers other members: a host and a port.
    pub address: Option<String>,
    /// Where an edge, or another member's gate, reaches this host's gate.
    pub customers: Option<Address>,
    /// Where standbys reach its database's server: a host and a port.
    pub database: Option<Address>,
    /// Its zone: hosts of one zone may fail together.
    pub zone: Option<String>,
}

/// The read-only instance of a hot standby.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaConfig {
    /// Where the newest snapshot is mounted, read-only.
    pub path: PathBuf,
    /// Where its services answer, for whoever asks the API.
    pub address: Option<String>,
    /// Services of its own.
    #[serde(default)]
    pub service: Vec<ServiceSettings>,
}

/// The command that stops another host of a store: by a cloud's API, or a power switch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceConfig {
    /// Command that succeeds once the host in its environment is down.
    #[serde(default)]
    pub command: Vec<String>,
    /// Maximum run time of the command in seconds; it is ended after that.
    pub timeout_seconds: Option<u64>,
    /// User that the command runs as; default: the user of this process.
    pub user: Option<String>,
    /// Names of this process's variables that are handed on to the command.
    #[serde(default)]
    pub environment: Vec<String>,
}

/// How the paths are classed that only a former primary has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StrandedConfig {
    /// Patterns of what is made again: caches, sessions, generated code.
    pub transient: Vec<String>,
}

impl Default for StrandedConfig {
    /// Returns the places of a Magento store.
    fn default() -> Self {
        let transient = [
            "var/cache/",
            "var/page_cache/",
            "var/session/",
            "var/tmp/",
            "var/view_preprocessed/",
            "generated/",
            "pub/static/",
        ];
        Self { transient: transient.map(String::from).to_vec() }
    }
}

/// Settings of a store's drills.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillConfig {
    /// Command that runs in the mounted snapshot, without a shell, and must succeed.
    #[serde(default)]
    pub command: Vec<String>,
    /// Percentage of the files that are read; default: all.
    pub read_percent: Option<u8>,
    /// Maximum run time of the command in seconds; it is ended after that.
    pub timeout_seconds: Option<u64>,
    /// User that the command runs as; default: `nobody`.
    pub user: Option<String>,
    /// Names of this process's variables that are handed on to the command.
    #[serde(default)]
    pub environment: Vec<String>,
    /// How a failover is drilled.
    #[serde(default)]
    pub site: SiteDrillConfig,
}

impl StoreConfig {
    /// Returns whether the tree is watched.
    pub(crate) fn is_watched(&self) -> bool {
        self.role == Permission::Primary && self.hints.unwrap_or(self.plan.plan().debounce_seconds > 0)
    }

    /// Returns where the files of the store's server are that are not its data; none where there is no place for
    /// them.
    pub(crate) fn database_place(&self) -> Result<Option<Place>, ConfigError> {
        let dir = match &self.database.directory {
            Some(dir) => Some(dir.clone()),
            None => database_dir(&self.name)?,
        };
        Ok(dir.map(|dir| Place { dir }))
    }

    /// Returns the commands of the store's database: those that are configured, and for a server that understudy
    /// runs, its own for the others.
    ///
    /// # Errors
    /// [`ConfigError::NotAbsolute`] of the directory of its supervisor.
    pub(crate) fn database_commands(&self) -> Result<DatabaseSettings, ConfigError> {
        let mut commands = self.database.commands();
        let (Some(_), Some(place)) = (&self.database.serve, self.database_place()?) else {
            return Ok(commands);
        };
        for (command, verb) in [
            (&mut commands.fence, "fence"),
            (&mut commands.promote, "promote"),
            (&mut commands.demote, "demote"),
        ] {
            if command.is_empty() {
                *command = own_command(verb, &self.name, &place);
            }
        }
        Ok(commands)
    }

    /// Returns what the guard of this store is given; none where no gate is configured.
    ///
    /// # Errors
    /// [`ConfigError::NotAbsolute`] of the directory for its socket.
    pub fn guard(&self) -> Result<Option<Setup>, ConfigError> {
        let Some(gate) = &self.gate else { return Ok(None) };
        let default = || Ok(state_dir()?.map(|dir| dir.join(format!("guard-{}.socket", self.name))));
        let socket = gate.socket.clone().map_or_else(default, |socket| Ok(Some(socket)))?;
        let database = self.database_commands()?;
        Ok(socket.map(|socket| Setup {
            store: self.name.clone(),
            gate: gate.clone(),
            services: self.service.clone(),
            database,
            socket,
            socket_is_default: gate.socket.is_none(),
            edge_tells_epoch: self.edge.iter().any(EdgeConfig::tells_epoch),
        }))
    }

    /// Returns the rules by which snapshots stay.
    pub fn retention(&self) -> Retention {
        self.retention.unwrap_or_else(|| self.plan.plan().retention)
    }

    /// Returns the upkeep that this host does in addition to runs. Drills are done by standbys, unless this
    /// host is configured to.
    pub fn upkeep(&self) -> Upkeep {
        let plan = self.plan.plan().upkeep;
        let plan = match self.role {
            Permission::Primary => Upkeep { drill_hours: 0, site_drill_hours: 0, ..plan },
            Permission::Standby => Upkeep { prune_hours: 0, verify_hours: 0, ..plan },
            Permission::Watcher => Upkeep::default(),
        };
        self.upkeep.unwrap_or(plan)
    }

    /// Returns the configuration of a store that no file names.
    pub(crate) fn of(name: StoreName, path: PathBuf) -> Self {
        Self {
            name,
            path,
            role: Permission::Primary,
            plan: PlanName::Standard,
            schedule: None,
            hints: None,
            repository: None,
            encryption: None,
            exclude: Vec::new(),
            one_filesystem: false,
            hooks: Hooks::default(),
            retention: None,
            upkeep: None,
            drill: DrillConfig::default(),
            member: None,
            replica: None,
            fence: FenceConfig::default(),
            stranded: StrandedConfig::default(),
            service: Vec::new(),
            gate: None,
            database: DatabaseConfig::default(),
            customer_url: None,
            edge: Vec::new(),
            probe: Vec::new(),
            watch: WatchSettings::default(),
        }
    }
}

impl Config {
    /// Parses the text of the file `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Config = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            message: explain(&error.to_string()),
        })?;
        for (at, store) in config.store.iter().enumerate() {
            if config.store[..at].iter().any(|s| s.name == store.name) {
                return Err(ConfigError::Duplicate { path: path.to_owned(), name: store.name.clone() });
            }
            let wrong = |message: String| ConfigError::Parse { path: path.to_owned(), message };
            if store.role == Permission::Primary && store.path.as_os_str().is_empty() {
                return Err(wrong(format!(
                    "store '{}' has no `path`; only a store with role standby can omit it",
                    store.name
                )));
            }
            check_member(store).map_err(wrong)?;
            settings::check(&store.service)
                .map_err(|error| wrong(format!("store '{}': {error}", store.name)))?;
            check_edges(store).map_err(wrong)?;
            check_probes(store).map_err(wrong)?;
            store
                .database
                .check(store.plan)
                .map_err(|error| wrong(format!("store '{}': {error}", store.name)))?;
            check_environment(store).map_err(wrong)?;
            if let Some(text) = &store.schedule {
                Schedule::parse(text).map_err(|error| wrong(format!("store '{}': {error}", store.name)))?;
            }
        }
        notify_settings::check(&config.notify)
            .map_err(|message| ConfigError::Parse { path: path.to_owned(), message })?;
        config.panel.check().map_err(|message| ConfigError::Parse { path: path.to_owned(), message })?;
        config.origin = Some(path.to_owned());
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        let beside = |path: &PathBuf| base.join(path);
        config.panel.resolve(&base);
        config.store.iter_mut().for_each(|store| resolve_store(store, &base));
        // A standby may have none.
        let with_path = config.store.iter_mut().filter(|store| !store.path.as_os_str().is_empty());
        with_path.for_each(|store| store.path = beside(&store.path));
        config.notify.iter_mut().for_each(|one| one.resolve(&base));
        resolve_service(&mut config.service, &base);
        config.cache = config.cache.as_ref().map(beside);
        config.key_file = config.key_file.as_ref().map(beside);
        config.passphrase_file = config.passphrase_file.as_ref().map(beside);
        config.standby.path = config.standby.path.as_ref().map(beside);
        let place = |location: &String| {
            if location.contains("://") {
                location.clone()
            } else {
                base.join(location).display().to_string()
            }
        };
        config.repository = config.repository.as_ref().map(place);
        config.store.iter_mut().for_each(|s| s.repository = s.repository.as_ref().map(place));
        Ok(config)
    }

    /// Reads `given`, else the first of the usual places that exists, else returns an empty configuration.
    ///
    /// A file must be trusted ([`trusted`]), since it names programs that this process runs.
    pub(crate) fn load(given: Option<&Path>) -> Result<Self, ConfigError> {
        let read = |path: &Path| match trusted::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        if let Some(path) = given {
            return read(path);
        }
        // A dangling symlink counts as well: it was put there by intent, so it is not passed over.
        let is_there = |path: &&Path| std::fs::symlink_metadata(path).is_ok();
        if let Some(here) = Some(Path::new(FILE_NAME)).filter(is_there) {
            return match read(here) {
                Err(ConfigError::Read { source, .. }) if trusted::is_distrust(&source) => {
                    Err(ConfigError::Found { source })
                }
                found => Ok(Self { is_found: true, ..found? }),
            };
        }
        // A path that is not absolute is refused later, where something would be kept below it.
        let of_user = home("XDG_CONFIG_HOME", ".config").ok().flatten().map(|home| home.join(FILE_NAME));
        let of_host = Path::new("/etc/understudy").join(FILE_NAME);
        match of_user.iter().chain([&of_host]).find(|path| is_there(&path.as_path())) {
            Some(path) => read(path),
            None => Ok(Self::default()),
        }
    }

    pub fn store(&self, name: &str) -> Option<&StoreConfig> {
        self.store.iter().find(|s| s.name.as_str() == name)
    }
}

/// Checks what a member needs. An error is a reason in words.
fn check_member(store: &StoreConfig) -> Result<(), String> {
    let wrong = |reason: &str| Err(format!("store '{}': {reason}", store.name));
    if let Some(replica) = &store.replica {
        if store.plan == PlanName::Standard {
            return wrong(
                "plan standard has no read-only instance; set another plan, or remove [store.replica]",
            );
        }
        if replica.path.as_os_str().is_empty() || replica.path == store.path {
            return wrong("[store.replica] needs a `path` other than the store's");
        }
        settings::check(&replica.service).map_err(|error| format!("store '{}': {error}", store.name))?;
        if store.member.is_none() {
            return wrong("[store.replica] is of a host that stands by: it needs [store.member] as well");
        }
    }
    let Some(member) = &store.member else { return Ok(()) };
    if store.path.as_os_str().is_empty() && !(store.service.is_empty() && store.gate.is_none()) {
        return wrong(
            "it has services or a gate, and no `path`; set the directory where its tree is mounted when this host takes over",
        );
    }
    if !store.edge.is_empty() && member.customers.is_none() {
        return wrong("an edge needs to know where it reaches this host: set `customers` in [store.member]");
    }
    Ok(())
}

/// Checks a store's edges. An error is a reason in words.
fn check_edges(store: &StoreConfig) -> Result<(), String> {
    let wrong = |reason| format!("store '{}': edge: {reason}", store.name);
    if !store.edge.is_empty() && store.customer_url.is_none() {
        let reason = "without `customer_url` nothing shows that customers reach the new primary; set it";
        return Err(wrong(reason.to_owned()));
    }
    store.edge.iter().try_for_each(EdgeConfig::check).map_err(wrong)
}

/// Checks that no variable with a secret is handed on to a program. An error is a reason in words.
fn check_environment(store: &StoreConfig) -> Result<(), String> {
    let environments = [
        &store.hooks.environment,
        &store.drill.environment,
        &store.database.environment,
        &store.database.drill.environment,
        &store.fence.environment,
    ];
    let edges = store.edge.iter().flat_map(EdgeConfig::environment);
    let probes = store.probe.iter().chain(&store.watch.probe).flat_map(ProbeSettings::environment);
    let mut environment = environments.into_iter().flatten().chain(edges).chain(probes);
    match environment.find(|name| !child::may_be_handed_on(name)) {
        Some(name) => Err(format!("store '{}': `environment` cannot contain '{name}'", store.name)),
        None => Ok(()),
    }
}

/// Checks a store's probes, and its drill of a failover. An error is a reason in words.
fn check_probes(store: &StoreConfig) -> Result<(), String> {
    let wrong = |reason| format!("store '{}': {reason}", store.name);
    if store.role == Permission::Watcher && store.member.is_none() {
        return Err(wrong("a watcher is a member: it needs [store.member]".to_owned()));
    }
    store.drill.site.check().map_err(wrong)?;
    store.probe.iter().try_for_each(|probe| probe.check(false)).map_err(wrong)?;
    store.watch.probe.iter().try_for_each(|probe| probe.check(true)).map_err(wrong)
}

/// Resolves the daemon's relative paths.
fn resolve_service(service: &mut ServiceConfig, base: &Path) {
    let beside = |path: &PathBuf| base.join(path);
    service.token_file = service.token_file.as_ref().map(beside);
    service.audit_file = service.audit_file.as_ref().map(beside);
    let is_path = |path: &&PathBuf| path.as_os_str() != OFF;
    if let Some(socket) = service.socket.as_ref().filter(is_path) {
        service.socket = Some(beside(socket));
    }
}

/// Resolves a store's relative paths and programs against the directory of the file that names them.
fn resolve_store(store: &mut StoreConfig, base: &Path) {
    let beside = |path: &PathBuf| base.join(path);
    let hooks = &mut store.hooks;
    let mut commands = vec![&mut hooks.before, &mut hooks.after, &mut store.drill.command];
    let database = &mut store.database;
    // MariaDB's programs work in another directory than this one.
    let whole = |path: &PathBuf| std::path::absolute(beside(path)).unwrap_or_else(|_| beside(path));
    database.paths().into_iter().for_each(|path| *path = whole(path));
    commands.extend([&mut database.fence, &mut database.promote, &mut database.demote]);
    commands.push(&mut database.drill.command);
    commands.push(&mut store.fence.command);
    commands.extend(store.drill.site.programs());
    if let Some(replica) = &mut store.replica {
        replica.path = beside(&replica.path);
    }
    let of_replica = store.replica.iter_mut().flat_map(|replica| &mut replica.service);
    for service in store.service.iter_mut().chain(of_replica) {
        service.compose = service.compose.as_ref().map(beside);
        commands.extend([&mut service.start, &mut service.stop, &mut service.check]);
    }
    commands.into_iter().for_each(|command| resolve_program(command, base));
    if let Some(gate) = &mut store.gate {
        gate.socket = gate.socket.as_ref().map(beside);
    }
    for probe in store.probe.iter_mut().chain(&mut store.watch.probe) {
        probe.resolve(base);
        probe.program().into_iter().for_each(|command| resolve_program(command, base));
    }
    for edge in &mut store.edge {
        edge.resolve(base);
        edge.programs().into_iter().for_each(|command| resolve_program(command, base));
    }
}

/// Resolves a relative program against the directory of the file that names it.
///
/// It is never taken from the current directory of a command or from a snapshot. A bare name is looked up on
/// the PATH.
pub(crate) fn resolve_program(command: &mut [String], base: &Path) {
    if let Some(program) = command.first_mut().filter(|program| program.contains('/')) {
        let whole = std::path::absolute(base.join(&*program)).ok();
        if let Some(whole) = whole.and_then(|path| path.into_os_string().into_string().ok()) {
            *program = whole;
        }
    }
}

/// Returns a directory of this user; none where neither variable is set.
fn home(variable: &'static str, below: &str) -> Result<Option<PathBuf>, ConfigError> {
    let set = |name: &'static str| {
        std::env::var_os(name).filter(|v| !v.is_empty()).map(|v| (name, PathBuf::from(v)))
    };
    let found = set(variable).or_else(|| set("HOME"));
    match found {
        Some((variable, path)) if !path.is_absolute() => Err(ConfigError::NotAbsolute { variable, path }),
        Some(("HOME", path)) => Ok(Some(path.join(below).join("understudy"))),
        Some((_, path)) => Ok(Some(path.join("understudy"))),
        None => Ok(None),
    }
}

/// Returns the default repository.
pub(crate) fn default_repository() -> Result<Option<PathBuf>, ConfigError> {
    Ok(home("XDG_DATA_HOME", ".local/share")?.map(|data| data.join("repository")))
}

/// Returns the default directory for followed stores.
pub(crate) fn default_standby() -> Result<Option<PathBuf>, ConfigError> {
    Ok(home("XDG_DATA_HOME", ".local/share")?.map(|data| data.join("standby")))
}

/// Returns the default key file.
pub(crate) fn default_key_file() -> Result<Option<PathBuf>, ConfigError> {
    Ok(home("XDG_CONFIG_HOME", ".config")?.map(|config| config.join("key")))
}

/// Returns the directory for the daemon's own state, such as its generated token.
pub(crate) fn state_dir() -> Result<Option<PathBuf>, ConfigError> {
    home("XDG_STATE_HOME", ".local/state")
}

/// Returns the command by which this program tells the supervisor of a store's server.
pub(crate) fn own_command(verb: &str, store: &StoreName, place: &Place) -> Vec<String> {
    let dir = place.dir.display();
    [THIS, "database", verb, store.as_str(), "--directory", &dir.to_string()].map(str::to_owned).into()
}

/// Returns the default directory for what a store's server needs beside its data.
pub(crate) fn database_dir(store: &StoreName) -> Result<Option<PathBuf>, ConfigError> {
    Ok(state_dir()?.map(|dir| dir.join(format!("database-{store}"))))
}

/// Returns the default directory for the copies that seeds are made of.
pub(crate) fn default_seeds() -> Result<Option<PathBuf>, ConfigError> {
    Ok(home("XDG_DATA_HOME", ".local/share")?.map(|data| data.join("seed")))
}

/// Returns the default cache.
pub(crate) fn default_cache() -> Result<Option<PathBuf>, ConfigError> {
    home("XDG_CACHE_HOME", ".cache")
}

/// Adds the nearest valid key to the parser's "unknown field".
fn explain(message: &str) -> String {
    let message = message.trim_end();
    let Some((_, rest)) = message.split_once("unknown field `") else { return message.to_owned() };
    let mut names = rest.split('`').step_by(2);
    let Some(unknown) = names.next() else { return message.to_owned() };
    let nearest = names
        .filter(|n| !n.is_empty())
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((distance, known)) if distance <= 3 => format!("{message}\ndid you mean `{known}`?"),
        _ => message.to_owned(),
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Number(number) => Ok(Some(number)),
        Either::Text(text) => parse_bytes(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

/// Parses a size such as `20MiB`, `1.5 GB` or `4096`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_lowercase().trim_end_matches("/s") {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("'{text}' is no size; write for example 20MiB")),
    };
    match number.parse::<f64>() {
        Ok(n) if n > 0.0 && n * factor < 9e18 => Ok((n * factor) as u64),
        _ => Err(format!("'{text}' is no size; write for example 20MiB")),
    }
}

fn level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i32>, D::Error> {
    let level = i32::deserialize(deserializer)?;
    if (1..=19).contains(&level) {
        Ok(Some(level))
    } else {
        Err(serde::de::Error::custom(format!("compression_level is {level}; it must be 1 to 19")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_parses() {
        let config = Config::parse(SAMPLE, Path::new("/etc/understudy.toml")).unwrap();
        assert_eq!(config.store[0].name.as_str(), "acme");
        // Every key that is commented out must be valid as well.
        let all: String = SAMPLE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") || rest.starts_with('[') => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = Config::parse(&all, Path::new("/etc/understudy.toml")).unwrap();
        assert_eq!((config.store.len(), config.limits.bandwidth), (2, Some(20 << 20)));
    }

    #[test]
    fn an_unknown_key_is_refused_and_the_nearest_named() {
        let wrong = |text| Config::parse(text, Path::new("x.toml")).unwrap_err().to_string();
        assert!(wrong("repositry = 'x'").contains("did you mean `repository`?"));
        assert!(wrong("[[store]]\nname='a'\npath='/a'\nexcludes=[]").contains("did you mean `exclude`?"));
        assert!(wrong("[[store]]\nname='A B'\npath='/a'").contains("is not a valid store name"));
        assert!(wrong("[[store]]\nname='a'\npath='/a'\nplan='gold'").contains("standard"));
        let twice = "[[store]]\nname='a'\npath='/a'\n[[store]]\nname='a'\npath='/b'";
        assert!(wrong(twice).contains("two stores"));
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("20MiB"), Ok(20 << 20));
        assert_eq!(parse_bytes("1.5 GB"), Ok(1_500_000_000));
        for bad in ["", "x", "-1", "0", "1 parsec"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
