//! Which stores run now. Pure: events in, decisions out; the time is passed in.
//!
//! A store runs once at a time. A tick that comes while it runs, and all that were missed while nothing ran, make one run
//! afterwards. Of those that are due, what an operator asked for goes first, then the store that is nearest to its objective, or
//! furthest beyond. A store that fails waits longer each time, and is never given up; meanwhile it takes no place from others.

use super::schedule::Schedule;
use std::collections::BTreeSet;

/// A store's number in the scheduler.
pub type JobId = usize;

/// After the first failure; doubles from then on.
const BACKOFF_NS: u64 = 60 * 1_000_000_000;

/// What is to be run, and when.
#[derive(Clone, Debug)]
pub struct Job {
    pub schedule: Schedule,
    /// How far behind its schedule this store's ticks are.
    pub slot_ns: u64,
    pub objective_ns: u64,
    /// However often it failed, it is tried again after so long.
    pub backoff_max_ns: u64,
}

impl Job {
    /// Its first tick behind `ns`.
    pub fn tick_after(&self, ns: u64) -> u64 {
        let tick = self.schedule.after(ns.saturating_sub(self.slot_ns));
        // Of one that never comes again.
        tick.map_or(u64::MAX, |tick| tick.saturating_add(self.slot_ns))
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a snapshot whose scan began then.
    Done {
        scan_start_ns: u64,
    },
    /// Nothing was committed, and an operator has to look: the next tick tries again.
    Held,
    Failed,
    /// There is nothing to do yet, as for a standby whose store has no snapshot: the next tick tries again.
    Waiting,
    /// Another host is the primary: it does not run again.
    Fenced,
}

#[derive(Clone, Debug, Default)]
struct State {
    due_ns: u64,
    running: bool,
    asked: bool,
    fenced: bool,
    retired: bool,
    failures: u32,
    last_success_ns: Option<u64>,
    begun_ns: u64,
    /// Wanted by then, whatever the schedule.
    soon_ns: Option<u64>,
}

/// The state of all stores.
#[derive(Debug)]
pub struct Scheduler {
    jobs: Vec<Job>,
    states: Vec<State>,
    /// Those that wait for their time, by it.
    waiting: BTreeSet<(u64, JobId)>,
    /// Those whose time has come: not asked for, deadline, number.
    ready: BTreeSet<(bool, u64, JobId)>,
    running: usize,
    at_once: usize,
}

impl Scheduler {
    /// `jobs` with the start of the scan of each one's last snapshot; one without is due at once.
    pub fn new(jobs: Vec<(Job, Option<u64>)>, at_once: usize) -> Self {
        let mut scheduler = Self {
            jobs: Vec::new(),
            states: Vec::new(),
            waiting: BTreeSet::new(),
            ready: BTreeSet::new(),
            running: 0,
            at_once: at_once.max(1),
        };
        for (job, last) in jobs {
            scheduler.add(job, last);
        }
        scheduler
    }

    /// One more store.
    pub fn add(&mut self, job: Job, last: Option<u64>) -> JobId {
        let id = self.jobs.len();
        let due_ns = last.map_or(0, |last| job.tick_after(last));
        self.jobs.push(job);
        self.states.push(State { due_ns, last_success_ns: last, ..Default::default() });
        self.waiting.insert((due_ns, id));
        id
    }

    /// Another schedule; a run that is under way goes on.
    pub fn change(&mut self, id: JobId, job: Job) {
        self.withdraw(id);
        self.jobs[id] = job;
        let state = &mut self.states[id];
        state.retired = false;
        if state.running || state.fenced {
            return;
        }
        if state.failures == 0 {
            let since = state.last_success_ns.unwrap_or(0).max(state.begun_ns);
            state.due_ns = if since == 0 { 0 } else { self.jobs[id].tick_after(since) };
        }
        self.waiting.insert((self.states[id].due_ns, id));
    }

    /// No more runs of it.
    pub fn retire(&mut self, id: JobId) {
        self.withdraw(id);
        self.states[id].retired = true;
    }

    pub fn set_at_once(&mut self, at_once: usize) {
        self.at_once = at_once.max(1);
    }

    fn withdraw(&mut self, id: JobId) {
        self.waiting.remove(&(self.states[id].due_ns, id));
        self.ready.remove(&self.rank(id));
    }

    /// The next store to run, if one is due and may; it counts as running then.
    pub fn begin(&mut self, now_ns: u64) -> Option<JobId> {
        while let Some((due_ns, id)) = self.waiting.first().copied().filter(|(due, _)| *due <= now_ns) {
            self.waiting.remove(&(due_ns, id));
            self.ready.insert(self.rank(id));
        }
        if self.running >= self.at_once {
            return None;
        }
        let (.., id) = self.ready.pop_first()?;
        let state = &mut self.states[id];
        (state.running, state.asked, state.begun_ns, state.soon_ns) = (true, false, now_ns, None);
        self.running += 1;
        Some(id)
    }

    /// A run ended.
    pub fn end(&mut self, id: JobId, now_ns: u64, outcome: Outcome) {
        let state = &mut self.states[id];
        if !std::mem::take(&mut state.running) {
            return;
        }
        self.running -= 1;
        match outcome {
            Outcome::Done { scan_start_ns } => {
                state.failures = 0;
                state.last_success_ns = Some(scan_start_ns);
            }
            Outcome::Held | Outcome::Waiting => state.failures = 0,
            Outcome::Failed => state.failures += 1,
            Outcome::Fenced => state.fenced = true,
        }
        let tick_ns = self.jobs[id].tick_after(state.begun_ns);
        state.due_ns = match state.failures {
            0 => tick_ns.min(state.soon_ns.unwrap_or(u64::MAX)),
            failures => {
                let backoff = BACKOFF_NS.checked_shl(failures - 1).unwrap_or(u64::MAX);
                now_ns.saturating_add(backoff.min(self.jobs[id].backoff_max_ns))
            }
        };
        if state.fenced || state.retired {
            return;
        }
        let due_ns = state.due_ns;
        if state.asked {
            self.ready.insert(self.rank(id));
        } else {
            self.waiting.insert((due_ns, id));
        }
    }

    /// An operator wants it now. Returns false when it is running: then it runs once more.
    pub fn ask(&mut self, id: JobId) -> bool {
        self.withdraw(id);
        self.states[id].asked = true;
        self.states[id].fenced = false;
        if !self.states[id].running {
            self.ready.insert(self.rank(id));
        }
        !self.states[id].running
    }

    /// Something changed: it is due by then. One that fails still waits first.
    pub fn soon(&mut self, id: JobId, at_ns: u64) {
        let state = &self.states[id];
        if state.running {
            self.states[id].soon_ns = Some(state.soon_ns.map_or(at_ns, |soon| soon.min(at_ns)));
        } else if state.failures == 0 && at_ns < state.due_ns && self.waiting.remove(&(state.due_ns, id)) {
            self.states[id].due_ns = at_ns;
            self.waiting.insert((at_ns, id));
        }
    }

    /// When to look again; `None` when only an event can change anything.
    pub fn wake_at(&self) -> Option<u64> {
        if !self.ready.is_empty() && self.running < self.at_once {
            return Some(0);
        }
        self.waiting.first().map(|(due_ns, _)| *due_ns)
    }

    /// When it is due next; `None` while it runs, and when it is fenced.
    pub fn due(&self, id: JobId) -> Option<u64> {
        let state = &self.states[id];
        (!state.running && !state.fenced && !state.retired).then_some(state.due_ns)
    }

    pub fn failures(&self, id: JobId) -> u32 {
        self.states[id].failures
    }

    /// Stores whose time has come and that do not run yet.
    pub fn queued(&self) -> usize {
        self.ready.len()
    }

    pub fn running(&self) -> usize {
        self.running
    }

    fn rank(&self, id: JobId) -> (bool, u64, JobId) {
        let state = &self.states[id];
        let deadline =
            state.last_success_ns.map_or(0, |last| last.saturating_add(self.jobs[id].objective_ns));
        (!state.asked, deadline, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::schedule::slot_ns;

    const MINUTE: u64 = 60 * 1_000_000_000;
    const HOUR: u64 = 60 * MINUTE;
    /// 2028-02-01, a leap year; the month ends with the 29th.
    const START: u64 = 1_832_976_000 * 1_000_000_000;

    fn job(expression: &str, objective_ns: u64) -> Job {
        Job { schedule: Schedule::parse(expression).unwrap(), slot_ns: 0, objective_ns, backoff_max_ns: HOUR }
    }

    #[test]
    fn runs_that_were_missed_become_one() {
        let last = START - 30 * HOUR;
        let mut scheduler = Scheduler::new(vec![(job("0 * * * *", 2 * HOUR), Some(last))], 1);
        assert_eq!(scheduler.begin(START), Some(0));
        assert_eq!(scheduler.begin(START), None);
        scheduler.end(0, START + MINUTE, Outcome::Done { scan_start_ns: START });
        assert_eq!(scheduler.begin(START + MINUTE), None);
        assert_eq!(scheduler.wake_at(), Some(START + HOUR));
        assert_eq!(scheduler.begin(START + HOUR), Some(0));
    }

    #[test]
    fn ticks_during_a_run_become_one_that_follows() {
        let mut scheduler = Scheduler::new(vec![(job("*/5 * * * *", HOUR), None)], 4);
        assert_eq!(scheduler.begin(START), Some(0));
        assert_eq!(scheduler.begin(START + 17 * MINUTE), None);
        scheduler.end(0, START + 17 * MINUTE, Outcome::Done { scan_start_ns: START });
        assert_eq!(scheduler.begin(START + 17 * MINUTE), Some(0));
        scheduler.end(0, START + 18 * MINUTE, Outcome::Done { scan_start_ns: START + 17 * MINUTE });
        assert_eq!(scheduler.begin(START + 18 * MINUTE), None);
        assert_eq!(scheduler.wake_at(), Some(START + 20 * MINUTE));
    }

    #[test]
    fn what_is_asked_for_goes_first_and_then_what_is_nearest_to_its_objective() {
        let jobs = vec![
            (job("0 * * * *", 4 * HOUR), Some(START - 2 * HOUR)),
            (job("0 * * * *", HOUR), Some(START - 2 * HOUR)),
            (job("0 * * * *", HOUR), Some(START - 3 * HOUR)),
            (job("0 * * * *", 9 * HOUR), Some(START - MINUTE)),
        ];
        let mut scheduler = Scheduler::new(jobs, 9);
        assert!(scheduler.ask(3));
        let order: Vec<_> = std::iter::from_fn(|| scheduler.begin(START)).collect();
        assert_eq!(order, [3, 2, 1, 0]);
        // Asked for while it runs: once more.
        assert!(!scheduler.ask(2));
        scheduler.end(2, START + MINUTE, Outcome::Done { scan_start_ns: START });
        assert_eq!(scheduler.begin(START + MINUTE), Some(2));
    }

    #[test]
    fn a_change_makes_a_run_due_soon_also_during_one_and_not_while_it_fails() {
        let mut scheduler = Scheduler::new(vec![(job("0 * * * *", HOUR), Some(START))], 1);
        scheduler.soon(0, START + 5 * MINUTE);
        scheduler.soon(0, START + 9 * MINUTE);
        assert_eq!(scheduler.wake_at(), Some(START + 5 * MINUTE));
        assert_eq!(scheduler.begin(START + 5 * MINUTE), Some(0));
        scheduler.soon(0, START + 6 * MINUTE);
        scheduler.end(0, START + 7 * MINUTE, Outcome::Done { scan_start_ns: START + 5 * MINUTE });
        assert_eq!(scheduler.begin(START + 7 * MINUTE), Some(0));
        scheduler.end(0, START + 8 * MINUTE, Outcome::Failed);
        scheduler.soon(0, START + 8 * MINUTE);
        assert_eq!(scheduler.wake_at(), Some(START + 9 * MINUTE));
    }

    #[test]
    fn stores_come_change_and_go() {
        let mut scheduler = Scheduler::new(vec![(job("0 * * * *", HOUR), Some(START))], 2);
        let late = scheduler.add(job("0 * * * *", HOUR), None);
        assert_eq!(scheduler.begin(START), Some(late));
        // A run that is under way goes on; the new schedule counts from its begin.
        scheduler.change(late, job("*/10 * * * *", HOUR));
        scheduler.change(0, job("*/30 * * * *", HOUR));
        assert_eq!(scheduler.begin(START + MINUTE), None);
        scheduler.end(late, START + MINUTE, Outcome::Done { scan_start_ns: START });
        assert_eq!(scheduler.wake_at(), Some(START + 10 * MINUTE));
        scheduler.retire(late);
        assert_eq!(scheduler.begin(START + 29 * MINUTE), None);
        assert_eq!(scheduler.begin(START + 30 * MINUTE), Some(0));
        scheduler.retire(0);
        scheduler.end(0, START + 31 * MINUTE, Outcome::Failed);
        assert_eq!((scheduler.wake_at(), scheduler.due(0)), (None, None));
    }

    #[test]
    fn a_store_that_fails_waits_longer_and_is_never_given_up() {
        let mut scheduler = Scheduler::new(vec![(job("0 * * * *", HOUR), None)], 1);
        let mut now = START;
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            assert_eq!(scheduler.begin(now), Some(0));
            scheduler.end(0, now, Outcome::Failed);
            assert_eq!(scheduler.begin(now + minutes * MINUTE - 1), None);
            now += minutes * MINUTE;
        }
        assert_eq!(scheduler.begin(now), Some(0));
        scheduler.end(0, now, Outcome::Fenced);
        assert_eq!(scheduler.begin(now + 1000 * HOUR), None);
        scheduler.ask(0);
        assert_eq!(scheduler.begin(now + 1000 * HOUR), Some(0));
    }

    /// What a month of a thousand stores was like.
    pub struct Month {
        pub runs: u64,
        pub at_once_max: usize,
        pub busiest_minute: u64,
        pub lags_ns: Vec<u64>,
        pub longest_wait_ns: u64,
    }

    /// Every tenth store fails now and then, and some always. Runs take between one second and a few minutes, by the dice.
    pub fn month(stores: usize, at_once: usize) -> Month {
        let mut dice = 0x2545_f491_4f6c_dd1d_u64;
        let mut roll = move || {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice
        };
        let plans = [("0 */4 * * *", 60 * MINUTE, 5 * HOUR), ("0 * * * *", 20 * MINUTE, 75 * MINUTE)];
        let jobs: Vec<_> = (0..stores)
            .map(|number| {
                let (expression, jitter, objective_ns) = plans[number % 2];
                let slot_ns = slot_ns(&format!("store-{number}"), jitter);
                (Job { slot_ns, ..job(expression, objective_ns) }, Some(START - (roll() % (2 * HOUR))))
            })
            .collect();
        let objectives: Vec<_> = jobs.iter().map(|(job, _)| job.objective_ns).collect();
        let mut last: Vec<u64> = jobs.iter().map(|(_, last)| last.unwrap()).collect();
        let mut scheduler = Scheduler::new(jobs, at_once);
        let mut running: BTreeSet<(u64, JobId, u64)> = BTreeSet::new();
        let mut is_running = vec![false; stores];
        let mut month =
            Month { runs: 0, at_once_max: 0, busiest_minute: 0, lags_ns: Vec::new(), longest_wait_ns: 0 };
        let (mut minute, mut in_minute) = (0, 0);
        let mut now = START;
        let end = START + 29 * 24 * HOUR;
        while now < end {
            while let Some((done, id, begun)) = running.first().copied().filter(|(done, ..)| *done <= now) {
                running.remove(&(done, id, begun));
                is_running[id] = false;
                let fails = id % 100 == 13 || (id % 10 == 3 && roll() % 20 == 0);
                let outcome = if fails { Outcome::Failed } else { Outcome::Done { scan_start_ns: begun } };
                if !fails {
                    month.lags_ns.push(done - last[id]);
                    last[id] = begun;
                }
                scheduler.end(id, done, outcome);
            }
            while let Some(id) = scheduler.begin(now) {
                assert!(!is_running[id], "store {id} overlaps with itself");
                is_running[id] = true;
                month.runs += 1;
                if now / MINUTE != minute {
                    (minute, in_minute) = (now / MINUTE, 0);
                }
                in_minute += 1;
                month.busiest_minute = month.busiest_minute.max(in_minute);
                let seconds = 1 + roll() % 5 + if roll() % 50 == 0 { 60 + roll() % 240 } else { 0 };
                running.insert((now + seconds * 1_000_000_000, id, now));
            }
            month.at_once_max = month.at_once_max.max(scheduler.running());
            let wake = scheduler.wake_at().filter(|_| scheduler.queued() == 0 || running.is_empty());
            let done = running.first().map(|(done, ..)| *done);
            now = [wake, done].into_iter().flatten().min().unwrap().max(now);
        }
        for (id, last) in last.iter().enumerate() {
            if id % 100 != 13 {
                month.longest_wait_ns =
                    month.longest_wait_ns.max((end - last).saturating_sub(objectives[id]));
            }
        }
        month
    }

    #[test]
    fn in_a_month_of_a_thousand_stores_no_run_is_missed_and_none_starves() {
        let mut month = month(1000, 8);
        // 29 days: 6 or 24 runs a day each, but for the ten that always fail, and with some tried again.
        let wanted = 29 * (490 * 6 + 500 * 24);
        assert!(month.runs >= wanted, "{} of {wanted}", month.runs);
        assert!(month.at_once_max <= 8);
        assert_eq!(month.longest_wait_ns, 0, "at the end every store that can is within its objective");
        month.lags_ns.sort_unstable();
        let share = |percent: usize| month.lags_ns[(month.lags_ns.len() - 1) * percent / 100] / MINUTE;
        println!(
            "| {} | {} | {} | {} | {} | {} |",
            month.runs,
            month.at_once_max,
            month.busiest_minute,
            share(50),
            share(99),
            share(100)
        );
    }
}
