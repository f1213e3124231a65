//! Which stores run now. Pure: events in, decisions out; the time is passed in, by both clocks.
//!
//! A store runs once at a time. A tick that comes while it runs, and all that were missed while nothing ran, make one run
//! afterwards. Of those that are due, what an operator asked for goes first, then the store that is nearest to its objective, or
//! furthest beyond. A store that fails waits longer each time, and is never given up; meanwhile it takes no place from others.
//!
//! Ticks of a calendar are the wall clock's; whatever is due in so many seconds (a try after a failure, a standby's look, a change's
//! run) is the machine's clock's, which nobody sets. A clock that is set stops nothing: a last run in the future counts as none, and when the
//! wall clock was set back, a tick that is farther away than the next one is due now. So every store runs within one period of its
//! schedule after the clock was set last, and once too often rather than not.

use super::schedule::Schedule;
use crate::support::clock::Now;
use std::collections::BTreeSet;
use std::time::Duration;

/// A store's number in the scheduler.
pub type JobId = usize;

/// After the first failure; doubles from then on.
const BACKOFF_NS: u64 = 60 * 1_000_000_000;
/// Steps that daemons for time make now and then are no reason to run twice.
const STEP_NS: u64 = 5 * 1_000_000_000;

/// What is to be run, and when.
#[derive(Clone, Debug)]
pub struct Job {
    pub schedule: Schedule,
    /// How far behind its schedule this store's ticks are.
    pub slot_ns: u64,
    pub objective_ns: u64,
    /// However often it failed, it is tried again after so long.
    pub backoff_max_ns: u64,
    /// What happened before is not known, so that it is due when it comes here, whenever it ran last.
    pub due_at_once: bool,
}

/// When a job is due by its schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Wall(u64),
    Boot(u64),
}

impl Job {
    /// Its first tick behind `ns`, by the clock that its schedule goes by.
    pub fn tick_after(&self, ns: u64) -> u64 {
        let tick = self.schedule.after(ns.saturating_sub(self.slot_ns));
        // Of one that never comes again.
        tick.map_or(u64::MAX, |tick| tick.saturating_add(self.slot_ns))
    }

    /// When it is due by the wall clock after a run at `last_ns`; now, when that is in the future.
    pub fn due_ns(&self, last_ns: u64, now_ns: u64) -> u64 {
        match self.is_too_far(last_ns, now_ns) {
            true => now_ns,
            false => self.tick_after(last_ns),
        }
    }

    /// Whether a run at `last_ns` would put off the next one beyond the first tick that comes.
    fn is_too_far(&self, last_ns: u64, now_ns: u64) -> bool {
        last_ns > now_ns.saturating_add(STEP_NS)
            && self.tick_after(last_ns) > self.tick_after(now_ns.saturating_add(STEP_NS))
    }

    /// The tick behind a run that began, or whose scan did, at `last`.
    fn due_after(&self, last: Now, now: Now) -> Due {
        match self.schedule.is_by_calendar() {
            true => Due::Wall(self.due_ns(last.wall_ns, now.wall_ns)),
            false => Due::Boot(self.tick_after(last.boot_ns)),
        }
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
    /// Due by the wall clock, by the machine's, or by whichever comes first.
    tick_ns: Option<u64>,
    timer_ns: Option<u64>,
    running: bool,
    asked: bool,
    fenced: bool,
    retired: bool,
    failures: u32,
    last_success_ns: Option<u64>,
    begun: Option<Now>,
    /// Wanted by then, by the machine's clock, whatever the schedule.
    soon_ns: Option<u64>,
}

/// A last run that was none if it lies in the future.
fn past(last_ns: Option<u64>, now: Now) -> Option<u64> {
    last_ns.filter(|last_ns| *last_ns <= now.wall_ns.saturating_add(STEP_NS))
}

/// The state of all stores.
#[derive(Debug)]
pub struct Scheduler {
    jobs: Vec<Job>,
    states: Vec<State>,
    /// Those that wait for their time, by it.
    by_wall: BTreeSet<(u64, JobId)>,
    by_boot: BTreeSet<(u64, JobId)>,
    /// Those whose time has come: not asked for, deadline, number.
    ready: BTreeSet<(bool, u64, JobId)>,
    running: usize,
    at_once: usize,
    /// The wall clock's lead over the machine's, where it was greatest since all ticks were looked at last.
    lead_ns: Option<i128>,
}

impl Scheduler {
    /// `jobs` with the start of the scan of each one's last snapshot; one without is due at once.
    pub fn new(jobs: Vec<(Job, Option<u64>)>, at_once: usize, now: Now) -> Self {
        let mut scheduler = Self {
            jobs: Vec::new(),
            states: Vec::new(),
            by_wall: BTreeSet::new(),
            by_boot: BTreeSet::new(),
            ready: BTreeSet::new(),
            running: 0,
            at_once: at_once.max(1),
            lead_ns: None,
        };
        for (job, last) in jobs {
            scheduler.add(job, last, now);
        }
        scheduler
    }

    /// One more store.
    pub fn add(&mut self, job: Job, last_ns: Option<u64>, now: Now) -> JobId {
        self.look_at_clock(now);
        let id = self.jobs.len();
        let last_ns_or_none = last_ns.filter(|_| !job.due_at_once && job.schedule.is_by_calendar());
        let due_ns = last_ns_or_none.map_or(0, |last_ns| job.due_ns(last_ns, now.wall_ns));
        self.jobs.push(job);
        self.states.push(State { last_success_ns: past(last_ns, now), ..Default::default() });
        self.wait_for(id, Due::Wall(due_ns));
        id
    }

    /// Another schedule; a run that is under way goes on.
    pub fn change(&mut self, id: JobId, job: Job, now: Now) {
        self.look_at_clock(now);
        let (tick_ns, timer_ns) = (self.states[id].tick_ns, self.states[id].timer_ns);
        self.withdraw(id);
        self.jobs[id] = job;
        self.states[id].retired = false;
        let (job, state) = (&self.jobs[id], &self.states[id]);
        if state.running || state.fenced {
            return;
        }
        if state.asked {
            self.ready.insert(self.rank(id));
            return;
        }
        if state.failures > 0 {
            // It waits as it did.
            let waits = tick_ns.map(Due::Wall).into_iter().chain(timer_ns.map(Due::Boot));
            let waits = waits.chain((tick_ns.is_none() && timer_ns.is_none()).then_some(Due::Wall(0)));
            waits.for_each(|due| self.wait_for(id, due));
            return;
        }
        let due = match (job.due_at_once, state.begun, state.last_success_ns) {
            (true, ..) | (_, None, None) => Due::Wall(0),
            (_, Some(begun), _) => job.due_after(begun, now),
            (_, None, Some(last_ns)) if job.schedule.is_by_calendar() => {
                Due::Wall(job.due_ns(last_ns, now.wall_ns))
            }
            (_, None, Some(_)) => Due::Wall(0),
        };
        self.wait_for(id, due);
    }

    /// No more runs of it.
    pub fn retire(&mut self, id: JobId) {
        self.withdraw(id);
        self.states[id].retired = true;
    }

    pub fn set_at_once(&mut self, at_once: usize) {
        self.at_once = at_once.max(1);
    }

    fn wait_for(&mut self, id: JobId, due: Due) {
        match due {
            Due::Wall(ns) => {
                self.states[id].tick_ns = Some(ns);
                self.by_wall.insert((ns, id));
            }
            Due::Boot(ns) => {
                self.states[id].timer_ns = Some(ns);
                self.by_boot.insert((ns, id));
            }
        }
    }

    /// It waits for nothing any more.
    fn withdraw(&mut self, id: JobId) {
        self.ready.remove(&self.rank(id));
        if let Some(ns) = self.states[id].tick_ns.take() {
            self.by_wall.remove(&(ns, id));
        }
        if let Some(ns) = self.states[id].timer_ns.take() {
            self.by_boot.remove(&(ns, id));
        }
    }

    /// After the wall clock was set back: what waits for a tick beyond the next one is due, and who ran last in the future ran never. Looked at
    /// only then, since it takes a look at each.
    fn look_at_clock(&mut self, now: Now) {
        let lead_ns = i128::from(now.wall_ns) - i128::from(now.boot_ns);
        let was_ns = *self.lead_ns.get_or_insert(lead_ns);
        if lead_ns >= was_ns - i128::from(STEP_NS) {
            self.lead_ns = Some(lead_ns.max(was_ns));
            return;
        }
        self.lead_ns = Some(lead_ns);
        let far: Vec<_> = self.by_wall.range((now.wall_ns.saturating_add(1), 0)..).copied().collect();
        for (ns, id) in far {
            if ns > self.jobs[id].tick_after(now.wall_ns.saturating_add(STEP_NS)) {
                self.by_wall.remove(&(ns, id));
                self.wait_for(id, Due::Wall(now.wall_ns));
            }
        }
        for id in 0..self.states.len() {
            let was_ready = self.ready.remove(&self.rank(id));
            self.states[id].last_success_ns = past(self.states[id].last_success_ns, now);
            if was_ready {
                self.ready.insert(self.rank(id));
            }
        }
    }

    /// The next store to run, if one is due and may; it counts as running then.
    pub fn begin(&mut self, now: Now) -> Option<JobId> {
        self.look_at_clock(now);
        loop {
            let tick = self.by_wall.first().copied().filter(|(due_ns, _)| *due_ns <= now.wall_ns);
            let timer = || self.by_boot.first().copied().filter(|(due_ns, _)| *due_ns <= now.boot_ns);
            let Some((_, id)) = tick.or_else(timer) else { break };
            self.withdraw(id);
            self.ready.insert(self.rank(id));
        }
        if self.running >= self.at_once {
            return None;
        }
        let (.., id) = self.ready.pop_first()?;
        let state = &mut self.states[id];
        (state.running, state.asked, state.begun, state.soon_ns) = (true, false, Some(now), None);
        self.running += 1;
        Some(id)
    }

    /// A run ended.
    pub fn end(&mut self, id: JobId, now: Now, outcome: Outcome) {
        self.look_at_clock(now);
        let state = &mut self.states[id];
        if !std::mem::take(&mut state.running) {
            return;
        }
        self.running -= 1;
        match outcome {
            Outcome::Done { scan_start_ns } => {
                state.failures = 0;
                state.last_success_ns = past(Some(scan_start_ns), now);
            }
            Outcome::Held | Outcome::Waiting => state.failures = 0,
            Outcome::Failed => state.failures += 1,
            Outcome::Fenced => state.fenced = true,
        }
        if state.fenced || state.retired {
            return;
        }
        if state.asked {
            self.ready.insert(self.rank(id));
            return;
        }
        let (failures, soon_ns, begun) = (state.failures, state.soon_ns, state.begun.unwrap_or(now));
        if failures > 0 {
            let backoff = BACKOFF_NS.checked_shl(failures - 1).unwrap_or(u64::MAX);
            let backoff = backoff.min(self.jobs[id].backoff_max_ns);
            return self.wait_for(id, Due::Boot(now.boot_ns.saturating_add(backoff)));
        }
        let due = self.jobs[id].due_after(begun, now);
        match (due, soon_ns) {
            (Due::Boot(ns), Some(soon_ns)) => self.wait_for(id, Due::Boot(ns.min(soon_ns))),
            (due, None) => self.wait_for(id, due),
            (due, Some(soon_ns)) => {
                self.wait_for(id, due);
                self.wait_for(id, Due::Boot(soon_ns));
            }
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

    /// Something changed: it is due by then, by the machine's clock. One that fails still waits first.
    pub fn soon(&mut self, id: JobId, boot_ns: u64) {
        let state = &mut self.states[id];
        if state.running {
            state.soon_ns = Some(state.soon_ns.map_or(boot_ns, |soon| soon.min(boot_ns)));
            return;
        }
        let waits = state.tick_ns.is_some() || state.timer_ns.is_some();
        if !waits || state.failures > 0 || state.timer_ns.is_some_and(|timer_ns| timer_ns <= boot_ns) {
            return;
        }
        if let Some(ns) = state.timer_ns.take() {
            self.by_boot.remove(&(ns, id));
        }
        self.wait_for(id, Due::Boot(boot_ns));
    }

    /// When to look again; `None` when only an event can change anything.
    pub fn wake_in(&self, now: Now) -> Option<Duration> {
        if !self.ready.is_empty() && self.running < self.at_once {
            return Some(Duration::ZERO);
        }
        let tick_ns = self.by_wall.first().map(|(due_ns, _)| due_ns.saturating_sub(now.wall_ns));
        let timer_ns = self.by_boot.first().map(|(due_ns, _)| due_ns.saturating_sub(now.boot_ns));
        [tick_ns, timer_ns].into_iter().flatten().min().map(Duration::from_nanos)
    }

    /// When it is due next, by the wall clock; `None` while it runs, and when it is fenced.
    pub fn due_ns(&self, id: JobId, now: Now) -> Option<u64> {
        let state = &self.states[id];
        let in_ns = state.timer_ns.map(|ns| ns.saturating_sub(now.boot_ns).saturating_add(now.wall_ns));
        let next_ns = [state.tick_ns, in_ns].into_iter().flatten().min().unwrap_or(now.wall_ns);
        (!state.running && !state.fenced && !state.retired).then_some(next_ns.max(now.wall_ns))
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
    use proptest::prelude::*;
    use std::io::Write;

    const MINUTE: u64 = 60 * 1_000_000_000;
    const HOUR: u64 = 60 * MINUTE;
    /// 2028-02-01, a leap year; the month ends with the 29th.
    const START: u64 = 1_832_976_000 * 1_000_000_000;

    fn job(expression: &str, objective_ns: u64) -> Job {
        let schedule = Schedule::parse(expression).unwrap();
        Job { schedule, slot_ns: 0, objective_ns, backoff_max_ns: HOUR, due_at_once: false }
    }

    /// By clocks that are never set: the machine started at the first of the tests' days.
    fn at(wall_ns: u64) -> Now {
        Now { wall_ns, boot_ns: wall_ns - (START - 1000 * HOUR) }
    }

    fn boot(wall_ns: u64) -> u64 {
        at(wall_ns).boot_ns
    }

    fn wakes_at(scheduler: &Scheduler, wall_ns: u64) -> Option<u64> {
        scheduler.wake_in(at(wall_ns)).map(|wait| wall_ns + wait.as_nanos() as u64)
    }

    #[test]
    fn runs_that_were_missed_become_one() {
        let last = START - 30 * HOUR;
        let mut scheduler = Scheduler::new(vec![(job("0 * * * *", 2 * HOUR), Some(last))], 1, at(START));
        assert_eq!(scheduler.begin(at(START)), Some(0));
        assert_eq!(scheduler.begin(at(START)), None);
        scheduler.end(0, at(START + MINUTE), Outcome::Done { scan_start_ns: START });
        assert_eq!(scheduler.begin(at(START + MINUTE)), None);
        assert_eq!(wakes_at(&scheduler, START), Some(START + HOUR));
        assert_eq!(scheduler.begin(at(START + HOUR)), Some(0));
    }

    #[test]
    fn ticks_during_a_run_become_one_that_follows() {
        let mut scheduler = Scheduler::new(vec![(job("*/5 * * * *", HOUR), None)], 4, at(START));
        assert_eq!(scheduler.begin(at(START)), Some(0));
        assert_eq!(scheduler.begin(at(START + 17 * MINUTE)), None);
        scheduler.end(0, at(START + 17 * MINUTE), Outcome::Done { scan_start_ns: START });
        assert_eq!(scheduler.begin(at(START + 17 * MINUTE)), Some(0));
        scheduler.end(0, at(START + 18 * MINUTE), Outcome::Done { scan_start_ns: START + 17 * MINUTE });
        assert_eq!(scheduler.begin(at(START + 18 * MINUTE)), None);
        assert_eq!(wakes_at(&scheduler, START), Some(START + 20 * MINUTE));
    }

    #[test]
    fn what_is_asked_for_goes_first_and_then_what_is_nearest_to_its_objective() {
        let jobs = vec![
            (job("0 * * * *", 4 * HOUR), Some(START - 2 * HOUR)),
            (job("0 * * * *", HOUR), Some(START - 2 * HOUR)),
            (job("0 * * * *", HOUR), Some(START - 3 * HOUR)),
            (job("0 * * * *", 9 * HOUR), Some(START - MINUTE)),
        ];
        let mut scheduler = Scheduler::new(jobs, 9, at(START));
        assert!(scheduler.ask(3));
        let order: Vec<_> = std::iter::from_fn(|| scheduler.begin(at(START))).collect();
        assert_eq!(order, [3, 2, 1, 0]);
        // Asked for while it runs: once more.
        assert!(!scheduler.ask(2));
        scheduler.end(2, at(START + MINUTE), Outcome::Done { scan_start_ns: START });
        assert_eq!(scheduler.begin(at(START + MINUTE)), Some(2));
    }

    #[test]
    fn a_change_makes_a_run_due_soon_also_during_one_and_not_while_it_fails() {
        let mut scheduler = Scheduler::new(vec![(job("0 * * * *", HOUR), Some(START))], 1, at(START));
        scheduler.soon(0, boot(START + 5 * MINUTE));
        scheduler.soon(0, boot(START + 9 * MINUTE));
        assert_eq!(wakes_at(&scheduler, START), Some(START + 5 * MINUTE));
        assert_eq!(scheduler.begin(at(START + 5 * MINUTE)), Some(0));
        scheduler.soon(0, boot(START + 6 * MINUTE));
        scheduler.end(0, at(START + 7 * MINUTE), Outcome::Done { scan_start_ns: START + 5 * MINUTE });
        assert_eq!(scheduler.begin(at(START + 7 * MINUTE)), Some(0));
        scheduler.end(0, at(START + 8 * MINUTE), Outcome::Failed);
        scheduler.soon(0, boot(START + 8 * MINUTE));
        assert_eq!(wakes_at(&scheduler, START), Some(START + 9 * MINUTE));
    }

    #[test]
    fn stores_come_change_and_go() {
        let mut scheduler = Scheduler::new(vec![(job("0 * * * *", HOUR), Some(START))], 2, at(START));
        let late = scheduler.add(job("0 * * * *", HOUR), None, at(START));
        assert_eq!(scheduler.begin(at(START)), Some(late));
        // A run that is under way goes on; the new schedule counts from its begin.
        scheduler.change(late, job("*/10 * * * *", HOUR), at(START));
        scheduler.change(0, job("*/30 * * * *", HOUR), at(START));
        assert_eq!(scheduler.begin(at(START + MINUTE)), None);
        scheduler.end(late, at(START + MINUTE), Outcome::Done { scan_start_ns: START });
        assert_eq!(wakes_at(&scheduler, START), Some(START + 10 * MINUTE));
        scheduler.retire(late);
        assert_eq!(scheduler.begin(at(START + 29 * MINUTE)), None);
        assert_eq!(scheduler.begin(at(START + 30 * MINUTE)), Some(0));
        scheduler.retire(0);
        scheduler.end(0, at(START + 31 * MINUTE), Outcome::Failed);
        assert_eq!((wakes_at(&scheduler, START), scheduler.due_ns(0, at(START))), (None, None));
    }

    #[test]
    fn a_store_that_fails_waits_longer_and_is_never_given_up() {
        let mut scheduler = Scheduler::new(vec![(job("0 * * * *", HOUR), None)], 1, at(START));
        let mut now = START;
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            assert_eq!(scheduler.begin(at(now)), Some(0));
            scheduler.end(0, at(now), Outcome::Failed);
            assert_eq!(scheduler.begin(at(now + minutes * MINUTE - 1)), None);
            now += minutes * MINUTE;
        }
        assert_eq!(scheduler.begin(at(now)), Some(0));
        scheduler.end(0, at(now), Outcome::Fenced);
        assert_eq!(scheduler.begin(at(now + 1000 * HOUR)), None);
        scheduler.ask(0);
        assert_eq!(scheduler.begin(at(now + 1000 * HOUR)), Some(0));
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
        let mut scheduler = Scheduler::new(jobs, at_once, at(START));
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
                scheduler.end(id, at(done), outcome);
            }
            while let Some(id) = scheduler.begin(at(now)) {
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
            let wake = wakes_at(&scheduler, now).filter(|_| scheduler.queued() == 0 || running.is_empty());
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
        let _ = writeln!(
            std::io::stdout(),
            "| {} | {} | {} | {} | {} | {} |",
            month.runs,
            month.at_once_max,
            month.busiest_minute,
            share(50),
            share(99),
            share(100)
        );
    }

    #[test]
    fn a_last_run_in_the_future_counts_as_none() {
        let years = 9 * 365 * 24 * HOUR;
        let jobs = vec![(job("0 * * * *", HOUR), Some(START + years)), (job("0 * * * *", HOUR), Some(START))];
        let mut scheduler = Scheduler::new(jobs, 9, at(START + MINUTE));
        assert_eq!(scheduler.begin(at(START + MINUTE)), Some(0));
        assert_eq!(scheduler.begin(at(START + MINUTE)), None);
        // By the log alone, as `status` tells it: it is due now, and not in nine years.
        assert_eq!(job("0 * * * *", HOUR).due_ns(START + years, START), START);
        assert_eq!(job("0 * * * *", HOUR).due_ns(START - MINUTE, START), START);
        // A daemon for time that sets the clock a second back makes no second run.
        assert_eq!(job("0 * * * *", HOUR).due_ns(START, START - MINUTE / 60), START + HOUR);
    }

    #[test]
    fn a_clock_that_is_set_back_under_a_waiting_store_makes_it_due() {
        let mut scheduler = Scheduler::new(vec![(job("0 * * * *", HOUR), Some(START))], 1, at(START));
        let now = |wall_ns: u64, since: u64| Now { wall_ns, boot_ns: boot(START) + since };
        assert_eq!(scheduler.begin(now(START + 6 * HOUR, MINUTE)), Some(0));
        scheduler.end(0, now(START + 6 * HOUR, MINUTE), Outcome::Done { scan_start_ns: START + 6 * HOUR });
        assert_eq!(scheduler.begin(now(START + 6 * HOUR, MINUTE)), None);
        // Six hours back.
        assert_eq!(scheduler.begin(now(START + 2 * MINUTE, 2 * MINUTE)), Some(0));
        scheduler.end(0, now(START + 3 * MINUTE, 3 * MINUTE), Outcome::Failed);
        // It waits for its second try by the machine's clock, wherever the wall's is.
        assert_eq!(scheduler.begin(now(0, 4 * MINUTE - 1)), None);
        assert_eq!(scheduler.begin(now(0, 4 * MINUTE)), Some(0));
    }

    #[test]
    fn a_watched_store_is_due_when_it_comes_whenever_it_ran_last() {
        let watched = Job { due_at_once: true, ..job("0 * * * *", HOUR) };
        let mut scheduler = Scheduler::new(vec![(watched.clone(), Some(START))], 1, at(START + 1));
        assert_eq!(scheduler.begin(at(START + 1)), Some(0));
        scheduler.end(0, at(START + 2), Outcome::Done { scan_start_ns: START + 1 });
        assert_eq!(scheduler.begin(at(START + MINUTE)), None, "once");
        scheduler.change(0, watched, at(START + MINUTE));
        assert_eq!(scheduler.begin(at(START + MINUTE)), Some(0));
    }

    /// What happens to a clock, and a store.
    #[derive(Clone, Debug)]
    enum Act {
        /// The clock is set by so many seconds.
        Set(i64),
        Pass(u64),
        Fail,
        Change,
    }

    fn act() -> impl Strategy<Value = Act> {
        let step = prop_oneof![-20i64..20, -90_000i64..90_000, -400_000_000i64..400_000_000];
        prop_oneof![
            2 => step.prop_map(Act::Set),
            3 => (0u64..7200).prop_map(Act::Pass),
            1 => Just(Act::Fail),
            1 => Just(Act::Change),
        ]
    }

    proptest! {
        #[test]
        fn however_a_clock_is_set_every_store_runs_within_a_period_of_its_last_setting(
            acts in prop::collection::vec(act(), 0..60),
            last in prop::option::of(-400_000_000i64..400_000_000),
            minutes in prop::sample::select(vec![5u64, 60, 240]),
            slot in 0u64..300,
        ) {
            const SECOND: u64 = 1_000_000_000;
            let expression = match minutes { 5 => "*/5 * * * *", 60 => "0 * * * *", _ => "0 */4 * * *" };
            let calendar = Job { slot_ns: slot * SECOND, backoff_max_ns: 5 * MINUTE, ..job(expression, HOUR) };
            let looks = Job { schedule: Schedule::every(30), ..calendar.clone() };
            let shifted = |wall_ns: u64, seconds: i64| wall_ns.saturating_add_signed(seconds * SECOND as i64);
            let mut now = at(START);
            let last_ns = last.map(|last| shifted(START, last));
            let jobs = vec![(calendar.clone(), last_ns), (looks, last_ns), (calendar.clone(), None)];
            let mut scheduler = Scheduler::new(jobs, 1, now);
            let mut since = [now.boot_ns; 3];
            let mut fails = false;
            let run_what_is_due = |scheduler: &mut Scheduler, now: &mut Now, fails: bool, since: &mut [u64; 3]| {
                while let Some(id) = scheduler.begin(*now) {
                    let scan_start_ns = now.wall_ns;
                    (now.wall_ns, now.boot_ns) = (now.wall_ns + SECOND, now.boot_ns + SECOND);
                    let outcome = if fails { Outcome::Failed } else { Outcome::Done { scan_start_ns } };
                    scheduler.end(id, *now, outcome);
                    since[id] = now.boot_ns;
                }
            };
            for act in acts {
                match act {
                    Act::Set(seconds) => now.wall_ns = shifted(now.wall_ns, seconds),
                    Act::Pass(seconds) => (now.wall_ns, now.boot_ns) = (now.wall_ns + seconds * SECOND, now.boot_ns + seconds * SECOND),
                    Act::Fail => fails = !fails,
                    Act::Change => scheduler.change(0, calendar.clone(), now),
                }
                // The daemon looks every 30 seconds.
                run_what_is_due(&mut scheduler, &mut now, fails, &mut since);
            }
            // The clock is not set any more: within a period (and a look) each has run, and runs again in each period that follows.
            let period = minutes * MINUTE + 45 * SECOND;
            for _ in 0..3 {
                let begun = now.boot_ns;
                while now.boot_ns < begun + period {
                    (now.wall_ns, now.boot_ns) = (now.wall_ns + 30 * SECOND, now.boot_ns + 30 * SECOND);
                    run_what_is_due(&mut scheduler, &mut now, false, &mut since);
                }
                for (id, since) in since.iter().enumerate() {
                    prop_assert!(*since >= begun, "store {id} was not run in {minutes} minutes");
                }
            }
        }
    }
}
