//! What a standby's readiness depends on beside the store itself: clocks, versions, room, accounts, and where the
//! repository is. Pure. All of it deserves a look, and none of it holds a failover back: a store that would serve
//! with little memory is better than one that does not serve.

use super::item::{Item, Level};
use crate::model::id::WriterId;

/// Difference between two clocks from which on people who read times are misled, in seconds.
const CLOCK_AMBER_SECONDS: f64 = 2.0;
/// Free space of a disk below which a store soon cannot write, in bytes, and in percent.
const ROOM_AMBER_BYTES: u64 = 1 << 30;
const ROOM_AMBER_PERCENT: u64 = 5;

/// Another host of the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Other {
    pub host: WriterId,
    /// How far its clock is ahead of this host's, in seconds, to about one.
    pub clock_ahead_seconds: Option<f64>,
    /// The version of its daemon.
    pub version: Option<String>,
}

/// A filesystem that the store needs once it serves here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub path: String,
    pub size_bytes: u64,
    pub available_bytes: u64,
    /// Free inodes; none where the filesystem does not count them.
    pub available_inodes: Option<u64>,
}

/// The memory that the database is to have, and what is available beside what it has now, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub wanted_mib: u64,
    pub available_mib: u64,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    pub others: Vec<Other>,
    pub disks: Vec<Disk>,
    /// None where the database is no concern of this host, or nothing is known.
    pub memory: Option<Memory>,
    /// Accounts of applications that may write while the server is read-only; none where nobody could ask.
    pub writers: Option<Vec<String>>,
    /// The directory that is the repository, if it is one.
    pub repository_directory: Option<String>,
}

/// Returns the items about them.
pub fn items(around: &Surroundings) -> Vec<Item> {
    let mut items = vec![clocks(&around.others), versions(&around.others), repository(around)];
    items.extend((!around.disks.is_empty()).then(|| room(&around.disks)));
    items.extend(around.memory.map(memory));
    items.extend(around.writers.as_deref().map(accounts));
    items
}

fn item(name: &str, wrong: Option<(String, &str)>, good: impl FnOnce() -> String) -> Item {
    let (level, why, remedy) = match wrong {
        Some((why, remedy)) => (Level::Amber, why, remedy),
        None => (Level::Green, good(), ""),
    };
    Item { item: name.to_owned(), level, why, remedy: remedy.to_owned() }
}

fn clocks(others: &[Other]) -> Item {
    let off = |other: &Other| {
        let ahead = other.clock_ahead_seconds.filter(|ahead| ahead.abs() >= CLOCK_AMBER_SECONDS)?;
        let way = if ahead > 0.0 { "ahead of" } else { "behind" };
        Some(format!("that of '{}' is {:.0} s {way} this host's", other.host, ahead.abs()))
    };
    let wrong: Vec<String> = others.iter().filter_map(off).collect();
    let wrong = (!wrong.is_empty()).then(|| (wrong.join("; "), "run a time service (NTP) on every host"));
    item("clocks", wrong, || "those of the other hosts agree with this one's".into())
}

fn versions(others: &[Other]) -> Item {
    let own = env!("CARGO_PKG_VERSION");
    let differs = |other: &Other| {
        let version = other.version.as_deref().filter(|version| *version != own)?;
        Some(format!("'{}' runs understudy {version}, and this host {own}", other.host))
    };
    let wrong: Vec<String> = others.iter().filter_map(differs).collect();
    let wrong = (!wrong.is_empty()).then(|| (wrong.join("; "), "install the same version on every host"));
    item("versions", wrong, || format!("the hosts that answered run understudy {own}"))
}

fn repository(around: &Surroundings) -> Item {
    let wrong = around.repository_directory.as_ref().map(|directory| {
        let why =
            format!("it is a directory, {directory}: if the primary's host has it, both are lost at once");
        (why, "keep the repository in an object store, or on a third host")
    });
    item("repository", wrong, || "it is an object store, elsewhere than the primary".into())
}

fn room(disks: &[Disk]) -> Item {
    let is_full = |disk: &&Disk| {
        let percent = disk.available_bytes.saturating_mul(100) / disk.size_bytes.max(1);
        disk.available_bytes < ROOM_AMBER_BYTES
            || percent < ROOM_AMBER_PERCENT
            || disk.available_inodes.is_some_and(|inodes| inodes < 10_000)
    };
    let said = |disk: &Disk| {
        let inodes = disk.available_inodes.map(|inodes| format!(" and {inodes} inodes")).unwrap_or_default();
        format!("{} has {} MiB{inodes} left", disk.path, disk.available_bytes >> 20)
    };
    let full: Vec<String> = disks.iter().filter(is_full).map(said).collect();
    let wrong = (!full.is_empty()).then(|| (full.join("; "), "make room before customers write here"));
    item("room", wrong, || disks.iter().map(said).collect::<Vec<_>>().join("; "))
}

fn memory(memory: Memory) -> Item {
    let Memory { wanted_mib, available_mib } = memory;
    let said = format!("the database is to have {wanted_mib} MiB, and {available_mib} MiB are available");
    let wrong = (available_mib < wanted_mib)
        .then(|| (said.clone(), "free memory, or lower `memory_mib` in [store.database.serve]"));
    item("memory", wrong, || said)
}

fn accounts(writers: &[String]) -> Item {
    let wrong = (!writers.is_empty()).then(|| {
        let why = format!("may write while the server is read-only: {}", writers.join(", "));
        (why, "REVOKE READ_ONLY ADMIN, SUPER ON *.* FROM each of them, on the primary")
    });
    item("accounts", wrong, || "no application may write while the server is read-only".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(ahead: f64, version: &str) -> Other {
        let host = WriterId("web-1".into());
        Other { host, clock_ahead_seconds: Some(ahead), version: Some(version.into()) }
    }

    fn disk(available_mib: u64, available_inodes: u64) -> Disk {
        Disk {
            path: "/srv".into(),
            size_bytes: 100 << 30,
            available_bytes: available_mib << 20,
            available_inodes: Some(available_inodes),
        }
    }

    #[test]
    fn each_thing_that_deserves_a_look_is_amber_and_nothing_holds_a_failover_back() {
        let own = env!("CARGO_PKG_VERSION");
        let good = Surroundings {
            others: vec![other(-1.4, own)],
            disks: vec![disk(50_000, 1_000_000)],
            memory: Some(Memory { wanted_mib: 512, available_mib: 512 }),
            writers: Some(Vec::new()),
            repository_directory: None,
        };
        let levels = |around: &Surroundings| {
            let ambers = items(around).into_iter().filter(|item| item.level != Level::Green);
            ambers.map(|item| (item.item, item.level, item.remedy.is_empty())).collect::<Vec<_>>()
        };
        assert_eq!((levels(&good), items(&good).len()), (Vec::new(), 6));
        let wrong = [
            ("clocks", Surroundings { others: vec![other(2.0, own)], ..good.clone() }),
            ("clocks", Surroundings { others: vec![other(0.0, own), other(-90.0, own)], ..good.clone() }),
            ("versions", Surroundings { others: vec![other(0.0, "0.0.1")], ..good.clone() }),
            ("room", Surroundings { disks: vec![disk(500, 1_000_000)], ..good.clone() }),
            ("room", Surroundings { disks: vec![disk(4_000, 1_000_000)], ..good.clone() }),
            ("room", Surroundings { disks: vec![disk(50_000, 10)], ..good.clone() }),
            (
                "memory",
                Surroundings { memory: Some(Memory { wanted_mib: 2, available_mib: 1 }), ..good.clone() },
            ),
            ("accounts", Surroundings { writers: Some(vec!["'shop'@'%'".into()]), ..good.clone() }),
            ("repository", Surroundings { repository_directory: Some("/mnt/nfs".into()), ..good.clone() }),
        ];
        for (name, around) in wrong {
            assert_eq!(levels(&around), [(name.to_owned(), Level::Amber, false)]);
        }
        // Where nothing is known nothing is said.
        assert_eq!(items(&Surroundings::default()).len(), 3);
    }
}
