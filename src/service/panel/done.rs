//! What came of each form, for a while: a form that is sent twice is carried out once, and the page after it says
//! what came of it without a word in its address that somebody could make up.

use super::sessions::SessionKey;
use crate::panel::need::Tone;
use crate::support::clock::BootNanos;
use crate::support::lock::lock;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// Time for which a form's outcome is kept.
const KEPT: Duration = Duration::from_mins(10);
/// Maximum number of outcomes; of more, the oldest is forgotten.
const OUTCOMES_MAX: usize = 10_000;
const KEY_MAX_CHARS: usize = 80;

/// A form that somebody sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FormKey {
    session: SessionKey,
    key: String,
}

/// What came of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub tone: Tone,
    pub text: String,
}

/// The outcomes of all forms.
#[derive(Default)]
pub(super) struct Done(Mutex<HashMap<FormKey, (BootNanos, Option<Told>)>>);

impl FormKey {
    /// Returns the key of a form; none if it is no key.
    pub(super) fn new(session: SessionKey, key: &str) -> Option<Self> {
        let is_plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let is_key = is_plain && !key.is_empty() && key.len() <= KEY_MAX_CHARS;
        is_key.then(|| Self { session, key: key.to_owned() })
    }
}

impl Done {
    /// Returns whether the form is new, and notes it.
    pub(super) fn begin(&self, form: &FormKey, now: BootNanos) -> bool {
        let mut all = lock(&self.0);
        all.retain(|_, (at, _)| now.since(*at) < KEPT);
        if all.contains_key(form) {
            return false;
        }
        if all.len() >= OUTCOMES_MAX
            && let Some(oldest) = all.iter().min_by_key(|(_, (at, _))| *at).map(|(form, _)| form.clone())
        {
            all.remove(&oldest);
        }
        all.insert(form.clone(), (now, None));
        true
    }

    pub(super) fn end(&self, form: &FormKey, told: Told) {
        if let Some((_, outcome)) = lock(&self.0).get_mut(form) {
            *outcome = Some(told);
        }
    }

    /// Returns what came of a form; none if it is unknown, or under way.
    pub(super) fn told(&self, form: &FormKey) -> Option<Told> {
        lock(&self.0).get(form)?.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_carried_out_once_for_each_who_sends_it() {
        let done = Done::default();
        let form = |session, key| FormKey::new(SessionKey::of(session), key).unwrap();
        let now = BootNanos(1);
        assert!(done.begin(&form("a", "k-hold"), now) && !done.begin(&form("a", "k-hold"), now));
        assert!(done.begin(&form("b", "k-hold"), now) && done.begin(&form("a", "l-hold"), now));
        assert_eq!(done.told(&form("a", "k-hold")), None);
        let told = Told { tone: Tone::Good, text: "held".into() };
        done.end(&form("a", "k-hold"), told.clone());
        assert_eq!(done.told(&form("a", "k-hold")), Some(told));
        assert_eq!(done.told(&form("b", "k-hold")), None, "another's");
        assert!(done.begin(&form("a", "k-hold"), now.plus(KEPT)), "long after");
        for bad in ["", "a b", "<", &"k".repeat(81)] {
            assert!(FormKey::new(SessionKey::of("a"), bad).is_none(), "{bad}");
        }
    }
}
