//! Route 53: a record that names the address of the store's primary, and one beside it that keeps the mark.
//!
//! Why it is safe: one change deletes the mark exactly as it was read, creates the new one and sets the record.
//! Route 53 makes all of it or nothing. So of two hosts that switch at once the second one's change is refused; it
//! reads again, and is fenced if it is the older.
//!
//! Resolvers keep the former address for its time to live, and some for longer. The switch itself does not wait
//! for them: the customers' check does, as far as this host's resolver shows it.

pub mod zone;

use super::address::AddressHost;
use super::aws::client::{AwsClient, CallFailure};
use super::aws::credentials::Place;
use super::config::Route53Config;
use super::context::{Deadline, EdgeContext};
use super::error::EdgeError;
use super::held::Held;
use super::mark::Mark;
use super::switch::{Edge, Finding, Switch, There, Verdict, judge_or_fence};
use crate::support::lock::lock;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zone::{Action, Record, RecordName, Zone};

/// Maximum number of tries of a change that is refused because another one came between.
const TRIES: u32 = 5;
/// The longest wait before such a try.
const AGAIN_MAX: Duration = Duration::from_millis(300);
/// Default of the records' time to live, and what `edge check` lets pass.
const TTL_SECONDS: u32 = 30;
const TTL_MAX_SECONDS: u32 = 60;
/// Maximum length of a text in a TXT record.
const TEXT_MAX_BYTES: usize = 255;
/// Types of records that name an address.
const KINDS: [&str; 3] = ["A", "AAAA", "CNAME"];
/// Time for all servers of Route 53 to have a change, usually a minute.
const SYNC_LIMIT: Duration = Duration::from_secs(10 * 60);
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// An edge of kind `route53`.
pub struct Route53Edge(Arc<Inner>);

struct Inner {
    name: String,
    config: Route53Config,
    zone: Zone,
    client: AwsClient,
    limit: Duration,
    context: EdgeContext,
    /// The change that was made last.
    change: Mutex<Option<String>>,
}

/// What is there.
struct Found {
    there: There,
    /// The mark's record.
    kept: Option<Record>,
    /// Records of the store's name.
    records: Vec<Record>,
}

impl Route53Edge {
    pub fn new(config: Route53Config, limit: Duration, context: &EdgeContext) -> Result<Self, EdgeError> {
        let name = format!("edge route53 {}", config.record);
        let wrong = |reason: String| EdgeError::wrong(&name, reason);
        let endpoint = config.endpoint.as_ref().map(|endpoint| endpoint.url());
        let zone = Zone::new(config.hosted_zone.clone(), endpoint).map_err(wrong)?;
        let place = Place { file: config.credentials_file.clone(), profile: config.profile.clone() };
        let client = AwsClient::new(place, context).map_err(wrong)?;
        let (context, change) = (context.clone(), Mutex::default());
        Ok(Self(Arc::new(Inner { name, config, zone, client, limit, context, change })))
    }
}

impl Inner {
    fn error(&self, what: &str) -> impl Fn(CallFailure) -> EdgeError {
        move |failure| failure.into_error(&self.name, what)
    }

    fn ttl_seconds(&self) -> u32 {
        self.config.ttl_seconds.unwrap_or(TTL_SECONDS)
    }

    fn mark_name(&self) -> RecordName {
        self.config.record.of_mark()
    }

    /// Returns the record of a host's address.
    fn record_of(&self, mark: &Mark) -> Record {
        let (kind, value) = match mark.address.host() {
            AddressHost::Ip(ip @ IpAddr::V4(_)) => ("A", ip.to_string()),
            AddressHost::Ip(ip) => ("AAAA", ip.to_string()),
            AddressHost::Name(name) => ("CNAME", name.clone()),
        };
        let (name, ttl_seconds) = (self.config.record.clone(), self.ttl_seconds());
        Record { name, kind: kind.into(), ttl_seconds, values: vec![value] }
    }

    /// Returns the record that keeps a mark.
    fn record_of_mark(&self, mark: &Mark) -> Result<Record, EdgeError> {
        let text = mark.to_string();
        if text.len() > TEXT_MAX_BYTES {
            return Err(EdgeError::wrong(
                &self.name,
                format!("host name '{}' is too long for a record", mark.host),
            ));
        }
        let (name, ttl_seconds, kind) = (self.mark_name(), self.ttl_seconds(), "TXT".to_owned());
        Ok(Record { name, kind, ttl_seconds, values: vec![format!("\"{text}\"")] })
    }

    fn find(&self, deadline: &Deadline) -> Result<Found, EdgeError> {
        let wrong = self.error("reading the zone");
        let read = |name: &RecordName| self.zone.records(&self.client, name, deadline).map_err(&wrong);
        let kept = read(&self.mark_name())?.into_iter().find(|record| record.kind == "TXT");
        let records = read(&self.config.record)?;
        let mark = kept.as_ref().map(|kept| self.mark_in(kept)).transpose()?;
        let addresses: Vec<_> =
            records.iter().filter(|record| KINDS.contains(&record.kind.as_str())).cloned().collect();
        let is_whole = mark.as_ref().is_some_and(|mark| addresses == [self.record_of(mark)]);
        Ok(Found { there: There { mark, is_whole }, kept, records: addresses })
    }

    fn mark_in(&self, kept: &Record) -> Result<Mark, EdgeError> {
        let text = match &kept.values[..] {
            [value] => value.strip_prefix('"').and_then(|value| value.strip_suffix('"')),
            _ => None,
        };
        let wrong = || {
            let reason = format!("record {} holds a text that understudy did not write", self.mark_name());
            EdgeError::refused(&self.name, reason)
        };
        text.and_then(|text| text.parse().ok()).ok_or_else(wrong)
    }

    /// Sets record and mark, unless there is a mark that is not older.
    fn switch_records(&self, wanted: &Mark, deadline: &Deadline) -> Result<(), EdgeError> {
        let mut tries = 0;
        loop {
            let found = self.find(deadline)?;
            if judge_or_fence(&self.name, &found.there, wanted)? == Verdict::Done {
                return Ok(());
            }
            let record = self.record_of(wanted);
            let others = found.records.into_iter().filter(|other| other.kind != record.kind);
            let mut actions: Vec<Action> = found.kept.into_iter().chain(others).map(Action::Delete).collect();
            actions.extend([Action::Create(self.record_of_mark(wanted)?), Action::Upsert(record)]);
            match self.zone.change(&self.client, &actions, deadline) {
                Ok(change) => {
                    *lock(&self.change) = Some(change);
                    return Ok(());
                }
                Err(failure) if is_outdated(&failure) && tries < TRIES => {
                    tries += 1;
                    let part = u32::try_from(self.context.env.nonce() % 256).unwrap_or(0);
                    self.context.env.sleep(AGAIN_MAX / 256 * part);
                }
                Err(failure) => return Err(failure.into_error(&self.name, "changing the zone")),
            }
        }
    }

    /// Waits until all servers of Route 53 have a change.
    fn wait_for_sync(&self, change: &str) {
        let begun = self.context.env.stopwatch();
        while begun.elapsed() < SYNC_LIMIT {
            let deadline = Deadline::of(&self.context.env, self.limit);
            if self.zone.is_in_sync(&self.client, change, &deadline).unwrap_or(false) {
                let seconds = begun.elapsed().as_secs();
                tracing::info!(edge = self.name, seconds, "all servers of Route 53 have the change");
                return;
            }
            self.context.env.sleep(LOOK_EVERY);
        }
        tracing::warn!(edge = self.name, change, "not all servers of Route 53 have the change yet");
    }

    fn look(&self, deadline: &Deadline) -> Vec<Finding> {
        let mut found = Vec::new();
        match self.find(deadline) {
            Ok(Found { there: There { mark: Some(mark), is_whole }, .. }) => {
                let part = if is_whole { "" } else { ", and the record says something else" };
                found.push(Finding {
                    is_wrong: !is_whole,
                    ..Finding::good(format!("the zone holds {mark}{part}"))
                });
            }
            Ok(_) => found.push(Finding::good("the records are written by the first switch")),
            Err(error) => return vec![Finding::wrong(error)],
        }
        if self.ttl_seconds() > TTL_MAX_SECONDS {
            found.push(Finding::wrong(format!(
                "`ttl_seconds` is {}: customers would be sent to the former primary for as long",
                self.ttl_seconds()
            )));
        }
        // Route 53 looks at the permission first, and then finds no such record.
        let values = vec!["\"understudy-check\"".to_owned()];
        let none = Record { name: self.mark_name(), kind: "TXT".into(), ttl_seconds: 1, values };
        match self.zone.change(&self.client, &[Action::Delete(none)], deadline) {
            Err(failure) if is_outdated(&failure) => {}
            Err(failure) => {
                found.push(Finding::wrong(failure.into_error(&self.name, "trying to change the zone")));
            }
            Ok(_) => found.push(Finding::wrong("Route 53 deletes what is not there: it does not compare")),
        }
        found
    }
}

/// Returns whether another change came between.
fn is_outdated(failure: &CallFailure) -> bool {
    matches!(failure, CallFailure::Refused { code, .. } if code == "InvalidChangeBatch")
}

impl Edge for Route53Edge {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn deadline(&self) -> Deadline {
        Deadline::of(&self.0.context.env, self.0.limit)
    }

    fn hold(&self, _: &Deadline) -> Result<Option<Held>, EdgeError> {
        Ok(None)
    }

    fn there(&self, deadline: &Deadline) -> Result<Option<There>, EdgeError> {
        Ok(Some(self.0.find(deadline)?.there))
    }

    fn apply(&self, _: &Switch, wanted: &Mark, deadline: &Deadline) -> Result<(), EdgeError> {
        self.0.switch_records(wanted, deadline)
    }

    fn settle(&self, _: &Mark) {
        let Some(change) = lock(&self.0.change).take() else { return };
        let inner = self.0.clone();
        let wait = move || inner.wait_for_sync(&change);
        // Without a thread nothing but a line of the log is missing.
        let _ = std::thread::Builder::new().name("edge".into()).spawn(wait);
    }

    fn test(&self) -> Result<(), EdgeError> {
        match self.check().into_iter().find(|finding| finding.is_wrong) {
            Some(finding) => Err(EdgeError::refused(&self.0.name, finding.what)),
            None => Ok(()),
        }
    }

    fn check(&self) -> Vec<Finding> {
        self.0.look(&self.deadline())
    }
}
