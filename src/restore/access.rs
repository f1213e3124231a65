//! Compares who may do what with an inode before and after a restore. Pure.
//!
//! The mode of an inode that has an access list shows the list's mask in place of the group's bits. The
//! rights of the owning group are then in the list alone, so a mode must not be set without its list.

/// Mode, owner and group of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub directory: bool,
}

/// Name of the attribute that holds an access list.
pub(crate) const ACCESS_LIST: &[u8] = b"system.posix_acl_access";

/// Returns the recorded mode without set-id bits that would run a program as another user or group.
pub(crate) fn mode_for(recorded: Access, uid: u32, gid: u32) -> u16 {
    let mut mode = recorded.mode;
    if uid != recorded.uid && !recorded.directory {
        mode &= !0o4000;
    }
    if gid != recorded.gid && !recorded.directory {
        mode &= !0o2000;
    }
    mode
}

/// Returns whether `now` allows any user more than `recorded` did.
///
/// `restorer` is the user who restores; that user reads all content in any case.
pub(crate) fn is_wider(recorded: Access, now: Access, restorer: u32) -> bool {
    let bits = |access: Access, shift: u16| access.mode >> shift & 7;
    let more = |now: u16, recorded: u16| now & !recorded != 0;
    let (group, others) = (bits(recorded, 3), bits(recorded, 0));
    let same_group = now.gid == recorded.gid;
    let set = |bit: u16| now.mode & bit != 0;
    // A new owner can do everything with the inode.
    (now.uid != recorded.uid && now.uid != restorer && now.uid != 0)
        || more(bits(now, 0), others)
        || (same_group && more(bits(now, 3), group))
        // Members of the new group had the rights of others; members of the old group have them now.
        || (!same_group && (more(bits(now, 3), others) || more(bits(now, 0), group)))
        || (!now.directory && set(0o4000) && (now.uid != recorded.uid || recorded.mode & 0o4000 == 0))
        || (!now.directory && set(0o2000) && (!same_group || recorded.mode & 0o2000 == 0))
        // In a directory without the sticky bit, every user with write permission can remove files of others.
        || (now.directory && recorded.mode & 0o1000 != 0 && !set(0o1000) && now.mode & 0o022 != 0)
}

/// Returns the mode of an inode that lost its access list: its group's bits are those of the list.
pub(crate) fn mode_without_list(mode: u16, list: &[u8]) -> u16 {
    const VERSION: [u8; 4] = [2, 0, 0, 0];
    const GROUP: u16 = 0x04;
    let Some(entries) = list.strip_prefix(&VERSION) else { return mode & !0o070 };
    let (entries, _) = entries.as_chunks::<8>();
    let of_tag = |tag: u16| {
        entries.iter().find(|e| u16::from_le_bytes([e[0], e[1]]) == tag).map(|e| u16::from(e[2] & 7))
    };
    // With a list, the mode's group bits are the mask.
    mode & !0o070 | (mode & of_tag(GROUP).unwrap_or(0) << 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(mode: u16, uid: u32, gid: u32) -> Access {
        Access { mode, uid, gid, directory: false }
    }

    #[test]
    fn wider_is_told_from_narrower() {
        let wider = |recorded, now| is_wider(recorded, now, 1000);
        assert!(wider(file(0o600, 0, 0), file(0o777, 0, 0)));
        assert!(wider(file(0o640, 0, 0), file(0o640, 0, 33)), "members of 33 could not read it");
        assert!(wider(file(0o604, 0, 33), file(0o604, 0, 0)), "members of 33 were kept out");
        assert!(wider(file(0o600, 0, 0), file(0o600, 7, 0)), "7 owns it now");
        assert!(wider(file(0o755, 0, 0), file(0o4755, 0, 0)));
        assert!(wider(file(0o4755, 5, 0), file(0o4755, 1000, 0)), "it runs as somebody else");
        assert!(!wider(file(0o644, 0, 0), file(0o644, 1000, 1000)), "whoever restores reads it anyway");
        assert!(!wider(file(0o640, 0, 0), file(0o600, 0, 5)));
        assert!(!wider(file(0o777, 0, 0), file(0o700, 0, 0)));
        let directory = |mode| Access { directory: true, ..file(mode, 0, 0) };
        assert!(wider(directory(0o1777), directory(0o777)));
        assert!(!wider(directory(0o1777), directory(0o755)));
    }

    #[test]
    fn a_mask_is_not_what_the_group_has() {
        // user::rw-, user:33:rw-, group::---, mask::rw-, other::---
        let entry = |tag: u16, bits: u8, id: u32| {
            let mut e = [0; 8];
            e[..2].copy_from_slice(&tag.to_le_bytes());
            e[2] = bits;
            e[4..].copy_from_slice(&id.to_le_bytes());
            e
        };
        let all = [entry(1, 6, !0), entry(2, 6, 33), entry(4, 0, !0), entry(16, 6, !0), entry(32, 0, !0)];
        let list: Vec<u8> = [2, 0, 0, 0].into_iter().chain(all.concat()).collect();
        assert_eq!(mode_without_list(0o660, &list), 0o600);
        assert_eq!(mode_without_list(0o660, b"garbage"), 0o600);
    }

    proptest! {
        /// Compares with the definition, by trying every kind of person.
        #[test]
        fn nobody_gets_more_unseen(
            recorded in (0u16..0o1000, 1u32..4, 1u32..4),
            now in (0u16..0o1000, 1u32..4, 1u32..4),
            person in (1u32..5, 1u32..5),
        ) {
            let of = |(mode, uid, gid)| file(mode, uid, gid);
            let may = |access: Access| {
                let shift = if access.uid == person.0 { 6 } else if access.gid == person.1 { 3 } else { 0 };
                access.mode >> shift & 7
            };
            let (recorded, now) = (of(recorded), of(now));
            // The restorer is none of these users. An owner is not bound by the owner's bits.
            if person.0 != now.uid && person.0 != recorded.uid && may(now) & !may(recorded) != 0 {
                prop_assert!(is_wider(recorded, now, 99), "{recorded:?} {now:?} {person:?}");
            }
        }
    }
}
