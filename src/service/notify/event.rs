//! What is told: the kinds of trouble, and what happens once. Pure.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How soon somebody must look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Warning,
    Critical,
}

/// A kind of event, as `events` in the configuration and a message name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The newest snapshot is older than the plan promises.
    Behind,
    /// Runs are held until a person decides.
    Held,
    /// Another host is the primary, or the configuration does not let this one be it.
    Fenced,
    /// Two daemons resync the store by turns.
    Rivals,
    /// Run after run fails, or the last one can only fail again.
    Failing,
    /// The newest snapshot begins in the future.
    Clock,
    /// This standby would not take over by itself.
    NotReady,
    /// A watcher sees that no customer is served.
    NotServed,
    /// A watcher sees that something of the primary does not answer.
    Degraded,
    /// Another host becomes the primary.
    Failover,
    /// Something of the store's failover here fails, and is tried again.
    FailoverFailing,
    /// A failover or a handover was asked for and is not begun.
    Refused,
    /// The last drill failed.
    Drill,
    /// The last verification found damage, or the log cannot be read.
    Damage,
    /// The database's server here needs somebody.
    Database,
    /// The replica of the database, or its archive, is behind.
    DatabaseBehind,
    /// The database's archive needs somebody.
    Archive,
    /// The database has no seed, or only an old one.
    Seed,
    /// The last drill of the replica found its data unsound.
    DatabaseDrill,
}

impl Event {
    pub const ALL: [Self; 19] = [
        Self::Behind,
        Self::Held,
        Self::Fenced,
        Self::Rivals,
        Self::Failing,
        Self::Clock,
        Self::NotReady,
        Self::NotServed,
        Self::Degraded,
        Self::Failover,
        Self::FailoverFailing,
        Self::Refused,
        Self::Drill,
        Self::Damage,
        Self::Database,
        Self::DatabaseBehind,
        Self::Archive,
        Self::Seed,
        Self::DatabaseDrill,
    ];

    /// Returns its name in the configuration and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Behind => "behind",
            Self::Held => "held",
            Self::Fenced => "fenced",
            Self::Rivals => "rivals",
            Self::Failing => "failing",
            Self::Clock => "clock",
            Self::NotReady => "not-ready",
            Self::NotServed => "not-served",
            Self::Degraded => "degraded",
            Self::Failover => "failover",
            Self::FailoverFailing => "failover-failing",
            Self::Refused => "refused",
            Self::Drill => "drill",
            Self::Damage => "damage",
            Self::Database => "database",
            Self::DatabaseBehind => "database-behind",
            Self::Archive => "archive",
            Self::Seed => "seed",
            Self::DatabaseDrill => "database-drill",
        }
    }

    /// Returns what is the matter, for people; a store's name goes before it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Behind => "behind its objective",
            Self::Held => "held",
            Self::Fenced => "fenced",
            Self::Rivals => "resynced by two daemons",
            Self::Failing => "failing",
            Self::Clock => "a clock is wrong",
            Self::NotReady => "not ready to take over",
            Self::NotServed => "customers are not served",
            Self::Degraded => "something does not answer",
            Self::Failover => "failover",
            Self::FailoverFailing => "something of its failover fails",
            Self::Refused => "failover refused",
            Self::Drill => "drill failed",
            Self::Damage => "damaged",
            Self::Database => "database in trouble",
            Self::DatabaseBehind => "database behind",
            Self::Archive => "database's archive in trouble",
            Self::Seed => "database without a recent seed",
            Self::DatabaseDrill => "drill of the database failed",
        }
    }

    pub(crate) fn severity(self) -> Severity {
        match self {
            Self::NotServed | Self::Damage | Self::Rivals | Self::Fenced => Severity::Critical,
            _ => Severity::Warning,
        }
    }

    /// Returns how long it must last before it is told: as long as in the rules for Prometheus
    /// (`docs/how-to/monitor.md`), and shorter where nothing goes away by itself.
    pub(crate) fn wait(self) -> Duration {
        match self {
            Self::Held | Self::Rivals | Self::Failing | Self::Failover | Self::Refused => Duration::ZERO,
            Self::Drill | Self::Damage | Self::DatabaseDrill => Duration::ZERO,
            Self::Behind | Self::Clock | Self::NotServed | Self::Degraded => Duration::from_mins(1),
            Self::Fenced | Self::Database | Self::Archive => Duration::from_mins(2),
            Self::FailoverFailing => Duration::from_mins(2),
            Self::DatabaseBehind => Duration::from_mins(10),
            Self::NotReady => Duration::from_mins(15),
            Self::Seed => Duration::from_mins(30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_one_name_in_the_configuration_and_in_messages() {
        for event in Event::ALL {
            let written = serde_json::to_string(&event).unwrap();
            assert_eq!(written, format!("\"{}\"", event.name()));
            assert_eq!(serde_json::from_str::<Event>(&written).unwrap(), event);
        }
    }
}
