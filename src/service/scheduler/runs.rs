//! Decides which stores run now.
//!
//! A store has one run at a time. Ticks that come while it runs, or were missed while the daemon was down,
//! result in one run afterwards. Of the stores that are due, those that an operator asked for run first, then
//! the store that is nearest to its objective or furthest beyond it. A store that fails waits longer each
//! time and is never given up; while it waits it takes no slot from others.
//!
//! Ticks of a calendar follow the wall clock. A time that is a number of seconds away (a retry after a
//! failure, a standby's look, the run after a change) follows the machine's clock, which is never set.
//! Setting the wall clock stops nothing: a last run in the future counts as none, and after the clock was set
//! back, a tick that is farther away than the next one is due now. So every store runs within one period of
//! its schedule after the clock was last set; in doubt it runs once too often rather than not at all.
//!
//! A watched tree is due soon after a change, and its run looks at everything when the last such run is too
//! long ago.

use super::job::{Due, Job, JobId, RunOutcome, STEP, past};
use crate::support::clock::{BootNanos, Now, UnixNanos, nanos};
use std::collections::BTreeSet;
use std::time::Duration;

/// Wait after the first failure; doubles from then on.
const BACKOFF: Duration = Duration::from_secs(60);

/// A run to be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub id: JobId,
    /// Whether the run looks at everything, whatever changes were reported.
    pub is_full: bool,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// The store is due by the wall clock (`tick`), by the machine's clock (`timer`), or by whichever
    /// comes first.
    tick: Option<UnixNanos>,
    timer: Option<BootNanos>,
    running: bool,
    asked: bool,
    fenced: bool,
    retired: bool,
    failures: u32,
    last_success: Option<UnixNanos>,
    begun: Option<Now>,
    /// Start of the last run that looked at everything, by the machine's clock.
    last_full: Option<BootNanos>,
    /// A time by the machine's clock at which a run is due in addition to the schedule.
    soon: Option<BootNanos>,
}

/// The place of a run among those that are ready: runs that were asked for come first, then the earliest
/// deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_unasked: bool,
    deadline: UnixNanos,
    job: JobId,
}

/// The runs of all stores.
#[derive(Debug)]
pub(super) struct Runs {
    jobs: Vec<Job>,
    states: Vec<State>,
    /// The stores that wait, sorted by the time when they are due.
    by_wall: BTreeSet<(UnixNanos, JobId)>,
    by_boot: BTreeSet<(BootNanos, JobId)>,
    /// The stores that are due.
    ready: BTreeSet<Rank>,
    running: usize,
    at_once: usize,
    /// The wall clock's lead over the machine's clock: its maximum since all ticks were last checked.
    lead_ns: Option<i128>,
}

impl Runs {
    pub fn new(at_once: usize) -> Self {
        Self {
            jobs: Vec::new(),
            states: Vec::new(),
            by_wall: BTreeSet::new(),
            by_boot: BTreeSet::new(),
            ready: BTreeSet::new(),
            running: 0,
            at_once: at_once.max(1),
            lead_ns: None,
        }
    }

    /// Adds a store.
    pub fn add(&mut self, job: Job, last: Option<UnixNanos>, now: Now) -> JobId {
        self.look_at_clock(now);
        let id = self.jobs.len();
        let by_calendar = last.filter(|_| !job.due_at_once && job.schedule.is_by_calendar());
        let due = by_calendar.map_or(UnixNanos::EPOCH, |last| job.due(last, now.wall));
        self.jobs.push(job);
        self.states.push(State { last_success: past(last, now), ..Default::default() });
        self.wait_for(id, Due::Wall(due));
        id
    }

    /// Changes a store's schedule; a run that is under way continues.
    pub fn change(&mut self, id: JobId, job: Job, now: Now) {
        self.look_at_clock(now);
        let (tick, timer) = (self.states[id].tick, self.states[id].timer);
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
            // The store continues to wait for the same time.
            let waits = tick.map(Due::Wall).into_iter().chain(timer.map(Due::Boot));
            let waits =
                waits.chain((tick.is_none() && timer.is_none()).then_some(Due::Wall(UnixNanos::EPOCH)));
            waits.for_each(|due| self.wait_for(id, due));
            return;
        }
        let due = match (job.due_at_once, state.begun, state.last_success) {
            (true, ..) | (_, None, None) => Due::Wall(UnixNanos::EPOCH),
            (_, Some(begun), _) => job.due_after(begun, now),
            (_, None, Some(last)) if job.schedule.is_by_calendar() => Due::Wall(job.due(last, now.wall)),
            (_, None, Some(_)) => Due::Wall(UnixNanos::EPOCH),
        };
        self.wait_for(id, due);
    }

    /// Removes a store: it has no more runs.
    pub fn retire(&mut self, id: JobId) {
        self.withdraw(id);
        self.states[id].retired = true;
    }

    pub(crate) fn set_at_once(&mut self, at_once: usize) {
        self.at_once = at_once.max(1);
    }

    fn wait_for(&mut self, id: JobId, due: Due) {
        match due {
            Due::Wall(tick) => {
                self.states[id].tick = Some(tick);
                self.by_wall.insert((tick, id));
            }
            Due::Boot(timer) => {
                self.states[id].timer = Some(timer);
                self.by_boot.insert((timer, id));
            }
        }
    }

    /// Removes a store from all queues.
    fn withdraw(&mut self, id: JobId) {
        self.ready.remove(&self.rank(id));
        if let Some(tick) = self.states[id].tick.take() {
            self.by_wall.remove(&(tick, id));
        }
        if let Some(timer) = self.states[id].timer.take() {
            self.by_boot.remove(&(timer, id));
        }
    }

    /// Corrects the state after the wall clock was set back.
    ///
    /// A store that waits for a tick beyond the next one becomes due, and a last run in the future counts as
    /// none. Done only after such a step, since it visits every store.
    fn look_at_clock(&mut self, now: Now) {
        let lead_ns = i128::from(now.wall.0) - i128::from(now.boot.0);
        let was_ns = *self.lead_ns.get_or_insert(lead_ns);
        if lead_ns >= was_ns - i128::from(nanos(STEP)) {
            self.lead_ns = Some(lead_ns.max(was_ns));
            return;
        }
        self.lead_ns = Some(lead_ns);
        let far: Vec<_> = self.by_wall.range((now.wall, JobId::MAX)..).copied().collect();
        for (tick, id) in far {
            if tick > self.jobs[id].tick_after(now.wall.plus(STEP)) {
                self.by_wall.remove(&(tick, id));
                self.wait_for(id, Due::Wall(now.wall));
            }
        }
        for id in 0..self.states.len() {
            let was_ready = self.ready.remove(&self.rank(id));
            self.states[id].last_success = past(self.states[id].last_success, now);
            if was_ready {
                self.ready.insert(self.rank(id));
            }
        }
    }

    /// Returns the next store to run, if one is due and may run, and counts it as running.
    pub fn begin(&mut self, now: Now) -> Option<Run> {
        self.look_at_clock(now);
        loop {
            let tick = self.by_wall.first().filter(|(due, _)| *due <= now.wall).map(|(_, id)| *id);
            let timer = || self.by_boot.first().filter(|(due, _)| *due <= now.boot).map(|(_, id)| *id);
            let Some(id) = tick.or_else(timer) else { break };
            self.withdraw(id);
            self.ready.insert(self.rank(id));
        }
        if self.running >= self.at_once {
            return None;
        }
        let id = self.ready.pop_first()?.job;
        let (job, state) = (&self.jobs[id], &mut self.states[id]);
        (state.running, state.asked, state.begun, state.soon) = (true, false, Some(now), None);
        self.running += 1;
        let is_recent = |last: BootNanos, full_scan: Duration| now.boot.since(last) < full_scan;
        let by_hints =
            job.watch.zip(state.last_full).is_some_and(|(watch, last)| is_recent(last, watch.full_scan));
        Some(Run { id, is_full: !by_hints })
    }

    /// Records the end of a run.
    pub(crate) fn end(&mut self, id: JobId, now: Now, outcome: RunOutcome) {
        self.look_at_clock(now);
        let state = &mut self.states[id];
        if !std::mem::take(&mut state.running) {
            return;
        }
        self.running -= 1;
        match outcome {
            RunOutcome::Done { scan_start, is_full } => {
                state.failures = 0;
                state.last_success = past(Some(scan_start), now);
                if is_full {
                    state.last_full = state.begun.map(|begun| begun.boot);
                }
            }
            RunOutcome::Held | RunOutcome::Waiting => state.failures = 0,
            RunOutcome::Failed => state.failures += 1,
            RunOutcome::Fenced => state.fenced = true,
        }
        if state.fenced || state.retired {
            return;
        }
        if state.asked {
            self.ready.insert(self.rank(id));
            return;
        }
        let (failures, soon, begun) = (state.failures, state.soon, state.begun.unwrap_or(now));
        if failures > 0 {
            let backoff = BACKOFF.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
            let backoff = backoff.min(self.jobs[id].backoff_max);
            return self.wait_for(id, Due::Boot(now.boot.plus(backoff)));
        }
        let due = self.jobs[id].due_after(begun, now);
        match (due, soon) {
            (Due::Boot(timer), Some(soon)) => self.wait_for(id, Due::Boot(timer.min(soon))),
            (due, None) => self.wait_for(id, due),
            (due, Some(soon)) => {
                self.wait_for(id, due);
                self.wait_for(id, Due::Boot(soon));
            }
        }
    }

    /// Asks for a run now. Returns false when the store is running; then it runs once more after that.
    pub(crate) fn ask(&mut self, id: JobId) -> bool {
        self.withdraw(id);
        self.states[id].asked = true;
        self.states[id].fenced = false;
        if !self.states[id].running {
            self.ready.insert(self.rank(id));
        }
        !self.states[id].running
    }

    /// Marks whether another host is the primary; the store has no runs meanwhile. Once unfenced, it runs
    /// when [`Self::change`] is called.
    pub(crate) fn set_fenced(&mut self, id: JobId, is_fenced: bool) {
        if is_fenced {
            self.withdraw(id);
        }
        self.states[id].fenced = is_fenced;
    }

    /// Records a change: the store is due within its debounce time. A store that failed still waits for its
    /// retry.
    pub(crate) fn changed(&mut self, id: JobId, now: Now) {
        let debounce = self.jobs[id].watch.map_or(Duration::ZERO, |watch| watch.debounce);
        if !debounce.is_zero() {
            self.soon(id, now.boot.plus(debounce));
        }
    }

    fn soon(&mut self, id: JobId, boot: BootNanos) {
        let state = &mut self.states[id];
        if state.running {
            state.soon = Some(state.soon.map_or(boot, |soon| soon.min(boot)));
            return;
        }
        let waits = state.tick.is_some() || state.timer.is_some();
        if !waits || state.failures > 0 || state.timer.is_some_and(|timer| timer <= boot) {
            return;
        }
        if let Some(timer) = state.timer.take() {
            self.by_boot.remove(&(timer, id));
        }
        self.wait_for(id, Due::Boot(boot));
    }

    /// Returns when to look again; `None` when only an event can change anything.
    pub(crate) fn wake_in(&self, now: Now) -> Option<Duration> {
        if !self.ready.is_empty() && self.running < self.at_once {
            return Some(Duration::ZERO);
        }
        let tick = self.by_wall.first().map(|(due, _)| due.since(now.wall));
        let timer = self.by_boot.first().map(|(due, _)| due.since(now.boot));
        [tick, timer].into_iter().flatten().min()
    }

    /// Returns when a run is due next, by the wall clock; `None` while it runs, and when it is fenced.
    pub(crate) fn due(&self, id: JobId, now: Now) -> Option<UnixNanos> {
        let state = &self.states[id];
        let timer = state.timer.map(|timer| now.wall.plus(timer.since(now.boot)));
        let next = [state.tick, timer].into_iter().flatten().min().unwrap_or(now.wall);
        (!state.running && !state.fenced && !state.retired).then_some(next.max(now.wall))
    }

    pub(crate) fn failures(&self, id: JobId) -> u32 {
        self.states[id].failures
    }

    /// Returns the number of stores that are due and do not run yet.
    pub(crate) fn queued(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn running(&self) -> usize {
        self.running
    }

    fn rank(&self, id: JobId) -> Rank {
        let state = &self.states[id];
        let deadline = state.last_success.map_or(UnixNanos::EPOCH, |last| last.plus(self.jobs[id].objective));
        Rank { is_unasked: !state.asked, deadline, job: id }
    }
}
