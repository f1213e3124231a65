//! `understudy edge`: look at a store's edges, and set up what they need.

use super::context::Context;
use super::error::{Error, Result, UsageError};
use super::exit::Exit;
use super::{Global, show};
use crate::edge::context::EdgeContext;
use crate::edge::edges::Edges;
use crate::edge::switch::{Edge, Finding, Setup};
use crate::support::child::THIS;
use clap::{Args, Subcommand};
use serde::Serialize;

#[derive(Args)]
pub(super) struct EdgeArgs {
    #[command(subcommand)]
    command: EdgeCommand,
}

#[derive(Subcommand)]
enum EdgeCommand {
    /// Look at everything that a switch of a store's edges needs, without a change
    Check {
        #[arg(value_name = "STORE")]
        store: String,
    },
    /// Tell what must exist at a store's edges, such as a function and origins
    Setup {
        #[arg(value_name = "STORE")]
        store: String,
        /// Make it, as far as it is missing
        #[arg(long)]
        apply: bool,
        /// Also a key value store of CloudFront of this name, unless there is one
        #[arg(long, value_name = "NAME")]
        key_value_store: Option<String>,
    },
}

/// An edge, as it is shown.
#[derive(Serialize)]
struct Shown {
    edge: String,
    /// What was set up, or is to be.
    setup: Vec<String>,
    findings: Vec<Finding>,
}

impl EdgeArgs {
    pub(super) fn only_prints(&self) -> bool {
        matches!(self.command, EdgeCommand::Check { .. } | EdgeCommand::Setup { apply: false, .. })
    }
}

pub(super) fn run(global: &Global, args: &EdgeArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let (name, setup) = match &args.command {
        EdgeCommand::Check { store } => (store, None),
        EdgeCommand::Setup { store, apply, key_value_store } => {
            (store, Some(Setup { apply: *apply, key_value_store: key_value_store.clone() }))
        }
    };
    let config = context.config.store(name);
    let config = config.ok_or_else(|| UsageError(format!("the configuration has no store '{name}'")))?;
    if config.edge.is_empty() {
        return Err(UsageError(format!("store '{name}' has no [[store.edge]] in the configuration")).into());
    }
    let edge = EdgeContext {
        env: context.env().clone(),
        runtime: context.host().runtime.clone(),
        this: THIS.into(),
    };
    let edges = Edges::new(&config.name, &config.edge, None, &edge)?;
    let mut shown = Vec::new();
    let mut failed = None;
    for edge in edges.all() {
        let (one, error) = look(edge, setup.as_ref());
        if !global.json {
            print(&one, global.quiet)?;
        }
        shown.push(one);
        failed = failed.or(error);
    }
    if global.json {
        show::json(&serde_json::json!({ "store": config.name, "edges": shown }))?;
    }
    let is_wrong = shown.iter().flat_map(|one| &one.findings).any(|finding| finding.is_wrong);
    match failed {
        Some(error) => Err(error),
        None if is_wrong => Ok(Exit::Failed),
        None => Ok(Exit::Done),
    }
}

/// Sets an edge up, if asked to, and looks at it, unless it was only told what is missing.
fn look(edge: &dyn Edge, what: Option<&Setup>) -> (Shown, Option<Error>) {
    let (setup, error) = match what.map(|what| edge.setup(what)) {
        None => (Vec::new(), None),
        Some(Ok(lines)) => (lines, None),
        Some(Err(error)) => (Vec::new(), Some(error.into())),
    };
    let only_told = what.is_some_and(|what| !what.apply);
    let findings = if only_told || error.is_some() { Vec::new() } else { edge.check() };
    (Shown { edge: edge.name().to_owned(), setup, findings }, error)
}

fn print(one: &Shown, only_wrong: bool) -> Result<()> {
    if !only_wrong {
        show::line(&one.edge)?;
        for line in one.setup.iter().flat_map(|text| text.lines()) {
            show::line(&format!("  {line}"))?;
        }
        if one.setup.is_empty() && one.findings.is_empty() {
            show::line("  nothing is missing")?;
        }
    }
    for finding in one.findings.iter().filter(|finding| finding.is_wrong || !only_wrong) {
        let word = if finding.is_wrong { "wrong" } else { "good" };
        show::line(&format!("  {word:5}  {}", finding.what))?;
    }
    Ok(())
}
