//! Who may decide about a store, and what was decided: the fold of the log's decisions.
//!
//! Pure. [`Authority::judge`] says whether a decision has effect where it stands; only then it is taken.
//! Whoever can append to a log can append anything, so a decision that does not hold is no error: it changes
//! nothing and is listed, and the fold goes on. Then nobody can stop a store by an invalid decision, and
//! nobody without a member's key can change who its primary is.

use super::decision::{Cause, Decided, Decision, Loss, Place, Promoted, Stranded};
use super::gtid::GtidPosition;
use super::id::{Epoch, Sequence, WriterId};
use super::member::{self, Member, MembersError, TEXT_MAX_BYTES, is_text};
use super::vote;
use crate::support::clock::UnixNanos;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Maximum number of irregular records that are listed. All are counted.
const LISTED_MAX: usize = 32;
/// Maximum number of stranded trees that wait for a person.
const STRANDED_MAX: usize = 32;
/// Maximum number of standbys that a database waits for.
const SYNCED_MAX: usize = 8;
/// Maximum number of steps of a promotion.
const STEPS_MAX: usize = 64;
/// Number of promotions without a person whose times are remembered.
const AUTOMATIC_MAX: usize = 8;

/// A handover that was begun, and neither cancelled nor completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Underway {
    /// Number of the record that began it.
    pub sequence: Sequence,
    pub to: WriterId,
    pub snapshot: Sequence,
    /// The last transaction of the primary's database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<GtidPosition>,
    /// Why the primary hands over by itself; none if a person wants it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
}

/// The pause in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub sequence: Sequence,
    pub person: String,
    pub reason: String,
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
}

/// The last change of the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPromotion {
    pub sequence: Sequence,
    /// The primary before it.
    pub former: Option<WriterId>,
    /// Its cause; without the votes, which the record has.
    pub cause: Cause,
    pub base: Option<Sequence>,
    pub loss: Loss,
    #[serde(rename = "at_ns")]
    pub at: UnixNanos,
    /// Whether it was carried out.
    pub completed: bool,
    /// All that the primary's database had applied when it stopped being a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<GtidPosition>,
}

/// A host that may still serve, because it was the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reign {
    pub host: WriterId,
    /// Record from which on it may serve: its promotion, or the cancellation of its handover.
    pub since: Sequence,
}

/// A record that has no effect, or that its writer was not admitted to append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IrregularRecord {
    pub sequence: Sequence,
    /// The host that it names as its maker; nothing proves that.
    pub host: WriterId,
    pub why: String,
}

/// The irregular records of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Irregulars {
    pub count: u64,
    /// The last of them.
    pub last: Vec<IrregularRecord>,
}

impl Irregulars {
    pub(crate) fn note(&mut self, sequence: Sequence, host: &WriterId, why: &Irregularity) {
        self.count += 1;
        if self.last.len() == LISTED_MAX {
            self.last.remove(0);
        }
        let host = WriterId(host.0.chars().take(TEXT_MAX_BYTES).collect());
        self.last.push(IrregularRecord { sequence, host, why: why.to_string() });
    }
}

/// Reason why a record is irregular.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Irregularity {
    #[error("its text is not a decision")]
    Statement,
    #[error("the store has no members, and only a list of members can be decided")]
    Unfounded,
    #[error("'{0}' is no member of the store")]
    NoMember(WriterId),
    #[error("'{0}' may not serve, so it cannot decide")]
    Watcher(WriterId),
    #[error("the key of member '{0}' did not sign it for this place in the log")]
    Signature(WriterId),
    #[error("its record has the wrong epoch")]
    Epoch,
    #[error("a text in it is empty, longer than {TEXT_MAX_BYTES} bytes, or has control characters")]
    Text,
    #[error("the store has members, and no member signed it")]
    Unsigned,
    #[error("its list of members is not valid: {0}")]
    List(#[from] MembersError),
    #[error("a store is founded by its primary, as the only member that may serve")]
    Founder,
    #[error("'{0}' is the primary, and its list does not let it serve; promote another member first")]
    Deposes(WriterId),
    #[error("a handover to '{0}' is in progress; wait until it ends, or cancel it")]
    Underway(WriterId),
    #[error("'{0}' is not the primary")]
    NotPrimary(WriterId),
    #[error("'{0}' is the primary already")]
    Primary(WriterId),
    #[error("a member can only promote itself")]
    Another,
    #[error("'{0}' is no member that may serve")]
    Target(WriterId),
    #[error("snapshot {0} is not the latest one")]
    NotLatest(Sequence),
    #[error("snapshot {0} does not exist")]
    NoSnapshot(Sequence),
    #[error("no handover {0} to it is in progress")]
    NoHandover(Sequence),
    #[error("automatic promotions are paused")]
    Paused,
    #[error("the votes are not those of a majority of the watchers about one state of the primary's lease")]
    Votes,
    #[error("record {0} is not a promotion that can still be completed or taken back")]
    NoPromotion(Sequence),
    #[error("nothing is paused")]
    NotPaused,
    #[error("nothing is stranded in record {0}")]
    NotStranded(Sequence),
    #[error("its epoch is not one before the present one")]
    NotFormer,
    #[error("it has more parts than is allowed")]
    TooMany,
    #[error("a snapshot of a host that was not admitted: another is the primary, or is about to be")]
    Snapshot,
}

/// Who may decide about a store, and what was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// The members in force; empty before the store is founded.
    pub members: Vec<Member>,
    pub handover: Option<Underway>,
    pub paused: Option<Pause>,
    pub promotion: Option<LastPromotion>,
    /// The primaries since the last completed promotion, and that one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reigns: Vec<Reign>,
    /// The standbys that have every transaction that a customer was told is done.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub synced: BTreeSet<WriterId>,
    /// The first epoch since which each primary had, when it was promoted, every transaction that a customer was
    /// told is done.
    #[serde(default)]
    pub lossless_since: Epoch,
    /// When hosts were last promoted though no person asked for it, since a person last decided something about
    /// who serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub automatic: Vec<UnixNanos>,
    /// Trees of former primaries that no person has settled. Their lists of objects are empty.
    pub stranded: BTreeMap<Sequence, Stranded>,
    pub irregular: Irregulars,
}

/// The rest of a store's state, as far as decisions depend on it.
pub(crate) struct Scene<'a> {
    pub epoch: Epoch,
    pub primary: Option<&'a WriterId>,
    pub latest: Option<Sequence>,
    pub has_snapshot: &'a dyn Fn(Sequence) -> bool,
}

/// A decision that has effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Regular {
    pub at: UnixNanos,
    pub maker: WriterId,
    pub decision: Decision,
    /// The new primary, if it makes one.
    pub promotes: bool,
}

impl Authority {
    /// Returns whether nothing was decided: then checkpoints are as they were before there were members.
    pub(crate) fn is_blank(&self) -> bool {
        *self == Self::default()
    }

    pub fn is_founded(&self) -> bool {
        !self.members.is_empty()
    }

    pub fn member(&self, name: &WriterId) -> Option<&Member> {
        self.members.iter().find(|member| member.name == *name)
    }

    /// Returns the standby whose acknowledgement a primary's database waits for: the first member of the list that
    /// may serve and has a database. A server counts acknowledgements, and not who gives them, so there is one.
    pub fn synchronous_standby(&self, primary: &WriterId) -> Option<&WriterId> {
        let may =
            |member: &&Member| member.name != *primary && member.may_serve() && member.database.is_some();
        self.members.iter().find(may).map(|member| &member.name)
    }

    /// Returns whether the database of a standby acknowledges what it receives of `primary`'s: never beside another
    /// one that the log names.
    pub fn acknowledges(&self, standby: &WriterId, primary: &WriterId) -> bool {
        match self.synced.is_empty() {
            true => self.synchronous_standby(primary) == Some(standby),
            false => self.synced.contains(standby),
        }
    }

    fn may_serve(&self, name: &WriterId) -> bool {
        self.member(name).is_some_and(Member::may_serve)
    }

    /// Returns whether a decision makes its maker the primary of the next epoch.
    pub(crate) fn promotes(&self, decision: &Decision) -> bool {
        match decision {
            Decision::Members { .. } => !self.is_founded(),
            Decision::Promoted(_) => true,
            _ => false,
        }
    }

    /// Judges a decision in the place where it stands.
    ///
    /// # Errors
    /// The reason why it has no effect.
    pub(crate) fn judge(
        &self,
        scene: &Scene,
        decided: &Decided,
        place: &Place,
    ) -> Result<Regular, Irregularity> {
        let statement = decided.statement().ok_or(Irregularity::Statement)?;
        let (maker, decision) = (&decided.member, &statement.decision);
        let listed = match decision {
            // The list that founds a store is signed by its own only serving member.
            Decision::Members { members } if !self.is_founded() => {
                found(members, maker, scene)?;
                members
            }
            _ if !self.is_founded() => return Err(Irregularity::Unfounded),
            _ => &self.members,
        };
        let member = listed.iter().find(|member| member.name == *maker);
        let member = member.ok_or_else(|| Irregularity::NoMember(maker.clone()))?;
        if !member.may_serve() {
            return Err(Irregularity::Watcher(maker.clone()));
        }
        if !decided.is_signed(&member.key, place) {
            return Err(Irregularity::Signature(maker.clone()));
        }
        let promotes = self.promotes(decision);
        if place.epoch.0 != scene.epoch.0 + u64::from(promotes) {
            return Err(Irregularity::Epoch);
        }
        if self.is_founded() {
            self.allows(scene, maker, decision, place)?;
        }
        Ok(Regular { at: statement.at, maker: maker.clone(), decision: statement.decision, promotes })
    }

    /// Decides whether a serving member may decide this in a founded store.
    fn allows(
        &self,
        scene: &Scene,
        maker: &WriterId,
        decision: &Decision,
        place: &Place,
    ) -> Result<(), Irregularity> {
        let is_primary = scene.primary == Some(maker);
        let by_primary = || hold(is_primary, Irregularity::NotPrimary(maker.clone()));
        match decision {
            // The primary counts on the promises of all who may be promoted: it must know them.
            Decision::Members { members } => {
                self.allows_list(scene, members)?;
                by_primary()
            }
            Decision::Promoted(promoted) => self.allows_promotion(scene, maker, promoted, place),
            Decision::Handover { to, snapshot, reason, .. } => {
                by_primary()?;
                self.is_quiet()?;
                hold(reason.as_ref().is_none_or(|reason| is_text(reason)), Irregularity::Text)?;
                hold(to != maker && self.may_serve(to), Irregularity::Target(to.clone()))?;
                hold(scene.latest == Some(*snapshot), Irregularity::NotLatest(*snapshot))
            }
            Decision::Cancelled { handover, reason } => {
                by_primary()?;
                hold(is_text(reason), Irregularity::Text)?;
                let is_it = self.handover.as_ref().is_some_and(|underway| underway.sequence == *handover);
                hold(is_it, Irregularity::NoHandover(*handover))
            }
            Decision::Completed { promotion, steps, .. } => {
                by_primary()?;
                hold(steps.len() <= STEPS_MAX, Irregularity::TooMany)?;
                hold(steps.iter().all(|step| is_text(&step.step)), Irregularity::Text)?;
                self.open_promotion(*promotion).map(drop)
            }
            Decision::Paused { person, reason } => {
                hold(is_text(person) && is_text(reason), Irregularity::Text)
            }
            Decision::Synced { standbys } => {
                by_primary()?;
                hold(standbys.len() <= SYNCED_MAX, Irregularity::TooMany)?;
                let other = standbys.iter().find(|host| *host == maker || !self.may_serve(host));
                other.map_or(Ok(()), |other| Err(Irregularity::Target(other.clone())))
            }
            Decision::Resumed { person } => {
                hold(is_text(person), Irregularity::Text)?;
                hold(self.paused.is_some(), Irregularity::NotPaused)
            }
            Decision::Stranded(stranded) => {
                hold(!is_primary, Irregularity::Primary(maker.clone()))?;
                hold(stranded.of_epoch < scene.epoch, Irregularity::NotFormer)?;
                hold(self.stranded.len() < STRANDED_MAX, Irregularity::TooMany)
            }
            Decision::Settled { stranded, person, .. } => {
                hold(is_text(person), Irregularity::Text)?;
                hold(self.stranded.contains_key(stranded), Irregularity::NotStranded(*stranded))
            }
        }
    }

    fn is_quiet(&self) -> Result<(), Irregularity> {
        match &self.handover {
            Some(underway) => Err(Irregularity::Underway(underway.to.clone())),
            None => Ok(()),
        }
    }

    fn allows_list(&self, scene: &Scene, members: &[Member]) -> Result<(), Irregularity> {
        self.is_quiet()?;
        member::check(members)?;
        let serves = |name: &WriterId| members.iter().any(|m| m.name == *name && m.may_serve());
        match scene.primary.filter(|primary| !serves(primary)) {
            Some(primary) => Err(Irregularity::Deposes(primary.clone())),
            None => Ok(()),
        }
    }

    fn allows_promotion(
        &self,
        scene: &Scene,
        maker: &WriterId,
        promoted: &Promoted,
        place: &Place,
    ) -> Result<(), Irregularity> {
        hold(promoted.primary == *maker, Irregularity::Another)?;
        hold(scene.primary != Some(maker), Irregularity::Primary(maker.clone()))?;
        hold(is_text(&promoted.reason), Irregularity::Text)?;
        if let Some(base) = promoted.base {
            hold((scene.has_snapshot)(base), Irregularity::NoSnapshot(base))?;
        }
        match &promoted.cause {
            // Only the first list of members founds a store.
            Cause::Founding => Err(Irregularity::Founder),
            Cause::Handover { handover } => {
                let is_its = |underway: &&Underway| {
                    underway.sequence == *handover
                        && underway.to == *maker
                        && promoted.base == Some(underway.snapshot)
                };
                let underway = self.handover.as_ref().filter(is_its);
                hold(underway.is_some(), Irregularity::NoHandover(*handover))
            }
            Cause::Forced { person, .. } => hold(is_text(person), Irregularity::Text),
            Cause::Automatic { votes } => {
                hold(self.paused.is_none(), Irregularity::Paused)?;
                let primary = scene.primary.ok_or(Irregularity::Votes)?;
                let is_enough = vote::is_enough(votes, &self.members, place.store, scene.epoch, primary);
                hold(is_enough, Irregularity::Votes)
            }
            Cause::Rollback { promotion } => {
                let former = &self.open_promotion(*promotion)?.former;
                hold(former.as_ref() == Some(maker), Irregularity::NoPromotion(*promotion))
            }
        }
    }

    /// Returns the last promotion, if it is that of this record and was not completed.
    fn open_promotion(&self, sequence: Sequence) -> Result<&LastPromotion, Irregularity> {
        let last = self.promotion.as_ref().filter(|last| last.sequence == sequence && !last.completed);
        last.ok_or(Irregularity::NoPromotion(sequence))
    }

    /// Returns the snapshots that stay whatever the rules say, each with the reason.
    pub(crate) fn needed(&self) -> BTreeMap<Sequence, &'static str> {
        let handover = self.handover.iter().map(|underway| (underway.snapshot, "handed over"));
        let open = self.promotion.iter().filter(|last| !last.completed);
        let base = open.filter_map(|last| Some((last.base?, "base of a promotion")));
        let stranded = self.stranded.values();
        let stranded = stranded.filter_map(|stranded| Some((stranded.base?, "base of a stranded tree")));
        handover.chain(base).chain(stranded).collect()
    }

    /// Keeps which hosts may still serve.
    fn reign(&mut self, since: Sequence, regular: &Regular) {
        let maker = &regular.maker;
        match &regular.decision {
            _ if regular.promotes => self.begin_reign(maker, since),
            Decision::Cancelled { .. } => self.begin_reign(maker, since),
            Decision::Completed { .. } => self.reigns.retain(|reign| reign.host == *maker),
            _ => {}
        }
    }

    fn begin_reign(&mut self, host: &WriterId, since: Sequence) {
        self.reigns.retain(|reign| reign.host != *host);
        self.reigns.push(Reign { host: host.clone(), since });
    }

    /// Takes a decision that was judged; `epoch` is that of its record.
    pub(crate) fn take(
        &mut self,
        sequence: Sequence,
        epoch: Epoch,
        former: Option<WriterId>,
        regular: &Regular,
    ) {
        self.reign(sequence, regular);
        let at = regular.at;
        let promotion = |cause, base, loss| {
            let (completed, database) = (false, None);
            Some(LastPromotion { sequence, former, cause, base, loss, at, completed, database })
        };
        match &regular.decision {
            Decision::Members { members } => {
                if !self.is_founded() {
                    self.promotion = promotion(Cause::Founding, None, Loss::default());
                    self.lossless_since = epoch;
                }
                self.members = members.clone();
            }
            Decision::Promoted(promoted) => {
                let cause = match &promoted.cause {
                    Cause::Automatic { .. } => Cause::Automatic { votes: Vec::new() },
                    cause => cause.clone(),
                };
                self.promotion = promotion(cause, promoted.base, promoted.loss.clone());
                self.count_automatic(&promoted.cause, at);
                // Whatever was begun in the former epoch has ended with it.
                self.handover = None;
                let is_lossless = match &promoted.cause {
                    // Its own database has all that it ever told a customer.
                    Cause::Handover { .. } | Cause::Rollback { .. } => true,
                    _ => self.synced.contains(&promoted.primary),
                };
                if !is_lossless {
                    self.lossless_since = epoch;
                }
                self.synced.clear();
            }
            Decision::Handover { to, snapshot, database, reason } => {
                let (to, snapshot, database) = (to.clone(), *snapshot, database.clone());
                let reason = reason.clone();
                self.handover = Some(Underway { sequence, to, snapshot, database, reason, at });
            }
            Decision::Cancelled { .. } => self.handover = None,
            Decision::Completed { database, .. } => {
                if let Some(last) = &mut self.promotion {
                    (last.completed, last.database) = (true, database.clone());
                }
            }
            Decision::Paused { person, reason } => {
                let (person, reason) = (person.clone(), reason.clone());
                self.paused = Some(Pause { sequence, person, reason, at });
            }
            Decision::Resumed { .. } => {
                self.paused = None;
                self.automatic.clear();
            }
            Decision::Synced { standbys } => self.synced = standbys.iter().cloned().collect(),
            Decision::Stranded(stranded) => {
                let (new_packs, new_index) = (Vec::new(), Vec::new());
                self.stranded.insert(sequence, Stranded { new_packs, new_index, ..stranded.clone() });
            }
            Decision::Settled { stranded, .. } => {
                self.stranded.remove(stranded);
            }
        }
    }

    /// Remembers a promotion that no person asked for; one that a person did ask for makes the earlier ones void.
    fn count_automatic(&mut self, cause: &Cause, at: UnixNanos) {
        let is_automatic = match cause {
            Cause::Automatic { .. } => true,
            Cause::Handover { .. } => {
                self.handover.as_ref().is_some_and(|underway| underway.reason.is_some())
            }
            Cause::Founding | Cause::Forced { .. } | Cause::Rollback { .. } => false,
        };
        if !is_automatic {
            return self.automatic.clear();
        }
        if self.automatic.len() == AUTOMATIC_MAX {
            self.automatic.remove(0);
        }
        self.automatic.push(at);
    }
}

fn hold(is_so: bool, otherwise: Irregularity) -> Result<(), Irregularity> {
    if is_so { Ok(()) } else { Err(otherwise) }
}

/// Checks the list that founds a store.
fn found(members: &[Member], maker: &WriterId, scene: &Scene) -> Result<(), Irregularity> {
    member::check(members)?;
    let serving: Vec<_> = members.iter().filter(|member| member.may_serve()).collect();
    let is_alone = serving.len() == 1 && serving[0].name == *maker;
    let is_primary = scene.primary.is_none_or(|primary| primary == maker);
    hold(is_alone && is_primary, Irregularity::Founder)
}
