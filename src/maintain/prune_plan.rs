//! Plans which packs are doomed, and which are repacked. Pure.

use crate::model::id::PackId;
use std::time::Duration;

/// Size below which packs are repacked together.
pub(crate) const SMALL_PACK_BYTES: u64 = 1 << 20;
/// Number of such packs at which they are repacked.
const SMALL_PACKS: usize = 64;

/// The facts about one pack that is not doomed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackFact {
    pub id: PackId,
    pub size_bytes: u64,
    /// Number of bytes of frames that a snapshot needs.
    pub alive_bytes: u64,
    /// Whether a live segment names it. A pack that none names may belong to a run that is in progress.
    pub is_indexed: bool,
    /// Time since it was put, by the store's clock.
    pub age: Duration,
}

/// The bounds of what may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Maximum share of dead bytes, as a percentage of all bytes.
    pub unused_percent: u64,
    /// Age at which objects that no record names are doomed.
    pub orphan_age: Duration,
    /// Maximum number of bytes that one pruning copies.
    pub copied_max_bytes: u64,
}

/// The packs to doom and to repack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackPlan {
    /// Packs without any needed frame.
    pub doom: Vec<PackId>,
    /// Packs that are doomed once their needed frames are copied.
    pub repack: Vec<PackId>,
}

/// Plans for all packs.
pub fn plan(packs: &[PackFact], bounds: &Bounds) -> PackPlan {
    let mut plan = PackPlan::default();
    let (mut alive, mut dead) = (0, 0);
    let mut candidates = Vec::new();
    for pack in packs {
        if !pack.is_indexed {
            if pack.age >= bounds.orphan_age {
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
    // Sort the emptiest first: they free the most for the bytes copied.
    candidates.sort_by_key(|pack| (pack.alive_bytes.saturating_mul(1000) / pack.size_bytes.max(1), pack.id));
    let small = candidates.iter().filter(|pack| pack.size_bytes < SMALL_PACK_BYTES).count();
    let mut copied = 0;
    for pack in candidates {
        let in_pack = pack.size_bytes.saturating_sub(pack.alive_bytes);
        let too_empty = dead.saturating_mul(100) > (alive + dead).saturating_mul(bounds.unused_percent)
            // A pack that is mostly alive is not worth copying.
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

    const BOUNDS: Bounds =
        Bounds { unused_percent: 10, orphan_age: Duration::from_nanos(100), copied_max_bytes: 1 << 40 };

    fn pack(number: u32, size_bytes: u64, alive_bytes: u64) -> PackFact {
        PackFact {
            id: PackId::of(&number.to_le_bytes()),
            size_bytes,
            alive_bytes,
            is_indexed: true,
            age: Duration::ZERO,
        }
    }

    #[test]
    fn a_pack_of_a_run_that_is_under_way_stays_until_it_is_old() {
        let young = PackFact { is_indexed: false, age: Duration::from_nanos(99), ..pack(1, 10, 0) };
        let old = PackFact { age: Duration::from_nanos(100), ..young };
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
            // At most a tenth is dead, apart from dead bytes in packs that are nearly full.
            prop_assert!((all - alive) as u128 * 100 <= (all + copied) as u128 * 10 + 100);
        }
    }
}
