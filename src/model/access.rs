//! Who may do what: the roles of people and programs, and what each may do with which stores. Pure.
//!
//! A role grants actions, and an identity grants them for its stores. Nothing else decides: a route says which
//! action it is, and [`may`] answers. A host's role for a store is another noun ([`super::role`]).

use super::id::StoreName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The role of a person or a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserRole {
    /// May do everything.
    Admin,
    /// Runs the stores: sees and changes them, and fails them over.
    Operator,
    /// Owns stores: sees them in words of its own, browses them, and asks for a resync.
    Customer,
    /// Sees what was done and by whom, and no content.
    Auditor,
    /// Sees the state of stores.
    Viewer,
}

impl UserRole {
    pub const ALL: [Self; 5] = [Self::Admin, Self::Operator, Self::Customer, Self::Auditor, Self::Viewer];

    /// Returns the name as it is written in configurations, tokens and the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Customer => "customer",
            Self::Auditor => "auditor",
            Self::Viewer => "viewer",
        }
    }

    /// Parses a name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == text)
    }
}

/// Something that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// See the list of stores; each only who may see it.
    ListStores,
    /// See the state of a store.
    SeeStore,
    /// See what only those who run it need: hosts, probes, decisions, errors in full.
    SeeInside,
    /// See a store's snapshots.
    SeeSnapshots,
    /// See the names of its files.
    SeePaths,
    /// Read its files.
    ReadContent,
    /// Ask for a resync.
    Resync,
    /// Hold and release it, and let a held run through.
    Hold,
    /// Have no host take it over by itself, or again.
    Pause,
    /// Change its primary.
    FailOver,
    /// Change its members.
    SetMembers,
    /// Have a seed of its database made.
    SeedDatabase,
    /// Take or give up what only a former primary has.
    SettleStranded,
    /// See who did what.
    SeeAudit,
    /// See and change tokens.
    ManageTokens,
}

impl Action {
    pub const ALL: [Self; 15] = [
        Self::ListStores,
        Self::SeeStore,
        Self::SeeInside,
        Self::SeeSnapshots,
        Self::SeePaths,
        Self::ReadContent,
        Self::Resync,
        Self::Hold,
        Self::Pause,
        Self::FailOver,
        Self::SetMembers,
        Self::SeedDatabase,
        Self::SettleStranded,
        Self::SeeAudit,
        Self::ManageTokens,
    ];

    /// Returns the name as the audit has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ListStores => "list stores",
            Self::SeeStore => "see store",
            Self::SeeInside => "see inside",
            Self::SeeSnapshots => "see snapshots",
            Self::SeePaths => "see paths",
            Self::ReadContent => "read content",
            Self::Resync => "resync",
            Self::Hold => "hold",
            Self::Pause => "pause",
            Self::FailOver => "fail over",
            Self::SetMembers => "set members",
            Self::SeedDatabase => "seed database",
            Self::SettleStranded => "settle stranded",
            Self::SeeAudit => "see audit",
            Self::ManageTokens => "manage tokens",
        }
    }

    /// Returns whether it changes something.
    pub fn changes(self) -> bool {
        match self {
            Self::Resync
            | Self::Hold
            | Self::Pause
            | Self::FailOver
            | Self::SetMembers
            | Self::SeedDatabase
            | Self::SettleStranded
            | Self::ManageTokens => true,
            Self::ListStores
            | Self::SeeStore
            | Self::SeeInside
            | Self::SeeSnapshots
            | Self::SeePaths
            | Self::ReadContent
            | Self::SeeAudit => false,
        }
    }

    /// Returns whether the audit has it: what changes something, and what shows content.
    pub fn is_audited(self) -> bool {
        self.changes() || matches!(self, Self::SeePaths | Self::ReadContent | Self::SeeAudit)
    }
}

/// The stores that an identity may see.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All, also those that are configured later.
    All,
    /// These.
    Only(BTreeSet<StoreName>),
}

impl Scope {
    pub fn has(&self, store: &StoreName) -> bool {
        match self {
            Self::All => true,
            Self::Only(stores) => stores.contains(store),
        }
    }
}

/// A person or a program whose request was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who it is, for the audit and for decisions.
    pub who: String,
    pub role: UserRole,
    pub scope: Scope,
}

impl Identity {
    /// Returns the identity of the commands of this host's user and of root.
    pub fn local() -> Self {
        Self { who: "a command of this host".to_owned(), role: UserRole::Admin, scope: Scope::All }
    }
}

/// Returns whether a role grants an action at all.
fn grants(role: UserRole, action: Action) -> bool {
    use Action as A;
    match role {
        UserRole::Admin => true,
        UserRole::Operator => !matches!(action, A::SetMembers | A::SeeAudit | A::ManageTokens),
        UserRole::Customer => matches!(
            action,
            A::ListStores | A::SeeStore | A::SeeSnapshots | A::SeePaths | A::ReadContent | A::Resync
        ),
        UserRole::Auditor => {
            matches!(action, A::ListStores | A::SeeStore | A::SeeInside | A::SeeSnapshots | A::SeeAudit)
        }
        UserRole::Viewer => matches!(action, A::ListStores | A::SeeStore | A::SeeInside | A::SeeSnapshots),
    }
}

/// Returns whether an identity may do something, with a store where it concerns one.
pub fn may(identity: &Identity, action: Action, store: Option<&StoreName>) -> bool {
    grants(identity.role, action) && store.is_none_or(|store| identity.scope.has(store))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who may: admin, operator, customer, auditor, viewer.
    const TABLE: [(Action, &str); 15] = [
        (Action::ListStores, "aocuv"),
        (Action::SeeStore, "aocuv"),
        (Action::SeeInside, "ao-uv"),
        (Action::SeeSnapshots, "aocuv"),
        (Action::SeePaths, "aoc--"),
        (Action::ReadContent, "aoc--"),
        (Action::Resync, "aoc--"),
        (Action::Hold, "ao---"),
        (Action::Pause, "ao---"),
        (Action::FailOver, "ao---"),
        (Action::SetMembers, "a----"),
        (Action::SeedDatabase, "ao---"),
        (Action::SettleStranded, "ao---"),
        (Action::SeeAudit, "a--u-"),
        (Action::ManageTokens, "a----"),
    ];

    #[test]
    fn each_role_may_what_the_table_says_and_with_its_own_stores_alone() {
        let (mine, other) = (StoreName::parse("mine").unwrap(), StoreName::parse("other").unwrap());
        assert_eq!(TABLE.map(|(action, _)| action), Action::ALL);
        for (action, who) in TABLE {
            for (at, role) in UserRole::ALL.into_iter().enumerate() {
                let granted = who.as_bytes()[at] != b'-';
                let of = |scope| Identity { who: "x".into(), role, scope };
                let all = of(Scope::All);
                let only = of(Scope::Only([mine.clone()].into()));
                let none = of(Scope::Only(BTreeSet::new()));
                for (identity, store, expected) in [
                    (&all, Some(&mine), granted),
                    (&all, Some(&other), granted),
                    (&all, None, granted),
                    (&only, Some(&mine), granted),
                    (&only, Some(&other), false),
                    (&only, None, granted),
                    (&none, Some(&mine), false),
                ] {
                    assert_eq!(may(identity, action, store), expected, "{role:?} {action:?} {store:?}");
                }
            }
        }
    }

    #[test]
    fn what_changes_something_is_audited_and_names_are_parsed_back() {
        for action in Action::ALL {
            assert!(!action.changes() || action.is_audited(), "{action:?}");
        }
        for role in UserRole::ALL {
            assert_eq!(UserRole::parse(role.name()), Some(role));
        }
        assert_eq!(UserRole::parse("root"), None);
    }
}
