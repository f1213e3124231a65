//! What the sentence about a store rests on: probes, lease, database, readiness, steps. Pure.

use super::icon::Icon;
use super::need::Tone;
use super::words::{about, at_seconds, count, moment, size, span};
use crate::api::failover::{FailoverStatus, ReadyItem};
use crate::api::run::RunReport;
use crate::api::store::StoreStatus;
use crate::support::clock::UnixNanos;
use maud::{Markup, html};

fn fact(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// Shows the facts about a store's copies.
pub fn copies(status: &StoreStatus, now: UnixNanos) -> Markup {
    let upkeep = status.upkeep.clone().unwrap_or_default();
    // Until the daemon has looked once, it does not know.
    let never = if status.upkeep.is_some() { "never" } else { "not known yet" };
    let when = |at: Option<f64>| match at {
        Some(at) => moment(at_seconds(at), now),
        None => html! { span class="soft" { (never) } },
    };
    let next = match (status.running, status.next_run) {
        (true, _) => html! { "now" },
        (false, Some(at)) if at_seconds(at) > now => {
            html! { "in " (about(at_seconds(at).since(now).as_secs_f64())) }
        }
        (false, Some(_)) => html! { "due" },
        (false, None) => html! { span class="soft" { "none" } },
    };
    let snapshot = match status.snapshot {
        Some(number) => html! { (number) },
        None => html! { span class="soft" { "none" } },
    };
    html! {
        section class="card" aria-labelledby="copies" {
            h2 id="copies" { "Copies" }
            dl class="facts" {
                (fact("Newest snapshot", &snapshot))
                (fact("Lag", &status.lag_seconds.map_or(html! { "not known" }, |lag| html! { (span(lag)) " of " (span(status.objective_seconds as f64)) })))
                (fact("Next run", &next))
                (fact("Schedule", &html! { code { (status.schedule) } }))
                (fact("Last proven", &when(upkeep.proven)))
                (fact("Last verified", &when(upkeep.verified)))
                (fact("Last pruned", &when(upkeep.pruned)))
                @if let Some(report) = &status.last_report { (last_run(report)) }
            }
        }
    }
}

fn last_run(report: &RunReport) -> Markup {
    let text = match report {
        RunReport::Resync(report) => format!(
            "{} entries, {} shipped in {}",
            count(report.entries),
            size(report.shipped_bytes),
            span(
                report.phases.open_seconds
                    + report.phases.scan_seconds
                    + report.phases.ship_seconds
                    + report.phases.commit_seconds
            )
        ),
        RunReport::Follow(report) => {
            format!("{} entries, {} fetched", count(report.entries), size(report.requests.received_bytes))
        }
    };
    fact("Last run", &html! { (text) })
}

/// Shows a store's database on this host.
pub fn database(status: &StoreStatus) -> Markup {
    let Some(database) = &status.database else { return html! {} };
    let lag = |lag: Option<f64>| lag.map(|lag| format!(", {} behind", span(lag))).unwrap_or_default();
    html! {
        section class="card" aria-labelledby="database" {
            h2 id="database" { "Database" }
            dl class="facts" {
                @if let Some(server) = &database.server {
                    (fact("Server", &html! { (server.state) (lag(server.lag_seconds)) }))
                    @if let Some(behind) = server.behind { (fact("Not applied", &html! { (count(behind)) " transactions" })) }
                    @if let Some(applied) = &server.applied { (fact("Applied up to", &html! { code { (applied) } })) }
                    @if let Some(meaning) = &server.meaning { (fact("Trouble", &html! { (meaning) })) }
                    @if let Some(mend) = &server.mend { (fact("What mends it", &html! { (mend) })) }
                }
                @if let Some(archive) = &database.archive {
                    (fact("Archive", &html! { (archive.state) (lag(archive.lag_seconds)) }))
                    @if let Some(error) = &archive.error { (fact("Trouble", &html! { (error) })) }
                }
                @if let Some(seeds) = &database.seeds {
                    (fact("Newest seed", &seeds.age_seconds.map_or(html! { "none" }, |age| html! { (about(age)) " old" })))
                }
                @if let Some(fault) = database.drill.as_ref().and_then(|drill| drill.fault.as_ref()) {
                    (fact("Last drill", &html! { (fault) }))
                }
            }
        }
    }
}

/// Shows what is seen of the primary, and what this host is.
pub fn probes(status: &StoreStatus, failover: &FailoverStatus) -> Markup {
    let watch = failover.watch.as_ref().or(status.watch.as_ref());
    let host = |host: &crate::model::id::WriterId| html! { (host) };
    html! {
        section class="card" aria-labelledby="probes" {
            h2 id="probes" { "Failover" }
            dl class="facts" {
                @if let Some(why) = &failover.no_agent {
                    (fact("This host", &html! { (failover.host) }))
                    (fact("By itself", &html! { "no: " (why) }))
                } @else {
                    (fact("This host", &html! { (failover.host) ", " (failover.phase) }))
                    (fact("Primary", &failover.primary.as_ref().map_or(html! { "none" }, host)))
                    (fact("Epoch", &html! { (failover.epoch) }))
                    (fact("Lease", &html! { @if failover.has_lease { "the primary needs one" } @else { "not needed: a person decides" } }))
                    (fact("By itself", &html! { @if failover.paused { "paused" } @else if failover.why_not_automatic.is_empty() { "would take over" } @else { "no: " (failover.why_not_automatic.join("; ")) } }))
                    (fact("If asked", &html! { @if failover.why_not.is_empty() { "would take over" } @else { "no: " (failover.why_not.join("; ")) } }))
                    @if !failover.synced.is_empty() {
                        (fact("Have every transaction", &html! { (failover.synced.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")) }))
                    }
                }
                @if let Some(watch) = watch {
                    (fact("Probes", &html! { (watch.verdict) @if !watch.reasons.is_empty() { ": " (watch.reasons.join("; ")) } }))
                }
                @for failing in &failover.failing { (fact("Tried again", &html! { (failing) })) }
                @for refused in &failover.refused { (fact("Refused", &html! { (refused) })) }
            }
        }
    }
}

fn level(item: &ReadyItem) -> (Tone, Icon, &'static str) {
    match item.level.as_str() {
        "green" => (Tone::Good, Icon::Check, "ready"),
        "amber" => (Tone::Warn, Icon::Warning, "look"),
        _ => (Tone::Bad, Icon::Down, "holds it back"),
    }
}

/// Shows whether this host would take over by itself, item by item, with what to do.
pub fn readiness(failover: &FailoverStatus) -> Markup {
    if failover.ready.is_empty() {
        return html! {};
    }
    html! {
        section class="card" aria-labelledby="readiness" {
            h2 id="readiness" { "Readiness" }
            ul class="items" {
                @for item in &failover.ready {
                    @let (tone, icon, word) = level(item);
                    li {
                        span class={ "state " (tone.class()) } { (icon.show()) span { (word) } }
                        div {
                            strong { (item.item) } " " (item.why)
                            @if !item.remedy.is_empty() { p class="soft" { "To do: " (item.remedy) } }
                        }
                    }
                }
            }
        }
    }
}

/// Shows the steps of what the host does now, or did last.
pub fn steps(failover: &FailoverStatus) -> Markup {
    if failover.steps.is_empty() {
        return html! {};
    }
    html! {
        section class="card" aria-labelledby="steps" {
            h2 id="steps" { "Steps: " (failover.operation) }
            ol class="steps" {
                @for step in &failover.steps {
                    li {
                        strong { (step.step) } " " (step.detail)
                        span class="soft" {
                            " at " (span(step.at_seconds)) ", "
                            @match step.took_seconds { Some(took) => { "took " (span(took)) }, None => { "under way" } }
                        }
                        @if let Some(failure) = &step.failure { p class="bad" { (Icon::Warning.show()) " failed last: " (failure) } }
                    }
                }
            }
        }
    }
}

/// Shows how to connect to the read-only instance.
pub fn replica(failover: &FailoverStatus, shows_path: bool) -> Markup {
    let Some(replica) = &failover.replica else { return html! {} };
    html! {
        section class="card" aria-labelledby="replica" {
            h2 id="replica" { "Read-only instance" }
            @match (&replica.snapshot, &replica.address) {
                (Some(snapshot), Some(address)) => {
                    p { "It shows snapshot " (snapshot) ", and answers at:" }
                    p { code class="command" { (address) } }
                }
                (Some(snapshot), None) => p { "It shows snapshot " (snapshot) "; no address is configured for it." },
                (None, _) => p { "It is there while this host stands by; now it is not." },
            }
            @if shows_path { p class="soft" { "Its files are in " code { (replica.path) } "." } }
        }
    }
}
