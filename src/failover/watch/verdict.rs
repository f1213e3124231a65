//! What a watcher concludes about a primary. Pure.
//!
//! | verdict | is concluded | is voted for |
//! | --- | --- | --- |
//! | healthy | every probe is up | no |
//! | degraded | a probe is down or in doubt, and customers are served, or too little is known | no |
//! | not ready | customers are not served, the primary's agent answers, and the lease moves, or cannot be read | no: the agent is told, and hands over |
//! | unreachable | customers are not served, the agent is silent, and the lease moves, or cannot be read | no |
//! | dead | customers are not served, and the lease stood still for `ttl` | yes |
//!
//! An agent that answers while its lease stands still is of a host that cannot hand over: its disk hangs, or it does
//! not reach the repository.

use crate::model::id::Incarnation;
use crate::support::clock::BootNanos;
use std::time::Duration;

/// What a watcher knows of the primary's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseSight {
    /// It was not read, because nothing asked for it.
    Unread,
    /// The repository does not answer.
    Unknown(String),
    /// The last number that its holder created, and since when this watcher has seen no later one.
    Seen { number: u64, incarnation: Incarnation, since: BootNanos },
}

/// What a watcher knows of the primary's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentSight {
    /// It was not asked, because nothing asked for it.
    Unasked,
    Silent(String),
    /// It answered, and says that it serves.
    Serves,
    /// It answered, and says why it does not serve.
    NotReady(Vec<String>),
}

/// All that a watcher knows of a primary at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The probes that are down, each with its reason.
    pub down: Vec<String>,
    /// The probes that failed last, and are not down.
    pub in_doubt: Vec<String>,
    /// Number of all probes.
    pub probes: usize,
    pub agent: AgentSight,
    pub lease: LeaseSight,
}

/// A watcher's conclusion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Healthy,
    Degraded(Vec<String>),
    NotReady(Vec<String>),
    Unreachable(String),
    Dead { incarnation: Incarnation, lease: u64, failed: Vec<String> },
}

impl Verdict {
    /// Returns the word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded(_) => "degraded",
            Self::NotReady(_) => "not ready",
            Self::Unreachable(_) => "unreachable",
            Self::Dead { .. } => "dead",
        }
    }

    /// Returns the reasons, for people.
    pub fn reasons(&self) -> Vec<String> {
        match self {
            Self::Healthy => Vec::new(),
            Self::Degraded(reasons) | Self::NotReady(reasons) => reasons.clone(),
            Self::Unreachable(reason) => vec![reason.clone()],
            Self::Dead { failed, .. } => failed.clone(),
        }
    }
}

/// Returns what follows from what a watcher sees at `now`.
///
/// Customers count as not served only if every probe is down: one that is up shows that the store answers, and
/// a store that answers slowly or in part is not made better by another host.
pub fn conclude(sight: &Sight, ttl: Duration, now: BootNanos) -> Verdict {
    if sight.down.is_empty() && sight.in_doubt.is_empty() {
        return Verdict::Healthy;
    }
    if sight.down.len() < sight.probes {
        return Verdict::Degraded(sight.down.iter().chain(&sight.in_doubt).cloned().collect());
    }
    if let LeaseSight::Seen { number, incarnation, since } = &sight.lease
        && now >= since.plus(ttl)
        && sight.agent != AgentSight::Unasked
    {
        let failed = sight.down.iter().chain(said(&sight.agent)).cloned().collect();
        return Verdict::Dead { incarnation: *incarnation, lease: *number, failed };
    }
    match (&sight.agent, &sight.lease) {
        (AgentSight::NotReady(reasons), _) => {
            Verdict::NotReady(sight.down.iter().chain(reasons).cloned().collect())
        }
        (AgentSight::Serves, _) => Verdict::NotReady(sight.down.clone()),
        (AgentSight::Unasked, _) | (_, LeaseSight::Unread) => Verdict::Degraded(sight.down.clone()),
        (AgentSight::Silent(_), LeaseSight::Unknown(how)) => {
            Verdict::Unreachable(format!("the repository does not answer either: {how}"))
        }
        (AgentSight::Silent(_), LeaseSight::Seen { .. }) => Verdict::Unreachable(format!(
            "its lease was renewed less than {} s ago, so it lives, or died just now",
            ttl.as_secs()
        )),
    }
}

/// Returns what an agent said, or why it said nothing.
fn said(agent: &AgentSight) -> &[String] {
    match agent {
        AgentSight::Silent(how) => std::slice::from_ref(how),
        AgentSight::NotReady(reasons) => reasons,
        AgentSight::Unasked | AgentSight::Serves => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(20);

    fn at(seconds: u64) -> BootNanos {
        BootNanos(seconds * 1_000_000_000)
    }

    fn agent() -> impl Strategy<Value = AgentSight> {
        prop_oneof![
            Just(AgentSight::Unasked),
            Just(AgentSight::Silent("no answer".into())),
            Just(AgentSight::Serves),
            Just(AgentSight::NotReady(vec!["php-fpm is down".into()])),
        ]
    }

    fn lease() -> impl Strategy<Value = LeaseSight> {
        prop_oneof![
            Just(LeaseSight::Unread),
            Just(LeaseSight::Unknown("503".into())),
            (0..100u64).prop_map(|since| LeaseSight::Seen {
                number: 7,
                incarnation: Incarnation(3),
                since: at(since)
            }),
        ]
    }

    proptest! {
        #[test]
        fn only_a_host_whose_lease_stands_still_and_that_no_probe_reaches_is_dead(probes in 0..4usize, down in 0..4usize, doubt in 0..4usize, agent in agent(), lease in lease(), now in 0..140u64) {
            let down = down.min(probes);
            let texts = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
            let sight = Sight { down: texts(down), in_doubt: texts(doubt.min(probes - down)), probes, agent: agent.clone(), lease: lease.clone() };
            let verdict = conclude(&sight, TTL, at(now));
            let stands = matches!(lease, LeaseSight::Seen { since, .. } if at(now) >= since.plus(TTL));
            let is_dead = probes > 0 && down == probes && agent != AgentSight::Unasked && stands;
            prop_assert_eq!(matches!(verdict, Verdict::Dead { .. }), is_dead, "{:?}", verdict);
            prop_assert_eq!(verdict == Verdict::Healthy, sight.down.is_empty() && sight.in_doubt.is_empty());
            prop_assert_eq!(verdict.reasons().is_empty(), verdict == Verdict::Healthy);
        }
    }
}
