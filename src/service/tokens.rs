//! Tokens `us_ID_SECRET`: each with a role, perhaps some stores, and perhaps an end.
//!
//! The secret has 192 random bits and is shown once; the file keeps its BLAKE3, so that who reads the file can
//! log in with nothing of it. Commands change the file under a lock and replace it as a whole. A daemon reads
//! it again when it has changed, so a revoked token is refused at the next request. The times of last use are
//! in a file of their own, which only daemons write: no use of a token can undo a revocation.

use super::config::{ConfigError, state_dir};
use crate::model::access::{Identity, Scope, UserRole};
use crate::model::id::StoreName;
use crate::support::clock::{DAY, UnixNanos};
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use crate::support::lock::lock;
use crate::support::{durable, private, trusted};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use thiserror::Error;

const FILE: &str = "tokens.json";
const LOCK: &str = "tokens.lock";
const USED: &str = "tokens-used.json";
const PREFIX: &str = "us_";
/// Seconds between two notes of a token's use.
const NOTE_SECONDS: u64 = 60;
const ID_BYTES: usize = 5;
const SECRET_BYTES: usize = 24;
const SHOWN_MAX_BYTES: usize = 200;

/// The reason why tokens cannot be read or changed.
#[derive(Debug, Error)]
pub(crate) enum TokenError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {message}; remove the file to revoke all tokens, and add new ones", path.display())]
    Damaged { path: PathBuf, message: String },
    #[error("there is no directory for tokens; set HOME or XDG_STATE_HOME")]
    NoPlace,
    #[error("there is no token '{0}'; `understudy token list` shows them")]
    Unknown(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Failure for TokenError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Io { .. } | Self::Damaged { .. } => FailureKind::Failed,
            Self::NoPlace => FailureKind::Usage,
            Self::Unknown(_) => FailureKind::Missing,
            Self::Config(error) => error.kind(),
        }
    }
}

/// A token, without its secret. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenRow {
    pub id: String,
    /// BLAKE3 of the secret.
    hash: String,
    pub role: UserRole,
    /// The stores that it is for; none for all.
    pub stores: Option<BTreeSet<StoreName>>,
    /// Whose it is.
    pub name: String,
    pub created: u64,
    pub expires: Option<u64>,
}

impl TokenRow {
    pub(crate) fn is_valid(&self, now: UnixNanos) -> bool {
        self.expires.is_none_or(|expires| seconds(now) < expires)
    }

    fn identity(&self) -> Identity {
        let name = if self.name.is_empty() { String::new() } else { format!(" ({})", self.name) };
        let scope = self.stores.clone().map_or(Scope::All, Scope::Only);
        Identity { who: format!("token {}{name}", self.id), role: self.role, scope }
    }
}

/// What a new token is for.
pub(crate) struct NewToken {
    pub role: UserRole,
    pub stores: Option<BTreeSet<StoreName>>,
    pub name: String,
    pub days: Option<u64>,
}

/// The file of tokens.
pub(crate) struct Tokens {
    dir: PathBuf,
    env: Env,
}

fn seconds(time: UnixNanos) -> u64 {
    time.0 / 1_000_000_000
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns the hash of a secret. It has too many bits to be guessed, so no slow hash is needed.
fn hash(secret: &str) -> blake3::Hash {
    blake3::Hasher::new_derive_key("understudy 2026-12-01 token").update(secret.as_bytes()).finalize()
}

impl Tokens {
    /// Returns the tokens of this user.
    pub(crate) fn of_user(env: &Env) -> Result<Self, TokenError> {
        Ok(Self { dir: state_dir()?.ok_or(TokenError::NoPlace)?, env: env.clone() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Reads all tokens.
    pub(crate) fn all(&self) -> Result<Vec<TokenRow>, TokenError> {
        let path = self.path(FILE);
        match trusted::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| TokenError::Damaged { path, message: error.to_string() }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(TokenError::Io { path, source }),
        }
    }

    /// Reads when each token was last used.
    pub(crate) fn used(&self) -> BTreeMap<String, u64> {
        let text = trusted::read_to_string(&self.path(USED)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Adds a token and returns it with its secret, which is kept nowhere.
    pub(crate) fn add(&self, new: NewToken) -> Result<(TokenRow, String), TokenError> {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        self.env.fill(&mut id);
        self.env.fill(&mut secret);
        let (id, secret) = (hex(&id), hex(&secret));
        let created = seconds(self.env.wall());
        let row = TokenRow {
            hash: hash(&secret).to_hex().to_string(),
            role: new.role,
            stores: new.stores,
            name: new.name,
            created,
            expires: new.days.map(|days| created.saturating_add(days.saturating_mul(DAY.as_secs()))),
            id,
        };
        self.change(|rows| {
            rows.push(row.clone());
            Ok(())
        })?;
        let shown = format!("{PREFIX}{}_{secret}", row.id);
        Ok((row, shown))
    }

    /// Removes a token.
    pub(crate) fn revoke(&self, id: &str) -> Result<(), TokenError> {
        self.change(|rows| {
            let before = rows.len();
            rows.retain(|row| row.id != id);
            if rows.len() == before { Err(TokenError::Unknown(id.to_owned())) } else { Ok(()) }
        })
    }

    fn change(
        &self,
        work: impl FnOnce(&mut Vec<TokenRow>) -> Result<(), TokenError>,
    ) -> Result<(), TokenError> {
        let wrong = |source| TokenError::Io { path: self.path(FILE), source };
        let dir = private::own(&self.dir).map_err(wrong)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = rustix::fs::openat(&dir, LOCK, flags, Mode::RUSR | Mode::WUSR);
        let held = held.map_err(|errno| wrong(errno.into()))?;
        rustix::fs::flock(&held, FlockOperation::LockExclusive).map_err(|errno| wrong(errno.into()))?;
        let mut rows = self.all()?;
        work(&mut rows)?;
        let text = serde_json::to_vec_pretty(&rows).map_err(|error| wrong(io::Error::other(error)))?;
        durable::replace(&self.env, &self.path(FILE), 0o600, &text).map_err(wrong)
    }
}

/// The tokens, as a daemon knows them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct KnownTokens(Arc<Mutex<Known>>);

struct Known {
    tokens: Option<Tokens>,
    rows: Vec<TokenRow>,
    /// What the file was when it was read: it is replaced as a whole, so its inode changes.
    stamp: Option<(u64, i64, i64)>,
    used: BTreeMap<String, u64>,
}

impl KnownTokens {
    pub(crate) fn new(env: &Env) -> Self {
        let tokens = Tokens::of_user(env).ok();
        let used = tokens.as_ref().map(Tokens::used).unwrap_or_default();
        Self(Arc::new(Mutex::new(Known { tokens, rows: Vec::new(), stamp: None, used })))
    }

    /// Returns whose token this is; none if it is none that is valid now.
    pub(crate) fn find(&self, shown: &str, now: UnixNanos) -> Option<(String, Identity)> {
        let (id, secret) =
            shown.strip_prefix(PREFIX).filter(|_| shown.len() <= SHOWN_MAX_BYTES)?.split_once('_')?;
        let mut known = lock(&self.0);
        known.refresh();
        let row = known.rows.iter().find(|row| row.id == id && row.is_valid(now))?;
        let expected = blake3::Hash::from_hex(&row.hash).ok()?;
        // Hashes are compared in constant time.
        if hash(secret) != expected {
            return None;
        }
        let found = (row.id.clone(), row.identity());
        known.note(id, now);
        Some(found)
    }

    /// Returns whose token this is by its id, for a session that began with it.
    pub(crate) fn still(&self, id: &str, now: UnixNanos) -> Option<Identity> {
        let mut known = lock(&self.0);
        known.refresh();
        known.rows.iter().find(|row| row.id == id && row.is_valid(now)).map(TokenRow::identity)
    }
}

fn stamp(path: &Path) -> Option<(u64, i64, i64)> {
    std::fs::metadata(path).ok().map(|meta| (meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

impl Known {
    fn refresh(&mut self) {
        let Some(tokens) = &self.tokens else { return };
        let stamp = stamp(&tokens.path(FILE));
        if stamp == self.stamp {
            return;
        }
        match tokens.all() {
            Ok(rows) => (self.rows, self.stamp) = (rows, stamp),
            Err(error) => {
                // Nobody is let in by what was true before.
                (self.rows, self.stamp) = (Vec::new(), stamp);
                tracing::error!(%error, "no token but the daemon's own is valid");
            }
        }
    }

    /// Notes the use of a token; the file is written once a minute at most.
    fn note(&mut self, id: &str, now: UnixNanos) {
        let now = seconds(now);
        if self.used.get(id).is_some_and(|last| now < last.saturating_add(NOTE_SECONDS)) {
            return;
        }
        self.used.insert(id.to_owned(), now);
        self.used.retain(|id, _| self.rows.iter().any(|row| row.id == *id));
        let Some(tokens) = &self.tokens else { return };
        let text = serde_json::to_vec(&self.used).unwrap_or_default();
        if let Err(error) = durable::replace(&tokens.env, &tokens.path(USED), 0o600, &text) {
            tracing::warn!(%error, "the time of a token's use was not noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(dir: &Path) -> Tokens {
        Tokens { dir: dir.to_owned(), env: Env::system() }
    }

    fn known(dir: &Path) -> KnownTokens {
        let known = Known { tokens: Some(tokens(dir)), rows: Vec::new(), stamp: None, used: BTreeMap::new() };
        KnownTokens(Arc::new(Mutex::new(known)))
    }

    fn new(role: UserRole, days: Option<u64>) -> NewToken {
        let stores = Some([StoreName::parse("acme").unwrap()].into());
        NewToken { role, stores, name: "Anna".into(), days }
    }

    #[test]
    fn a_token_is_found_by_its_whole_text_and_the_file_has_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let (tokens, known) = (tokens(dir.path()), known(dir.path()));
        let (row, shown) = tokens.add(new(UserRole::Customer, None)).unwrap();
        let now = Env::system().wall();
        let (id, identity) = known.find(&shown, now).unwrap();
        assert_eq!((id.as_str(), identity.role), (row.id.as_str(), UserRole::Customer));
        assert!(identity.scope.has(&StoreName::parse("acme").unwrap()));
        assert!(!identity.scope.has(&StoreName::parse("other").unwrap()));
        let secret = shown.rsplit('_').next().unwrap();
        assert!(!std::fs::read_to_string(dir.path().join(FILE)).unwrap().contains(secret));
        let mut wrong = shown.clone();
        let last = if wrong.pop() == Some('0') { '1' } else { '0' };
        wrong.push(last);
        let other = format!("us_{}_{}", row.id, &secret[1..]);
        for wrong in ["", "us_", "us__", &wrong, &other, &row.id, secret, &"us_a_".repeat(100)] {
            assert!(known.find(wrong, now).is_none(), "{wrong}");
        }
        assert_eq!(tokens.used().get(&row.id), Some(&seconds(now)));
    }

    #[test]
    fn a_revoked_or_expired_token_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (tokens, known) = (tokens(dir.path()), known(dir.path()));
        let (short, shown_short) = tokens.add(new(UserRole::Viewer, Some(2))).unwrap();
        let (long, shown_long) = tokens.add(new(UserRole::Viewer, None)).unwrap();
        let now = Env::system().wall();
        assert!(known.find(&shown_short, now).is_some() && known.still(&short.id, now).is_some());
        let later = now.plus(DAY * 2);
        assert!(known.find(&shown_short, later).is_none() && known.still(&short.id, later).is_none());
        assert!(known.find(&shown_long, later).is_some());
        tokens.revoke(&long.id).unwrap();
        assert!(known.find(&shown_long, now).is_none() && known.still(&long.id, now).is_none());
        assert!(matches!(tokens.revoke(&long.id), Err(TokenError::Unknown(_))));
        std::fs::write(dir.path().join(FILE), "[{").unwrap();
        assert!(known.find(&shown_short, now).is_none(), "a damaged file lets nobody in");
        assert!(tokens.add(new(UserRole::Viewer, None)).is_err(), "and is not written over");
    }
}
