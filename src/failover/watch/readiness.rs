//! Whether a standby would take over without a person: a list of items, each with its reason and its remedy. Pure.
//!
//! A red item holds automatic failover back. Nothing in the list turns red because the primary has just died.

use super::item::{Item, Level};
use super::surroundings::{self, Surroundings};
use crate::support::clock::seconds;
use std::time::Duration;

/// Number of objectives by which the files may be behind before nobody takes over by itself.
const LAG_RED: u32 = 3;
/// Lag of the database that is worth a look, and the one with which nobody takes over by itself.
const DATABASE_AMBER: Duration = Duration::from_secs(60);
const DATABASE_RED: Duration = Duration::from_mins(10);
/// Name of the item about the other watchers.
pub const WATCHERS: &str = "watchers";
/// Age of a drill that is worth a look.
const DRILL_AMBER: Duration = Duration::from_hours(8 * 24);

/// What is known of this standby.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub store: String,
    /// Why this host could not serve; none if it could.
    pub unfit: Option<String>,
    pub pause: Option<String>,
    /// Why the limits of automatic failovers hold it; none if they do not.
    pub limit: Option<String>,
    /// Whether the log's set has this host; none where there is no such set.
    pub is_synced: Option<bool>,
    /// Age of the newest snapshot here; none without one.
    pub lag: Option<Duration>,
    pub objective: Duration,
    /// By how much the replica of the database is behind; none where that is not known, or there is none.
    pub database_lag: Option<Duration>,
    pub watchers: Watchers,
    /// Why an edge could not be switched from here; none if all could, or there is none.
    pub edge: Option<String>,
    pub drill: Drill,
    pub recovery: Recovery,
    /// How long a failover may take.
    pub recovery_objective: Duration,
    pub around: Surroundings,
}

/// What would be lost if a standby took over now, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Age of the newest snapshot here.
    pub files: Option<Duration>,
    /// By how much the database here is behind what customers were told is done.
    pub database: Option<Duration>,
}

impl Facts {
    /// Returns what would be lost.
    pub fn loss(&self) -> Loss {
        let has_all = self.is_synced == Some(true);
        let database = if has_all { Some(Duration::ZERO) } else { self.database_lag };
        Loss { files: self.lag, database }
    }
}

/// The watchers of the primary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watchers {
    pub all: usize,
    /// Those that answer, this host included.
    pub answering: usize,
    pub needed: usize,
    /// Number of zones of those that answer; a watcher without a zone is in one of its own.
    pub zones: usize,
}

/// The last drill of the store's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drill {
    Never,
    Failed(String),
    Proven(Duration),
}

/// The last drill of a failover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    Never,
    Failed(String),
    Proven { age: Duration, time: Duration },
}

/// Returns all items, the worst first.
pub fn readiness(facts: &Facts) -> Vec<Item> {
    let mut items = vec![
        fit(facts),
        pause(facts),
        limit(facts),
        files(facts),
        watchers(&facts.watchers, &facts.store),
        edge(facts),
        drill(facts),
        recovery(facts),
    ];
    items.extend(facts.is_synced.map(|is| synced(is, &facts.store)));
    items.extend(facts.database_lag.map(|lag| database(lag, &facts.store)));
    items.extend(surroundings::items(&facts.around));
    // The order among items of one level stays.
    items.sort_by_key(|item| std::cmp::Reverse(item.level));
    items
}

/// Returns the reasons for which nobody takes over by itself.
pub fn reds(items: &[Item]) -> Vec<String> {
    let red = items.iter().filter(|item| item.level == Level::Red);
    red.map(|item| format!("{}: {}; {}", item.item, item.why, item.remedy)).collect()
}

fn item(item: &str, level: Level, why: impl Into<String>, remedy: impl Into<String>) -> Item {
    Item { item: item.to_owned(), level, why: why.into(), remedy: remedy.into() }
}

fn green(name: &str, why: impl Into<String>) -> Item {
    item(name, Level::Green, why, "")
}

fn fit(facts: &Facts) -> Item {
    match &facts.unfit {
        None => green("this host", "it could serve"),
        Some(how) => item("this host", Level::Red, how.clone(), "mend what it names"),
    }
}

fn pause(facts: &Facts) -> Item {
    match &facts.pause {
        None => green("pause", "nobody has paused it"),
        Some(reason) => {
            let remedy = format!("understudy resume {}", facts.store);
            item("pause", Level::Red, format!("a person has paused it: {reason}"), remedy)
        }
    }
}

fn limit(facts: &Facts) -> Item {
    match &facts.limit {
        None => green("limits", "none is reached"),
        Some(how) => item("limits", Level::Red, how.clone(), format!("understudy history {}", facts.store)),
    }
}

fn files(facts: &Facts) -> Item {
    let name = "files";
    let late = |level, lag: Duration| {
        let why = format!(
            "the newest snapshot here is {} min old, and the plan promises {}",
            lag.as_secs() / 60,
            facts.objective.as_secs() / 60
        );
        item(name, level, why, format!("understudy status {}", facts.store))
    };
    match facts.lag {
        None => {
            let remedy = "wait for the first one, or see `understudy status`";
            item(name, Level::Red, "there is no snapshot here", remedy)
        }
        Some(lag) if lag > facts.objective * LAG_RED => late(Level::Red, lag),
        Some(lag) if lag > facts.objective => late(Level::Amber, lag),
        Some(lag) => green(name, format!("the newest snapshot here is {} min old", lag.as_secs() / 60)),
    }
}

fn synced(is_synced: bool, store: &str) -> Item {
    match is_synced {
        true => green("acknowledged transactions", "this host has all of them"),
        false => item(
            "acknowledged transactions",
            Level::Red,
            "this host is not known to have every transaction that a customer was told is done",
            format!("understudy database status {store}"),
        ),
    }
}

fn database(lag: Duration, store: &str) -> Item {
    let level = match lag {
        lag if lag > DATABASE_RED => Level::Red,
        lag if lag > DATABASE_AMBER => Level::Amber,
        _ => Level::Green,
    };
    let why = format!("the replica is {:.0} s behind", seconds(lag));
    let remedy =
        if level == Level::Green { String::new() } else { format!("understudy database status {store}") };
    item("database", level, why, remedy)
}

fn watchers(watchers: &Watchers, store: &str) -> Item {
    let Watchers { all, answering, needed, zones } = *watchers;
    let count = format!("{answering} of {all} watchers answer, and {needed} have to agree");
    let more = format!("understudy member invite {store} --watch-only");
    match () {
        () if all == 0 => item(WATCHERS, Level::Red, "nobody may watch the primary", more),
        () if answering < needed => item(WATCHERS, Level::Red, count, "start `understudy run` on the others"),
        () if answering < all => item(WATCHERS, Level::Amber, count, "start `understudy run` on the others"),
        () if all < 3 => item(WATCHERS, Level::Amber, format!("{count}; with three, one may fail"), more),
        () if zones < 2 => {
            let why = format!("{count}; all of them are in one zone");
            item(WATCHERS, Level::Amber, why, "add one in another zone")
        }
        () => green(WATCHERS, format!("{count}, in {zones} zones")),
    }
}

fn edge(facts: &Facts) -> Item {
    match &facts.edge {
        None => green("edges", "each could be switched from here"),
        Some(how) => item("edges", Level::Red, how.clone(), "mend what it names"),
    }
}

fn drill(facts: &Facts) -> Item {
    let remedy = format!("understudy drill {}", facts.store);
    match &facts.drill {
        Drill::Never => item("drill", Level::Amber, "no snapshot was ever proven here", remedy),
        Drill::Failed(how) => item("drill", Level::Amber, format!("the last one failed: {how}"), remedy),
        Drill::Proven(age) if *age > DRILL_AMBER => {
            let days = age.as_secs() / 86_400;
            item("drill", Level::Amber, format!("the last one is {days} days ago"), remedy)
        }
        Drill::Proven(age) => green("drill", format!("the last one is {} h ago", age.as_secs() / 3600)),
    }
}

fn recovery(facts: &Facts) -> Item {
    let name = "recovery time";
    let remedy = format!("understudy drill {} --site", facts.store);
    let amber = |why: String| item(name, Level::Amber, why, remedy.clone());
    match &facts.recovery {
        Recovery::Never => amber("no failover was ever drilled here".to_owned()),
        Recovery::Failed(how) => amber(format!("the last drill of a failover failed: {how}")),
        Recovery::Proven { age, .. } if *age > DRILL_AMBER => {
            amber(format!("the last drill of a failover is {} days ago", age.as_secs() / 86_400))
        }
        Recovery::Proven { time, .. } if *time > facts.recovery_objective => amber(format!(
            "a drill took {:.0} s until it served, and {:.0} s are wanted",
            seconds(*time),
            seconds(facts.recovery_objective)
        )),
        Recovery::Proven { age, time } => {
            green(name, format!("{:.1} s, by a drill {} h ago", seconds(*time), age.as_secs() / 3600))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            store: "acme".into(),
            unfit: None,
            pause: None,
            limit: None,
            is_synced: Some(true),
            lag: Some(Duration::from_mins(20)),
            objective: Duration::from_mins(60),
            database_lag: Some(Duration::from_secs(1)),
            watchers: Watchers { all: 3, answering: 3, needed: 2, zones: 2 },
            edge: None,
            drill: Drill::Proven(Duration::from_hours(3)),
            recovery: Recovery::Proven { age: Duration::from_hours(30), time: Duration::from_secs(21) },
            recovery_objective: Duration::from_secs(60),
            around: Surroundings::default(),
        }
    }

    #[test]
    fn what_would_be_lost_is_what_is_not_here() {
        let loss = |is_synced| Facts { is_synced, ..good() }.loss();
        let files = Some(Duration::from_mins(20));
        assert_eq!(loss(Some(true)), Loss { files, database: Some(Duration::ZERO) });
        for is_synced in [Some(false), None] {
            assert_eq!(loss(is_synced), Loss { files, database: Some(Duration::from_secs(1)) });
        }
    }

    #[test]
    fn a_standby_with_everything_is_ready() {
        let items = readiness(&good());
        assert!(items.iter().all(|item| item.level == Level::Green), "{items:?}");
        assert_eq!((items.len(), reds(&items)), (13, Vec::new()));
    }

    #[test]
    fn each_thing_that_forbids_a_failover_is_red_and_says_what_to_do() {
        let text = || Some("so it is".to_owned());
        let wrong: [(&str, Facts); 9] = [
            ("this host", Facts { unfit: text(), ..good() }),
            ("pause", Facts { pause: text(), ..good() }),
            ("limits", Facts { limit: text(), ..good() }),
            ("acknowledged", Facts { is_synced: Some(false), ..good() }),
            ("files", Facts { lag: None, ..good() }),
            ("files", Facts { lag: Some(Duration::from_hours(4)), ..good() }),
            ("database", Facts { database_lag: Some(Duration::from_hours(1)), ..good() }),
            ("watchers", Facts { watchers: Watchers { answering: 1, ..good().watchers }, ..good() }),
            ("edges", Facts { edge: text(), ..good() }),
        ];
        for (name, facts) in wrong {
            let items = readiness(&facts);
            let red = reds(&items);
            assert!(red.len() == 1 && red[0].starts_with(name), "{red:?}");
            assert!(items[0].level == Level::Red && !items[0].remedy.is_empty(), "{items:?}");
        }
    }

    #[test]
    fn what_only_deserves_a_look_is_amber() {
        let watchers = |all, answering, zones| Facts {
            watchers: Watchers { all, answering, needed: all / 2 + 1, zones },
            ..good()
        };
        for facts in [
            Facts { lag: Some(Duration::from_mins(61)), ..good() },
            Facts { database_lag: Some(Duration::from_secs(61)), ..good() },
            Facts { drill: Drill::Never, ..good() },
            Facts { drill: Drill::Failed("no".into()), ..good() },
            Facts { drill: Drill::Proven(Duration::from_hours(200)), ..good() },
            Facts { recovery: Recovery::Never, ..good() },
            Facts { recovery: Recovery::Failed("no".into()), ..good() },
            Facts { recovery_objective: Duration::from_secs(20), ..good() },
            Facts {
                recovery: Recovery::Proven { age: Duration::from_hours(200), time: Duration::from_secs(1) },
                ..good()
            },
            watchers(3, 2, 2),
            watchers(1, 1, 1),
            watchers(3, 3, 1),
        ] {
            let items = readiness(&facts);
            assert_eq!((items[0].level, items[1].level), (Level::Amber, Level::Green), "{items:?}");
        }
    }
}
