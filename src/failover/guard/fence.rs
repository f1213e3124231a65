//! The fence of a host: stops what could still write to a store, and looks whether it has stopped.
//!
//! The gate has closed before. Then the consumers end, then the database's command runs, then the services
//! stop: each part a moment after the one before it, whether or not that has ended, so that one program that
//! hangs delays no other. What could not be confirmed is a failure with a name; a fence with failures did not
//! hold, and then the configured command of last resort runs, which may reset the host.

use super::gate::Gate;
use super::ports;
use super::protocol::PortsState;
use super::settings::STACK_BYTES;
use crate::failover::services::attend::{Manner, Services};
use crate::failover::services::order::Part;
use crate::support::configured::Configured;
use crate::support::env::Env;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread::{Builder, Scope, ScopedJoinHandle};
use std::time::Duration;

/// Time that a part has before the next one begins.
const LEAD: Duration = Duration::from_secs(1);
/// Interval between looks whether a part has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Maximum time for a connection to this host.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Carries out a fence. Returns what did not hold.
pub(crate) fn carry_out(gate: &Gate, this: &Path) -> Vec<String> {
    let (setup, env) = (&gate.setup, &gate.env);
    let rejected = ports::set(setup, this, env, false);
    gate.set_ports(rejected.clone());
    let stop = |part| {
        // One for each part: it is not shared between threads.
        let services = Services { store: &setup.store, list: &setup.services, this, env, stop: &|| false };
        let failed = services.stop(part, Manner::Forced);
        failed.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let mut failures = std::thread::scope(|scope| {
        let parts = [
            begin(scope, env, || stop(Part::Last)),
            begin(scope, env, || fence_database(gate, this)),
            begin(scope, env, || stop(Part::Serving)),
        ];
        parts.into_iter().flat_map(ended).collect::<Vec<_>>()
    });
    failures.extend(gate_answers(setup.gate.listen));
    let is_rejected = rejected == PortsState::Rejected && ports::are_rejected(setup, this, env);
    for port in setup.gate.ports.iter().filter(|_| !is_rejected) {
        if accepts(*port) && *port != setup.gate.listen.port() {
            let how = match &rejected {
                PortsState::Unmanaged(how) => how.as_str(),
                _ => "the table of nftables is gone",
            };
            failures.push(format!("port {port} still takes connections, and is not rejected: {how}"));
        }
    }
    if !failures.is_empty() {
        failures.extend(last_resort(gate, this, &failures));
    }
    failures
}

/// Runs the command for a fence that did not hold.
fn last_resort(gate: &Gate, this: &Path, failures: &[String]) -> Option<String> {
    let configured = Configured {
        what: "the last resort of a fence",
        command: &gate.setup.gate.last_resort,
        user: None,
        environment: &[],
        timeout_seconds: None,
    };
    let store = ("UNDERSTUDY_STORE", gate.setup.store.to_string());
    configured.run(&gate.env, this, vec![store, ("UNDERSTUDY_FAILURES", failures.join("; "))]).err()
}

type Ended<'scope> = Result<ScopedJoinHandle<'scope, Vec<String>>, String>;

/// Begins a part and gives it its time.
fn begin<'scope>(
    scope: &'scope Scope<'scope, '_>,
    env: &Env,
    part: impl FnOnce() -> Vec<String> + Send + 'scope,
) -> Ended<'scope> {
    let thread = Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, part);
    let thread = thread.map_err(|error| format!("a part of the fence was not begun: {error}"))?;
    let begun = env.stopwatch();
    while !thread.is_finished() && begun.elapsed() < LEAD {
        env.sleep(LOOK_EVERY);
    }
    Ok(thread)
}

fn ended(part: Ended) -> Vec<String> {
    let joined = part.map(|thread| thread.join());
    match joined {
        Ok(Ok(failures)) => failures,
        Ok(Err(_)) => vec!["a part of the fence ended early; this is a bug".into()],
        Err(error) => vec![error],
    }
}

fn fence_database(gate: &Gate, this: &Path) -> Vec<String> {
    let database = &gate.setup.database;
    let configured = Configured {
        what: "the database's fence",
        command: &database.fence,
        user: database.user.as_deref(),
        environment: &database.environment,
        timeout_seconds: database.timeout_seconds,
    };
    let variables = vec![
        ("UNDERSTUDY_STORE", gate.setup.store.to_string()),
        ("UNDERSTUDY_EPOCH", gate.state().epoch.0.to_string()),
        ("UNDERSTUDY_FENCE", "now".to_owned()),
    ];
    configured.run(&gate.env, this, variables).err().into_iter().collect()
}

/// Returns the address at which this host reaches one of its own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}

/// Asks the gate as a customer does, and returns a failure unless it refuses.
fn gate_answers(listen: SocketAddr) -> Option<String> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&reachable(listen), CONNECT_LIMIT)?;
        stream.set_read_timeout(Some(CONNECT_LIMIT))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: fence\r\nConnection: close\r\n\r\n")?;
        let mut line = [0; 12];
        stream.read_exact(&mut line)?;
        Ok::<_, std::io::Error>(line)
    };
    match ask() {
        Ok(line) if line.ends_with(b" 503") => None,
        Ok(line) => Some(format!("the gate at {listen} answers '{}'", String::from_utf8_lossy(&line))),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
        Err(error) => Some(format!("the gate at {listen} was asked and did not refuse: {error}")),
    }
}

fn accepts(port: u16) -> bool {
    TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), CONNECT_LIMIT).is_ok()
}
