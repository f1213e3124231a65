//! Finds the names that belong to one inode, from all names of a scan.
//!
//! Two names are joined if they have one device and inode number in one scan, and agree in content and
//! metadata: the inode number alone may belong to another file by the time the next name is read. The number
//! of a group is made from its first name, not from numbers of the kernel, which change with every mount: a
//! group must survive a remount.
//!
//! Entries that are kept from the last snapshot without being read have numbers of their own kind. They join
//! an entry that was read only if that is unchanged: its ctime then shows that it has neither lost nor gained
//! a name since both had one number.
//!
//! Memory: about 100 bytes for each inode with several names.

use crate::model::entry::Entry;
use crate::model::id::number_of;
use crate::source::stat::{Identity, Stat};
use crate::support::mutant::{self, Mutant};
use std::collections::HashMap;

/// Flag in the numbers of entries that were not seen.
const UNSEEN: u64 = 1 << 63;

/// The inodes with several names that a scan has seen so far.
#[derive(Default)]
pub(crate) struct Links {
    known: HashMap<Identity, Group>,
    /// Unchanged entries, by their last number.
    unchanged: HashMap<u64, Group>,
    /// Entries that were not seen, by their last number.
    unseen: HashMap<u64, Group>,
    /// Number of the round. A name that is scanned again gets a new number.
    round: u32,
}

#[derive(Clone, Copy)]
struct Group {
    number: u64,
    agreed: u64,
}

/// Returns the inode of an entry that may have other names.
pub(crate) fn shared_inode(stat: &Stat) -> Option<Identity> {
    (stat.links > 1 && !stat.is_directory()).then(|| stat.identity())
}

impl Links {
    pub(crate) fn begin_round(&mut self) {
        self.round += 1;
    }

    /// Returns the number of an entry's group.
    ///
    /// `unchanged` is its last number, if the entry has not changed at all.
    pub fn number(&mut self, inode: Identity, entry: &Entry, unchanged: Option<u64>) -> u64 {
        let agreed = if mutant::is(Mutant::GroupsByInode) { 0 } else { entry.agreement() };
        let known = self.known.get(&inode).filter(|group| group.agreed == agreed).map(|group| group.number);
        let number = known.unwrap_or_else(|| {
            let unseen =
                unchanged.and_then(|old| self.unseen.get(&old)).filter(|group| group.agreed == agreed);
            // If the inode changes between two of its names, the later names get the number of the first of
            // them.
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

    /// Returns the number of an entry that is kept without being read, from its last number `old`.
    ///
    /// Entries that had one number and agree get the same number again.
    pub(crate) fn unseen_number(&mut self, old: u64, entry: &Entry) -> u64 {
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
        // Names of another filesystem and of another inode, although they have the same bytes.
        assert_ne!(links.number(inode(2, 7), &name("c", "x"), None), a);
        assert_ne!(links.number(inode(1, 8), &name("d", "x"), None), a);
        // The file was written to between two of its names.
        let late = links.number(inode(1, 7), &name("e", "y"), None);
        assert_ne!(late, a);
        assert_eq!(links.number(inode(1, 7), &name("f", "y"), None), late);
        // The numbers of groups survive a remount.
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
        // The number stays the same however often the entry is kept.
        assert_eq!(Links::default().unseen_number(kept, &name("b", "x")), kept);
        // An unchanged entry joins, whether it is seen before or after the kept ones.
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
