//! `understudy database check`.

use super::Configured;
use crate::cli::error::Result;
use crate::cli::exit::Exit;
use crate::cli::{Global, show};
use crate::database::check::{self, Finding, Weight};
use crate::model::id::StoreName;
use serde::Serialize;

#[derive(Serialize)]
struct Output<'a> {
    store: &'a StoreName,
    server: String,
    version: &'a str,
    findings: &'a [Finding],
}

pub(super) fn check(global: &Global, store: &str) -> Result<Exit> {
    let configured = Configured::open(global, store)?;
    let server = configured.primary_server()?;
    let facts = server.facts()?;
    let (findings, name) = (check::check(&facts), &configured.store.name);
    let (address, version) = (server.address().to_string(), facts.variables.text("version"));
    if global.json {
        show::json(&Output { store: name, server: address, version, findings: &findings })?;
    } else if !global.quiet {
        let musts = findings.iter().filter(|finding| finding.weight == Weight::Must).count();
        let verdict = match (musts, findings.len()) {
            (0, 0) => "fit for a replica".to_owned(),
            (0, advice) => format!("fit for a replica; {advice} things are advised"),
            (musts, _) => format!("not fit for a replica: {musts} things must change"),
        };
        show::line(&format!("store '{name}', {address} ({version}): {verdict}"))?;
        for finding in &findings {
            let word = if finding.weight == Weight::Must { "must" } else { "should" };
            show::line(&format!("  {word:<6}  {}: {}", finding.what, finding.why))?;
            show::line(&format!("          {}", finding.mend))?;
        }
    }
    Ok(match findings.first().map(|finding| finding.weight) {
        Some(Weight::Must) => Exit::Usage,
        Some(Weight::Should) => Exit::Warnings,
        None => Exit::Done,
    })
}
