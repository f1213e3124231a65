//! `[store.database]`: the database's server, its replica on a standby, and the commands of a failover.

use super::schedule::Schedule;
use crate::database::client::{Address, Client, is_near};
use crate::database::customers::Customers;
use crate::database::media::rule::{MediaConfig, Rule};
use crate::database::report_account::Reports;
use crate::failover::guard::settings::DatabaseSettings;
use crate::model::plan::PlanName;
use crate::support::child::{ChildError, Confinement, User};
use crate::support::env::Env;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Default port of a server.
const PORT: u16 = 3306;
/// Default time between two seeds.
const SEED_EVERY: Duration = Duration::from_hours(7 * 24);
/// Default time between two drills, where a replica is copied by reference.
const DRILL_EVERY: Duration = Duration::from_hours(7 * 24);
/// Default number of seeds that are kept.
const SEED_KEEP: u32 = 3;
/// Default number of sessions of reports at a time, and the largest.
const REPORT_CONNECTIONS: u32 = 4;
const REPORT_CONNECTIONS_MAX: u32 = 100;
/// Default time of a statement of theirs, and the longest, in seconds.
const REPORT_SECONDS: u64 = 300;
const REPORT_SECONDS_MAX: u64 = 86_400;
/// Value of a schedule that turns it off.
const OFF: &str = "off";

/// What this host does for the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatabaseMode {
    /// A replica follows the primary's server, on standbys.
    #[default]
    Replica,
    /// The server's binary log is archived in the repository, on the primary.
    Archive,
    Both,
}

impl DatabaseMode {
    pub(crate) fn replicates(self) -> bool {
        self != Self::Archive
    }

    pub(crate) fn archives(self) -> bool {
        self != Self::Replica
    }
}

/// How customers reach a server, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeConfig {
    /// Address for the store's programs, and for the standbys.
    pub listen: Option<SocketAddr>,
    /// Socket for the store's programs.
    pub socket: Option<PathBuf>,
    /// Memory of its pool.
    pub memory_mib: Option<u32>,
    /// Option file of the user's own.
    pub options: Option<PathBuf>,
}

/// How reports read from the replica of this host, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportsConfig {
    /// Option file with the account.
    pub account_file: PathBuf,
    /// Address for the programs that make reports.
    pub listen: Option<SocketAddr>,
    /// Socket for them.
    pub socket: Option<PathBuf>,
    /// Databases that the account reads; default: all of the store's.
    #[serde(default)]
    pub databases: Vec<String>,
    /// Number of sessions at a time.
    pub connections: Option<u32>,
    /// Maximum run time of a statement in seconds.
    pub statement_seconds: Option<u64>,
}

impl ReportsConfig {
    /// An error is a reason in words.
    fn check(&self, plan: PlanName) -> Result<(), String> {
        let wrong = |reason: &str| Err(format!("[store.database.reports]: {reason}"));
        if plan == PlanName::Standard {
            return wrong(
                "under plan `standard` nobody reads from a replica: it only writes what is committed; choose the plan `private` or `continuous`",
            );
        }
        if self.listen.is_none() && self.socket.is_none() {
            return wrong("set `listen` or `socket`, where programs that make reports reach it");
        }
        if let Some(address) = self
            .listen
            .filter(|address| !address.ip().is_unspecified() && !is_near(&address.ip().to_string()))
        {
            return Err(format!(
                "[store.database.reports]: '{address}' is neither this host nor an address of a private network, and reports would go there in the clear; listen at another address, or lead a tunnel to it"
            ));
        }
        if !(1..=REPORT_CONNECTIONS_MAX).contains(&self.connections.unwrap_or(REPORT_CONNECTIONS)) {
            return wrong("`connections` must be 1 to 100");
        }
        if !(1..=REPORT_SECONDS_MAX).contains(&self.statement_seconds.unwrap_or(REPORT_SECONDS)) {
            return wrong("`statement_seconds` must be 1 to 86400");
        }
        Ok(())
    }
}

/// When the daemon drills a replica.
#[derive(Clone, Debug)]
pub(crate) enum DrillWhen {
    Never,
    By(Schedule),
    /// Only where the replica need not stand for as long as a whole copy takes.
    IfByReference(Schedule),
}

/// What a drill of the database checks, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseDrillConfig {
    /// Queries that must succeed on the copy, and answer with something.
    #[serde(default)]
    pub queries: Vec<String>,
    /// Command that must succeed while a server serves the copy.
    #[serde(default)]
    pub command: Vec<String>,
    /// User that it runs as; default: nobody.
    pub user: Option<String>,
    /// Names of this process's variables that are handed on to it.
    #[serde(default)]
    pub environment: Vec<String>,
    /// When the daemon drills; `off` leaves it to a person.
    pub schedule: Option<String>,
    /// Whether it drills also a replica that acknowledges, while customers wait.
    #[serde(default)]
    pub customers_wait: bool,
    /// Maximum run time of a query, and of the command, in seconds.
    pub timeout_seconds: Option<u64>,
    /// Memory of the pool of the copy's server.
    pub memory_mib: Option<u32>,
}

impl DatabaseDrillConfig {
    /// Returns how its command runs.
    pub(crate) fn confinement(&self) -> Result<Confinement, ChildError> {
        let user = self.user.as_deref().map(User::find).transpose()?;
        Ok(Confinement {
            is_optional: user.is_none(),
            user: Some(user.unwrap_or_else(User::nobody)),
            no_new_privileges: true,
            ends_all: true,
            environment: self.environment.clone(),
        })
    }
}

/// The database of a store, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// Socket of the primary's server, on its own host.
    pub socket: Option<PathBuf>,
    /// Host of the primary's server.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// Certificates that sign the server's; with them the connection is by TLS.
    pub tls_ca: Option<PathBuf>,
    /// Option file with the account.
    pub account_file: Option<PathBuf>,
    #[serde(default)]
    pub mode: DatabaseMode,
    /// Directory of the replica on this host.
    pub datadir: Option<PathBuf>,
    /// Memory of the replica's pool; default: the least.
    pub memory_mib: Option<u32>,
    /// Directory of the supervisor's files: its socket, its log, its last order.
    pub directory: Option<PathBuf>,
    /// Whether the daemon starts the server's supervisor.
    #[serde(default)]
    pub supervise: bool,
    /// How customers reach this host's server while it is the primary's.
    pub serve: Option<ServeConfig>,
    /// How reports read from this host's replica, while it stands by.
    pub reports: Option<ReportsConfig>,
    /// What a drill checks.
    #[serde(default)]
    pub drill: DatabaseDrillConfig,
    /// Which rows name files of the store.
    #[serde(default)]
    pub media: Vec<MediaConfig>,
    /// Whether a customer is told that a transaction is done only once a standby has it; default: as the plan says.
    pub semi_sync: Option<bool>,
    /// When the primary's daemon makes a seed; `off` leaves seeding and its pruning to a person.
    pub seed_schedule: Option<String>,
    /// Where the copy is made that seeds are shipped from.
    pub seed_directory: Option<PathBuf>,
    /// Number of seeds that the primary's daemon keeps.
    pub seed_keep: Option<u32>,
    /// Command that makes the database refuse writes, and succeeds once it does.
    #[serde(default)]
    pub fence: Vec<String>,
    /// Command that makes the database of this host take writes, after its files are ready.
    #[serde(default)]
    pub promote: Vec<String>,
    /// Command that makes the database of this host follow the primary's again.
    #[serde(default)]
    pub demote: Vec<String>,
    /// Maximum run time of a command in seconds; it is ended after that.
    pub timeout_seconds: Option<u64>,
    /// User that the commands run as; default: the user of this process.
    pub user: Option<String>,
    /// Names of this process's variables that are handed on to the commands.
    #[serde(default)]
    pub environment: Vec<String>,
}

impl DatabaseConfig {
    /// Returns what a guard needs of it: the commands, and nothing of the account.
    pub fn commands(&self) -> DatabaseSettings {
        DatabaseSettings {
            fence: self.fence.clone(),
            promote: self.promote.clone(),
            demote: self.demote.clone(),
            timeout_seconds: self.timeout_seconds,
            user: self.user.clone(),
            environment: self.environment.clone(),
        }
    }

    /// Checks what belongs together. An error is a reason in words.
    pub(super) fn check(&self, plan: PlanName) -> Result<(), String> {
        let wrong = |reason: &str| Err(format!("[store.database]: {reason}"));
        self.media_rules()?;
        if let Some(reports) = &self.reports {
            reports.check(plan)?;
            if self.datadir.is_none() {
                return wrong("`reports` is of a replica that understudy runs; set its `datadir`");
            }
        }
        if self.supervise && (self.datadir.is_none() || !self.mode.replicates()) {
            return wrong(
                "`supervise` is of a server that understudy runs; set its `datadir`, and a `mode` with a replica",
            );
        }
        if self.supervise && self.user.is_some() {
            return wrong(
                "`supervise` runs the server as the daemon's user; for another `user`, start it by a unit or a container of its own",
            );
        }
        if self.host.is_none() && self.port.is_some() {
            return wrong("`port` is of a `host`; set it");
        }
        if self.host.is_none() && self.datadir.is_none() && self.tls_ca.is_some() {
            return wrong("`tls_ca` is of a `host`; set it");
        }
        if self.host.is_some() && self.account_file.is_none() {
            return wrong("a server on a `host` asks for an account; set `account_file`");
        }
        let pools =
            [self.memory_mib, self.drill.memory_mib, self.serve.as_ref().and_then(|serve| serve.memory_mib)];
        if pools.into_iter().flatten().any(|mib| !(6..=1 << 20).contains(&mib)) {
            return wrong("`memory_mib` must be 6 to 1048576");
        }
        if let Some(text) = self.seed_schedule.as_ref().filter(|text| *text != OFF) {
            Schedule::parse(text).map_err(|error| format!("[store.database]: `seed_schedule`: {error}"))?;
        }
        if let Some(text) = self.drill.schedule.as_ref().filter(|text| *text != OFF) {
            Schedule::parse(text).map_err(|error| format!("[store.database.drill]: `schedule`: {error}"))?;
            if self.user.is_some() {
                return Err(
                    "[store.database.drill]: `schedule` is of a server that runs as the daemon's user; for another `user`, call `understudy database drill` by a timer of that user".to_owned(),
                );
            }
        }
        if self.seed_keep == Some(0) {
            return wrong(
                "`seed_keep` must be 1 or more: without a seed no standby begins, and no archive is restored",
            );
        }
        if let Some(serve) = &self.serve {
            if serve.listen.is_none() && serve.socket.is_none() {
                return wrong(
                    "`serve` needs `listen` or `socket`, where customers' programs reach the server",
                );
            }
            if self.datadir.is_none() {
                return wrong("`serve` is of a server that understudy runs; set its `datadir`");
            }
        }
        if self.semi_sync == Some(true) && (self.serve.is_none() || !self.promote.is_empty()) {
            return wrong("`semi_sync` is of servers that understudy runs and promotes itself; set `serve`");
        }
        if let Some(host) = self.host.as_deref().filter(|host| self.tls_ca.is_none() && !is_near(host)) {
            return Err(format!(
                "[store.database]: '{host}' is neither this host nor an address of a private network, and passwords and data would go there in the clear; set `tls_ca`"
            ));
        }
        Ok(())
    }

    /// Returns the paths, which are relative to the configuration's directory.
    pub(super) fn paths(&mut self) -> Vec<&mut PathBuf> {
        let (socket, options) = match &mut self.serve {
            Some(serve) => (serve.socket.as_mut(), serve.options.as_mut()),
            None => (None, None),
        };
        let (reports_socket, reports_account) = match &mut self.reports {
            Some(reports) => (reports.socket.as_mut(), Some(&mut reports.account_file)),
            None => (None, None),
        };
        let paths = [
            &mut self.socket,
            &mut self.tls_ca,
            &mut self.account_file,
            &mut self.datadir,
            &mut self.directory,
            &mut self.seed_directory,
        ];
        let of_reports = reports_socket.into_iter().chain(reports_account);
        paths.into_iter().flatten().chain(socket).chain(options).chain(of_reports).collect()
    }

    /// Returns which rows name files. An error is a reason in words.
    pub(crate) fn media_rules(&self) -> Result<Vec<Rule>, String> {
        self.media.iter().map(MediaConfig::rule).collect()
    }

    /// Returns how customers reach this host's server; none where it only ever follows.
    pub(crate) fn customers(&self) -> Option<Customers> {
        let ServeConfig { listen, socket, memory_mib, options } = self.serve.clone()?;
        Some(Customers { listen, socket, memory_mib, options })
    }

    /// Returns how reports read from this host's replica; none where they do not.
    pub(crate) fn reports(&self) -> Option<Reports> {
        let ReportsConfig { account_file, listen, socket, databases, connections, statement_seconds } =
            self.reports.clone()?;
        Some(Reports {
            account_file,
            listen,
            socket,
            databases,
            connections: connections.unwrap_or(REPORT_CONNECTIONS),
            statement_limit: Duration::from_secs(statement_seconds.unwrap_or(REPORT_SECONDS)),
        })
    }

    /// Returns when seeds are made; none where the daemon makes none.
    pub(crate) fn seed_schedule(&self) -> Option<Schedule> {
        match self.seed_schedule.as_deref() {
            Some(OFF) => None,
            // It was parsed when the configuration was read.
            Some(text) => Schedule::parse(text).ok(),
            None => Some(Schedule::every(SEED_EVERY.as_secs())),
        }
    }

    /// Returns when the daemon drills.
    pub(crate) fn drill_when(&self) -> DrillWhen {
        match self.drill.schedule.as_deref() {
            Some(OFF) => DrillWhen::Never,
            // It was parsed when the configuration was read.
            Some(text) => Schedule::parse(text).map_or(DrillWhen::Never, DrillWhen::By),
            None if self.user.is_some() => DrillWhen::Never,
            None => DrillWhen::IfByReference(Schedule::every(DRILL_EVERY.as_secs())),
        }
    }

    /// Returns the number of seeds that are kept.
    pub(crate) fn seed_keep(&self) -> u32 {
        self.seed_keep.unwrap_or(SEED_KEEP)
    }

    /// Returns what asks the primary's server: by its socket, else by TCP; none where neither is set.
    pub(crate) fn primary(&self, env: &Env) -> Option<Client> {
        let Some(socket) = self.socket.clone() else { return self.tcp(env) };
        let (address, account_file) = (Address::Socket(socket), self.account_file.clone());
        Some(Client { address, account_file, env: env.clone() })
    }

    /// Returns what asks the primary's server by TCP; none where no host is set.
    pub(crate) fn tcp(&self, env: &Env) -> Option<Client> {
        let (host, port) = (self.host.clone()?, self.port.unwrap_or(PORT));
        let address = Address::Tcp { host, port, tls_ca: self.tls_ca.clone() };
        Some(Client { address, account_file: self.account_file.clone(), env: env.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_made_weekly_unless_the_configuration_says_otherwise() {
        let of = |text: Option<&str>| DatabaseConfig {
            seed_schedule: text.map(str::to_owned),
            ..Default::default()
        };
        assert_eq!(of(None).seed_schedule().unwrap().interval(), Some(SEED_EVERY));
        assert!(of(Some("0 3 * * 0")).seed_schedule().unwrap().is_by_calendar());
        assert!(
            of(Some("off")).check(PlanName::Standard).is_ok() && of(Some("off")).seed_schedule().is_none()
        );
        assert!(of(Some("weekly")).check(PlanName::Standard).unwrap_err().contains("seed_schedule"));
        assert!(
            DatabaseConfig { seed_keep: Some(0), ..Default::default() }.check(PlanName::Standard).is_err()
        );
    }

    #[test]
    fn reports_are_read_near_a_replica_of_its_own_and_not_under_standard() {
        let of = |listen: &str, plan| {
            let listen = Some(listen.parse().unwrap());
            let reports = Some(ReportsConfig { account_file: "/r".into(), listen, ..Default::default() });
            DatabaseConfig { datadir: Some("/d".into()), reports, ..Default::default() }.check(plan)
        };
        assert_eq!(of("10.0.0.12:3307", PlanName::Private), Ok(()));
        assert_eq!(of("0.0.0.0:3307", PlanName::Continuous), Ok(()));
        assert!(of("10.0.0.12:3307", PlanName::Standard).unwrap_err().contains("plan `standard`"));
        assert!(of("203.0.113.1:3307", PlanName::Private).unwrap_err().contains("in the clear"));
        let nowhere = ReportsConfig { account_file: "/r".into(), ..Default::default() };
        assert!(nowhere.check(PlanName::Private).unwrap_err().contains("`listen` or `socket`"));
        let listen = Some("127.0.0.1:3307".parse().unwrap());
        for (connections, statement_seconds) in [(Some(0), None), (Some(101), None), (None, Some(0))] {
            let reports = ReportsConfig { listen, connections, statement_seconds, ..nowhere.clone() };
            assert!(reports.check(PlanName::Private).is_err(), "{reports:?}");
        }
        let reports = Some(ReportsConfig { listen, ..nowhere });
        let config = DatabaseConfig { reports, ..Default::default() };
        assert!(config.check(PlanName::Private).unwrap_err().contains("`datadir`"));
    }

    #[test]
    fn without_tls_only_near_servers_are_asked() {
        for (host, near) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("fd00::1", true),
            ("localhost", true),
            ("203.0.113.1", false),
            ("db.example.com", false),
        ] {
            let config = DatabaseConfig {
                host: Some(host.into()),
                account_file: Some("/a".into()),
                ..Default::default()
            };
            assert_eq!(config.check(PlanName::Standard).is_ok(), near, "{host}");
            let config = DatabaseConfig { tls_ca: Some("/ca".into()), ..config };
            assert_eq!(config.check(PlanName::Standard), Ok(()));
        }
    }
}
