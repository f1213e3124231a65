//! What a person sees before a failover: where the store stands, what would be lost, and every step.

use super::args::FailoverArgs;
use super::at::At;
use super::back::Back;
use crate::api::failover::FailoverStatus;
use crate::cli::context::Context;
use crate::cli::error::Result;
use crate::cli::{Global, show};
use crate::database::report::Report;
use crate::edge::context::EdgeContext;
use crate::edge::customer::{Customer, CustomerUrl};
use crate::failover::services::settings::ServiceSettings;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Sequence, StoreName, WriterId};
use crate::model::member::Member;
use crate::model::record::StoreState;
use crate::model::snapshot_ref::Moment;
use crate::service::config::StoreConfig;
use crate::support::child::THIS;
use crate::support::clock::UnixNanos;
use serde::Serialize;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Maximum time of a look: the store is closed meanwhile.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// A look from this host.
#[derive(Debug, Serialize)]
struct Probe {
    what: String,
    found: String,
}

/// What is configured on the host that takes over, as far as it is known here.
struct There<'a> {
    host: &'a WriterId,
    /// None for another host.
    config: Option<&'a StoreConfig>,
}

/// All that a person should know before a failover.
#[derive(Debug, Serialize)]
pub(super) struct Triage {
    store: StoreName,
    plan: &'static str,
    host: WriterId,
    primary: Option<WriterId>,
    epoch: u64,
    probes: Vec<Probe>,
    /// The snapshot to begin with.
    base: Option<u64>,
    /// Seconds since its scan began: what was written since is lost, or stranded on the former primary.
    lost_seconds: Option<f64>,
    /// The number of files in that snapshot.
    entries: Option<u64>,
    /// How the database stands on the host that takes over.
    database: String,
    /// Where the database goes back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    database_back_to: Option<GtidPosition>,
    /// Number of transactions behind that.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_transactions: Option<u64>,
    /// How the former primary is stopped.
    fences: Vec<String>,
    steps: Vec<String>,
    /// Reasons why this host does not take over.
    pub why_not: Vec<String>,
}

impl Triage {
    /// Looks at a failover to `host`.
    pub(super) fn of(
        context: &Context,
        status: &FailoverStatus,
        args: &FailoverArgs,
        host: &WriterId,
    ) -> Result<Self> {
        let name = &status.store;
        let config = context.config.store(name.as_str()).cloned();
        let config = config.unwrap_or_else(|| StoreConfig::of(name.clone(), Default::default()));
        let store = context.repository_of(name)?.store(name);
        let state = store.log().state()?;
        let moment = args.at.map_or(Moment::Latest, At::moment);
        let base = match state.latest() {
            Some(_) => Some(store.log().find(&state, moment)?),
            None => None,
        };
        let now = context.env().wall();
        let lost = base.as_ref().and_then(|(_, record)| record.scan_start.age_at(now));
        let primary = status.primary.clone();
        let is_here = *host == status.host;
        let there = There { host, config: is_here.then_some(&config) };
        Ok(Self {
            store: name.clone(),
            plan: config.plan.name(),
            host: host.clone(),
            epoch: status.epoch,
            // Where nobody waits for an answer, the store would be closed for nothing while they time out.
            probes: match args.yes && !args.dry_run {
                true => Vec::new(),
                false => probes(context, &config, &state, primary.as_ref()),
            },
            base: base.as_ref().map(|(sequence, _)| sequence.0),
            lost_seconds: lost.map(|lost| lost.as_secs_f64()),
            entries: base.as_ref().map(|(_, record)| record.manifest.entries),
            database: database(&there, status, context.env().wall()),
            database_back_to: None,
            lost_transactions: None,
            fences: fences(&there, status),
            steps: steps(&there, status, base.map(|(sequence, _)| sequence)),
            // Another host has to be asked.
            why_not: if is_here { status.why_not.clone() } else { Vec::new() },
            primary,
        })
    }

    /// Returns this for a failover that goes back to a point.
    pub(super) fn with_back(self, back: Option<&Back>) -> Self {
        let Some(back) = back else { return self };
        let steps = std::iter::once(back.step()).chain(self.steps).collect();
        let (database_back_to, lost_transactions) = (Some(back.position.clone()), Some(back.transactions));
        Self { database: back.text(), database_back_to, lost_transactions, steps, ..self }
    }

    /// Shows it as the options ask for: as JSON, where nothing else is done.
    pub(super) fn show(&self, global: &Global, args: &FailoverArgs) -> Result<()> {
        match (global.json, args.dry_run) {
            (true, true) => show::json(self),
            (false, _) if !global.quiet => self.print(),
            _ => Ok(()),
        }
    }

    fn print(&self) -> Result<()> {
        let primary = self.primary.as_ref().map_or("nobody", |primary| &primary.0);
        show::line(&format!(
            "store '{}', plan {}: '{primary}' is the primary in epoch {}; '{}' would take over",
            self.store, self.plan, self.epoch, self.host
        ))?;
        if !self.probes.is_empty() {
            show::line("seen from here")?;
        }
        for Probe { what, found } in &self.probes {
            show::line(&format!("  {what}: {found}"))?;
        }
        show::line("what is lost")?;
        show::line(&match (self.base, self.lost_seconds) {
            (Some(base), Some(seconds)) => format!(
                "  files written in the last {}, since snapshot {base} was taken ({} entries); if '{primary}' comes back, what only it has is kept as stranded",
                show::age(seconds),
                show::count(self.entries.unwrap_or_default())
            ),
            (Some(base), None) => format!(
                "  files written since snapshot {base}; how long ago that was is unknown, since a clock is wrong"
            ),
            (None, _) => "  everything: the store has no snapshot".to_owned(),
        })?;
        show::line(&format!("  the database: {}", self.database))?;
        show::line(&format!("how '{primary}' is fenced"))?;
        self.fences.iter().try_for_each(|fence| show::line(&format!("  {fence}")))?;
        show::line("steps")?;
        for (at, step) in self.steps.iter().enumerate() {
            show::line(&format!("  {}. {step}", at + 1))?;
        }
        for reason in &self.why_not {
            show::line(&format!("not possible now: {reason}"))?;
        }
        Ok(())
    }
}

/// Looks at all of it at the same time: what does not answer takes seconds, and the store is closed meanwhile.
fn probes(
    context: &Context,
    config: &StoreConfig,
    state: &StoreState,
    primary: Option<&WriterId>,
) -> Vec<Probe> {
    let member = primary.and_then(|primary| state.authority.member(primary));
    let of = |member: &Member| {
        let addresses = [("daemon", member.address.clone()), ("gate", member.customers.clone())];
        let name = member.name.clone();
        addresses.into_iter().filter_map(move |(what, address)| {
            let address = address?.to_string();
            Some((format!("the {what} of '{name}' at {address}"), address))
        })
    };
    let addresses: Vec<_> = member.into_iter().flat_map(of).collect();
    std::thread::scope(|scope| {
        let probes: Vec<_> = addresses
            .into_iter()
            .map(|(what, address)| scope.spawn(move || Probe { what, found: connect(&address) }))
            .collect();
        let customers = config.customer_url.as_ref().map(|url| customers(context, url));
        let probes = probes.into_iter().filter_map(|probe| probe.join().ok());
        probes.chain(customers).collect()
    })
}

fn customers(context: &Context, url: &CustomerUrl) -> Probe {
    let edge = EdgeContext {
        env: context.env().clone(),
        runtime: context.host().runtime.clone(),
        this: THIS.into(),
    };
    let shown = Customer::new(url, &edge).and_then(|customer| customer.epoch_shown());
    let found = match shown {
        Ok(epoch) => format!("shows epoch {}", epoch.0),
        Err(error) => error.to_string(),
    };
    Probe { what: "the customers' address".to_owned(), found }
}

fn connect(address: &str) -> String {
    let tried = || {
        let address = address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
        TcpStream::connect_timeout(&address, PROBE_LIMIT)
    };
    match tried() {
        Ok(_) => "takes connections".to_owned(),
        Err(error) => format!("does not answer: {error}"),
    }
}

fn fences(there: &There, status: &FailoverStatus) -> Vec<String> {
    let mut fences = vec![
        "its daemon reads the promotion in the log, shuts the gate, stops the services, and says so"
            .to_owned(),
    ];
    if status.has_lease {
        fences.push(format!("its lease is broken: its guard shuts the gate by itself, and '{}' waits until that time has passed", there.host));
    }
    fences.push(match there.config.map(|config| &config.fence.command) {
        Some(command) if command.is_empty() => {
            "no command stops the host ([store.fence] is not set)".to_owned()
        }
        Some(command) => format!("after 10 s: {}", command.join(" ")),
        None => format!("after 10 s: the command of '{}', if [store.fence] is set there", there.host),
    });
    fences.push("your word that it is down (--is-down, or its name typed when asked)".to_owned());
    fences
}

/// Says what is known of the database before a failover.
fn database(there: &There, status: &FailoverStatus, now: UnixNanos) -> String {
    if status.synced.contains(there.host) {
        return "nothing: its replica there has every transaction that customers were told is done"
            .to_owned();
    }
    let unknown = "as its own replication has it; understudy runs the configured commands".to_owned();
    let Some(config) = there.config.filter(|config| config.database.serve.is_some()) else { return unknown };
    let report = config.database_place().ok().flatten().and_then(|place| Report::read(&place));
    let Some(report) = report.filter(|report| report.is_fresh(now)) else {
        return "nobody runs its server here".to_owned();
    };
    let state = match report.trouble {
        Some(trouble) => format!("{} ({})", report.state.name(), trouble.name()),
        None => report.state.name().to_owned(),
    };
    let lag = report.lag_seconds.map(|lag| format!(", lag {}", show::age(lag))).unwrap_or_default();
    format!("transactions that its replica here has not received; it is {state} at {}{lag}", report.received)
}

fn steps(there: &There, status: &FailoverStatus, base: Option<Sequence>) -> Vec<String> {
    let host = there.host;
    let mut steps = vec![format!("promote '{host}' in the log, to epoch {}", status.epoch + 1)];
    let Some(config) = there.config else {
        let base = base.map(|base| format!(" from snapshot {base}")).unwrap_or_default();
        steps.push(format!("make the store ready there{base}, as the configuration of '{host}' says"));
        steps.push("wait until the former primary is known to be closed".to_owned());
        steps.push(format!("open it, and wait until customers see epoch {}", status.epoch + 1));
        return steps;
    };
    if config.gate.is_some() {
        steps.push("let customers' requests wait at the gate here".to_owned());
    }
    if let Some(base) = base.filter(|_| !config.path.as_os_str().is_empty()) {
        steps.push(format!("mount snapshot {base} writable at {}", config.path.display()));
    }
    let promote = config.database_commands().map(|commands| commands.promote).unwrap_or_default();
    if let Some((program, arguments)) = promote.split_first() {
        let program = if program == THIS { "understudy" } else { program };
        steps.push(format!("database: {program} {}", arguments.join(" ")));
    }
    let named = |service: &&ServiceSettings| format!("start service '{}'", service.name);
    steps.extend(config.service.iter().filter(|service| !service.last).map(|service| named(&service)));
    steps.push("wait until the former primary is known to be closed".to_owned());
    if config.gate.is_some() {
        steps.push("open the gate".to_owned());
    }
    if !config.edge.is_empty() {
        let edges = if config.edge.len() == 1 { "edge" } else { "edges" };
        steps.push(format!("send the customers here: {} {edges}", config.edge.len()));
    }
    if let Some(url) = &config.customer_url {
        steps.push(format!("wait until {url} shows epoch {}", status.epoch + 1));
    }
    steps.extend(config.service.iter().filter(|service| service.last).map(|service| named(&service)));
    steps
}
