//! Live pages: what changed is rendered once and sent to all who may see it, as server-sent events.
//!
//! While somebody looks, a task renders the rows of all stores once a second, and the parts of the stores whose
//! own pages are open. A part that differs from before gets the next version. A stream sends the parts that are
//! newer than what its browser has; it says which version that is when it comes back (`Last-Event-ID`), so
//! nothing is missed and nothing sent twice. A browser that is slow is sent only the last version of each part.

use super::PanelState;
use super::pages::{FleetQuery, reader_of_all, seen};
use super::sessions::SessionKey;
use crate::api::store::StoreStatus;
use crate::model::access::{Action, Identity, may};
use crate::model::id::StoreName;
use crate::panel::fleet::{Filter, chips, counts, needy, row, summary};
use crate::panel::sentence::Reader;
use crate::panel::store::{View, facts, live, reader};
use crate::support::env::Env;
use crate::support::lock::lock;
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Time between two looks at what changed.
const LOOK: Duration = Duration::from_secs(1);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A part of a page: a row of the fleet, or what is live on a store's own page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Row,
    Live,
    Facts,
}

struct Fragment {
    html: Arc<str>,
    version: u64,
}

/// What is rendered, and for whom.
#[derive(Default)]
struct Rendered {
    parts: BTreeMap<(StoreName, Reader, Part), Fragment>,
    statuses: Arc<Vec<StoreStatus>>,
    version: u64,
}

/// Open streams by what they show.
#[derive(Default)]
struct Lookers {
    fleets: BTreeMap<Reader, usize>,
    stores: BTreeMap<(StoreName, Reader), usize>,
}

/// What is live.
pub(super) struct Hub {
    /// Names this daemon's versions: another's mean nothing here.
    nonce: u64,
    rendered: Mutex<Rendered>,
    lookers: Arc<Mutex<Lookers>>,
    changed: watch::Sender<u64>,
}

impl Hub {
    pub(super) fn new(env: &Env) -> Self {
        let (changed, _) = watch::channel(0);
        Self { nonce: env.nonce(), rendered: Mutex::default(), lookers: Arc::default(), changed }
    }

    /// Returns the version of what is rendered now.
    pub(super) fn version(&self) -> String {
        self.name(lock(&self.rendered).version)
    }

    fn name(&self, version: u64) -> String {
        format!("{:016x}-{version}", self.nonce)
    }

    /// Returns the version of this name; 0 for one that is not of this daemon.
    fn parse(&self, name: &str) -> u64 {
        let ours = name.split_once('-').filter(|(nonce, _)| *nonce == format!("{:016x}", self.nonce));
        ours.and_then(|(_, version)| version.parse().ok()).unwrap_or(0)
    }

    /// Takes in a part; one that is as it was keeps its version.
    fn take(rendered: &mut Rendered, key: (StoreName, Reader, Part), html: String, next: u64) {
        match rendered.parts.get_mut(&key) {
            Some(fragment) if *fragment.html == *html => {}
            Some(fragment) => *fragment = Fragment { html: html.into(), version: next },
            None => drop(rendered.parts.insert(key, Fragment { html: html.into(), version: next })),
        }
        rendered.version = next;
    }
}

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

/// A place among those who look; it is given back at the end of the stream.
struct Looker {
    lookers: Arc<Mutex<Lookers>>,
    at: At,
}

#[derive(Clone)]
enum At {
    Fleet(Reader, Filter),
    Store(StoreName, Reader),
}

impl Looker {
    fn new(hub: &Hub, at: At) -> Self {
        let lookers = hub.lookers.clone();
        {
            let mut all = lock(&lookers);
            match &at {
                At::Fleet(reader, _) => *all.fleets.entry(*reader).or_default() += 1,
                At::Store(name, reader) => *all.stores.entry((name.clone(), *reader)).or_default() += 1,
            }
        }
        Self { lookers, at }
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        fn leave<K: Ord>(all: &mut BTreeMap<K, usize>, key: &K) {
            if let Some(count) = all.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    all.remove(key);
                }
            }
        }
        let mut all = lock(&self.lookers);
        match &self.at {
            At::Fleet(reader, _) => leave(&mut all.fleets, reader),
            At::Store(name, reader) => leave(&mut all.stores, &(name.clone(), *reader)),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_stays_as_it_is_keeps_its_version_and_another_daemon_s_means_nothing() {
        let hub = Hub::new(&Env::system());
        let key = (StoreName::parse("acme").unwrap(), Reader::Operator, Part::Row);
        let mut rendered = Rendered::default();
        Hub::take(&mut rendered, key.clone(), "a".into(), 1);
        Hub::take(&mut rendered, key.clone(), "a".into(), 2);
        assert_eq!((rendered.parts[&key].version, rendered.version), (1, 2));
        Hub::take(&mut rendered, key.clone(), "b".into(), 3);
        assert_eq!(rendered.parts[&key].version, 3);
        assert_eq!(hub.parse(&hub.name(7)), 7);
        for other in ["", "7", "0000000000000000-7", "x-y", &hub.name(7).replace('-', "_")] {
            assert_eq!(hub.parse(other), 0, "{other}");
        }
    }

    #[test]
    fn who_looks_is_counted_until_the_stream_ends() {
        let hub = Hub::new(&Env::system());
        let at = || At::Fleet(Reader::Operator, Filter::default());
        let (one, two) = (Looker::new(&hub, at()), Looker::new(&hub, at()));
        let other = Looker::new(&hub, At::Store(StoreName::parse("a.b").unwrap(), Reader::Customer));
        assert_eq!((lock(&hub.lookers).fleets[&Reader::Operator], lock(&hub.lookers).stores.len()), (2, 1));
        drop((one, other));
        assert_eq!((lock(&hub.lookers).fleets.len(), lock(&hub.lookers).stores.len()), (1, 0));
        drop(two);
        assert!(lock(&hub.lookers).fleets.is_empty());
        assert_eq!(selector("row-a.b"), "row-a\\.b");
    }
}
