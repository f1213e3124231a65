//! The scheduler's promises, by examples and by random sequences of events.

use super::*;
use crate::service::schedule::{Schedule, slot};
use crate::support::clock::{BootNanos, UnixNanos, nanos};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::io::Write;

const MINUTE: u64 = 60 * 1_000_000_000;
const HOUR: u64 = 60 * MINUTE;
/// 2028-02-01: in a leap year, so the month ends with the 29th.
const START: u64 = 1_832_976_000 * 1_000_000_000;

fn job(expression: &str, objective_ns: u64) -> Job {
    let schedule = Schedule::parse(expression).unwrap();
    Job {
        schedule,
        slot: Duration::ZERO,
        objective: Duration::from_nanos(objective_ns),
        backoff_max: Duration::from_nanos(HOUR),
        due_at_once: false,
        watch: None,
    }
}

fn watched(debounce_ns: u64, full_scan_ns: u64) -> Job {
    let watch = WatchTimes {
        debounce: Duration::from_nanos(debounce_ns),
        full_scan: Duration::from_nanos(full_scan_ns),
    };
    Job { watch: Some(watch), ..job("0 * * * *", HOUR) }
}

/// Returns a scheduler without upkeep.
fn with_jobs(jobs: Vec<(Job, Option<u64>)>, at_once: usize, now: Now) -> Scheduler {
    let mut scheduler = Scheduler::new(at_once, None);
    for (job, last_ns) in jobs {
        scheduler.add(job, last_ns.map(UnixNanos), now);
    }
    scheduler
}

fn begin(scheduler: &mut Scheduler, now: Now) -> Option<JobId> {
    scheduler.begin_run(now).map(|run| run.id)
}

fn done(scan_start_ns: u64) -> RunOutcome {
    RunOutcome::Done { scan_start: UnixNanos(scan_start_ns), is_full: true }
}

/// Returns a moment by clocks that are never set; the machine started on the first of the tests' days.
fn at(wall_ns: u64) -> Now {
    Now { wall: UnixNanos(wall_ns), boot: BootNanos(wall_ns - (START - 1000 * HOUR)) }
}

fn boot(wall_ns: u64) -> u64 {
    at(wall_ns).boot.0
}

fn wakes_at(scheduler: &Scheduler, wall_ns: u64) -> Option<u64> {
    scheduler.wake_in(at(wall_ns)).map(|wait| wall_ns + nanos(wait))
}

#[test]
fn runs_that_were_missed_become_one() {
    let last = START - 30 * HOUR;
    let mut scheduler = with_jobs(vec![(job("0 * * * *", 2 * HOUR), Some(last))], 1, at(START));
    assert_eq!(begin(&mut scheduler, at(START)), Some(0));
    assert_eq!(begin(&mut scheduler, at(START)), None);
    scheduler.end_run(0, at(START + MINUTE), done(START));
    assert_eq!(begin(&mut scheduler, at(START + MINUTE)), None);
    assert_eq!(wakes_at(&scheduler, START), Some(START + HOUR));
    assert_eq!(begin(&mut scheduler, at(START + HOUR)), Some(0));
}

#[test]
fn ticks_during_a_run_become_one_that_follows() {
    let mut scheduler = with_jobs(vec![(job("*/5 * * * *", HOUR), None)], 4, at(START));
    assert_eq!(begin(&mut scheduler, at(START)), Some(0));
    assert_eq!(begin(&mut scheduler, at(START + 17 * MINUTE)), None);
    scheduler.end_run(0, at(START + 17 * MINUTE), done(START));
    assert_eq!(begin(&mut scheduler, at(START + 17 * MINUTE)), Some(0));
    scheduler.end_run(0, at(START + 18 * MINUTE), done(START + 17 * MINUTE));
    assert_eq!(begin(&mut scheduler, at(START + 18 * MINUTE)), None);
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
    let mut scheduler = with_jobs(jobs, 9, at(START));
    assert!(scheduler.ask(3));
    let order: Vec<_> = std::iter::from_fn(|| begin(&mut scheduler, at(START))).collect();
    assert_eq!(order, [3, 2, 1, 0]);
    // A run that is asked for while one is running follows it.
    assert!(!scheduler.ask(2));
    scheduler.end_run(2, at(START + MINUTE), done(START));
    assert_eq!(begin(&mut scheduler, at(START + MINUTE)), Some(2));
}

#[test]
fn a_change_makes_a_run_due_soon_also_during_one_and_not_while_it_fails() {
    let mut scheduler = with_jobs(vec![(watched(5 * MINUTE, HOUR), Some(START))], 1, at(START));
    scheduler.changed(0, at(START));
    scheduler.changed(0, at(START + 4 * MINUTE));
    assert_eq!(wakes_at(&scheduler, START), Some(START + 5 * MINUTE));
    assert_eq!(begin(&mut scheduler, at(START + 5 * MINUTE)), Some(0));
    scheduler.changed(0, at(START + 5 * MINUTE));
    scheduler.end_run(0, at(START + 6 * MINUTE), done(START + 5 * MINUTE));
    assert_eq!(begin(&mut scheduler, at(START + 9 * MINUTE)), None);
    assert_eq!(begin(&mut scheduler, at(START + 10 * MINUTE)), Some(0));
    // A change during a run that takes longer than the debounce: the next run follows at once.
    scheduler.changed(0, at(START + 10 * MINUTE));
    scheduler.end_run(0, at(START + 17 * MINUTE), done(START + 10 * MINUTE));
    assert_eq!(begin(&mut scheduler, at(START + 17 * MINUTE)), Some(0));
    scheduler.end_run(0, at(START + 18 * MINUTE), RunOutcome::Failed);
    scheduler.changed(0, at(START + 13 * MINUTE + 1));
    assert_eq!(wakes_at(&scheduler, START), Some(START + 19 * MINUTE));
}

#[test]
fn what_is_not_watched_is_due_by_no_change() {
    for job in [job("0 * * * *", HOUR), watched(0, HOUR)] {
        let mut scheduler = with_jobs(vec![(job, Some(START))], 1, at(START));
        scheduler.changed(0, at(START));
        assert_eq!(wakes_at(&scheduler, START), Some(START + HOUR));
    }
}

#[test]
fn everything_is_looked_at_first_and_when_the_last_such_run_is_too_long_ago() {
    let mut scheduler = with_jobs(vec![(watched(MINUTE, 3 * HOUR), Some(START - 1))], 1, at(START));
    let mut fulls = Vec::new();
    for hour in 0..9 {
        let run = scheduler.begin_run(at(START + hour * HOUR)).unwrap();
        fulls.push(run.is_full);
        // The fourth run fails; the sixth looks at everything although it need not.
        let outcome = match hour {
            3 => RunOutcome::Failed,
            hour => RunOutcome::Done {
                scan_start: UnixNanos(START + hour * HOUR),
                is_full: run.is_full || hour == 5,
            },
        };
        scheduler.end_run(0, at(START + hour * HOUR + MINUTE), outcome);
    }
    assert_eq!(fulls, [true, false, false, true, true, false, false, false, true]);
    // A store that is not watched looks at everything each time.
    let mut scheduler = with_jobs(vec![(job("0 * * * *", HOUR), None)], 1, at(START));
    scheduler.begin_run(at(START));
    scheduler.end_run(0, at(START), done(START));
    assert!(scheduler.begin_run(at(START + HOUR)).unwrap().is_full);
}

#[test]
fn stores_come_change_and_go() {
    let mut scheduler = with_jobs(vec![(job("0 * * * *", HOUR), Some(START))], 2, at(START));
    let late = scheduler.add(job("0 * * * *", HOUR), None, at(START));
    assert_eq!(begin(&mut scheduler, at(START)), Some(late));
    // A run that is under way continues; the new schedule counts from its start.
    scheduler.change(late, job("*/10 * * * *", HOUR), at(START));
    scheduler.change(0, job("*/30 * * * *", HOUR), at(START));
    assert_eq!(begin(&mut scheduler, at(START + MINUTE)), None);
    scheduler.end_run(late, at(START + MINUTE), done(START));
    assert_eq!(wakes_at(&scheduler, START), Some(START + 10 * MINUTE));
    scheduler.retire(late);
    assert_eq!(begin(&mut scheduler, at(START + 29 * MINUTE)), None);
    assert_eq!(begin(&mut scheduler, at(START + 30 * MINUTE)), Some(0));
    scheduler.retire(0);
    scheduler.end_run(0, at(START + 31 * MINUTE), RunOutcome::Failed);
    assert_eq!((wakes_at(&scheduler, START), scheduler.due(0, at(START))), (None, None));
}

#[test]
fn a_store_that_fails_waits_longer_and_is_never_given_up() {
    let mut scheduler = with_jobs(vec![(job("0 * * * *", HOUR), None)], 1, at(START));
    let mut now = START;
    for minutes in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
        assert_eq!(begin(&mut scheduler, at(now)), Some(0));
        scheduler.end_run(0, at(now), RunOutcome::Failed);
        assert_eq!(begin(&mut scheduler, at(now + minutes * MINUTE - 1)), None);
        now += minutes * MINUTE;
    }
    assert_eq!(begin(&mut scheduler, at(now)), Some(0));
    scheduler.end_run(0, at(now), RunOutcome::Fenced);
    assert_eq!(begin(&mut scheduler, at(now + 1000 * HOUR)), None);
    scheduler.ask(0);
    assert_eq!(begin(&mut scheduler, at(now + 1000 * HOUR)), Some(0));
}

#[test]
fn however_often_a_store_failed_it_waits() {
    let mut scheduler = with_jobs(vec![(job("0 * * * *", HOUR), None)], 1, at(START));
    for failures in 0..70 {
        let now = START + failures * HOUR;
        assert_eq!(begin(&mut scheduler, at(now)), Some(0));
        scheduler.end_run(0, at(now), RunOutcome::Failed);
        assert_eq!(begin(&mut scheduler, at(now + MINUTE - 1)), None, "after {failures} failures");
    }
}

/// Statistics of a simulated month of many stores.
pub(crate) struct Month {
    pub runs: u64,
    pub at_once_max: usize,
    pub busiest_minute: u64,
    pub lags_ns: Vec<u64>,
    pub longest_wait_ns: u64,
}

/// Simulates a month. Every tenth store fails now and then, and some always; runs take a random time between
/// one second and a few minutes.
pub(crate) fn month(stores: usize, at_once: usize) -> Month {
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
            let slot = slot(&format!("store-{number}"), Duration::from_nanos(jitter));
            (Job { slot, ..job(expression, objective_ns) }, Some(START - (roll() % (2 * HOUR))))
        })
        .collect();
    let objectives: Vec<_> = jobs.iter().map(|(job, _)| nanos(job.objective)).collect();
    let mut last: Vec<u64> = jobs.iter().map(|(_, last)| last.unwrap()).collect();
    let mut scheduler = with_jobs(jobs, at_once, at(START));
    let mut running: BTreeSet<(u64, JobId, u64)> = BTreeSet::new();
    let mut is_running = vec![false; stores];
    let mut month =
        Month { runs: 0, at_once_max: 0, busiest_minute: 0, lags_ns: Vec::new(), longest_wait_ns: 0 };
    let (mut minute, mut in_minute) = (0, 0);
    let mut now = START;
    let month_end = START + 29 * 24 * HOUR;
    while now < month_end {
        while let Some((end, id, begun)) = running.first().copied().filter(|(end, ..)| *end <= now) {
            running.remove(&(end, id, begun));
            is_running[id] = false;
            let fails = id % 100 == 13 || (id % 10 == 3 && roll() % 20 == 0);
            let outcome = if fails { RunOutcome::Failed } else { done(begun) };
            if !fails {
                month.lags_ns.push(end - last[id]);
                last[id] = begun;
            }
            scheduler.end_run(id, at(end), outcome);
        }
        while let Some(id) = begin(&mut scheduler, at(now)) {
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
                month.longest_wait_ns.max((month_end - last).saturating_sub(objectives[id]));
        }
    }
    month
}

#[test]
fn in_a_month_of_a_thousand_stores_no_run_is_missed_and_none_starves() {
    let mut month = month(1000, 8);
    // 29 days with 6 or 24 runs a day each, except for the ten that always fail; some runs are repeated.
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
    let mut scheduler = with_jobs(jobs, 9, at(START + MINUTE));
    assert_eq!(begin(&mut scheduler, at(START + MINUTE)), Some(0));
    assert_eq!(begin(&mut scheduler, at(START + MINUTE)), None);
    // By the log alone, as `status` shows it: the store is due now, not in nine years.
    let due = |last_ns, now_ns| job("0 * * * *", HOUR).due(UnixNanos(last_ns), UnixNanos(now_ns)).0;
    assert_eq!(due(START + years, START), START);
    assert_eq!(due(START - MINUTE, START), START);
    // A time daemon that sets the clock back by a second causes no second run.
    assert_eq!(due(START, START - MINUTE / 60), START + HOUR);
}

#[test]
fn a_clock_that_is_set_back_under_a_waiting_store_makes_it_due() {
    let mut scheduler = with_jobs(vec![(job("0 * * * *", HOUR), Some(START))], 1, at(START));
    let now =
        |wall_ns: u64, since: u64| Now { wall: UnixNanos(wall_ns), boot: BootNanos(boot(START) + since) };
    assert_eq!(begin(&mut scheduler, now(START + 6 * HOUR, MINUTE)), Some(0));
    scheduler.end_run(0, now(START + 6 * HOUR, MINUTE), done(START + 6 * HOUR));
    assert_eq!(begin(&mut scheduler, now(START + 6 * HOUR, MINUTE)), None);
    // The clock is set back by six hours.
    assert_eq!(begin(&mut scheduler, now(START + 2 * MINUTE, 2 * MINUTE)), Some(0));
    scheduler.end_run(0, now(START + 3 * MINUTE, 3 * MINUTE), RunOutcome::Failed);
    // The store waits for its retry by the machine's clock, wherever the wall clock is.
    assert_eq!(begin(&mut scheduler, now(0, 4 * MINUTE - 1)), None);
    assert_eq!(begin(&mut scheduler, now(0, 4 * MINUTE)), Some(0));
}

#[test]
fn a_watched_store_is_due_when_it_comes_whenever_it_ran_last() {
    let new = Job { due_at_once: true, ..job("0 * * * *", HOUR) };
    let mut scheduler = with_jobs(vec![(new.clone(), Some(START))], 1, at(START + 1));
    assert_eq!(begin(&mut scheduler, at(START + 1)), Some(0));
    scheduler.end_run(0, at(START + 2), done(START + 1));
    assert_eq!(begin(&mut scheduler, at(START + MINUTE)), None, "once");
    scheduler.change(0, new, at(START + MINUTE));
    assert_eq!(begin(&mut scheduler, at(START + MINUTE)), Some(0));
}

/// An event of a clock or a store.
#[derive(Clone, Debug)]
enum Act {
    /// The clock is set by this number of seconds.
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
        let calendar = Job { slot: Duration::from_secs(slot), backoff_max: Duration::from_mins(5), ..job(expression, HOUR) };
        let looks = Job { schedule: Schedule::every(30), ..calendar.clone() };
        let shifted = |wall_ns: u64, seconds: i64| wall_ns.saturating_add_signed(seconds * SECOND as i64);
        let mut now = at(START);
        let last_ns = last.map(|last| shifted(START, last));
        let jobs = vec![(calendar.clone(), last_ns), (looks, last_ns), (calendar.clone(), None)];
        let mut scheduler = with_jobs(jobs, 1, now);
        let mut since = [now.boot.0; 3];
        let mut fails = false;
        let run_what_is_due = |scheduler: &mut Scheduler, now: &mut Now, fails: bool, since: &mut [u64; 3]| {
            while let Some(id) = begin(scheduler, *now) {
                let scan_start_ns = now.wall.0;
                (now.wall.0, now.boot.0) = (now.wall.0 + SECOND, now.boot.0 + SECOND);
                let outcome = if fails { RunOutcome::Failed } else { done(scan_start_ns) };
                scheduler.end_run(id, *now, outcome);
                since[id] = now.boot.0;
            }
        };
        for act in acts {
            match act {
                Act::Set(seconds) => now.wall.0 = shifted(now.wall.0, seconds),
                Act::Pass(seconds) => (now.wall.0, now.boot.0) = (now.wall.0 + seconds * SECOND, now.boot.0 + seconds * SECOND),
                Act::Fail => fails = !fails,
                Act::Change => scheduler.change(0, calendar.clone(), now),
            }
            // The daemon looks every 30 seconds.
            run_what_is_due(&mut scheduler, &mut now, fails, &mut since);
        }
        // The clock is not set any more: each store has run within a period and a look, and runs again in
        // each following period.
        let period = minutes * MINUTE + 45 * SECOND;
        for _ in 0..3 {
            let begun = now.boot.0;
            while now.boot.0 < begun + period {
                (now.wall.0, now.boot.0) = (now.wall.0 + 30 * SECOND, now.boot.0 + 30 * SECOND);
                run_what_is_due(&mut scheduler, &mut now, false, &mut since);
            }
            for (id, since) in since.iter().enumerate() {
                prop_assert!(*since >= begun, "store {id} was not run in {minutes} minutes");
            }
        }
    }
}

const UPKEEP: UpkeepTimes = UpkeepTimes { first: Duration::from_mins(1), period: Duration::from_mins(15) };

#[test]
fn upkeep_comes_in_turns_one_store_at_a_time_beside_the_runs() {
    let mut scheduler = Scheduler::new(1, Some(UPKEEP));
    let ids: Vec<_> = (0..3).map(|_| scheduler.add(job("0 * * * *", HOUR), None, at(START))).collect();
    assert_eq!(begin(&mut scheduler, at(START)), Some(0));
    assert_eq!(scheduler.begin_upkeep(at(START + MINUTE - 1)), None);
    // Upkeep happens during the store's own run, and however many slots runs have.
    for id in ids {
        assert_eq!(scheduler.begin_upkeep(at(START + MINUTE)), Some(id));
        assert_eq!(scheduler.begin_upkeep(at(START + MINUTE)), None, "one at a time");
        scheduler.end_upkeep(id, at(START + MINUTE));
    }
    assert_eq!(scheduler.begin_upkeep(at(START + 16 * MINUTE - 1)), None);
    assert_eq!(scheduler.begin_upkeep(at(START + 16 * MINUTE)), Some(0));
    // A store that an operator holds gets its upkeep as well.
    scheduler.suspend_runs(1);
    scheduler.end_upkeep(0, at(START + 17 * MINUTE));
    assert_eq!(scheduler.begin_upkeep(at(START + 17 * MINUTE)), Some(1));
    // A removed store gets none, also when it was removed during its turn.
    scheduler.retire(1);
    scheduler.retire(2);
    scheduler.end_upkeep(1, at(START + 18 * MINUTE));
    assert_eq!(scheduler.begin_upkeep(at(START + 31 * MINUTE)), None);
    assert_eq!(scheduler.begin_upkeep(at(START + 32 * MINUTE)), Some(0));
    // A store that is added again during its turn waits for the next one.
    scheduler.retire(0);
    scheduler.change(0, job("0 * * * *", HOUR), at(START + 33 * MINUTE));
    scheduler.end_upkeep(0, at(START + 34 * MINUTE));
    assert_eq!(scheduler.begin_upkeep(at(START + 49 * MINUTE)), Some(0));
}

#[test]
fn a_period_that_is_changed_counts_at_once() {
    let mut scheduler = Scheduler::new(1, Some(UPKEEP));
    scheduler.add(job("0 * * * *", HOUR), Some(UnixNanos(START)), at(START));
    scheduler.set_upkeep_times(UpkeepTimes { period: Duration::from_secs(1), ..UPKEEP });
    assert_eq!(wakes_at(&scheduler, START), Some(START + MINUTE / 60));
    assert_eq!(scheduler.begin_upkeep(at(START + MINUTE / 60)), Some(0));
    scheduler.end_upkeep(0, at(START + MINUTE));
    scheduler.set_upkeep_times(UPKEEP);
    assert_eq!(scheduler.begin_upkeep(at(START + 16 * MINUTE - 1)), None);
    assert_eq!(scheduler.begin_upkeep(at(START + 16 * MINUTE)), Some(0));
    // A scheduler without upkeep begins none.
    let mut scheduler = with_jobs(vec![(job("0 * * * *", HOUR), Some(START))], 1, at(START));
    scheduler.set_upkeep_times(UPKEEP);
    assert_eq!(scheduler.begin_upkeep(at(START + 100 * HOUR)), None);
}

/// Any event of three stores, except for the runs and upkeep themselves.
#[derive(Clone, Debug)]
enum Happening {
    Pass(u64),
    SetClock(i64),
    Come(JobId),
    Leave(JobId),
    Hold(JobId),
    Ask(JobId),
    Touch(JobId),
    SetPeriod(u64),
    EndRuns { fails: bool },
    EndUpkeep,
}

fn happening() -> impl Strategy<Value = Happening> {
    let id = || 0..3usize;
    prop_oneof![
        4 => (0u64..1800).prop_map(Happening::Pass),
        1 => (-400_000i64..400_000).prop_map(Happening::SetClock),
        2 => id().prop_map(Happening::Come),
        1 => id().prop_map(Happening::Leave),
        1 => id().prop_map(Happening::Hold),
        1 => id().prop_map(Happening::Ask),
        3 => id().prop_map(Happening::Touch),
        1 => (1u64..3600).prop_map(Happening::SetPeriod),
        4 => any::<bool>().prop_map(|fails| Happening::EndRuns { fails }),
        3 => Just(Happening::EndUpkeep),
    ]
}

const SECOND: u64 = 1_000_000_000;
const DEBOUNCE: u64 = 30 * SECOND;
const FULL_SCAN: u64 = 2 * HOUR;

/// Three stores, and what the test knows of them.
struct Scene {
    scheduler: Scheduler,
    now: Now,
    period: Duration,
    here: BTreeSet<JobId>,
    held: BTreeSet<JobId>,
    running: BTreeSet<JobId>,
    upkeep: Option<JobId>,
    last_full_ns: [Option<u64>; 3],
    /// Everything that was begun; a run has `Some` with whether it looks at everything.
    begun: Vec<(JobId, Option<bool>, Now)>,
}

impl Scene {
    fn new(at_once: usize, upkeep: bool) -> Self {
        let mut scheduler = Scheduler::new(at_once, upkeep.then_some(UPKEEP));
        for _ in 0..3 {
            scheduler.add(watched(DEBOUNCE, FULL_SCAN), Some(UnixNanos(START)), at(START));
        }
        Self {
            scheduler,
            now: at(START),
            period: UPKEEP.period,
            here: (0..3).collect(),
            held: BTreeSet::new(),
            running: BTreeSet::new(),
            upkeep: None,
            last_full_ns: [None; 3],
            begun: Vec::new(),
        }
    }

    fn happens(&mut self, what: &Happening) {
        let now = self.now;
        match *what {
            Happening::Pass(seconds) => self.pass(seconds * SECOND),
            Happening::SetClock(seconds) => {
                self.now.wall.0 = now.wall.0.saturating_add_signed(seconds * SECOND as i64);
            }
            Happening::Come(id) => {
                self.scheduler.change(id, watched(DEBOUNCE, FULL_SCAN), now);
                self.here.insert(id);
                self.held.remove(&id);
            }
            Happening::Leave(id) => {
                self.scheduler.retire(id);
                self.here.remove(&id);
            }
            Happening::Hold(id) => {
                self.scheduler.suspend_runs(id);
                self.held.insert(id);
            }
            // The board asks only for stores that are present and free.
            Happening::Ask(id) if self.is_free(id) => drop(self.scheduler.ask(id)),
            Happening::Touch(id) if self.is_free(id) => self.scheduler.changed(id, now),
            Happening::Ask(_) | Happening::Touch(_) => {}
            Happening::SetPeriod(seconds) => {
                self.period = Duration::from_secs(seconds);
                self.scheduler.set_upkeep_times(UpkeepTimes { period: self.period, ..UPKEEP });
            }
            Happening::EndRuns { fails } => self.end_runs(fails),
            Happening::EndUpkeep => {
                if let Some(id) = self.upkeep.take() {
                    self.scheduler.end_upkeep(id, now);
                }
            }
        }
    }

    fn is_free(&self, id: JobId) -> bool {
        self.here.contains(&id) && !self.held.contains(&id)
    }

    fn pass(&mut self, ns: u64) {
        (self.now.wall.0, self.now.boot.0) = (self.now.wall.0 + ns, self.now.boot.0 + ns);
    }

    fn end_runs(&mut self, fails: bool) {
        for id in std::mem::take(&mut self.running) {
            let (_, is_full, begun) =
                *self.begun.iter().rfind(|(run, full, _)| *run == id && full.is_some()).unwrap();
            let outcome = match (fails, is_full) {
                (false, Some(is_full)) => {
                    self.last_full_ns[id] = is_full.then_some(begun.boot.0).or(self.last_full_ns[id]);
                    RunOutcome::Done { scan_start: begun.wall, is_full }
                }
                _ => RunOutcome::Failed,
            };
            self.scheduler.end_run(id, self.now, outcome);
        }
    }

    /// Begins everything that may begin, as the daemon does.
    fn begin_all(&mut self, at_once: usize) {
        while let Some(run) = self.scheduler.begin_run(self.now) {
            assert!(self.is_free(run.id) && self.running.insert(run.id), "{run:?} may not begin");
            let since_ns = self.last_full_ns[run.id].map(|ns| self.now.boot.0 - ns);
            assert_eq!(run.is_full, since_ns.is_none_or(|ns| ns >= FULL_SCAN));
            self.begun.push((run.id, Some(run.is_full), self.now));
        }
        assert!(self.running.len() <= at_once && self.running.len() == self.scheduler.running());
        while let Some(id) = self.scheduler.begin_upkeep(self.now) {
            assert!(
                self.here.contains(&id) && self.upkeep.replace(id).is_none(),
                "upkeep of {id} may not begin"
            );
            self.begun.push((id, None, self.now));
        }
        assert_eq!(self.upkeep.is_some(), self.scheduler.is_upkeep_running());
    }
}

proptest! {
    #[test]
    fn whatever_happens_runs_and_upkeep_keep_to_their_lanes(
        happenings in prop::collection::vec(happening(), 0..80),
        at_once in 1usize..3,
    ) {
        let mut scene = Scene::new(at_once, true);
        for happening in &happenings {
            scene.happens(happening);
            scene.begin_all(at_once);
            // The deadline is exact: nothing begins before it, and something begins then, unless the wall
            // clock is set meanwhile.
            let Some(wait) = scene.scheduler.wake_in(scene.now) else { continue };
            let wait_ns = nanos(wait);
            prop_assert!(wait_ns > 0, "it would never sleep");
            let begun = scene.begun.len();
            scene.pass(wait_ns - 1);
            scene.begin_all(at_once);
            prop_assert_eq!(scene.begun.len(), begun);
            scene.pass(1);
            scene.begin_all(at_once);
            prop_assert!(scene.begun.len() > begun || scene.running.len() == at_once);
        }
        // Without further events every present store has its turn within one period of the lane's free time.
        for _ in 0..3 {
            scene.happens(&Happening::EndUpkeep);
            scene.begin_all(at_once);
        }
        for id in scene.here.clone() {
            let begun = scene.begun.len();
            let mut waited_ns = 0;
            while !scene.begun[begun..].iter().any(|(begun, is_run, _)| *begun == id && is_run.is_none()) {
                prop_assert!(waited_ns <= nanos(scene.period) + SECOND, "store {} is not kept up", id);
                scene.pass(SECOND);
                waited_ns += SECOND;
                scene.happens(&Happening::EndUpkeep);
                scene.begin_all(at_once);
            }
        }
    }

    #[test]
    fn upkeep_changes_no_run_and_no_clock_changes_upkeep(
        happenings in prop::collection::vec(happening(), 0..80),
        at_once in 1usize..3,
    ) {
        let play = |upkeep: bool, keep: fn(&Happening) -> bool| {
            let mut scene = Scene::new(at_once, upkeep);
            for happening in happenings.iter().filter(|happening| keep(happening)) {
                scene.happens(happening);
                scene.begin_all(at_once);
            }
            scene.begun
        };
        let all = play(true, |_| true);
        let runs: Vec<_> = all.iter().filter(|(_, is_run, _)| is_run.is_some()).copied().collect();
        prop_assert_eq!(&runs, &play(false, |_| true));
        let looks = |begun: &[(JobId, Option<bool>, Now)]| -> Vec<_> {
            let looks = begun.iter().filter(|(_, is_run, _)| is_run.is_none());
            looks.map(|(id, _, now)| (*id, now.boot.0)).collect()
        };
        prop_assert_eq!(looks(&all), looks(&play(true, |what| !matches!(what, Happening::SetClock(_)))));
    }

    #[test]
    fn a_change_is_looked_at_within_its_debounce_of_the_last_run_s_end(
        touches in prop::collection::vec((0u64..300, 0u64..120), 1..40),
    ) {
        let mut scene = Scene::new(3, false);
        scene.begin_all(3);
        scene.happens(&Happening::EndRuns { fails: false });
        for (pause, takes) in touches {
            // The scheduler is asked every second, as long as nothing fails.
            let second = |scene: &mut Scene| {
                scene.pass(SECOND);
                scene.begin_all(3);
            };
            (0..pause).for_each(|_| second(&mut scene));
            scene.happens(&Happening::EndRuns { fails: false });
            scene.begin_all(3);
            scene.happens(&Happening::Touch(0));
            let (begun, until_ns) = (scene.begun.len(), scene.now.boot.0 + DEBOUNCE);
            (0..takes).for_each(|_| second(&mut scene));
            scene.happens(&Happening::EndRuns { fails: false });
            scene.begin_all(3);
            while scene.now.boot.0 < until_ns {
                second(&mut scene);
            }
            let is_looked_at = scene.begun[begun..].iter().any(|(id, ..)| *id == 0);
            prop_assert!(is_looked_at, "a change at {} s was not looked at", (until_ns - DEBOUNCE) / SECOND);
        }
    }
}
