//! Which packs go, and which are copied together. Pure.

use crate::model::id::PackId;

/// Smaller packs are copied together,
pub const SMALL_PACK_BYTES: u64 = 1 << 20;
/// once there are so many.
const SMALL_PACKS: usize = 64;

/// What is known of one pack that is not doomed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackFact {
    pub id: PackId,
    pub size_bytes: u64,
    /// Of frames that a snapshot needs.
    pub alive_bytes: u64,
    /// A live segment names it. One that none names may be of a run that is under way.
    pub is_indexed: bool,
    /// Since it was put, by the store's clock.
    pub age_ns: u64,
}

/// What is allowed to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Dead bytes, of all.
    pub unused_percent: u64,
    /// What no record names goes after so long.
    pub orphan_age_ns: u64,
    /// One pruning copies no more.
    pub copied_max_bytes: u64,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackPlan {
    /// Nothing in them is needed.
    pub doom: Vec<PackId>,
    /// What is needed is copied out of them, and then they are doomed.
    pub repack: Vec<PackId>,
}

/// Decides for all packs.
pub fn plan(packs: &[PackFact], bounds: &Bounds) -> PackPlan {
    let mut plan = PackPlan::default();
    let (mut alive, mut dead) = (0, 0);
    let mut candidates = Vec::new();
    for pack in packs {
        if !pack.is_indexed {
            if pack.age_ns >= bounds.orphan_age_ns {
                plan.doom.push(pack.id);
            }
        } else if pack.alive_bytes == 0 {
            plan.doom.push(pack.id);
        } else {
            alive += pack.alive_bytes;
            dead += pack.size_bytes.saturating_sub(pack.alive_bytes);
            candidates.push(pack);
        }
    }
    // The emptiest first: they free most for what they cost.
    candidates.sort_by_key(|pack| (pack.alive_bytes.saturating_mul(1000) / pack.size_bytes.max(1), pack.id));
    let small = candidates.iter().filter(|pack| pack.size_bytes < SMALL_PACK_BYTES).count();
    let mut copied = 0;
    for pack in candidates {
        let in_pack = pack.size_bytes.saturating_sub(pack.alive_bytes);
        let too_empty = dead.saturating_mul(100) > (alive + dead).saturating_mul(bounds.unused_percent)
            // What is mostly alive is not worth its copy.
            && in_pack.saturating_mul(20) > pack.size_bytes;
        let too_small = small >= SMALL_PACKS && pack.size_bytes < SMALL_PACK_BYTES;
        if (too_empty || too_small) && copied + pack.alive_bytes <= bounds.copied_max_bytes {
            copied += pack.alive_bytes;
            dead -= in_pack.min(dead);
            plan.repack.push(pack.id);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { unused_percent: 10, orphan_age_ns: 100, copied_max_bytes: 1 << 40 };

    fn pack(number: u32, size_bytes: u64, alive_bytes: u64) -> PackFact {
        PackFact {
            id: PackId::of(&number.to_le_bytes()),
            size_bytes,
            alive_bytes,
            is_indexed: true,
            age_ns: 0,
        }
    }

    #[test]
    fn a_pack_of_a_run_that_is_under_way_stays_until_it_is_old() {
        let young = PackFact { is_indexed: false, age_ns: 99, ..pack(1, 10, 0) };
        let old = PackFact { age_ns: 100, ..young };
        assert_eq!(plan(&[young], &BOUNDS), PackPlan::default());
        assert_eq!(plan(&[old], &BOUNDS).doom, [old.id]);
    }

    proptest! {
        #[test]
        fn what_is_needed_is_kept_or_copied_and_garbage_is_bounded(
            packs in prop::collection::vec((1u64..40_000_000, 0u64..=100), 0..120)
        ) {
            let packs: Vec<_> = packs.iter().enumerate()
                .map(|(n, (size, percent))| pack(n as u32, *size, size * percent / 100)).collect();
            let plan = plan(&packs, &BOUNDS);
            for pack in &packs {
                prop_assert_eq!(plan.doom.contains(&pack.id), pack.alive_bytes == 0);
                prop_assert!(!(plan.doom.contains(&pack.id) && plan.repack.contains(&pack.id)));
            }
            let left = packs.iter().filter(|p| !plan.doom.contains(&p.id) && !plan.repack.contains(&p.id));
            let (alive, all) = left.fold((0, 0), |(a, s), p| (a + p.alive_bytes, s + p.size_bytes));
            let copied: u64 = packs.iter().filter(|p| plan.repack.contains(&p.id)).map(|p| p.alive_bytes).sum();
            // A tenth, and what lies in packs that are nearly full.
            prop_assert!((all - alive) as u128 * 100 <= (all + copied) as u128 * 10 + 100);
        }
    }
}
