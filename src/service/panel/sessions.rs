//! Sessions of the panel: who logged in, for as long as they look, and a day at most.
//!
//! A session's id is random, made at the login and never taken from a browser, so none can be planted before it.
//! Only hashes of ids are kept, in memory: a restart ends all. A session that began with a token ends when the
//! token does.

use crate::model::access::Identity;
use crate::service::tokens::KnownTokens;
use crate::support::clock::BootNanos;
use crate::support::env::Env;
use crate::support::lock::lock;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

/// Time without a request after which a session ends.
const IDLE: Duration = Duration::from_mins(60);
/// Time after which a session ends.
const ABSOLUTE: Duration = Duration::from_hours(12);
/// Maximum number of sessions; of more, the one that was idle longest ends.
const SESSIONS_MAX: usize = 10_000;

/// How a session began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Began {
    /// With a token of this id.
    Token(String),
    /// With the daemon's own token, or a handover.
    Otherwise,
}

/// Names a session in memory; it is not its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionKey([u8; 32]);

struct Session {
    identity: Identity,
    began: Began,
    since: BootNanos,
    seen: BootNanos,
}

/// All sessions.
pub(crate) struct Sessions {
    all: Mutex<HashMap<SessionKey, Session>>,
    tokens: KnownTokens,
    env: Env,
}

impl SessionKey {
    /// Returns the key of an id, or of another name of who asks.
    pub(crate) fn of(id: &str) -> Self {
        Self(*blake3::hash(id.as_bytes()).as_bytes())
    }
}

impl Sessions {
    pub(crate) fn new(env: &Env, tokens: KnownTokens) -> Self {
        Self { all: Mutex::default(), tokens, env: env.clone() }
    }

    /// Begins a session and returns its id.
    pub(crate) fn begin(&self, identity: Identity, began: Began) -> String {
        let mut bytes = [0; 32];
        self.env.fill(&mut bytes);
        let id = bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let now = self.env.boot();
        let mut all = lock(&self.all);
        all.retain(|_, session| is_alive(session, now));
        if all.len() >= SESSIONS_MAX
            && let Some(oldest) = all.iter().min_by_key(|(_, session)| session.seen).map(|(key, _)| *key)
        {
            all.remove(&oldest);
        }
        all.insert(SessionKey::of(&id), Session { identity, began, since: now, seen: now });
        id
    }

    /// Returns whose session this is; a request keeps it.
    pub(crate) fn find(&self, id: &str) -> Option<(SessionKey, Identity)> {
        let key = SessionKey::of(id);
        self.look(key, true).map(|identity| (key, identity))
    }

    /// Returns whose session this is, without keeping it.
    pub(crate) fn still(&self, key: SessionKey) -> Option<Identity> {
        self.look(key, false)
    }

    fn look(&self, key: SessionKey, keeps: bool) -> Option<Identity> {
        let now = self.env.boot();
        let mut all = lock(&self.all);
        let session = all.get_mut(&key).filter(|session| is_alive(session, now))?;
        let identity = match &session.began {
            Began::Token(id) => self.tokens.still(id, self.env.wall()),
            Began::Otherwise => Some(session.identity.clone()),
        };
        match identity {
            Some(identity) => {
                if keeps {
                    session.seen = now;
                }
                Some(identity)
            }
            None => {
                all.remove(&key);
                None
            }
        }
    }

    pub(crate) fn end(&self, key: SessionKey) {
        lock(&self.all).remove(&key);
    }
}

fn is_alive(session: &Session, now: BootNanos) -> bool {
    now.since(session.seen) < IDLE && now.since(session.since) < ABSOLUTE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::clock::{Now, UnixNanos};
    use crate::support::env::Clock;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Default)]
    struct Set(AtomicU64);

    impl Clock for Set {
        fn now(&self) -> Now {
            let nanos = self.0.load(Ordering::Relaxed);
            Now { wall: UnixNanos(nanos), boot: BootNanos(nanos) }
        }

        fn sleep(&self, time: Duration) {
            self.0.fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::Relaxed);
        }
    }

    #[test]
    fn a_session_ends_when_nobody_looks_and_after_half_a_day_whoever_does() {
        let env = Env::system().with_clock(Arc::new(Set::default()));
        let sessions = Sessions::new(&env, KnownTokens::new(&env));
        let id = sessions.begin(Identity::local(), Began::Otherwise);
        assert_eq!(id.len(), 64);
        let (key, _) = sessions.find(&id).unwrap();
        env.sleep(IDLE - Duration::from_secs(1));
        assert!(sessions.still(key).is_some(), "which does not keep it");
        env.sleep(Duration::from_secs(1));
        assert!(sessions.find(&id).is_none() && sessions.still(key).is_none());
        let id = sessions.begin(Identity::local(), Began::Otherwise);
        let mut looked = 0;
        while sessions.find(&id).is_some() {
            env.sleep(IDLE / 2);
            looked += 1;
        }
        assert_eq!(looked, 24);
        let id = sessions.begin(Identity::local(), Began::Otherwise);
        let (key, _) = sessions.find(&id).unwrap();
        sessions.end(key);
        assert!(sessions.find(&id).is_none() && sessions.find("").is_none());
    }

    #[test]
    fn a_session_ends_with_its_token_and_none_is_taken_from_a_browser() {
        let env = Env::system();
        let sessions = Sessions::new(&env, KnownTokens::new(&env));
        let id = sessions.begin(Identity::local(), Began::Token("none".into()));
        assert!(sessions.find(&id).is_none(), "the token is not there");
        let ids: std::collections::HashSet<_> =
            (0..100).map(|_| sessions.begin(Identity::local(), Began::Otherwise)).collect();
        assert_eq!(ids.len(), 100);
        assert!(sessions.find(&"0".repeat(64)).is_none());
    }
}
