//! How much a store needs a person: what the fleet is sorted by. Pure.

use super::icon::Icon;
use crate::api::store::StoreStatus;
use crate::model::role::Role;
use crate::support::failure::FailureKind;

/// The state of a store as one word, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The primary does not answer.
    Down,
    /// Its primary changes now.
    FailingOver,
    /// A safeguard or a person stopped its runs.
    Held,
    /// Another host is the primary, or nobody is.
    Fenced,
    /// What is stored, or the database here, is broken or was not proven.
    Damaged,
    /// The newest snapshot is older than the plan promises.
    Late,
    /// Something fails and is tried again.
    Failing,
    /// There is no snapshot yet.
    New,
    /// Nothing is to be done.
    Fine,
}

/// How a state looks: never by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Bad,
    Warn,
    Busy,
    Good,
}

impl Tone {
    pub fn class(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warn => "warn",
            Self::Busy => "busy",
            Self::Good => "good",
        }
    }
}

impl Need {
    pub const ALL: [Self; 9] = [
        Self::Down,
        Self::FailingOver,
        Self::Held,
        Self::Fenced,
        Self::Damaged,
        Self::Late,
        Self::Failing,
        Self::New,
        Self::Fine,
    ];

    /// Returns the word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::FailingOver => "failing over",
            Self::Held => "held",
            Self::Fenced => "fenced",
            Self::Damaged => "damaged",
            Self::Late => "late",
            Self::Failing => "failing",
            Self::New => "new",
            Self::Fine => "fine",
        }
    }

    /// Returns the word in an address.
    pub fn key(self) -> &'static str {
        if self == Self::FailingOver { "failing-over" } else { self.word() }
    }

    pub fn parse(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|need| need.key() == key)
    }

    pub fn tone(self) -> Tone {
        match self {
            Self::Down | Self::Damaged | Self::Fenced => Tone::Bad,
            Self::Held | Self::Late | Self::Failing => Tone::Warn,
            Self::FailingOver | Self::New => Tone::Busy,
            Self::Fine => Tone::Good,
        }
    }

    pub fn icon(self) -> Icon {
        match self {
            Self::Down => Icon::Down,
            Self::FailingOver => Icon::Switch,
            Self::Held => Icon::Pause,
            Self::Fenced => Icon::Fence,
            Self::Damaged => Icon::Broken,
            Self::Late => Icon::Clock,
            Self::Failing => Icon::Warning,
            Self::New => Icon::New,
            Self::Fine => Icon::Check,
        }
    }
}

/// Returns whether the newest snapshot is older than the plan promises.
pub fn is_late(status: &StoreStatus) -> bool {
    status.lag_seconds.is_some_and(|lag| lag > status.objective_seconds as f64)
}

/// Returns what is wrong with what is stored, or with the database here.
pub fn is_damaged(status: &StoreStatus) -> bool {
    let upkeep = status.upkeep.as_ref();
    let database = status.database.as_ref();
    status.last_error_kind == Some(FailureKind::Damaged)
        || upkeep.is_some_and(|upkeep| upkeep.problems > 0 || upkeep.drill_error.is_some())
        || database.is_some_and(|database| {
            database.server.as_ref().is_some_and(|server| server.state == "broken")
                || database.archive.as_ref().is_some_and(|archive| archive.state == "broken")
                || database.drill.as_ref().is_some_and(|drill| drill.fault.is_some())
        })
}

/// Returns what a store needs most.
pub fn need(status: &StoreStatus) -> Need {
    let phase = status.failover.as_ref().map_or("", |failover| failover.phase.as_str());
    let verdict = status.watch.as_ref().map_or("", |watch| watch.verdict.as_str());
    let is_fenced = status.fenced
        || matches!(status.log_role, Role::Fenced | Role::Unassigned)
        || matches!(phase, "fenced" | "rejoining")
        || status.last_error_kind == Some(FailureKind::Fenced);
    let fails = status.failures > 0
        || status.rivals.is_some()
        || status.clock.is_some()
        || status.failover.as_ref().is_some_and(|failover| !failover.failing.is_empty())
        || matches!(verdict, "degraded" | "not ready");
    match () {
        () if matches!(phase, "promoting" | "taking over" | "handing over") => Need::FailingOver,
        () if matches!(verdict, "dead" | "unreachable") => Need::Down,
        () if status.held.is_some() => Need::Held,
        () if is_fenced => Need::Fenced,
        () if is_damaged(status) => Need::Damaged,
        () if is_late(status) => Need::Late,
        () if fails && status.last_error_kind != Some(FailureKind::Missing) => Need::Failing,
        () if status.snapshot.is_none() && status.log_role != Role::Watcher => Need::New,
        () => Need::Fine,
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{CASES, case};
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_state_has_its_word_and_every_word_has_a_state() {
        for (name, expected, _) in CASES {
            assert_eq!(need(&case(name)), expected, "{name}");
        }
        let seen: BTreeSet<_> = CASES.iter().map(|(_, need, _)| *need).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), Need::ALL);
        for need in Need::ALL {
            assert_eq!(Need::parse(need.key()), Some(need));
        }
    }
}
