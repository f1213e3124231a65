//! The role of a store's server on this host, and what a supervisor makes of it. Pure.
//!
//! A server is a replica until an order says otherwise, since a replica harms nobody: it is read-only and no
//! customer reaches it. It takes writes by an order alone, and only in the boot of the machine that the order
//! was given in; a supervisor that starts again goes on with that only if the log still names this host. What
//! was fenced runs no server at all, until an order says what it is to be.
//!
//! Each order has the epoch that it was given in. An order of an earlier epoch than the last one's opens
//! nothing.

use super::error::Trouble;
use super::restored::GoBack;
use crate::model::gtid::{GtidPosition, ServerId};
use crate::model::id::{Epoch, WriterId};
use crate::support::clock::UnixNanos;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What is said of a server that was fenced.
pub const FENCED: &str = "fenced; no server runs until it is promoted or demoted";

/// The role of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It applies what the primary's server commits.
    #[default]
    Follow,
    /// It takes the customers' writes.
    Serve,
    /// It has refused writes since a handover began, and hands out what it has.
    Hand,
    /// No server runs.
    Fenced,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Self::Follow => "follow",
            Self::Serve => "serve",
            Self::Hand => "hand",
            Self::Fenced => "fenced",
        }
    }
}

/// Where a replica is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub position: GtidPosition,
    /// The snapshot whose position that is; none if it is only where the replica was.
    pub snapshot: Option<String>,
    #[serde(rename = "since_ns")]
    pub since: UnixNanos,
}

/// What the last order has made of a server; kept on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleNote {
    pub role: Role,
    /// The highest epoch of an order.
    pub epoch: Epoch,
    /// The boot of this machine in which the order was given.
    pub boot: String,
    /// All that was applied here when this server stopped being a replica; none while it is one.
    pub branch: Option<GtidPosition>,
    /// Number of fences. An order that was given before the last one opens nothing.
    pub fences: u64,
    /// Whether a server that customers reach may be running.
    pub is_open: bool,
    /// Directory of the server's data, as a fence needs it.
    pub data: PathBuf,
    /// Whether a person takes this replica as it is, though it is broken.
    pub accepts_loss: bool,
    /// The epoch in which this server last took writes.
    #[serde(default)]
    pub served: Epoch,
    /// Whether it ever did, as far as what it wrote may be here alone.
    #[serde(default)]
    pub was_primary: bool,
    /// Whether commits wait, in that epoch, until a standby has acknowledged them.
    #[serde(default)]
    pub waits: bool,
    /// Whether this replica acknowledges what it has received.
    #[serde(default)]
    pub acks: bool,
    /// Where this replica is held.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// The server that was followed last.
    #[serde(default)]
    pub source: Option<String>,
    /// What is to take the place of the replica's data before it serves.
    #[serde(default)]
    pub back: Option<Box<GoBack>>,
}

impl RoleNote {
    /// Notes that this server may take writes in an epoch. A new epoch begins without waiting for anybody.
    pub fn serve_in(&mut self, epoch: Epoch, boot: String) {
        self.waits &= self.served == epoch;
        (self.epoch, self.served, self.boot, self.acks) = (epoch, epoch, boot, false);
        self.was_primary = true;
    }

    /// Notes that a restored database is in the place of the replica's, which is no replica's any more.
    pub fn went_back(&mut self, position: GtidPosition) {
        (self.branch, self.back, self.hold) = (Some(position), None, None);
        self.accepts_loss = false;
    }

    /// Returns whether this host's server may have transactions that no other one has: it takes writes, or took them
    /// and has not been seen to follow since. `trouble` is what is known to be wrong with it.
    pub fn may_be_ahead(&self, trouble: Option<Trouble>) -> bool {
        self.role != Role::Follow
            || self.branch.is_some()
            || self.was_primary
            || trouble == Some(Trouble::Diverged)
    }

    /// Returns whether what this replica has applied last shows that a primary took it as its replica since this
    /// host's server took writes: each domain's last transaction is another host's. Then nothing of it is here alone.
    pub fn follows_another(&self, applied: &GtidPosition, own: &[ServerId]) -> bool {
        self.branch.is_none() && applied.gtids().all(|gtid| !own.contains(&gtid.server))
    }

    /// Returns whether a former primary's server is to undo, when it starts, what no standby has acknowledged:
    /// every primary since has all that was.
    pub fn undoes(&self, lossless_since: Epoch) -> bool {
        self.branch.is_some() && self.waits && self.served >= lossless_since
    }
}

/// What the store's log says of its primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSays {
    pub epoch: Epoch,
    pub primary: Option<WriterId>,
    /// Whether this host is that primary.
    pub is_here: bool,
    /// Whether this host may only follow, by its configuration.
    pub only_follows: bool,
    /// Where that primary's server listens, by the list of members.
    pub database: Option<String>,
    /// All that it had applied when it stopped being a replica.
    pub branch: Option<GtidPosition>,
    /// Whether it says that a standby has all that customers were told is done.
    pub has_synced: bool,
    /// The first epoch since which no change of the primary lost what a customer had been told is done.
    pub lossless_since: Epoch,
}

/// What a supervisor runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The replica's server.
    Replica,
    /// The server that customers reach; it takes writes unless it hands over.
    Customers,
    /// No server, for this reason.
    None(String),
}

/// Returns what is to run. `log` is what the log says, where it was readable; `goes_on` says that this very
/// process has run the server in this role before, or was given the order.
pub fn plan(note: &RoleNote, boot: &str, log: Option<&LogSays>, goes_on: bool) -> Plan {
    let none = |reason: String| Plan::None(reason);
    match note.role {
        Role::Follow => return Plan::Replica,
        Role::Fenced => return none(FENCED.into()),
        Role::Serve | Role::Hand => {}
    }
    if note.boot != boot {
        return none("the machine was started since it was promoted; it waits to be promoted again".into());
    }
    match log {
        None if !goes_on => {
            return none(
                "the store's log cannot be read, so that nobody knows whether it is replaced".into(),
            );
        }
        Some(LogSays { primary: Some(primary), is_here: false, .. }) => {
            return none(format!("'{primary}' has become the primary; this server waits to be demoted"));
        }
        Some(says) if says.epoch > note.epoch => {
            return none(format!("the log is in epoch {} by now; it waits to be promoted", says.epoch.0));
        }
        _ => {}
    }
    match note.branch {
        // It was told to serve, and had not applied all that it had received.
        None => Plan::Replica,
        Some(_) => Plan::Customers,
    }
}

/// Returns why an order to serve is refused: it is older than what is known here, or the log names another host.
pub fn may_serve(note: &RoleNote, given: Option<Epoch>, log: Option<&LogSays>) -> Result<Epoch, String> {
    let epoch = match (given, log) {
        // Who gives an epoch has read the log.
        (Some(epoch), _) => epoch,
        (None, None) => return Err("the store's log cannot be read".into()),
        (None, Some(LogSays { primary: Some(primary), is_here: false, .. })) => {
            return Err(format!(
                "the log names '{primary}' as the primary; `understudy failover` or `switchover` makes this host the primary first"
            ));
        }
        (None, Some(LogSays { primary: None, only_follows: true, .. })) => {
            return Err("the log names no primary, and by its configuration this host only follows".into());
        }
        (None, Some(says)) => says.epoch,
    };
    match epoch < note.epoch {
        true => {
            Err(format!("the order is of epoch {}, and this server has seen epoch {}", epoch.0, note.epoch.0))
        }
        false => Ok(epoch),
    }
}

/// Returns the number of transactions that a former primary has and the branch does not: of each domain those
/// behind the branch's number, unless the branch's own server wrote them on. None where none are.
///
/// The numbers of a former primary's and its successor's transactions are the same ones: so only a position of
/// the moment of the promotion tells them apart.
pub fn beyond(branch: &GtidPosition, own: &GtidPosition) -> u64 {
    branch.behind(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn note(role: Role, epoch: u64, branch: Option<&str>) -> RoleNote {
        let branch = branch.map(|text| text.parse().unwrap());
        RoleNote { role, epoch: Epoch(epoch), boot: "now".into(), branch, ..Default::default() }
    }

    fn says(epoch: u64, primary: Option<&str>, is_here: bool) -> LogSays {
        let primary = primary.map(|name| WriterId(name.into()));
        LogSays { epoch: Epoch(epoch), primary, is_here, ..Default::default() }
    }

    #[test]
    fn what_served_goes_on_only_in_its_boot_and_its_epoch_and_while_the_log_names_this_host() {
        let serve = note(Role::Serve, 3, Some("1-2-9"));
        let here = says(3, Some("here"), true);
        assert_eq!(plan(&serve, "now", Some(&here), false), Plan::Customers);
        assert_eq!(plan(&serve, "now", Some(&says(0, None, false)), false), Plan::Customers);
        assert_eq!(plan(&serve, "now", None, true), Plan::Customers);
        for (boot, log, goes_on) in [
            ("later", Some(&here), true),
            ("now", None, false),
            ("now", Some(&says(4, Some("there"), false)), true),
            ("now", Some(&says(5, Some("here"), true)), true),
        ] {
            assert!(matches!(plan(&serve, boot, log, goes_on), Plan::None(_)), "{boot} {log:?} {goes_on}");
        }
    }

    #[test]
    fn what_had_not_applied_all_goes_on_as_a_replica_first() {
        let here = says(3, Some("here"), true);
        assert_eq!(plan(&note(Role::Serve, 3, None), "now", Some(&here), false), Plan::Replica);
        assert_eq!(plan(&RoleNote::default(), "now", None, false), Plan::Replica);
        assert!(matches!(
            plan(&note(Role::Fenced, 3, Some("1-2-9")), "now", Some(&here), true),
            Plan::None(_)
        ));
    }

    #[test]
    fn an_order_to_serve_is_of_this_epoch_or_a_later_one_and_of_the_log_s_primary() {
        let note = note(Role::Fenced, 3, None);
        assert_eq!(may_serve(&note, Some(Epoch(3)), None), Ok(Epoch(3)));
        assert_eq!(may_serve(&note, None, Some(&says(4, Some("here"), true))), Ok(Epoch(4)));
        assert_eq!(may_serve(&RoleNote::default(), None, Some(&says(0, None, false))), Ok(Epoch(0)));
        for (given, log) in [
            (Some(Epoch(2)), Some(says(9, Some("here"), true))),
            (None, None),
            (None, Some(says(3, Some("there"), false))),
            (None, Some(says(2, Some("here"), true))),
        ] {
            assert!(may_serve(&note, given, log.as_ref()).is_err(), "{given:?} {log:?}");
        }
    }

    #[test]
    fn what_is_beyond_the_branch_is_counted_whatever_server_wrote_on() {
        let of = |text: &str| text.parse::<GtidPosition>().unwrap();
        assert_eq!(beyond(&of("1-11-100"), &of("1-1-105")), 5);
        assert_eq!(beyond(&of("1-11-100,7-3-4"), &of("1-1-98,7-3-4")), 0);
        assert_eq!(beyond(&of("1-11-100"), &of("1-1-100,2-1-3")), 3);
    }

    #[test]
    fn a_server_may_be_ahead_until_another_primary_s_transactions_are_applied_to_it() {
        let mut note = RoleNote::default();
        assert!(!note.may_be_ahead(None) && !note.may_be_ahead(Some(Trouble::Conflict)));
        assert!(note.may_be_ahead(Some(Trouble::Diverged)));
        note.serve_in(Epoch(3), "now".into());
        (note.role, note.branch) = (Role::Serve, Some("1-2-9".parse().unwrap()));
        assert!(note.may_be_ahead(None));
        for role in [Role::Hand, Role::Fenced, Role::Follow] {
            assert!(RoleNote { role, ..note.clone() }.may_be_ahead(None), "{role:?}");
        }
        // It names another primary; nobody knows yet whether that one takes it.
        (note.role, note.branch) = (Role::Follow, None);
        assert!(note.may_be_ahead(None));
        let (own, of) = ([ServerId(2), ServerId(3)], |text: &str| text.parse().unwrap());
        assert!(
            !note.follows_another(&of("1-2-12"), &own) && !note.follows_another(&of("1-5-13,7-3-4"), &own)
        );
        assert!(note.follows_another(&of("1-5-13"), &own));
        let counted = RoleNote { branch: Some(of("1-2-9")), ..note.clone() };
        assert!(!counted.follows_another(&of("1-5-13"), &own), "what it wrote itself is not counted yet");
        note.was_primary = false;
        assert!(!note.may_be_ahead(None));
    }

    #[test]
    fn a_former_primary_undoes_only_what_no_primary_since_can_lack() {
        let mut served = RoleNote::default();
        served.serve_in(Epoch(3), "now".into());
        assert!(!served.waits);
        (served.waits, served.branch) = (true, Some("1-2-9".parse().unwrap()));
        served.serve_in(Epoch(3), "now".into());
        assert!(served.waits, "it goes on after a restart");
        // It was fenced, and is told to follow in a later epoch.
        (served.role, served.epoch) = (Role::Follow, Epoch(5));
        assert!(served.undoes(Epoch(3)) && served.undoes(Epoch(1)));
        assert!(!served.undoes(Epoch(4)), "a primary since was not of the set");
        assert!(!RoleNote { branch: None, ..served.clone() }.undoes(Epoch(1)), "it is a replica already");
        assert!(!RoleNote { waits: false, ..served.clone() }.undoes(Epoch(1)), "nobody acknowledged");
        served.serve_in(Epoch(6), "now".into());
        assert!(!served.waits);
    }

    proptest! {
        #[test]
        fn nothing_that_is_fenced_or_replaced_or_of_another_boot_reaches_customers(
            role in prop_oneof![Just(Role::Follow), Just(Role::Serve), Just(Role::Hand), Just(Role::Fenced)],
            epoch in 0..4_u64,
            same_boot: bool,
            branch: bool,
            log in proptest::option::of((0..4_u64, 0..3_u8)),
            goes_on: bool,
        ) {
            let note = note(role, epoch, branch.then_some("1-2-9"));
            let log = log.map(|(epoch, who)| match who {
                0 => says(epoch, None, false),
                1 => says(epoch, Some("here"), true),
                _ => says(epoch, Some("there"), false),
            });
            let plan = plan(&note, if same_boot { "now" } else { "then" }, log.as_ref(), goes_on);
            if plan == Plan::Customers {
                prop_assert!(matches!(role, Role::Serve | Role::Hand) && same_boot && branch);
                prop_assert!(log.is_some() || goes_on);
                prop_assert!(log.is_none_or(|log| log.epoch <= note.epoch && (log.is_here || log.primary.is_none())));
            }
        }
    }
}
