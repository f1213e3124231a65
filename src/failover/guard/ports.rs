//! Ports that lead to the store without the gate: rejected by nftables while the gate is not open.
//!
//! The rules are in a table of their own, replaced as a whole in one transaction. Packets that come from
//! outside are answered with a reset, those of established connections as well, and what a server still sends
//! on such a connection is rejected towards it, so that it ends on both sides. The loopback interface is left
//! alone: the gate and the host's own programs go on. The table stays if the guard is killed.

use super::protocol::PortsState;
use super::settings::Setup;
use crate::model::id::StoreName;
use crate::support::child::Confinement;
use crate::support::env::Env;
use crate::support::program::{Program, run};
use std::path::Path;
use std::time::Duration;

/// Maximum time for `nft`.
const LIMIT: Duration = Duration::from_secs(2);

/// Returns the commands that let the ports pass, or reject them.
fn rules(store: &StoreName, ports: &[u16], pass: bool) -> String {
    let table = format!("inet understudy_{store}");
    let gone = format!("add table {table}; delete table {table}");
    if pass {
        return gone;
    }
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    let ports = ports.join(", ");
    // Before the usual filters. A reset is not answered with one, or the first rule's would not get out.
    let chain = |hook: &str| format!("type filter hook {hook} priority -150; policy accept;");
    let (input, output) = (chain("input"), chain("output"));
    format!(
        "{gone}; add table {table}; \
         add chain {table} in {{ {input} }}; \
         add chain {table} out {{ {output} }}; \
         add rule {table} in iifname != \"lo\" tcp dport {{ {ports} }} tcp flags & rst == 0 reject with tcp reset; \
         add rule {table} out oifname != \"lo\" tcp sport {{ {ports} }} tcp flags & rst == 0 reject with tcp reset"
    )
}

/// Lets the ports of a store pass, or rejects them. Returns what holds then.
pub(crate) fn set(setup: &Setup, this: &Path, env: &Env, pass: bool) -> PortsState {
    if setup.gate.ports.is_empty() {
        return PortsState::None;
    }
    let command = ["nft".to_owned(), rules(&setup.store, &setup.gate.ports, pass)];
    let how = Confinement::default();
    let program = Program { this, command: &command, how, variables: Vec::new(), limit: LIMIT };
    match run(env, program) {
        Ok(output) if output.status.success() && pass => PortsState::Passed,
        Ok(output) if output.status.success() => PortsState::Rejected,
        Ok(output) => PortsState::Unmanaged(format!("nft ended with {}{}", output.status, output.said)),
        Err(error) => PortsState::Unmanaged(error.to_string()),
    }
}

/// Returns whether the table is there.
pub(crate) fn are_rejected(setup: &Setup, this: &Path, env: &Env) -> bool {
    let table = format!("understudy_{}", setup.store);
    let command = ["nft", "list", "table", "inet", &table].map(str::to_owned);
    let how = Confinement::default();
    let program = Program { this, command: &command, how, variables: Vec::new(), limit: LIMIT };
    run(env, program).is_ok_and(|output| output.status.success())
}
