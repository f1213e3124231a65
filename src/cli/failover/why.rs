//! `understudy why`, `pause` and `resume`.

use super::args::{PauseArgs, ResumeArgs, WhyArgs, person};
use super::link::{Link, daemon};
use crate::api::failover::FailoverStatus;
use crate::cli::context::Context;
use crate::cli::error::Result;
use crate::cli::exit::Exit;
use crate::cli::{Global, show};
use crate::model::id::StoreName;

pub(in crate::cli) fn run_why(global: &Global, args: &WhyArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let (name, remote) = (StoreName::parse(&args.store)?, daemon(&context)?);
    let status = Link::new(&remote, &name).status()?;
    match global.json {
        true => show::json(&status)?,
        false => print(&status)?,
    }
    Ok(Exit::Done)
}

/// Prints what this host sees of the primary.
fn watch(status: &FailoverStatus) -> Result<()> {
    let Some(watch) = &status.watch else { return Ok(()) };
    show::line(&format!("  seen from here, the primary is {}", watch.verdict))?;
    watch.reasons.iter().try_for_each(|reason| show::line(&format!("    {reason}")))
}

/// Prints whether this host would take over by itself, and what deserves a look.
fn ready(status: &FailoverStatus) -> Result<()> {
    let is_ready = status.ready.iter().all(|item| item.level != "red");
    if status.ready.is_empty() {
        return Ok(());
    }
    show::line(match is_ready {
        true => "  it would take over by itself if the watchers voted for it",
        false => "  it would not take over by itself:",
    })?;
    for item in status.ready.iter().filter(|item| item.level != "green") {
        show::line(&format!("    {} {}: {} ({})", item.level, item.item, item.why, item.remedy))?;
    }
    Ok(())
}

fn print(status: &FailoverStatus) -> Result<()> {
    let store = &status.store;
    if let Some(why) = &status.no_agent {
        show::line(&format!("store '{store}' has no failover here: {why}"))?;
        return watch(status);
    }
    let primary = status.primary.as_ref().map_or("nobody", |primary| &primary.0);
    let complete = if status.completed { "" } else { ", not complete" };
    show::line(&format!(
        "store '{store}': '{primary}' is the primary in epoch {}{complete}; this host, '{}', is {}",
        status.epoch, status.host, status.phase
    ))?;
    if let Some(to) = &status.handover_to {
        show::line(&format!("  a handover to '{to}' is in progress"))?;
    }
    if !status.synced.is_empty() {
        let names: Vec<_> = status.synced.iter().map(ToString::to_string).collect();
        let names = names.join(", ");
        show::line(&format!(
            "  {names} has every transaction of the database that customers were told is done"
        ))?;
    }
    for host in &status.waits_for {
        show::line(&format!("  it waits until '{host}' is known to be closed"))?;
    }
    if let Some(replica) = &status.replica {
        let at = replica.address.as_deref().unwrap_or(&replica.path);
        match replica.snapshot {
            Some(snapshot) => {
                show::line(&format!("  its read-only instance at {at} shows snapshot {snapshot}"))?
            }
            None => show::line(&format!(
                "  its read-only instance at {at} is off while this host does not stand by"
            ))?,
        }
    }
    watch(status)?;
    ready(status)?;
    list("  fails now, and is tried again:", &status.failing)?;
    if status.primary.as_ref() == Some(&status.host) {
        return Ok(());
    }
    match status.why_not.is_empty() {
        true => show::line("  by a person: it would take over (`understudy failover`)")?,
        false => list("  by a person: it would not take over:", &status.why_not)?,
    }
    match status.why_not_automatic.is_empty() {
        true => show::line("  by itself: it may take over, once the watchers agree"),
        false => list("  by itself: it would not take over:", &status.why_not_automatic),
    }
}

fn list(head: &str, reasons: &[String]) -> Result<()> {
    if reasons.is_empty() {
        return Ok(());
    }
    show::line(head)?;
    reasons.iter().try_for_each(|reason| show::line(&format!("    {reason}")))
}

pub(in crate::cli) fn run_pause(global: &Global, args: &PauseArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let (name, remote) = (StoreName::parse(&args.store)?, daemon(&context)?);
    let link = Link::new(&remote, &name);
    let person = Some(person(args.person.as_deref()));
    link.post("pause", &[("person", person), ("reason", args.reason.clone())])?;
    say(global, &format!("store '{name}': no host takes over by itself until `understudy resume {name}`"))
}

pub(in crate::cli) fn run_resume(global: &Global, args: &ResumeArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let (name, remote) = (StoreName::parse(&args.store)?, daemon(&context)?);
    let link = Link::new(&remote, &name);
    link.post("resume", &[("person", Some(person(args.person.as_deref())))])?;
    say(global, &format!("store '{name}': automatic failover is resumed"))
}

fn say(global: &Global, text: &str) -> Result<Exit> {
    if !global.quiet && !global.json {
        show::line(text)?;
    }
    Ok(Exit::Done)
}
