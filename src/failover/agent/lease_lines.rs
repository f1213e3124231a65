//! Which number of a host's lease answers which store's request. Pure.
//!
//! A host has one lease for all its stores, and each store's machine counts numbers of its own, as if the lease
//! were its own: it asks for its next number, and hears what became of it. Here those requests meet the numbers
//! that really are created, one after the other. `lease_keeper` says why that is safe.

use crate::failover::decide::input::{Input, LeaseReply};
use crate::failover::decide::timing::Timing;
use crate::support::clock::BootNanos;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Time after which it is looked up whether the last number that is known here still is the last.
const LOOK_AFTER: Duration = Duration::from_mins(10);

/// The line of numbers of one store's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineId(u64);

/// An answer to a line's machine.
pub(crate) type Reply = (LineId, Input);

/// What a number that somebody else created is to one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is nothing to this line.
    Passed,
    /// Another host is the primary of this line's store.
    Broken,
    /// Another process with this host's name created it.
    Rival,
    /// It may be a break, by a member of which the store's log was not read yet.
    Doubtful,
}

/// What has to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Read which number is the last.
    Look,
    /// Create this number.
    Create { number: u64 },
    /// Nothing, before this moment or the next request.
    Wait { until: Option<BootNanos> },
}

/// A request of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wait {
    number: u64,
    arrived: BootNanos,
}

#[derive(Debug)]
struct Line {
    timing: Timing,
    /// The last number of this line that is settled.
    last: u64,
    wait: Option<Wait>,
    wants_number: bool,
    /// Whether the last answer was that a number was created.
    holds: bool,
    /// What its next request is answered.
    untold: Option<LeaseReply>,
    /// Numbers of which it is not known what they are to this line. It gets none until it is.
    doubts: BTreeSet<u64>,
}

impl Line {
    /// Returns from when on a number may be created for its request. The requests of several stores share
    /// numbers; one that has no valid number waits for nobody.
    fn is_due_at(&self, last_sent: Option<BootNanos>) -> Option<BootNanos> {
        let wait = self.wait.filter(|_| self.doubts.is_empty())?;
        let shared = last_sent.filter(|_| self.holds).map(|sent| sent.plus(self.timing.renew_every / 2));
        Some(wait.arrived.max(shared.unwrap_or(wait.arrived)))
    }

    fn own_number(&self, foreign: Option<BootNanos>, now: BootNanos) -> Input {
        let is_mine = foreign.is_none_or(|foreign| now >= foreign.plus(self.timing.ttl));
        Input::OwnNumber { number: self.last, is_mine }
    }

    /// Answers its request, if there is one.
    fn answer(&mut self, reply: LeaseReply) -> Option<Input> {
        let Wait { number, .. } = self.wait?;
        if reply != LeaseReply::Unknown {
            (self.wait, self.last, self.holds) = (None, number, reply == LeaseReply::Created);
        }
        Some(Input::Lease { number, reply })
    }

    /// Tells it that its line has ended: now, or at its next request.
    fn end(&mut self, reply: LeaseReply) -> Option<Input> {
        self.holds = false;
        let told = self.answer(reply);
        if told.is_none() && self.untold != Some(LeaseReply::Rival) {
            self.untold = Some(reply);
        }
        told
    }
}

/// A number whose creation was begun.
#[derive(Debug)]
struct Attempt {
    number: u64,
    /// The requests that had arrived when it was first sent.
    requests: BTreeMap<LineId, u64>,
}

/// The lines of a host's stores, and the numbers of its lease.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    lines: BTreeMap<LineId, Line>,
    joined: u64,
    /// The last number that exists, as far as is known. Since it was looked up, each one was read.
    last: Option<u64>,
    /// When it was known to be the last.
    sighted: BootNanos,
    /// A number that was seen at a look.
    seen: u64,
    attempt: Option<Attempt>,
    /// When the last number was first sent.
    sent: Option<BootNanos>,
    /// Whether somebody asked since the last request to the repository.
    is_asked: bool,
    /// When another process's number was last seen.
    foreign: Option<BootNanos>,
}

impl Lines {
    pub(crate) fn join(&mut self, timing: Timing) -> LineId {
        self.joined += 1;
        let (id, doubts) = (LineId(self.joined), BTreeSet::new());
        let (last, wait, wants_number, holds, untold) = (0, None, false, false, None);
        self.lines.insert(id, Line { timing, last, wait, wants_number, holds, untold, doubts });
        id
    }

    pub(crate) fn leave(&mut self, id: LineId) {
        self.lines.remove(&id);
    }

    /// Takes the request for a line's last number. A machine that asks for it has forgotten what it asked for.
    pub(crate) fn find(&mut self, id: LineId, now: BootNanos) -> Option<Reply> {
        let (is_known, foreign) = (self.last.is_some(), self.foreign);
        let line = self.lines.get_mut(&id)?;
        line.last = line.wait.take().map_or(line.last, |wait| wait.number.max(line.last));
        (line.wants_number, line.holds) = (!is_known, false);
        self.is_asked = true;
        is_known.then(|| (id, line.own_number(foreign, now)))
    }

    /// Takes the request for a line's next number. A request that is repeated arrived when it first did.
    pub(crate) fn renew(&mut self, id: LineId, number: u64, now: BootNanos) -> Option<Reply> {
        let line = self.lines.get_mut(&id)?;
        if number <= line.last {
            // Its answer is on the way.
            return None;
        }
        if line.wait.is_none_or(|wait| wait.number != number) {
            line.wait = Some(Wait { number, arrived: now });
        }
        self.is_asked = true;
        let told = line.untold.take()?;
        Some((id, line.answer(told)?))
    }

    /// Returns the numbers of which it is not known what they are to a line.
    #[cfg(test)]
    fn doubts(&self, id: LineId) -> Vec<u64> {
        self.lines.get(&id).map_or_else(Vec::new, |line| line.doubts.iter().copied().collect())
    }

    /// Returns what has to be done. Its result is given before this is asked again.
    pub(crate) fn next(&mut self, now: BootNanos) -> Next {
        let Some(last) = self.last else {
            let is_wanted = self.lines.values().any(|line| line.wants_number || line.wait.is_some());
            return self.if_asked(Next::Look, is_wanted);
        };
        if let Some(Attempt { number, .. }) = self.attempt {
            return self.if_asked(Next::Create { number }, true);
        }
        let due = self.lines.values().filter_map(|line| line.is_due_at(self.sent)).min();
        match due {
            Some(due) if due > now => Next::Wait { until: Some(due) },
            Some(_) if now >= self.sighted.plus(LOOK_AFTER) => self.if_asked(Next::Look, true),
            Some(_) => self.begin(last, now),
            None => Next::Wait { until: None },
        }
    }

    /// Does a thing that failed once again only when somebody asks again.
    fn if_asked(&mut self, next: Next, is_wanted: bool) -> Next {
        if is_wanted && std::mem::take(&mut self.is_asked) { next } else { Next::Wait { until: None } }
    }

    /// Begins the next number, for all requests that are here.
    fn begin(&mut self, last: u64, now: BootNanos) -> Next {
        let Some(number) = last.checked_add(1) else { return Next::Wait { until: None } };
        let is_clear = |(_, line): &(&LineId, &Line)| line.doubts.is_empty();
        let waiting = self.lines.iter().filter(is_clear);
        let requests = waiting.filter_map(|(id, line)| Some((*id, line.wait?.number))).collect();
        self.attempt = Some(Attempt { number, requests });
        (self.sent, self.is_asked) = (Some(now), false);
        Next::Create { number }
    }

    /// Takes what a look found: the number before the first free one, and whether it is of a process that is
    /// known to have ended, or a break.
    pub(crate) fn looked(&mut self, number: u64, is_mine: bool, now: BootNanos) -> Vec<Reply> {
        self.sighted = now;
        if self.last.is_some() {
            // The numbers up to it are read one after the other all the same: one of them may be a break.
            self.seen = self.seen.max(number);
            return Vec::new();
        }
        self.last = Some(number);
        if !is_mine {
            self.foreign = Some(now);
        }
        let foreign = self.foreign;
        let asked = self.lines.iter_mut();
        // Where another process may serve, all wait, also those that know their number.
        let told = asked.filter_map(|(id, line)| {
            let is_told = std::mem::take(&mut line.wants_number) || !is_mine;
            is_told.then(|| (*id, line.own_number(foreign, now)))
        });
        told.collect()
    }

    /// The number was created.
    pub(crate) fn created(&mut self, now: BootNanos) -> Vec<Reply> {
        let Some(Attempt { number, requests }) = self.attempt.take() else { return Vec::new() };
        if number < self.seen {
            // Its place was empty because another process deleted what was there: nobody knows what that was.
            return self.rival(now);
        }
        (self.last, self.sighted) = (Some(number), now);
        let answered = requests.into_iter().filter_map(|(id, asked)| {
            let line = self.lines.get_mut(&id).filter(|line| line.wait.is_some_and(|is| is.number == asked));
            Some((id, line?.answer(LeaseReply::Created)?))
        });
        answered.collect()
    }

    /// It is not known whether the number was created.
    pub(crate) fn unknown(&mut self) -> Vec<Reply> {
        let Some(Attempt { requests, .. }) = &self.attempt else { return Vec::new() };
        let answered = requests.iter().filter_map(|(id, asked)| {
            let line = self.lines.get_mut(id).filter(|line| line.wait.is_some_and(|is| is.number == *asked));
            Some((*id, line?.answer(LeaseReply::Unknown)?))
        });
        answered.collect()
    }

    /// Somebody else has created the number. A line that has joined meanwhile has no verdict, and needs none:
    /// its first number comes after this one.
    pub(crate) fn taken(&mut self, verdicts: &BTreeMap<LineId, Verdict>, now: BootNanos) -> Vec<Reply> {
        let Some(Attempt { number, .. }) = self.attempt.take() else { return Vec::new() };
        self.last = Some(number);
        if verdicts.values().any(|verdict| *verdict == Verdict::Rival) {
            return self.rival(now);
        }
        let mut replies = Vec::new();
        for (id, verdict) in verdicts {
            let Some(line) = self.lines.get_mut(id) else { continue };
            match verdict {
                Verdict::Broken => replies.extend(line.end(LeaseReply::Broken).map(|told| (*id, told))),
                Verdict::Doubtful => {
                    line.doubts.insert(number);
                }
                Verdict::Passed | Verdict::Rival => {}
            }
        }
        replies
    }

    /// A number that was doubtful for a line is so no longer.
    pub(crate) fn judged(&mut self, id: LineId, number: u64, verdict: Verdict, now: BootNanos) -> Vec<Reply> {
        let Some(line) = self.lines.get_mut(&id) else { return Vec::new() };
        if !line.doubts.remove(&number) {
            return Vec::new();
        }
        match verdict {
            Verdict::Broken => line.end(LeaseReply::Broken).map(|told| (id, told)).into_iter().collect(),
            Verdict::Rival => self.rival(now),
            Verdict::Passed | Verdict::Doubtful => Vec::new(),
        }
    }

    /// Another process has this host's name: no line goes on, and its last number is looked up.
    fn rival(&mut self, now: BootNanos) -> Vec<Reply> {
        (self.last, self.seen, self.attempt, self.foreign) = (None, 0, None, Some(now));
        let ended = self.lines.iter_mut();
        ended.filter_map(|(id, line)| Some((*id, line.end(LeaseReply::Rival)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::clock::nanos;
    use proptest::prelude::*;

    const TIMING: Timing = Timing::DEFAULT;

    fn seconds(count: u64) -> BootNanos {
        BootNanos(count * 1_000_000_000)
    }

    fn lease(number: u64, reply: LeaseReply) -> Input {
        Input::Lease { number, reply }
    }

    /// Returns lines of two stores, of which both know their number.
    fn two() -> (Lines, LineId, LineId) {
        let mut lines = Lines::default();
        let (one, two) = (lines.join(TIMING), lines.join(TIMING));
        assert_eq!(lines.next(seconds(0)), Next::Wait { until: None });
        assert_eq!((lines.find(one, seconds(0)), lines.find(two, seconds(0))), (None, None));
        assert_eq!(lines.next(seconds(0)), Next::Look);
        let found = lines.looked(40, true, seconds(0));
        let own = Input::OwnNumber { number: 0, is_mine: true };
        assert_eq!(found, [(one, own.clone()), (two, own)]);
        (lines, one, two)
    }

    #[test]
    fn requests_that_wait_share_a_number_and_a_later_one_gets_the_next() {
        let (mut lines, one, two) = two();
        assert_eq!(lines.renew(one, 1, seconds(1)), None);
        assert_eq!(lines.next(seconds(1)), Next::Create { number: 41 });
        // It comes after the number was sent: whoever watches may have seen that number already.
        assert_eq!(lines.renew(two, 1, seconds(1)), None);
        assert_eq!(lines.created(seconds(1)), [(one, lease(1, LeaseReply::Created))]);
        assert_eq!(lines.next(seconds(1)), Next::Create { number: 42 });
        assert_eq!(lines.created(seconds(1)), [(two, lease(1, LeaseReply::Created))]);
        // Both hold a number: the one that asks first waits for the other.
        assert_eq!(lines.renew(two, 2, seconds(2)), None);
        let until = Some(seconds(1).plus(TIMING.renew_every / 2));
        assert_eq!(lines.next(seconds(2)), Next::Wait { until });
        assert_eq!(lines.renew(one, 2, seconds(3)), None);
        assert_eq!(lines.next(seconds(4)), Next::Create { number: 43 });
        let both = [one, two].map(|line| (line, lease(2, LeaseReply::Created)));
        assert_eq!(lines.created(seconds(4)), both);
    }

    #[test]
    fn a_lost_reply_s_number_answers_only_what_was_there_when_it_was_first_sent() {
        let (mut lines, one, two) = two();
        lines.renew(one, 1, seconds(1));
        assert_eq!(lines.next(seconds(1)), Next::Create { number: 41 });
        assert_eq!(lines.unknown(), [(one, lease(1, LeaseReply::Unknown))]);
        // Nothing is sent again before somebody asks.
        assert_eq!(lines.next(seconds(2)), Next::Wait { until: None });
        lines.renew(two, 1, seconds(3));
        lines.renew(one, 1, seconds(3));
        assert_eq!(lines.next(seconds(3)), Next::Create { number: 41 });
        assert_eq!(lines.created(seconds(3)), [(one, lease(1, LeaseReply::Created))]);
        assert_eq!(lines.next(seconds(3)), Next::Create { number: 42 });
        assert_eq!(lines.created(seconds(3)), [(two, lease(1, LeaseReply::Created))]);
    }

    #[test]
    fn a_break_ends_one_store_s_line_also_when_it_asks_only_later() {
        let (mut lines, one, two) = two();
        lines.renew(one, 1, seconds(1));
        lines.renew(two, 1, seconds(1));
        lines.next(seconds(1));
        lines.created(seconds(1));
        lines.renew(one, 2, seconds(6));
        assert_eq!(lines.next(seconds(6)), Next::Create { number: 42 });
        let verdicts = BTreeMap::from([(one, Verdict::Passed), (two, Verdict::Broken)]);
        assert_eq!(lines.taken(&verdicts, seconds(6)), []);
        assert_eq!(lines.next(seconds(9)), Next::Create { number: 43 });
        assert_eq!(lines.created(seconds(9)), [(one, lease(2, LeaseReply::Created))]);
        assert_eq!(lines.renew(two, 2, seconds(9)), Some((two, lease(2, LeaseReply::Broken))));
        // Its next line begins at once.
        assert_eq!(lines.renew(two, 3, seconds(9)), None);
        assert_eq!(lines.next(seconds(9)), Next::Create { number: 44 });
        assert_eq!(lines.created(seconds(9)), [(two, lease(3, LeaseReply::Created))]);
    }

    #[test]
    fn a_store_in_doubt_gets_no_number_and_the_others_do() {
        let (mut lines, one, two) = two();
        lines.renew(one, 1, seconds(1));
        lines.renew(two, 1, seconds(1));
        lines.next(seconds(1));
        let verdicts = BTreeMap::from([(one, Verdict::Passed), (two, Verdict::Doubtful)]);
        assert_eq!(lines.taken(&verdicts, seconds(1)), []);
        assert_eq!(lines.next(seconds(1)), Next::Create { number: 42 });
        assert_eq!(lines.created(seconds(1)), [(one, lease(1, LeaseReply::Created))]);
        assert_eq!((lines.next(seconds(1)), lines.doubts(two)), (Next::Wait { until: None }, vec![41]));
        assert_eq!(lines.judged(two, 41, Verdict::Passed, seconds(2)), []);
        assert_eq!(lines.next(seconds(2)), Next::Create { number: 43 });
        assert_eq!(lines.created(seconds(2)), [(two, lease(1, LeaseReply::Created))]);
        assert_eq!(lines.judged(two, 41, Verdict::Broken, seconds(2)), [], "it was judged");
    }

    #[test]
    fn a_rival_ends_all_lines_and_a_store_that_comes_later_waits_too() {
        let (mut lines, one, two) = two();
        lines.renew(one, 1, seconds(1));
        lines.next(seconds(1));
        let verdicts = BTreeMap::from([(one, Verdict::Rival), (two, Verdict::Passed)]);
        assert_eq!(lines.taken(&verdicts, seconds(1)), [(one, lease(1, LeaseReply::Rival))]);
        assert_eq!(lines.renew(two, 1, seconds(2)), Some((two, lease(1, LeaseReply::Rival))));
        let three = lines.join(TIMING);
        assert_eq!(lines.find(three, seconds(2)), None);
        assert_eq!(lines.next(seconds(2)), Next::Look);
        let other = |number| Input::OwnNumber { number, is_mine: false };
        assert_eq!(
            lines.looked(70, false, seconds(3)),
            [(one, other(1)), (two, other(1)), (three, other(0))]
        );
        let later = seconds(3).plus(TIMING.ttl);
        let is_mine = |told: Option<Reply>| matches!(told, Some((_, Input::OwnNumber { is_mine: true, .. })));
        assert!(!is_mine(lines.find(three, BootNanos(later.0 - 1))) && is_mine(lines.find(three, later)));
        lines.renew(three, 1, later);
        assert_eq!(lines.next(later), Next::Create { number: 71 });
    }

    #[test]
    fn a_number_in_the_place_of_a_deleted_one_is_a_rival_s() {
        let (mut lines, one, _) = two();
        lines.renew(one, 1, seconds(1));
        lines.next(seconds(1));
        lines.created(seconds(1));
        let late = seconds(1).plus(LOOK_AFTER);
        lines.renew(one, 2, late);
        assert_eq!(lines.next(late), Next::Look);
        assert_eq!(lines.looked(3000, true, late), []);
        assert_eq!(lines.next(late), Next::Create { number: 42 });
        assert_eq!(lines.created(late), [(one, lease(2, LeaseReply::Rival))]);
    }

    /// What a line's machine knows, and when by the count of events.
    #[derive(Default)]
    struct Machine {
        number: u64,
        /// The number that it asked for, and when.
        asked: Option<(u64, u64)>,
        /// The real number of its last answer.
        held: Option<u64>,
    }

    /// What a real number turned out to be.
    #[derive(Clone, Copy, PartialEq)]
    enum Was {
        Mine,
        BreakOf(usize),
        Rival,
        Void,
    }

    /// A host with three stores, and the truth about its numbers.
    struct World {
        lines: Lines,
        ids: Vec<LineId>,
        machines: Vec<Machine>,
        now: BootNanos,
        events: u64,
        /// When each number was first sent, and what it was.
        sent: BTreeMap<u64, u64>,
        was: BTreeMap<u64, Was>,
        /// Breaks whose maker the store's log does not show yet.
        doubted: Vec<(usize, u64, Was)>,
    }

    impl World {
        fn new() -> Self {
            let mut lines = Lines::default();
            let ids = (0..3).map(|_| lines.join(TIMING)).collect();
            let machines = (0..3).map(|_| Machine::default()).collect();
            let (sent, was, doubted) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
            Self { lines, ids, machines, now: seconds(1), events: 0, sent, was, doubted }
        }

        fn hear(&mut self, replies: impl IntoIterator<Item = Reply>, created: Option<u64>) {
            for (id, input) in replies {
                let store = self.ids.iter().position(|other| *other == id).unwrap();
                let machine = &mut self.machines[store];
                let Input::Lease { number, reply } = input else { continue };
                let Some((_, asked)) = machine.asked.filter(|(asked, _)| *asked == number) else { continue };
                match reply {
                    LeaseReply::Created => {
                        let real = created.expect("no number was created");
                        assert!(
                            self.sent[&real] > asked,
                            "{real} may have been seen before it was asked for"
                        );
                        if let Some(before) = machine.held {
                            // The line goes on: nothing in between ended it.
                            let between: Vec<_> =
                                (before + 1..real).map(|number| self.was[&number]).collect();
                            let ends = |was: &Was| *was == Was::BreakOf(store) || *was == Was::Rival;
                            assert!(!between.iter().any(ends), "a line went on after it was broken");
                        }
                        (machine.held, machine.number, machine.asked) = (Some(real), number, None);
                    }
                    LeaseReply::Broken | LeaseReply::Rival => {
                        let ends =
                            |was: &Was| matches!(was, Was::BreakOf(of) if *of == store) || *was == Was::Rival;
                        assert!(self.was.values().any(ends), "nobody ended it");
                        (machine.held, machine.number, machine.asked) = (None, number, None);
                    }
                    LeaseReply::Unknown => {}
                }
            }
        }

        fn ask(&mut self, store: usize) {
            let (id, machine) = (self.ids[store], &mut self.machines[store]);
            let asked = *machine.asked.get_or_insert((machine.number + 1, self.events));
            let reply = self.lines.renew(id, asked.0, self.now);
            self.hear(reply, None);
        }

        /// Does what has to be done; `how` decides what becomes of it.
        fn work(&mut self, how: u8) -> bool {
            match self.lines.next(self.now) {
                Next::Wait { .. } => return false,
                Next::Look => {
                    let last = self.was.keys().last().copied().unwrap_or(0);
                    let is_mine = self.was.get(&last) != Some(&Was::Rival);
                    let replies = self.lines.looked(last, is_mine, self.now);
                    self.hear(replies, None);
                }
                Next::Create { number } => self.create(number, how),
            }
            true
        }

        fn create(&mut self, number: u64, how: u8) {
            let events = self.events;
            self.sent.entry(number).or_insert(events);
            let drawn = match how {
                0..5 => Was::Mine,
                5..7 => Was::BreakOf(usize::from(how) - 5),
                7 => Was::Rival,
                _ => Was::Void,
            };
            let was = *self.was.entry(number).or_insert(drawn);
            if how == 0 {
                let replies = self.lines.unknown();
                return self.hear(replies, None);
            }
            if was == Was::Mine {
                let replies = self.lines.created(self.now);
                return self.hear(replies, Some(number));
            }
            let mut verdicts = BTreeMap::new();
            for (store, id) in self.ids.iter().enumerate() {
                let is_doubtful = how % 2 == 1 && was != Was::Rival;
                let verdict = match was {
                    Was::BreakOf(of) if of != store => Verdict::Passed,
                    Was::BreakOf(_) | Was::Void if is_doubtful => Verdict::Doubtful,
                    Was::BreakOf(_) => Verdict::Broken,
                    Was::Rival => Verdict::Rival,
                    _ => Verdict::Passed,
                };
                if verdict == Verdict::Doubtful {
                    self.doubted.push((store, number, was));
                }
                verdicts.insert(*id, verdict);
            }
            let replies = self.lines.taken(&verdicts, self.now);
            self.hear(replies, None);
        }

        fn judge(&mut self) {
            let Some((store, number, was)) = self.doubted.pop() else { return };
            let verdict = if was == Was::BreakOf(store) { Verdict::Broken } else { Verdict::Passed };
            let replies = self.lines.judged(self.ids[store], number, verdict, self.now);
            self.hear(replies, None);
        }
    }

    proptest! {
        /// What happens in any order answers no request by a number that could be seen before it, goes on with
        /// no line that was broken, and leaves no request without an answer.
        #[test]
        fn requests_and_numbers_in_any_order_are_answered_as_they_may_be(
            happens in proptest::collection::vec((0..8_u8, 0..3_usize, 0..10_u8, 0..4_u64), 1..200)
        ) {
            let mut world = World::new();
            for (what, store, how, time) in happens {
                world.events += 1;
                world.now = world.now.plus(Duration::from_nanos(nanos(TIMING.renew_every) / 2 * time));
                match what {
                    0..3 => world.ask(store),
                    3 => {
                        world.machines[store].asked = None;
                        world.machines[store].held = None;
                        let reply = world.lines.find(world.ids[store], world.now);
                        if let Some((_, Input::OwnNumber { number, .. })) = reply {
                            world.machines[store].number = number;
                        } else {
                            // As a machine does: it asks for nothing before it knows its number.
                            world.work(1);
                            let reply = world.lines.find(world.ids[store], world.now);
                            let Some((_, Input::OwnNumber { number, .. })) = reply else { continue };
                            world.machines[store].number = number;
                        }
                    }
                    4 => world.judge(),
                    _ => {
                        world.work(how);
                    }
                }
            }
            // Everything works from now on.
            for _ in 0..100 {
                world.events += 1;
                world.now = world.now.plus(TIMING.renew_every);
                for store in 0..3 {
                    world.judge();
                    world.ask(store);
                }
                world.events += 1;
                while world.work(1) {
                    world.events += 1;
                }
            }
            for machine in &world.machines {
                prop_assert!(machine.held.is_some() && machine.asked.is_none());
            }
        }
    }
}
