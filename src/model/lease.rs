//! A number of a host's lease: what its object says, and whose word that is.
//!
//! Pure. The holder creates the next number to stay alive; a host that was promoted creates it to break the
//! lease. Whoever can write to the repository can create any object, so a number counts only if it is signed:
//! by its host, or, as a break, by another member that may serve. Any other object is void: it stands for
//! nothing, and the number after it is used.

use super::id::{Epoch, Incarnation, StoreName, WriterId};
use super::member::Member;
use super::signed::{Signed, SignedPlace};
use crate::support::signature::SigningKey;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const DOMAIN: &str = "understudy lease 1";

/// What a number says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum LeaseNote {
    /// This process of the host was alive.
    Held { incarnation: Incarnation },
    /// The member that signed it is the primary of this epoch, and broke the lease.
    Broken { store: StoreName, epoch: Epoch },
}

/// Reason why a number is void.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Void {
    #[error("it is no signed text")]
    Unsigned,
    #[error("'{0}', which it names as its maker, is no member that may serve")]
    NoMember(WriterId),
    #[error("the key of member '{0}' did not sign it for this place")]
    Signature(WriterId),
    #[error("'{0}' cannot say this of another host")]
    Another(WriterId),
}

fn place(host: &WriterId, number: u64) -> SignedPlace<'_> {
    SignedPlace { domain: DOMAIN, store: "", host, number }
}

impl LeaseNote {
    /// Signs a number of the lease of `host`.
    ///
    /// # Errors
    /// It has no JSON; that does not happen.
    pub fn sign(
        &self,
        host: &WriterId,
        number: u64,
        member: &WriterId,
        key: &SigningKey,
    ) -> Result<Signed, serde_json::Error> {
        Signed::sign(self, member, key, &place(host, number))
    }

    /// Returns what an object claims to say, whoever made it, and wherever; none if it is no signed text.
    pub(crate) fn claimed(bytes: &[u8]) -> Option<Self> {
        serde_json::from_str(&Signed::parse(bytes)?.statement).ok()
    }

    /// Returns what a number of the lease of `host` says, and who says it.
    ///
    /// # Errors
    /// The reason why it is void.
    pub fn read(
        bytes: &[u8],
        host: &WriterId,
        number: u64,
        members: &[Member],
    ) -> Result<(WriterId, Self), Void> {
        let signed = Signed::parse(bytes).ok_or(Void::Unsigned)?;
        let maker = signed.member.clone();
        let member = members.iter().find(|member| member.name == maker && member.may_serve());
        let member = member.ok_or_else(|| Void::NoMember(maker.clone()))?;
        let note: Self =
            signed.said(&member.key, &place(host, number)).ok_or_else(|| Void::Signature(maker.clone()))?;
        let is_own = maker == *host;
        match note {
            Self::Held { .. } if !is_own => Err(Void::Another(maker)),
            Self::Broken { .. } if is_own => Err(Void::Another(maker)),
            note => Ok((maker, note)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::member::May;

    fn host(name: &str) -> WriterId {
        WriterId(name.into())
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::of(&[seed; 32])
    }

    fn member(name: &str, seed: u8, may: May) -> Member {
        Member::sample(name, key(seed).public(), &[may])
    }

    #[test]
    fn a_number_counts_only_in_its_place_and_by_a_member_that_may_say_it() {
        let members = [member("a", 1, May::Serve), member("b", 2, May::Serve), member("w", 3, May::Watch)];
        let held = LeaseNote::Held { incarnation: Incarnation(7) };
        let broken = LeaseNote::Broken { store: StoreName::parse("acme").unwrap(), epoch: Epoch(2) };
        let made = |note: &LeaseNote, number, maker: &str, seed| {
            note.sign(&host("a"), number, &host(maker), &key(seed)).unwrap().encode()
        };
        let read = |bytes: &[u8], number| LeaseNote::read(bytes, &host("a"), number, &members);
        assert_eq!(read(&made(&held, 5, "a", 1), 5), Ok((host("a"), held.clone())));
        assert_eq!(read(&made(&broken, 5, "b", 2), 5), Ok((host("b"), broken.clone())));
        let signature = |name| Err(Void::Signature(host(name)));
        assert_eq!(read(&made(&held, 5, "a", 1), 6), signature("a"), "another number");
        assert_eq!(read(&made(&held, 5, "a", 2), 5), signature("a"), "another member's key");
        assert_eq!(read(&made(&held, 5, "b", 2), 5), Err(Void::Another(host("b"))));
        assert_eq!(read(&made(&broken, 5, "a", 1), 5), Err(Void::Another(host("a"))));
        for stranger in ["w", "x"] {
            let void = Err(Void::NoMember(host(stranger)));
            assert_eq!(read(&made(&broken, 5, stranger, 3), 5), void);
        }
        let elsewhere = LeaseNote::read(&made(&broken, 5, "b", 2), &host("w"), 5, &members);
        assert_eq!(elsewhere, signature("b"), "another host's lease");
        for bad in [&b""[..], b"{}", b"7", &[b' '; 5000]] {
            assert_eq!(read(bad, 5), Err(Void::Unsigned));
        }
        // Bytes after the object, or another form of its text, are not what was signed.
        let mut longer = made(&held, 5, "a", 1);
        longer.extend_from_slice(b"x");
        assert_eq!(read(&longer, 5), Err(Void::Unsigned));
        let spaced = String::from_utf8(made(&held, 5, "a", 1)).unwrap().replace("\\\"kind", " \\\"kind");
        assert_eq!(read(spaced.as_bytes(), 5), signature("a"));
    }
}
