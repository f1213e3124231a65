//! Moments to which a store's files and its database can be brought together. Pure.
//!
//! A snapshot says where the database was before its scan began and after it had ended. A point is a position
//! between the two that the archive can restore: some seed is at it or before it, in the same history, and all
//! that was committed in between is archived.
//!
//! The beginning is taken where it can be. A program writes a file before it commits the row that names it. So the
//! rows of the beginning name files that were there before the scan, and the scan found them; of the rows that were
//! committed during the scan some may name files that it had passed by. What is in the snapshot and in no row of the
//! beginning costs room, and what is in a row and not in the snapshot costs a customer's picture. Only a file that
//! was deleted during the scan, after its row, is missing at the beginning and not at the end.

use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, Sequence};
use crate::support::clock::UnixNanos;
use serde::Serialize;
use std::fmt;

/// A snapshot of the files, and what its record says of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub snapshot: Sequence,
    pub scan_start: UnixNanos,
    pub scan_end: UnixNanos,
    /// The epoch in which it was committed.
    pub epoch: Epoch,
    /// Where the database was before the scan.
    pub start: Option<GtidPosition>,
    /// Where it was after the scan.
    pub end: Option<GtidPosition>,
}

/// A copy of the database in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    pub seed: Sequence,
    pub position: GtidPosition,
    /// The epoch in which it was made.
    pub epoch: Epoch,
}

/// What is archived of an epoch, and belongs to the history of the newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub epoch: Epoch,
    /// Position before the first segment.
    pub before: GtidPosition,
    /// Position behind the last one.
    pub after: GtidPosition,
    /// Where the database was when this epoch's primary began to write; none where nobody noted it.
    pub branch: Option<GtidPosition>,
}

/// What lies behind one position and before another, and is not archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub from: GtidPosition,
    pub to: GtidPosition,
}

/// The history that the archive has; the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    pub stretches: Vec<Stretch>,
    pub gaps: Vec<Gap>,
}

/// Why the database cannot be brought to a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Hindrance {
    /// The snapshot does not say where the database was.
    Unknown,
    /// The database has no seed that says its position.
    NoSeed,
    /// All seeds are younger.
    SeedsYounger { oldest: Sequence },
    /// There is no archive.
    NoArchive,
    /// The archive has not come that far yet.
    NotYet { end: GtidPosition },
    /// The archive begins later: what was archived before was pruned with the seed that needed it, or nothing was.
    TooOld { begins: GtidPosition },
    /// What was committed between two positions is not archived.
    Gap { from: GtidPosition, to: GtidPosition },
    /// The host that was promoted in this epoch did not have it.
    CutOff { epoch: Epoch },
    /// Whether the host that was promoted in this epoch had it is not known.
    Unsure { epoch: Epoch },
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the snapshot does not say where the database was"),
            Self::NoSeed => f.write_str("the database has no seed"),
            Self::SeedsYounger { oldest } => write!(f, "all seeds are younger; the oldest is {oldest}"),
            Self::NoArchive => f.write_str("the database is not archived"),
            Self::NotYet { end } => write!(f, "not archived yet: the archive ends at {end}"),
            Self::TooOld { begins } => write!(f, "too old: the archive begins at {begins}"),
            Self::Gap { from, to } => write!(f, "not archived: a gap from {from} to {to}"),
            Self::CutOff { epoch } => {
                write!(f, "cut off: the primary of epoch {} never had it", epoch.0)
            }
            Self::Unsure { epoch } => {
                write!(f, "unknown: nobody noted where the primary of epoch {} began to write", epoch.0)
            }
        }
    }
}

/// A snapshot, and the moment of the database that fits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    pub taken: Taken,
    /// The position to restore to; none if there is none.
    pub position: Option<GtidPosition>,
    /// The seed from which it is restored.
    pub seed: Option<Sequence>,
    /// Why it cannot be restored.
    pub hindrance: Option<Hindrance>,
}

impl Point {
    /// Returns how many transactions were committed during the scan; none if that is not known.
    pub fn transactions(&self) -> Option<u64> {
        Some(self.taken.start.as_ref()?.behind(self.taken.end.as_ref()?))
    }
}

/// Returns what can be brought together, the newest first.
pub fn points(taken: &[Taken], seeds: &[Seed], history: &History) -> Vec<Point> {
    let mut points: Vec<Point> = taken.iter().map(|taken| point(taken, seeds, history)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.taken.snapshot));
    points
}

/// Returns the moment of the database that fits a snapshot.
pub fn point(taken: &Taken, seeds: &[Seed], history: &History) -> Point {
    let none =
        |hindrance| Point { taken: taken.clone(), position: None, seed: None, hindrance: Some(hindrance) };
    let Some(start) = &taken.start else { return none(Hindrance::Unknown) };
    let within = seeds.iter().map(|seed| &seed.position);
    let within =
        within.filter(|seed| seed.covers(start) && taken.end.as_ref().is_some_and(|end| end.covers(seed)));
    let mut why = None;
    for position in std::iter::once(start).chain(within).chain(&taken.end) {
        match history.reach(position, taken.epoch, seeds) {
            Ok(seed) => {
                return Point {
                    taken: taken.clone(),
                    position: Some(position.clone()),
                    seed: Some(seed),
                    hindrance: None,
                };
            }
            // The beginning's reason is the one that a person looks for.
            Err(hindrance) => why = why.or(Some(hindrance)),
        }
    }
    none(why.unwrap_or(Hindrance::Unknown))
}

impl Gap {
    /// Returns whether a position is in what is missing.
    fn has(&self, position: &GtidPosition) -> bool {
        !self.from.covers(position) && !position.covers(&self.to)
    }

    fn hindrance(&self) -> Hindrance {
        Hindrance::Gap { from: self.from.clone(), to: self.to.clone() }
    }
}

impl History {
    /// Returns the seed from which a database is restored to a position where it was in an epoch.
    ///
    /// # Errors
    /// It cannot be restored to that.
    pub fn reach(
        &self,
        position: &GtidPosition,
        epoch: Epoch,
        seeds: &[Seed],
    ) -> Result<Sequence, Hindrance> {
        if let Err(why) = self.place(position, epoch) {
            // A seed needs no archive to be what it is.
            let is_it = |seed: &&Seed| seed.position == *position && seed.epoch == epoch;
            return match seeds.iter().rfind(is_it) {
                Some(seed) => Ok(seed.seed),
                None => Err(if seeds.is_empty() { Hindrance::NoSeed } else { why }),
            };
        }
        let is_before =
            |seed: &&Seed| position.covers(&seed.position) && self.place(&seed.position, seed.epoch).is_ok();
        let before: Vec<&Seed> = seeds.iter().filter(is_before).collect();
        if let Some(seed) = before.iter().rfind(|seed| seed.position == *position) {
            return Ok(seed.seed);
        }
        if let Some(gap) = self.gaps.iter().find(|gap| gap.has(position)) {
            return Err(gap.hindrance());
        }
        // Only what lies behind the last gap before it leads to it.
        let last = self.gaps.iter().rfind(|gap| position.covers(&gap.to));
        let is_behind = |seed: &&&Seed| last.is_none_or(|gap| seed.position.covers(&gap.to));
        match (before.iter().rfind(is_behind), seeds.first(), last) {
            (Some(seed), ..) => Ok(seed.seed),
            (None, None, _) => Err(Hindrance::NoSeed),
            (None, _, Some(gap)) if !before.is_empty() => Err(gap.hindrance()),
            (None, Some(oldest), _) => Err(Hindrance::SeedsYounger { oldest: oldest.seed }),
        }
    }

    /// Returns that a position, where the database was in an epoch, is in this history.
    ///
    /// Numbers are compared, which is right within one history. A position was on the primary of its epoch: it is in
    /// the stretches up to that epoch's, or in the beginning of the next one, which its primary had received.
    fn place(&self, position: &GtidPosition, epoch: Epoch) -> Result<(), Hindrance> {
        let Some(first) = self.stretches.first() else { return Err(Hindrance::NoArchive) };
        let own = self.stretches.iter().rposition(|stretch| stretch.epoch <= epoch);
        let is_in = |limit: &GtidPosition| limit.covers(position) && !limit.has_other_history(position);
        if !own.is_some_and(|own| is_in(&self.stretches[own].after)) {
            let next = own.map_or(0, |own| own + 1);
            match self.stretches.get(next) {
                None => {
                    let end = self.stretches[self.stretches.len() - 1].after.clone();
                    return Err(Hindrance::NotYet { end });
                }
                Some(Stretch { epoch, branch: None, .. }) => {
                    return Err(Hindrance::Unsure { epoch: *epoch });
                }
                Some(Stretch { epoch, branch: Some(branch), .. }) if !is_in(branch) => {
                    return Err(Hindrance::CutOff { epoch: *epoch });
                }
                Some(_) => {}
            }
        }
        match position.covers(&first.before) {
            true => Ok(()),
            false => Err(Hindrance::TooOld { begins: first.before.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gtid::{DomainId, Gtid, ServerId};
    use proptest::prelude::*;

    fn at(text: &str) -> GtidPosition {
        text.parse().unwrap()
    }

    fn taken(snapshot: u64, epoch: u64, start: &str, end: &str) -> Taken {
        let position = |text: &str| Some(at(text)).filter(|position| !position.is_empty());
        Taken {
            snapshot: Sequence(snapshot),
            scan_start: UnixNanos(snapshot),
            scan_end: UnixNanos(snapshot + 1),
            epoch: Epoch(epoch),
            start: position(start),
            end: position(end),
        }
    }

    fn seed(seed: u64, position: &str) -> Seed {
        Seed { seed: Sequence(seed), position: at(position), epoch: Epoch(1) }
    }

    fn stretch(epoch: u64, before: &str, after: &str, branch: Option<&str>) -> Stretch {
        Stretch { epoch: Epoch(epoch), before: at(before), after: at(after), branch: branch.map(at) }
    }

    fn why(of: &Taken, seeds: &[Seed], history: &History) -> String {
        point(of, seeds, history).hindrance.map_or_else(|| "none".to_owned(), |why| why.to_string())
    }

    #[test]
    fn a_point_is_where_the_scan_began_and_says_what_stands_in_the_way() {
        let gap = Gap { from: at("1-11-50"), to: at("1-11-60") };
        let history = History { stretches: vec![stretch(1, "1-11-10", "1-11-100", None)], gaps: vec![gap] };
        let seeds = [seed(1, "1-11-10"), seed(2, "1-11-60")];
        let whole = point(&taken(7, 1, "1-11-40", "1-11-45"), &seeds, &history);
        assert_eq!(whole.position, Some(at("1-11-40")));
        assert_eq!((whole.seed, whole.transactions()), (Some(Sequence(1)), Some(5)));
        // Its beginning is in the gap, and its end is not.
        let later = point(&taken(8, 1, "1-11-55", "1-11-62"), &seeds, &history);
        assert_eq!((later.position, later.seed), (Some(at("1-11-60")), Some(Sequence(2))));
        let of = |start: &str, end: &str| why(&taken(9, 1, start, end), &seeds, &history);
        assert_eq!(of("", ""), "the snapshot does not say where the database was");
        assert_eq!(of("1-11-52", "1-11-55"), "not archived: a gap from 1-11-50 to 1-11-60");
        assert_eq!(of("1-11-120", ""), "not archived yet: the archive ends at 1-11-100");
        assert_eq!(of("1-11-9", ""), "too old: the archive begins at 1-11-10");
        let young = why(&taken(9, 1, "1-11-40", ""), &[seed(2, "1-11-45")], &history);
        assert_eq!(young, "all seeds are younger; the oldest is 2");
        assert_eq!(why(&taken(9, 1, "1-11-40", ""), &[], &history), "the database has no seed");
        // Behind the gap, a seed before it leads nowhere.
        let before = why(&taken(9, 1, "1-11-70", ""), &[seed(1, "1-11-10")], &history);
        assert_eq!(before, "not archived: a gap from 1-11-50 to 1-11-60");
        assert_eq!(
            why(&taken(9, 1, "1-11-40", ""), &seeds, &History::default()),
            "the database is not archived"
        );
        // A seed is what it is, without any archive.
        assert_eq!(why(&taken(9, 1, "1-11-10", ""), &seeds, &History::default()), "none");
    }

    #[test]
    fn what_a_failover_cut_off_is_no_point_though_its_numbers_come_again() {
        let with = |branch| History {
            stretches: vec![
                stretch(1, "1-11-10", "1-11-38", None),
                stretch(2, "1-11-38", "1-12-45", branch),
                stretch(3, "1-12-45", "1-11-80", Some("1-12-45")),
            ],
            gaps: Vec::new(),
        };
        let (history, seeds) = (with(Some("1-11-40")), [seed(1, "1-11-10")]);
        let of = |epoch, start: &str| why(&taken(9, epoch, start, ""), &seeds, &history);
        // It was archived by the next primary, which had received it.
        assert_eq!(of(1, "1-11-40"), "none");
        assert_eq!(of(1, "1-11-50"), "cut off: the primary of epoch 2 never had it");
        assert_eq!(of(3, "1-11-50"), "none");
        assert_eq!(of(2, "1-12-45"), "none");
        assert_eq!(of(1, "1-11-45"), "cut off: the primary of epoch 2 never had it");
        let unsure = why(&taken(9, 1, "1-11-39", ""), &seeds, &with(None));
        assert_eq!(unsure, "unknown: nobody noted where the primary of epoch 2 began to write");
        // A seed that was cut off leads nowhere.
        let lost = [Seed { seed: Sequence(1), position: at("1-11-50"), epoch: Epoch(1) }];
        assert_eq!(
            why(&taken(9, 3, "1-11-60", ""), &lost, &history),
            "all seeds are younger; the oldest is 1"
        );
    }

    /// A history in numbers: for each epoch where it began, how far it came, and how far it was archived.
    #[derive(Clone, Debug)]
    struct World {
        epochs: Vec<(u64, u64, u64)>,
        /// Epoch and number of each seed.
        seeds: Vec<(usize, u64)>,
        gap: Option<(u64, u64)>,
    }

    impl World {
        /// Returns the position of an epoch's primary when it had come to a number.
        fn position(&self, epoch: usize, number: u64) -> GtidPosition {
            let wrote = self.epochs[..=epoch].iter().rposition(|(begin, ..)| *begin < number).unwrap_or(0);
            let server = ServerId(10 + wrote as u32);
            [Gtid { domain: DomainId(1), server, number }].into_iter().collect()
        }

        fn last(&self) -> usize {
            self.epochs.len() - 1
        }

        /// Returns whether the last primary has it.
        fn is_kept(&self, epoch: usize, number: u64) -> bool {
            self.epochs[epoch + 1..].iter().all(|(begin, ..)| number <= *begin)
        }

        fn history(&self) -> History {
            let mut stretches: Vec<Stretch> = Vec::new();
            let mut before = 1;
            for (epoch, (begin, _, archived)) in self.epochs.iter().enumerate() {
                let next = self.epochs[epoch + 1..].iter().map(|(begin, ..)| *begin).min();
                let end = next.map_or(*archived, |next| next.min(*archived)).max(before);
                stretches.push(Stretch {
                    epoch: Epoch(epoch as u64 + 1),
                    before: self.position(epoch, before),
                    after: self.position(epoch, end),
                    branch: Some(self.position(epoch, *begin)),
                });
                before = end;
            }
            let on_line = |number| self.position(self.last(), number);
            let gaps = self.gap.iter().map(|(from, to)| Gap { from: on_line(*from), to: on_line(*to) });
            History { stretches, gaps: gaps.collect() }
        }

        fn seeds(&self) -> Vec<Seed> {
            let of = |(at, (epoch, number)): (usize, &(usize, u64))| Seed {
                seed: Sequence(at as u64 + 1),
                position: self.position(*epoch, *number),
                epoch: Epoch(*epoch as u64 + 1),
            };
            self.seeds.iter().enumerate().map(of).collect()
        }

        /// Returns whether a restore would come there, by going through every number.
        fn is_reachable(&self, epoch: usize, number: u64) -> bool {
            let end = self.epochs[self.last()].2;
            let is_archived = |number: u64| {
                number <= end && self.gap.is_none_or(|(from, to)| number <= from || number > to)
            };
            self.seeds.iter().any(|(of, seed)| {
                let is_same = self.position(*of, *seed) == self.position(epoch, number);
                let is_kept = self.is_kept(*of, *seed) && self.is_kept(epoch, number);
                let is_exact = is_same && (of == &epoch || is_kept && number <= end);
                let is_whole = (*seed + 1..=number).all(is_archived);
                is_exact || (is_kept && *seed <= number && *seed <= end && is_whole)
            })
        }
    }

    fn world() -> impl Strategy<Value = World> {
        let epoch = (0u64..=6, 1u64..=8, 0u64..=8);
        let epochs = prop::collection::vec(epoch, 1..5);
        (epochs, prop::collection::vec((0usize..5, 0u64..40), 0..4), any::<bool>(), 0u64..10).prop_map(
            |(drawn, seeds, has_gap, width)| {
                let mut epochs: Vec<(u64, u64, u64)> = Vec::new();
                for (back, writes, archived) in drawn {
                    let (begin, last) = epochs.last().map_or((1, 1), |(begin, last, _)| (*begin, *last));
                    let begin = last.saturating_sub(back).max(begin);
                    let last = begin + writes;
                    epochs.push((begin, last, (begin + archived).min(last)));
                }
                let seeds = seeds.into_iter().map(|(epoch, number)| {
                    let epoch = epoch.min(epochs.len() - 1);
                    (epoch, number.clamp(1, epochs[epoch].1))
                });
                let mut seeds: Vec<_> = seeds.collect();
                seeds.sort_unstable();
                let world = World { epochs, seeds, gap: None };
                // An archive goes on behind a gap at a seed that the last primary has.
                let end = world.epochs[world.last()].2;
                let mut fitting = world.seeds.iter().filter(|(epoch, number)| world.is_kept(*epoch, *number));
                let gap = fitting.find(|(_, number)| has_gap && *number > 1 && *number <= end).copied();
                let gap = gap.map(|(_, to)| (to.saturating_sub(width + 1).max(1), to));
                World { gap: gap.filter(|(from, to)| from < to), ..world }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_listed_is_what_a_restore_would_reach(
            world in world(), epoch in 0usize..5, number in 1u64..40
        ) {
            let epoch = epoch.min(world.last());
            let number = number.clamp(world.epochs[epoch].0, world.epochs[epoch].1);
            let reached = world.history().reach(
                &world.position(epoch, number), Epoch(epoch as u64 + 1), &world.seeds(),
            );
            prop_assert_eq!(reached.is_ok(), world.is_reachable(epoch, number), "{:?}", reached);
        }

        #[test]
        fn no_snapshot_is_left_out_and_none_is_both_reachable_and_not(
            world in world(), scans in prop::collection::vec((0usize..5, 1u64..40, 0u64..5), 0..6)
        ) {
            let taken: Vec<Taken> = scans.iter().enumerate().map(|(at, (epoch, start, more))| {
                let epoch = (*epoch).min(world.last());
                Taken {
                    snapshot: Sequence(at as u64 + 1),
                    scan_start: UnixNanos(1),
                    scan_end: UnixNanos(2),
                    epoch: Epoch(epoch as u64 + 1),
                    start: Some(world.position(epoch, *start)),
                    end: Some(world.position(epoch, start + more)),
                }
            }).collect();
            let all = points(&taken, &world.seeds(), &world.history());
            prop_assert_eq!(all.len(), taken.len());
            prop_assert!(all.windows(2).all(|pair| pair[0].taken.snapshot > pair[1].taken.snapshot));
            for point in all {
                prop_assert_eq!(point.position.is_some(), point.hindrance.is_none());
                if let Some(position) = point.position {
                    prop_assert!(position.covers(point.taken.start.as_ref().unwrap()));
                    prop_assert!(point.taken.end.as_ref().unwrap().covers(&position));
                }
            }
        }
    }
}
