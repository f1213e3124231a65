//! Which names are one inode's, told when all of a scan's names were looked at.
//!
//! Two names join when they have one device and inode number in one scan, and agree in content and metadata: an inode number
//! alone may be another file's by the time of the next name. Numbers of groups are made of the first name, not of numbers that
//! the kernel gives: those change with every mount, and a group must not come apart with them.
//!
//! Entries that are kept from the last snapshot unseen have numbers of their own kind. They join one that was seen only if that
//! is unchanged: its ctime says that it has neither lost nor got a name since both had one number.
//!
//! Memory: some 100 bytes for each inode with several names.

use crate::model::entry::Entry;
use crate::model::id::number_of;
use crate::source::stat::{Identity, Stat};
use crate::support::mutant::{self, Mutant};
use std::collections::HashMap;

/// Marks the numbers of entries that were not seen.
const UNSEEN: u64 = 1 << 63;

/// The inodes with several names that a scan has seen so far.
#[derive(Default)]
pub struct Links {
    known: HashMap<Identity, Group>,
    /// By the number that they had: those that are unchanged,
    unchanged: HashMap<u64, Group>,
    /// and those that were not seen.
    unseen: HashMap<u64, Group>,
    /// Looks at the tree; the number of a name that is looked at again is another.
    round: u32,
}

#[derive(Clone, Copy)]
struct Group {
    number: u64,
    agreed: u64,
}

/// The inode of an entry that may have other names.
pub fn shared_inode(stat: &Stat) -> Option<Identity> {
    (stat.links > 1 && !stat.is_directory()).then(|| stat.identity())
}

impl Links {
    pub fn begin_round(&mut self) {
        self.round += 1;
    }

    /// The number of an entry's group. `unchanged` is the number that it had, if nothing of it has changed.
    pub fn number(&mut self, inode: Identity, entry: &Entry, unchanged: Option<u64>) -> u64 {
        let agreed = if mutant::is(Mutant::GroupsByInode) { 0 } else { entry.agreement() };
        let known = self.known.get(&inode).filter(|group| group.agreed == agreed).map(|group| group.number);
        let number = known.unwrap_or_else(|| {
            let unseen =
                unchanged.and_then(|old| self.unseen.get(&old)).filter(|group| group.agreed == agreed);
            // If it changed between its names, those behind have what this one has.
            let number = unseen.map_or_else(|| self.number_of_first(entry), |group| group.number);
            self.known.insert(inode, Group { number, agreed });
            number
        });
        if let Some(old) = unchanged {
            self.unchanged.insert(old, Group { number, agreed });
        }
        number
    }

    fn number_of_first(&self, entry: &Entry) -> u64 {
        hash(&[b"seen", &self.round.to_le_bytes(), entry.path.as_bytes()]) & !UNSEEN
    }

    /// The number of an entry that is kept unseen, from the one that it had: the same for those that had one number and agree.
    pub fn unseen_number(&mut self, old: u64, entry: &Entry) -> u64 {
        let agreed = entry.agreement();
        if let Some(group) = self.unchanged.get(&old).filter(|group| group.agreed == agreed) {
            return group.number;
        }
        let parts = [&b"unseen"[..], &old.to_le_bytes(), &agreed.to_le_bytes()];
        let number = if old & UNSEEN != 0 { old } else { UNSEEN | hash(&parts) };
        self.unseen.insert(old, Group { number, agreed });
        number
    }
}

fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    number_of(&hasher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::{Content, File, Fingerprint, Kind, Timestamp, Xattrs};
    use crate::model::id::ContentHash;
    use crate::model::tree_path::TreePath;

    fn name(path: &str, body: &str) -> Entry {
        let hash = ContentHash::of(body.as_bytes());
        let content = Content::Whole { blocks: None };
        let file = File { size_bytes: body.len() as u64, hash, content, torn: false };
        Entry {
            path: TreePath::parse(path.as_bytes()).unwrap(),
            kind: Kind::File(file),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Xattrs::None,
            hardlink: None,
            fingerprint: Fingerprint::default(),
        }
    }

    fn inode(minor: u32, inode: u64) -> Identity {
        Identity { device: (8, minor), inode }
    }

    #[test]
    fn names_join_by_inode_as_long_as_they_agree_and_whatever_the_device_is_called() {
        let mut links = Links::default();
        let a = links.number(inode(1, 7), &name("a", "x"), None);
        assert_eq!(links.number(inode(1, 7), &name("b", "x"), None), a);
        // Another filesystem's, and another inode's, though they have the same bytes.
        assert_ne!(links.number(inode(2, 7), &name("c", "x"), None), a);
        assert_ne!(links.number(inode(1, 8), &name("d", "x"), None), a);
        // Written to between two of its names.
        let late = links.number(inode(1, 7), &name("e", "y"), None);
        assert_ne!(late, a);
        assert_eq!(links.number(inode(1, 7), &name("f", "y"), None), late);
        // After a remount the numbers of groups are as they were.
        assert_eq!(Links::default().number(inode(9, 123), &name("a", "x"), None), a);
    }

    #[test]
    fn what_is_kept_unseen_joins_what_was_seen_only_if_that_is_unchanged() {
        let mut links = Links::default();
        let changed = links.number(inode(1, 7), &name("a", "x"), None);
        let kept = links.unseen_number(changed, &name("b", "x"));
        assert!(changed & UNSEEN == 0 && kept & UNSEEN != 0);
        assert_eq!(links.unseen_number(changed, &name("c", "x")), kept);
        assert_ne!(links.unseen_number(changed, &name("d", "y")), kept);
        // However often it is kept.
        assert_eq!(Links::default().unseen_number(kept, &name("b", "x")), kept);
        // Seen before or behind, and unchanged.
        assert_eq!(
            links.number(inode(1, 9), &name("e", "y"), Some(changed)),
            links.unseen_number(changed, &name("d", "y"))
        );
        let mut links = Links::default();
        let unchanged = links.number(inode(1, 7), &name("a", "x"), Some(5));
        assert_eq!(links.unseen_number(5, &name("b", "x")), unchanged);
        assert_ne!(links.unseen_number(5, &name("c", "y")), unchanged);
    }

    #[test]
    fn a_name_that_is_looked_at_again_takes_nobody_elses_number() {
        let mut links = Links::default();
        let first = links.number(inode(1, 7), &name("a", "x"), None);
        links.begin_round();
        assert_ne!(links.number(inode(1, 8), &name("a", "x"), None), first);
        assert_eq!(links.number(inode(1, 7), &name("b", "x"), None), first);
    }
}
