//! The leases of hosts: numbered objects, each created once, at `.leases/<host>/<20 digits>`.
//!
//! A holder and a host that breaks its lease both create the first free number after the last one that counts,
//! so the object store lets exactly one of them win. A number that counts is signed (see `model::lease`); any
//! other one is void: it is passed over by everybody, so it neither keeps a lease alive nor breaks one.
//!
//! A request has one attempt and a short time. One whose reply was lost may have been applied all the same, or
//! may be applied later: the number is read back, and if that does not show it, the result is unknown.
//!
//! Old numbers are deleted by their holder, long after the last. A creation that was delayed for so long may
//! then succeed: whoever breaks a lease looks afterwards whether a later number counts.

use super::error::RepositoryError;
use super::object_key;
use super::objects::{Creation, Patience};
use super::store::Store;
use crate::model::escape;
use crate::model::id::{Incarnation, WriterId};
use crate::model::lease::{LeaseNote, Void};
use crate::model::member::Member;
use crate::model::signed::{SIGNED_MAX_BYTES, Signed};
use crate::support::failure::{Failure, FailureKind};
use bytes::Bytes;
use object_store::PutPayload;
use std::collections::BTreeSet;
use std::time::Duration;

/// Maximum time of a request.
pub const LEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of numbers that stay behind the last one.
pub const LEASE_KEPT: u64 = 1000;
/// Maximum number of numbers that one look reads.
const READ_MAX: usize = 16;
/// Maximum number of void numbers that are remembered; with more, nothing is known of the lease.
const VOID_MAX: usize = 4096;

/// Number of times that a lease is followed from number to number before it is looked for anew.
const FOLLOWED_MAX: u32 = 30;

/// The last number that counts, and who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastNumber {
    pub number: u64,
    pub maker: WriterId,
    pub note: LeaseNote,
}

/// The result of creating a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NumberTaken {
    /// The object is the one that was to be created.
    Mine,
    /// Another object has this number.
    Other(Bytes),
    /// It is not known whether it was created.
    Unknown,
}

/// Returns the process that renewed its lease by a number; none if it is a break.
fn holder(note: &LeaseNote) -> Option<Incarnation> {
    match note {
        LeaseNote::Held { incarnation } => Some(*incarnation),
        LeaseNote::Broken { .. } => None,
    }
}

/// The lease of one host, as one reader sees it. It remembers what it has read.
pub struct Lease {
    store: Store,
    host: WriterId,
    last: Option<LastNumber>,
    /// The last number that its holder may have created: all later ones that count are breaks by others.
    renewed: u64,
    /// The process that created it, as far as that is known.
    holder: Option<Incarnation>,
    /// Numbers after the last one that do not count.
    void: BTreeSet<u64>,
    /// The members by whose keys `last` and `void` were judged.
    members: Vec<Member>,
    /// Number of times that it was followed since the last look.
    followed: u32,
}

impl Lease {
    /// Returns the lease of `host`, read with the client settings of leases.
    pub fn new(store: &Store, host: &WriterId) -> Self {
        let patience = Patience { attempts: 1, backoff: Duration::ZERO, timeout: LEASE_TIMEOUT };
        let (store, host) = (store.with_patience(patience), host.clone());
        Self {
            store,
            host,
            last: None,
            renewed: 0,
            holder: None,
            void: BTreeSet::new(),
            members: Vec::new(),
            followed: 0,
        }
    }

    /// Returns the last number that counts by the keys of these members; none if there is none.
    ///
    /// # Errors
    /// The repository does not answer, or has too many numbers that do not count.
    pub fn look(&mut self, members: &[Member]) -> Result<Option<&LastNumber>, RepositoryError> {
        if self.members != members {
            (self.last, self.members) = (None, members.to_vec());
            self.void.clear();
        }
        let prefix = object_key::lease_prefix(&self.host);
        let after = self.last.as_ref().map(|last| object_key::lease(&self.host, last.number));
        let listed = self.store.wait(self.store.objects().list(Some(&prefix), after.as_ref()))?;
        let numbers = listed.iter().filter_map(|object| object_key::parse_lease(&object.location));
        let fresh: Vec<u64> = numbers.filter(|number| !self.void.contains(number)).collect();
        let mut found = None;
        let mut renewed = fresh.iter().rev().nth(READ_MAX).copied();
        for number in fresh.iter().rev().take(READ_MAX) {
            // Its holder deleted it meanwhile: then there are later ones.
            let Some(bytes) = self.read(*number)? else { continue };
            match self.judge(*number, &bytes) {
                Ok((maker, note)) => {
                    let holder = holder(&note);
                    found = found.or(Some(LastNumber { number: *number, maker, note }));
                    if holder.is_some() {
                        (renewed, self.holder) = (Some(*number), holder);
                        break;
                    }
                }
                Err(_) => {
                    self.void.insert(*number);
                }
            }
        }
        if found.is_some() {
            self.renewed = self.renewed.max(renewed.unwrap_or_default());
            self.last = found;
            return Ok(self.last.as_ref());
        }
        if fresh.len() > READ_MAX || self.void.len() > VOID_MAX {
            let key = prefix.to_string();
            let reason = "there are more numbers than can be read which no member signed; remove them".into();
            let kind = FailureKind::Unavailable;
            return Err(RepositoryError::Request { operation: "list", key, reason, kind });
        }
        Ok(self.last.as_ref())
    }

    /// Returns the last number that counts, as [`Self::look`] does, by reading the numbers after the one that is
    /// known, one by one.
    ///
    /// A repository charges less for this than for a list. It passes no gap: a number behind one is found by the
    /// next look only.
    pub fn follow(&mut self, members: &[Member]) -> Result<Option<&LastNumber>, RepositoryError> {
        if self.members != members || self.last.is_none() || self.followed >= FOLLOWED_MAX {
            self.followed = 0;
            return self.look(members);
        }
        self.followed += 1;
        let mut next = self.last.as_ref().map_or(0, |last| last.number);
        for _ in 0..READ_MAX {
            let Some(number) = next.checked_add(1).and_then(|next| self.free_from(next)) else { break };
            let Some(bytes) = self.read(number)? else { break };
            match self.judge(number, &bytes) {
                Ok((maker, note)) => {
                    if let Some(holder) = holder(&note) {
                        (self.renewed, self.holder) = (number, Some(holder));
                    }
                    self.last = Some(LastNumber { number, maker, note });
                }
                Err(_) => {
                    self.void.insert(number);
                }
            }
            next = number;
        }
        Ok(self.last.as_ref())
    }

    /// Returns the last number that the holder may have created, as far as was read: what counts after it are
    /// breaks by others.
    pub fn renewed(&self) -> u64 {
        self.renewed
    }

    /// Returns the process that created the last number which its holder created; none if that is not known.
    pub fn holder(&self) -> Option<Incarnation> {
        self.holder
    }

    /// Returns the first number at or after `number` that is free, as far as void ones are known.
    pub fn free_from(&self, number: u64) -> Option<u64> {
        (number..u64::MAX).find(|number| !self.void.contains(number))
    }

    /// Remembers that a number does not count.
    pub fn pass_over(&mut self, number: u64) {
        self.void.insert(number);
    }

    /// Judges an object by the keys of the members of the last look.
    ///
    /// # Errors
    /// The reason why it does not count; it is told to the operator, too.
    pub fn judge(&self, number: u64, bytes: &[u8]) -> Result<(WriterId, LeaseNote), Void> {
        LeaseNote::read(bytes, &self.host, number, &self.members).inspect_err(|why| {
            self.store.notice().say(&format!(
                "warning: {}: this number of a lease counts for nothing: {}",
                object_key::lease(&self.host, number),
                escape::line(&why.to_string())
            ));
        })
    }

    pub fn read(&self, number: u64) -> Result<Option<Bytes>, RepositoryError> {
        let at = object_key::lease(&self.host, number);
        self.store.wait(self.store.objects().get(&at, SIGNED_MAX_BYTES as u64)).or_else(|error| {
            // An object of another size is no number's: it is void.
            match error.kind() {
                FailureKind::Damaged => Ok(Some(Bytes::new())),
                _ => Err(error),
            }
        })
    }

    /// Creates a number, once. A lost reply is resolved by reading it back.
    ///
    /// # Errors
    /// The repository refuses.
    pub fn create(&self, number: u64, signed: &Signed) -> Result<NumberTaken, RepositoryError> {
        let at = object_key::lease(&self.host, number);
        let bytes = Bytes::from(signed.encode());
        let payload = PutPayload::from(bytes.clone());
        let is_sure = match self.store.wait(self.store.objects().create(&at, payload)) {
            Ok(Creation::Created) => return Ok(NumberTaken::Mine),
            Ok(Creation::Existed) => true,
            Err(error) if error.kind() == FailureKind::Unavailable => false,
            Err(error) => return Err(error),
        };
        match self.read(number) {
            Ok(Some(found)) if found == bytes => Ok(NumberTaken::Mine),
            Ok(Some(found)) => Ok(NumberTaken::Other(found)),
            Ok(None) => Ok(NumberTaken::Unknown),
            Err(error) if is_sure && error.kind() != FailureKind::Unavailable => Err(error),
            Err(_) => Ok(NumberTaken::Unknown),
        }
    }

    /// Deletes the numbers long before `last`, and returns how many. Only the holder of the lease calls it.
    pub fn prune(&self, last: u64) -> Result<usize, RepositoryError> {
        let Some(before) = last.checked_sub(LEASE_KEPT) else { return Ok(0) };
        let prefix = object_key::lease_prefix(&self.host);
        let listed = self.store.wait(self.store.objects().list(Some(&prefix), None))?;
        let is_old = |key: &&object_store::path::Path| {
            object_key::parse_lease(key).is_some_and(|number| number < before)
        };
        let old: Vec<_> = listed.iter().map(|object| &object.location).filter(is_old).collect();
        for key in &old {
            self.store.wait(self.store.objects().delete(key))?;
        }
        Ok(old.len())
    }
}
