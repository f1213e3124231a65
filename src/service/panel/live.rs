//! Live pages: what changed is rendered once and sent to all who may see it, as server-sent events.
//!
//! While somebody looks, a task renders the rows of all stores once a second, and the parts of the stores whose
//! own pages are open. A part that differs from before gets the next version. A stream sends the parts that are
//! newer than what its browser has; it says which version that is when it comes back (`Last-Event-ID`), so
//! nothing is missed and nothing sent twice. A browser that is slow is sent only the last version of each part.

use super::hub::{At, Hub, Looker, Part};
use super::pages::{FleetQuery, reader_of_all, seen};
use super::sessions::SessionKey;
use super::state::PanelState;
use crate::model::access::{Action, Identity, may};
use crate::model::id::StoreName;
use crate::panel::fleet::{chips, counts, needy, row, summary};
use crate::panel::sentence::Reader;
use crate::panel::store::{View, facts, live, reader};
use crate::support::lock::lock;
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks at what changed.
const LOOK: Duration = Duration::from_secs(1);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Keeps what is live up to date while somebody looks, for ever.
pub(super) fn keep(state: PanelState) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            if state.hub.changed.receiver_count() == 0 {
                continue;
            }
            let looking = state.clone();
            // Reads files of databases, and takes some milliseconds for a thousand stores.
            let looked = tokio::task::spawn_blocking(move || look(&looking)).await;
            if let Err(error) = looked {
                tracing::error!(%error, "the live pages were not rendered");
            }
        }
    });
}

fn look(state: &PanelState) {
    let daemon = &state.site.daemon;
    let (statuses, now) = (daemon.statuses(), daemon.env().wall());
    let (fleets, stores) = {
        let lookers = lock(&state.hub.lookers);
        (
            lookers.fleets.keys().copied().collect::<Vec<_>>(),
            lookers.stores.keys().cloned().collect::<Vec<_>>(),
        )
    };
    let mut made = Vec::new();
    for status in &statuses {
        for reader in &fleets {
            made.push(((status.store.clone(), *reader, Part::Row), row(status, *reader, now).into_string()));
        }
    }
    for (name, reader) in stores {
        let Some(status) = statuses.iter().find(|status| status.store == name) else { continue };
        let failover = state.site.status(&name);
        let pause_ends = state.pauses.end_of(&name);
        let view = View { status, failover: &failover, timeline: None, pause_ends, now };
        made.push(((name.clone(), reader, Part::Live), live(&view, reader).into_string()));
        made.push(((name, reader, Part::Facts), facts(&view, reader).into_string()));
    }
    let mut rendered = lock(&state.hub.rendered);
    let next = rendered.version + 1;
    for (key, html) in made {
        Hub::take(&mut rendered, key, html, next);
    }
    rendered.statuses = Arc::new(statuses);
    drop(rendered);
    state.hub.changed.send_replace(next);
}

/// Returns a fragment that takes the place of the element with this id.
fn partial(out: &mut String, id: &str, html: &str) {
    let _ = write!(out, "<hx-partial hx-target=\"#{id}\" hx-swap=\"outerMorph\">{html}</hx-partial>");
}

/// Returns the id of an element as a selector has it: names of stores may have dots.
fn selector(id: &str) -> String {
    id.replace('.', "\\.")
}

/// What one stream has sent.
struct Sent {
    version: u64,
    counts: Option<String>,
}

impl Sent {
    /// Returns what the browser does not have yet.
    fn news(&mut self, hub: &Hub, identity: &Identity, at: &At) -> String {
        let rendered = lock(&hub.rendered);
        let mut out = String::new();
        let newer = |key: &(StoreName, Reader, Part)| {
            rendered.parts.get(key).filter(|part| part.version > self.version)
        };
        match at {
            At::Fleet(reader, filter) => {
                let statuses = seen(identity, rendered.statuses.to_vec());
                for status in &statuses {
                    if let Some(part) = newer(&(status.store.clone(), *reader, Part::Row)) {
                        partial(&mut out, &selector(&format!("row-{}", status.store)), &part.html);
                    }
                }
                let counts = counts(statuses.iter());
                let html = chips(&counts, filter).into_string();
                if self.counts.as_ref() != Some(&html) {
                    partial(&mut out, "counts", &html);
                    let text = summary(needy(&counts)).into_string();
                    partial(&mut out, "summary", &text);
                    self.counts = Some(html);
                }
            }
            At::Store(name, reader) => {
                for (part, id) in [(Part::Live, "live"), (Part::Facts, "facts")] {
                    if let Some(part) = newer(&(name.clone(), *reader, part)) {
                        partial(&mut out, id, &part.html);
                    }
                }
            }
        }
        self.version = rendered.version;
        out
    }
}

/// Returns who still looks: a session that has ended, or may see less now, ends its stream.
fn still(state: &PanelState, session: Option<SessionKey>, identity: &Identity, at: &At) -> Option<Identity> {
    let is_proxied = state.settings.proxy.is_some() && identity.who.ends_with(" by the proxy");
    let now = match session {
        Some(_) if is_proxied => identity.clone(),
        Some(key) => state.sessions.still(key)?,
        None => return None,
    };
    let may_see = match at {
        At::Fleet(reader, _) => reader_of_all(&now) == *reader,
        At::Store(name, reader) => {
            let is_inside = may(&now, Action::SeeInside, Some(name));
            may(&now, Action::SeeStore, Some(name)) && is_inside == (*reader == Reader::Operator)
        }
    };
    may_see.then_some(now)
}

fn stream(
    state: PanelState,
    identity: Identity,
    session: Option<SessionKey>,
    version: u64,
    looker: Looker,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let changed = state.hub.changed.subscribe();
    let sent = Sent { version, counts: None };
    futures::stream::unfold(
        (state, identity, changed, sent, looker),
        move |(state, identity, mut changed, mut sent, looker)| async move {
            loop {
                changed.changed().await.ok()?;
                changed.borrow_and_update();
                if state.site.daemon.board().is_stopping() {
                    return None;
                }
                let identity = still(&state, session, &identity, &looker.at)?;
                let news = sent.news(&state.hub, &identity, &looker.at);
                if !news.is_empty() {
                    // An event's data may have no carriage return.
                    let event =
                        Event::default().id(state.hub.name(sent.version)).data(news.replace('\r', " "));
                    return Some((Ok(event), (state, identity, changed, sent, looker)));
                }
            }
        },
    )
}

fn answer(stream: impl Stream<Item = Result<Event, Infallible>> + Send + 'static) -> Response {
    let sse = Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // A proxy that collects an answer first would show nothing.
    ([(HeaderName::from_static("x-accel-buffering"), "no")], sse).into_response()
}

fn version(state: &PanelState, headers: &HeaderMap, since: Option<&str>) -> u64 {
    let last = headers.get("last-event-id").and_then(|last| last.to_str().ok());
    last.or(since).map_or(0, |name| state.hub.parse(name))
}

pub(super) async fn fleet(
    State(state): State<PanelState>,
    Extension(identity): Extension<Identity>,
    session: Option<Extension<SessionKey>>,
    headers: HeaderMap,
    query: Result<Query<FleetQuery>, QueryRejection>,
) -> Response {
    let query = query.map(|Query(query)| query).unwrap_or_default();
    let looker = Looker::new(&state.hub, At::Fleet(reader_of_all(&identity), query.filter()));
    let version = version(&state, &headers, query.since.as_deref());
    answer(stream(state, identity, session.map(|Extension(key)| key), version, looker))
}

pub(super) async fn store(
    State(state): State<PanelState>,
    Extension(identity): Extension<Identity>,
    session: Option<Extension<SessionKey>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    query: Result<Query<FleetQuery>, QueryRejection>,
) -> Response {
    let found = state.site.known(&name).ok().and_then(|(name, _)| state.site.daemon.status_of(&name));
    let Some(status) = found else { return super::turned_away::no_store(state.settings.name()) };
    let query = query.map(|Query(query)| query).unwrap_or_default();
    let reader = reader(&identity, &status);
    let looker = Looker::new(&state.hub, At::Store(status.store, reader));
    let version = version(&state, &headers, query.since.as_deref());
    answer(stream(state, identity, session.map(|Extension(key)| key), version, looker))
}
