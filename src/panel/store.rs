//! A store on one page: a sentence, one button with its consequence, and what both rest on. Pure.

use super::command::{quoted, request, show as command};
use super::evidence;
use super::frame::{Frame, page};
use super::icon::Icon;
use super::need::{Need, Tone, need};
use super::sentence::{Reader, sentence};
use super::timeline::{self, Timeline};
use super::words::{span, whole};
use crate::api::failover::FailoverStatus;
use crate::api::store::StoreStatus;
use crate::model::access::{Action, Identity, may};
use crate::model::role::Role;
use crate::support::clock::UnixNanos;
use maud::{Markup, html};

/// What is known of a store.
pub struct View<'a> {
    pub status: &'a StoreStatus,
    pub failover: &'a FailoverStatus,
    /// None where the log could not be read.
    pub timeline: Option<&'a Timeline>,
    /// When the pause ends; none if there is none, or it has no end.
    pub pause_ends: Option<UnixNanos>,
    pub now: UnixNanos,
}

/// What came of a form.
pub struct Outcome<'a> {
    pub tone: Tone,
    pub text: &'a str,
}

/// Shows what is so: the part of the page that is exchanged while one looks.
pub fn live(view: &View, reader: Reader) -> Markup {
    let said = sentence(view.status, reader, view.now);
    let need = need(view.status);
    html! {
        div id="live" {
            section class={ "card sentence " (need.tone().class()) } aria-label="What is so" {
                p class={ "state " (need.tone().class()) } { (need.icon().show()) span { (need.word()) } }
                div role="status" {
                    p class="what" { (whole(&said.what)) }
                    p class="risk" { (whole(&said.risk)) }
                }
                @if let Some(progress) = view.status.progress.as_ref().filter(|_| view.status.running) {
                    p class="soft" { "A run is under way: " (super::words::count(progress.entries)) " entries looked at, " (super::words::size(progress.shipped_bytes)) " shipped." }
                }
            }
            @if reader == Reader::Operator { (evidence::steps(view.failover)) }
        }
    }
}

/// Shows the facts; they are exchanged as well.
pub fn facts(view: &View, reader: Reader) -> Markup {
    html! {
        div class="facts-column" id="facts" {
            @if reader == Reader::Operator {
                (evidence::readiness(view.failover))
                (evidence::probes(view.status, view.failover))
            }
            (evidence::copies(view.status, view.now))
            (evidence::database(view.status))
            (evidence::replica(view.failover, reader == Reader::Operator))
        }
    }
}

/// Returns the page of a store.
pub fn store(
    frame: &Frame,
    view: &View,
    identity: &Identity,
    outcome: Option<&Outcome>,
    since: &str,
) -> Markup {
    let name = &view.status.store;
    let reader = reader(identity, view.status);
    let body = html! {
        div class="title" {
            p class="path" { a href="/" { "← Stores" } }
            h1 { (name) }
            p class="soft" { (view.status.plan.name()) @if reader == Reader::Operator { ", " (view.status.log_role.name()) " here" } }
        }
        @if let Some(outcome) = outcome {
            p class={ "told " (outcome.tone.class()) } role="status" {
                (if outcome.tone == Tone::Good { Icon::Check } else { Icon::Warning }.show())
                span { (outcome.text) }
            }
        }
        div class="columns" {
            div class="main-column" {
                (live(view, reader))
                (actions(frame, view, identity))
                (timeline::show(view.timeline, view.status.objective_seconds, view.now))
            }
            (facts(view, reader))
        }
    };
    page(frame, name.as_str(), Some(&format!("/stores/{name}/events?since={since}")), body)
}

/// Returns as whom somebody reads about a store.
pub fn reader(identity: &Identity, status: &StoreStatus) -> Reader {
    match may(identity, Action::SeeInside, Some(&status.store)) {
        true => Reader::Operator,
        false => Reader::Customer,
    }
}

/// A form with one button.
struct Button<'a> {
    path: &'a str,
    label: &'a str,
    consequence: String,
    command: Option<String>,
    is_main: bool,
}

fn form(frame: &Frame, view: &View, button: &Button, fields: &Markup) -> Markup {
    let name = &view.status.store;
    html! {
        form class="action" method="post" action=(format!("/stores/{name}/{}", button.path)) {
            input type="hidden" name="key" value={ (frame.key) "-" (button.path) };
            (fields)
            button class=(if button.is_main { "main" } else { "other" }) type="submit" { (button.label) }
            div class="consequence" {
                p { (button.consequence) }
                @if let Some(line) = &button.command { (command(line)) }
            }
        }
    }
}

fn text_field(id: &str, label: &str, name: &str, placeholder: &str) -> Markup {
    html! {
        div class="field-line" {
            label for=(id) { (label) }
            input id=(id) name=(name) type="text" maxlength="200" placeholder=(placeholder) autocomplete="off";
        }
    }
}

fn resync<'a>(view: &View, reader: Reader, is_main: bool) -> Button<'a> {
    let name = &view.status.store;
    let consequence = match (reader, view.status.log_role) {
        (Reader::Customer, _) => {
            "A new copy is made now, and not only when it is due. You may ask every five minutes."
        }
        (_, Role::Standby) => "This host looks for a new snapshot now, and makes it ready to mount.",
        _ => "What changed since the last snapshot is shipped now, and a snapshot is committed.",
    };
    let line = (reader == Reader::Operator).then(|| format!("understudy resync {name}"));
    let label = if reader == Reader::Customer { "Copy it now" } else { "Resync now" };
    Button { path: "resync", label, consequence: consequence.to_owned(), command: line, is_main }
}

fn release<'a>(view: &View) -> Button<'a> {
    let name = &view.status.store;
    Button {
        path: "release",
        label: "Release",
        consequence: "Runs are made again. A run that a safeguard stopped is made once more and let through: what is gone from the tree is then gone from the newest snapshot, too. Older snapshots keep it.".to_owned(),
        command: Some(request(name, "release")),
        is_main: true,
    }
}

/// Shows what may be done: one main button by the store's state, and the others below it.
fn actions(frame: &Frame, view: &View, identity: &Identity) -> Markup {
    let status = view.status;
    let name = &status.store;
    let may = |action| may(identity, action, Some(name));
    let reader = reader(identity, status);
    let need = need(status);
    if !may(Action::Resync) {
        return html! {};
    }
    let none = html! {};
    let is_held = status.held.is_some() && need == Need::Held;
    let main = match need {
        Need::Held if may(Action::Hold) => Some(form(frame, view, &release(view), &none)),
        Need::Held | Need::FailingOver | Need::Fenced => None,
        Need::Down if may(Action::FailOver) => Some(by_hand(
            &format!("understudy failover {name}"),
            "This has a host take the store over: it says first what is lost, and asks.",
        )),
        _ if status.log_role == Role::Watcher => None,
        _ => Some(form(frame, view, &resync(view, reader, true), &none)),
    };
    if main.is_none() && !may(Action::Hold) {
        return html! {};
    }
    html! {
        section class="card actions" aria-labelledby="actions" {
            h2 id="actions" { "What you can do" }
            @if let Some(main) = main { (main) }
            @if may(Action::Hold) {
                details {
                    summary { "More" }
                    @if need == Need::Down && status.log_role != Role::Watcher { (form(frame, view, &resync(view, reader, false), &none)) }
                    @if !is_held && status.log_role != Role::Watcher { (hold(frame, view)) }
                    @if may(Action::Pause) && view.failover.no_agent.is_none() { (pause(frame, view)) }
                }
            }
        }
    }
}

fn by_hand(line: &str, consequence: &str) -> Markup {
    html! { div class="action" { div class="consequence" { p { (consequence) } (command(line)) } } }
}

fn hold(frame: &Frame, view: &View) -> Markup {
    let button = Button {
        path: "hold",
        label: "Hold",
        consequence: "No run of it begins on this host until it is released, also after a change. Its lag grows meanwhile.".to_owned(),
        command: Some(request(&view.status.store, "hold?reason=…")),
        is_main: false,
    };
    form(frame, view, &button, &text_field("hold-reason", "Reason", "reason", "maintenance"))
}

fn pause(frame: &Frame, view: &View) -> Markup {
    let name = &view.status.store;
    if view.failover.paused {
        let ends = match view.pause_ends {
            Some(at) => format!(" It ends by itself in {}.", span(at.since(view.now).as_secs_f64())),
            None => " It has no end.".to_owned(),
        };
        let button = Button {
            path: "resume",
            label: "Resume",
            consequence: format!("Hosts may take it over by themselves again.{ends}"),
            command: Some(format!("understudy resume {name}")),
            is_main: false,
        };
        return form(frame, view, &button, &html! {});
    }
    let button = Button {
        path: "pause",
        label: "Pause",
        consequence: "No host takes it over by itself until the pause ends. A person still can.".to_owned(),
        command: Some(format!("understudy pause {name} --reason {}", quoted("maintenance of the network"))),
        is_main: false,
    };
    let fields = html! {
        (text_field("pause-reason", "Reason", "reason", "maintenance of the network"))
        div class="field-line" {
            label for="pause-ends" { "Ends after" }
            select id="pause-ends" name="minutes" {
                option value="30" { "30 min" }
                option value="60" selected { "1 h" }
                option value="240" { "4 h" }
                option value="1440" { "1 day" }
                option value="" { "no end: resume it by hand" }
            }
        }
    };
    form(frame, view, &button, &fields)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{CASES, NOW, case, identity};
    use super::*;
    use crate::api::failover::ReplicaStatus;
    use crate::model::access::UserRole;
    use crate::model::id::{Sequence, WriterId};

    fn failover(agent: bool, paused: bool) -> FailoverStatus {
        FailoverStatus {
            store: super::super::samples::store("acme"),
            host: WriterId("secret-host-2".into()),
            no_agent: (!agent).then(|| "no member".to_owned()),
            phase: "standby".into(),
            epoch: 3,
            primary: Some(WriterId("secret-host-1".into())),
            members: Vec::new(),
            handover_to: None,
            completed: true,
            synced: Vec::new(),
            paused,
            has_lease: true,
            waits_for: Vec::new(),
            why_not: Vec::new(),
            why_not_automatic: vec!["failover is <paused>".into()],
            refused: Vec::new(),
            failing: Vec::new(),
            watch: None,
            ready: Vec::new(),
            replica: Some(ReplicaStatus {
                path: "/srv/secret-place".into(),
                address: Some("reports.example:3306".into()),
                snapshot: Some(Sequence(42)),
            }),
            loss_files_seconds: None,
            loss_database_seconds: None,
            media: None,
            operation: String::new(),
            steps: Vec::new(),
        }
    }

    fn shown(name: &str, role: UserRole, failover: &FailoverStatus) -> String {
        let (identity, status, day) = (identity(role), case(name), Timeline::default());
        let frame = Frame { name: "x", identity: Some(&identity), key: "k" };
        let view = View { status: &status, failover, timeline: Some(&day), pause_ends: None, now: NOW };
        store(&frame, &view, &identity, None, "1").into_string()
    }

    #[test]
    fn who_may_do_something_is_offered_it_and_nobody_else_is() {
        let agent = failover(true, false);
        for (name, ..) in CASES {
            for role in UserRole::ALL {
                let text = shown(name, role, &agent);
                let offers = |path: &str| text.contains(&format!("action=\"/stores/acme/{path}\""));
                let is_operator = matches!(role, UserRole::Admin | UserRole::Operator);
                for path in ["hold", "release", "pause", "resume"] {
                    assert!(is_operator || !offers(path), "{name} {role:?} {path}");
                }
                let may_ask = is_operator || role == UserRole::Customer;
                assert!(may_ask || !offers("resync"), "{name} {role:?}");
            }
        }
        let operator = |name| shown(name, UserRole::Operator, &agent);
        assert!(operator("held").contains("acme/release") && !operator("held").contains("acme/resync"));
        assert!(operator("fine").contains("acme/resync") && operator("fine").contains("acme/hold"));
        assert!(operator("down").contains("understudy failover acme"));
        assert!(!shown("down", UserRole::Customer, &agent).contains("understudy"));
        assert!(operator("fine").contains("acme/pause"));
        let paused = shown("fine", UserRole::Operator, &failover(true, true));
        assert!(paused.contains("acme/resume") && !paused.contains("acme/pause"));
        assert!(!shown("fine", UserRole::Operator, &failover(false, false)).contains("acme/pause"));
    }

    #[test]
    fn a_customer_sees_no_host_no_place_and_no_error_and_how_to_connect() {
        for (name, ..) in CASES {
            let status = case(name);
            let text = shown(name, UserRole::Customer, &failover(true, false));
            for hidden in [
                "secret-host",
                "secret-place",
                "curl",
                "understudy",
                "probe",
                "no room",
                "1062",
                "Readiness",
                "Failover",
            ] {
                assert!(!text.contains(hidden), "{name}: {hidden}");
            }
            assert!(text.contains("reports.example:3306"), "{name} {status:?}");
        }
    }

    #[test]
    fn what_others_wrote_is_shown_as_text() {
        let text = shown("fine", UserRole::Viewer, &failover(true, false));
        assert!(text.contains("failover is &lt;paused&gt;") && !text.contains("<paused>"));
    }
}
