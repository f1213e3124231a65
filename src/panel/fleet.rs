//! All stores on one page, those first that need somebody. Pure.
//!
//! Thousands of rows are one answer. Each row is a fragment of its own, which a live page exchanges.

use super::frame::{Frame, page};
use super::icon::Icon;
use super::need::{Need, is_late, need};
use super::sentence::{Reader, loss};
use super::words::{about, at_seconds, moment, span};
use crate::api::store::StoreStatus;
use crate::model::plan::PlanName;
use crate::model::role::Role;
use crate::support::clock::UnixNanos;
use maud::{Markup, html};

/// Which stores are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub need: Option<Need>,
    pub plan: Option<PlanName>,
    /// A part of the name.
    pub search: String,
}

impl Filter {
    fn takes(&self, status: &StoreStatus) -> bool {
        self.need.is_none_or(|wanted| need(status) == wanted)
            && self.plan.is_none_or(|plan| status.plan == plan)
            && status.store.as_str().contains(self.search.trim())
    }

    /// Returns the address of this filter with another need.
    fn with(&self, need: Option<Need>) -> String {
        let query = self.query(need, None);
        if query.is_empty() { "/".to_owned() } else { format!("/?{query}") }
    }

    /// Returns the address of what changes since a version.
    fn events(&self, since: &str) -> String {
        format!("/events?{}", self.query(self.need, Some(since)))
    }

    fn query(&self, need: Option<Need>, since: Option<&str>) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        if let Some(need) = need {
            query.append_pair("need", need.key());
        }
        if let Some(plan) = self.plan {
            query.append_pair("plan", plan.name());
        }
        if !self.search.is_empty() {
            query.append_pair("q", &self.search);
        }
        if let Some(since) = since {
            query.append_pair("since", since);
        }
        query.finish()
    }
}

/// Returns the number of stores in each state.
pub fn counts<'a>(statuses: impl Iterator<Item = &'a StoreStatus>) -> [u64; Need::ALL.len()] {
    let mut counts = [0; Need::ALL.len()];
    for status in statuses {
        counts[need(status) as usize] += 1;
    }
    counts
}

/// Shows how many stores are in each state, as links; a live page exchanges them.
pub fn chips(counts: &[u64; Need::ALL.len()], filter: &Filter) -> Markup {
    let all: u64 = counts.iter().sum();
    html! {
        ul class="chips" id="counts" aria-label="Stores by state" {
            li { a href=(filter.with(None)) aria-current=[filter.need.is_none().then_some("true")] { strong { (all) } " all" } }
            @for (need, count) in Need::ALL.into_iter().zip(counts).filter(|(_, count)| **count > 0) {
                li {
                    a class=(need.tone().class()) href=(filter.with(Some(need))) aria-current=[(filter.need == Some(need)).then_some("true")] {
                        (need.icon().show()) strong { (count) } " " (need.word())
                    }
                }
            }
        }
    }
}

fn state(status: &StoreStatus) -> Markup {
    let need = need(status);
    html! { span class={ "state " (need.tone().class()) } { (need.icon().show()) span { (need.word()) } } }
}

/// Shows the lag against the plan's objective.
fn lag(status: &StoreStatus) -> Markup {
    let objective = status.objective_seconds;
    html! {
        @match status.lag_seconds {
            Some(lag) => {
                span class=[is_late(status).then_some("late")] { (about(lag)) }
                " " span class="soft" { "of " (span(objective as f64)) }
                meter min="0" max=(objective) value=(lag.min(objective as f64).round()) aria-label={ "lag of " (about(lag)) " against " (span(objective as f64)) } {}
            }
            None => span class="soft" { "none yet" },
        }
    }
}

fn database(status: &StoreStatus) -> Markup {
    let Some(database) = &status.database else { return html! { span class="soft" { "none" } } };
    let lag = database.server.as_ref().and_then(|server| server.lag_seconds);
    let lag = lag.or_else(|| database.archive.as_ref()?.lag_seconds);
    let state = database.server.as_ref().map(|server| server.state.as_str());
    let state = state.or_else(|| database.archive.as_ref().map(|archive| archive.state.as_str()));
    html! {
        (state.unwrap_or("unknown"))
        @if let Some(lag) = lag { ", " (about(lag)) " behind" }
    }
}

/// Says whether the store would be failed over, and what that would lose.
fn failover(status: &StoreStatus) -> Markup {
    let who = match status.failover.as_ref() {
        None => "by hand",
        Some(failover) => match (failover.phase.as_str(), failover.ready) {
            ("primary", _) => "serves",
            (_, Some(true)) => "ready",
            (_, Some(false)) => "not ready",
            (_, None) => "a person decides",
        },
    };
    html! { (who) span class="soft block" { (loss(status)) } }
}

fn role(status: &StoreStatus) -> Markup {
    let phase =
        status.failover.as_ref().map(|failover| failover.phase.as_str()).filter(|phase| !phase.is_empty());
    html! { (phase.unwrap_or(status.log_role.name())) }
}

/// Returns a store's row.
pub fn row(status: &StoreStatus, reader: Reader, now: UnixNanos) -> Markup {
    let name = &status.store;
    let proven = status.upkeep.as_ref().and_then(|upkeep| upkeep.proven);
    let replica = if status.log_role == Role::Standby { status.lag_seconds } else { None };
    html! {
        tr id={ "row-" (name) } class=(need(status).tone().class()) {
            th scope="row" data-label="Store" { a href={ "/stores/" (name) } { (name) } span class="plan soft" { (status.plan.name()) } }
            td data-label="State" { (state(status)) }
            @if reader == Reader::Operator { td data-label="Role" { (role(status)) } }
            td data-label="Lag" { (lag(status)) }
            @if reader == Reader::Operator {
                td data-label="Standby" class=[replica.is_none().then_some("none")] {
                    @match replica { Some(lag) => { (about(lag)) " behind" }, None => span class="soft" { "–" } }
                }
            }
            td data-label="Database" class=[status.database.is_none().then_some("none")] { (database(status)) }
            @if reader == Reader::Operator { td data-label="Failover" { (failover(status)) } }
            td data-label="Proven" {
                @match proven { Some(at) => (moment(at_seconds(at), now)), None => span class="soft" { (if status.upkeep.is_some() { "never" } else { "not known yet" }) } }
            }
            @if reader == Reader::Operator {
                td data-label="Epoch" class=[status.failover.is_none().then_some("none")] {
                    @match &status.failover { Some(failover) => (failover.epoch), None => span class="soft" { "–" } }
                }
            }
        }
    }
}

fn head(reader: Reader) -> Markup {
    let all = ["Store", "State", "Role", "Lag", "Standby", "Database", "Failover", "Proven", "Epoch"];
    let for_all = ["Store", "State", "Lag", "Database", "Proven"];
    let shown = all.into_iter().filter(|name| reader == Reader::Operator || for_all.contains(name));
    html! { thead { tr { @for name in shown { th scope="col" { (name) } } } } }
}

fn search(filter: &Filter) -> Markup {
    html! {
        form class="search" method="get" action="/" role="search" {
            @if let Some(need) = filter.need { input type="hidden" name="need" value=(need.key()); }
            label class="field" {
                span class="hidden" { "Part of a store's name" }
                (Icon::Search.show())
                input type="search" name="q" value=(filter.search) placeholder="Find a store" maxlength="64" autocomplete="off";
            }
            label {
                span class="hidden" { "Plan" }
                select name="plan" {
                    option value="" selected[filter.plan.is_none()] { "All plans" }
                    @for plan in PlanName::ALL {
                        option value=(plan.name()) selected[filter.plan == Some(plan)] { (plan.name()) }
                    }
                }
            }
            button type="submit" { "Show" }
        }
    }
}

/// Returns the page of all stores that somebody may see.
pub fn fleet(
    frame: &Frame,
    statuses: &[StoreStatus],
    filter: &Filter,
    reader: Reader,
    since: &str,
    now: UnixNanos,
) -> Markup {
    let counts = counts(statuses.iter());
    let mut shown: Vec<&StoreStatus> = statuses.iter().filter(|status| filter.takes(status)).collect();
    shown.sort_by_cached_key(|status| (need(status), status.store.clone()));
    let title = match reader {
        Reader::Operator => "Stores",
        Reader::Customer => "Your stores",
    };
    let body = html! {
        div class="title" {
            h1 { (title) }
            (summary(needy(&counts)))
        }
        (chips(&counts, filter))
        (search(filter))
        @if shown.is_empty() {
            p class="empty card" { @if statuses.is_empty() { "There is no store here yet." } @else { "No store is like that. " a href="/" { "Show all" } } }
        } @else {
            div class="scroll" tabindex="0" role="region" aria-label="Stores" {
                table class="fleet" {
                    caption class="hidden" { "Stores, those first that need somebody" }
                    (head(reader))
                    tbody { @for status in shown { (row(status, reader, now)) } }
                }
            }
        }
    };
    page(frame, title, Some(&filter.events(since)), body)
}

/// Says how many stores need somebody.
pub fn summary(needy: u64) -> Markup {
    html! {
        p class="soft" id="summary" {
            @match needy {
                0 => "Nothing needs you.",
                1 => "One store needs a look.",
                many => { (many) " stores need a look." }
            }
        }
    }
}

/// Returns how many stores need somebody.
pub fn needy(counts: &[u64; Need::ALL.len()]) -> u64 {
    Need::ALL.into_iter().zip(counts).filter(|(need, _)| *need < Need::New).map(|(_, count)| count).sum()
}

#[cfg(test)]
mod tests {
    use super::super::samples::{CASES, NOW, case, identity, store};
    use super::*;
    use crate::model::access::UserRole;

    fn frame<'a>(identity: &'a crate::model::access::Identity) -> Frame<'a> {
        Frame { name: "understudy", identity: Some(identity), key: "k" }
    }

    fn all() -> Vec<StoreStatus> {
        let named = |(at, (name, ..)): (usize, &(&str, Need, &str))| StoreStatus {
            store: store(&format!("s{at:02}")),
            ..case(name)
        };
        CASES.iter().enumerate().map(named).collect()
    }

    #[test]
    fn those_who_need_somebody_are_first_and_names_follow() {
        let operator = identity(UserRole::Operator);
        let mut statuses = all();
        statuses.reverse();
        let text =
            fleet(&frame(&operator), &statuses, &Filter::default(), Reader::Operator, "1", NOW).into_string();
        let order: Vec<_> =
            text.split("id=\"row-").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        let mut expected: Vec<_> =
            all().iter().map(|status| (need(status), status.store.to_string())).collect();
        expected.sort();
        assert_eq!(order, expected.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>());
    }

    #[test]
    fn a_filter_shows_what_it_says_and_its_links_keep_the_rest() {
        let operator = identity(UserRole::Operator);
        let shown = |filter: &Filter| {
            let text = fleet(&frame(&operator), &all(), filter, Reader::Operator, "1", NOW).into_string();
            (text.matches("id=\"row-").count(), text)
        };
        let (held, text) = shown(&Filter { need: Some(Need::Held), ..Filter::default() });
        assert!(held == 1 && text.contains("aria-current=\"true\""), "{held}");
        assert_eq!(shown(&Filter { search: "s0".into(), ..Filter::default() }).0, 10);
        let private = Filter { plan: Some(PlanName::Private), ..Filter::default() };
        let (none, text) = shown(&private);
        assert!(none == 0 && text.contains("No store is like that"));
        assert_eq!(private.with(Some(Need::FailingOver)), "/?need=failing-over&plan=private");
        let odd = Filter { search: "a&b=c\"".into(), ..Filter::default() };
        assert_eq!(odd.with(None), "/?q=a%26b%3Dc%22");
    }

    #[test]
    fn a_customer_s_row_names_no_host_and_no_error() {
        for (name, ..) in CASES {
            let text = row(&case(name), Reader::Customer, NOW).into_string();
            for hidden in ["secret-host", "probe", "no room", "the root is empty", "data-label=\"Role\""] {
                assert!(!text.contains(hidden), "{name}: {text}");
            }
        }
    }

    #[test]
    fn a_thousand_rows_are_one_answer() {
        let operator = identity(UserRole::Operator);
        let named = |at: usize| StoreStatus { store: store(&format!("s{at}")), ..case("standby") };
        let statuses: Vec<_> = (0..1000).map(named).collect();
        let text =
            fleet(&frame(&operator), &statuses, &Filter::default(), Reader::Operator, "1", NOW).into_string();
        assert_eq!(text.matches("<tr id=\"row-").count(), 1000);
        assert!(text.len() < 2_500_000, "{}", text.len());
    }
}
