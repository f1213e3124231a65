//! A person's words that former primaries are down, kept over a restart of the daemon.
//!
//! A word counts from the position of the log at which it was given, after this host's promotion: whenever that
//! host starts again, it reads the log and finds itself replaced. So it is as good after a restart of this
//! daemon, and nobody has to be asked again. After a later promotion it counts for nothing.

use crate::model::id::{Sequence, StoreName, WriterId};
use crate::service::config::state_dir;
use crate::support::durable;
use crate::support::env::Env;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Maximum number of words that are kept: a store has no more members.
const KEPT: usize = 32;

/// A person's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Word {
    /// The host that is down.
    pub host: WriterId,
    /// The position of the log when that was said.
    pub at: Sequence,
}

fn path(store: &StoreName) -> Option<PathBuf> {
    state_dir().ok().flatten().map(|dir| dir.join(format!("attested-{store}")))
}

/// Returns the words that were given; none if they cannot be read.
pub(crate) fn words(store: &StoreName) -> Vec<Word> {
    let bytes = path(store).and_then(|path| std::fs::read(path).ok());
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Keeps a word.
///
/// # Errors
/// It cannot be written; it counts as long as this daemon runs.
pub(crate) fn keep(env: &Env, store: &StoreName, word: Word) -> Result<(), String> {
    let Some(path) = path(store) else { return Ok(()) };
    let mut words = words(store);
    words.retain(|kept| kept.host != word.host);
    words.push(word);
    words.drain(..words.len().saturating_sub(KEPT));
    let text = serde_json::to_vec(&words).map_err(|error| error.to_string())?;
    durable::replace(env, &path, 0o600, &text).map_err(|error| format!("{}: {error}", path.display()))
}
