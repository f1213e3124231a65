//! What follows a switch and is not waited for: the distribution's update, and its way to all points of presence.
//!
//! One thread a distribution and mark. It ends by itself when it is done, when a newer mark is settled, or after a
//! while; a switch that is asked for again begins it again.

use super::access::Access;
use crate::edge::context::Deadline;
use crate::edge::mark::Mark;
use crate::support::failure::{Failure, FailureKind};
use crate::support::lock::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Maximum time that is spent on one mark.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// The first wait between two looks, doubled each time.
const LOOK_FIRST: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(30);

/// What this process settles: a mark for each distribution and its origins.
static SETTLING: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// Begins to settle, unless this process does it already.
pub(super) fn begin(edge: &Arc<Access>, wanted: &Mark) {
    // Several stores may have origins in one distribution.
    let origins: Vec<&str> = edge.config.origins.iter().map(|origin| origin.id.as_str()).collect();
    let (place, mark) = (format!("{} {}", edge.name, origins.join(" ")), wanted.to_string());
    if lock(&SETTLING).insert(place.clone(), mark.clone()).as_ref() == Some(&mark) {
        return;
    }
    let (edge, wanted) = (edge.clone(), wanted.clone());
    let at = place.clone();
    let settle = move || {
        settle(&edge, &wanted, &|| lock(&SETTLING).get(&at) == Some(&mark));
        let mut all = lock(&SETTLING);
        if all.get(&at) == Some(&mark) {
            all.remove(&at);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("edge".into()).spawn(settle) {
        lock(&SETTLING).remove(&place);
        tracing::warn!(%error, "the distribution is not updated: no thread; the switch itself is done");
    }
}

/// Updates the distribution, and waits until it is deployed.
fn settle(edge: &Access, wanted: &Mark, is_last: &dyn Fn() -> bool) {
    let env = &edge.context.env;
    let begun = env.stopwatch();
    let mut wait = LOOK_FIRST;
    let mut is_updated = false;
    while is_last() && begun.elapsed() < LIMIT {
        let deadline = Deadline::of(env, edge.limit);
        if !is_updated {
            match edge.update(wanted, &deadline) {
                Ok(()) => is_updated = true,
                Err(error) if error.kind() == FailureKind::Fenced => {
                    tracing::info!(%error, "the distribution has a newer target");
                    return;
                }
                Err(error) => tracing::warn!(%error, "the distribution is not updated yet"),
            }
        }
        if is_updated && edge.control.is_deployed(&edge.client, &deadline).unwrap_or(false) {
            let seconds = begun.elapsed().as_secs();
            tracing::info!(edge = edge.name, mark = %wanted, seconds, "the distribution is deployed");
            return;
        }
        env.sleep(wait);
        wait = (wait * 2).min(LOOK_MAX);
    }
    if is_last() {
        tracing::warn!(edge = edge.name, mark = %wanted, "the distribution is not deployed yet; see `understudy edge check`");
    }
}
