//! The configuration of a replica's server: as little memory as it can do with. Pure, and tested as a whole.
//!
//! It has no TCP listener. Its socket lies in a directory that only this user enters, and it is read-only: the
//! store's customers, and their accounts, which the seed brought along, do not reach it.
//!
//! `innodb_flush_method=fsync` leaves caching to the kernel, whose pages count against nobody: measured, a pool
//! of 6 MiB then applies as fast as a loaded primary commits, at half the processor time of `O_DIRECT`.

use super::facts::Variables;
use crate::model::gtid::{DomainId, STANDBY_DOMAINS, ServerId};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Number of domains from which a standby's own is chosen.
const DOMAINS: u32 = 1_000_000;
/// Number of events after which what was received is written to the disk: by a durable replica that acknowledges, and
/// by any other.
pub(super) const SYNC_ACKNOWLEDGED: u32 = 1;
pub(super) const SYNC_SELDOM: u32 = 10_000;
/// Least packet that is applied.
const PACKET_MIN_BYTES: u64 = 64 << 20;
/// Variables that decide how files and tables are read: they must be the primary's.
const INHERITED: [&str; 7] = [
    "character_set_server",
    "collation_server",
    "explicit_defaults_for_timestamp",
    "innodb_data_file_path",
    "innodb_page_size",
    "innodb_undo_tablespaces",
    "lower_case_table_names",
];

/// How large a replica is, by the store's plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// The least: it only writes what is committed already, and may be seeded again after a power failure.
    Standard,
    /// It is promoted within a minute: durable at each commit.
    Private,
}

impl Size {
    /// Returns the default of the pool.
    pub fn memory_mib(self) -> u32 {
        match self {
            Self::Standard => 6,
            Self::Private => 64,
        }
    }
}

/// The files of a replica's server that are not its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Directory that only this user enters.
    pub dir: PathBuf,
}

impl Place {
    pub fn configuration(&self) -> PathBuf {
        self.dir.join("my.cnf")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("pid")
    }

    /// The log lies elsewhere than the data: it says why when the data's disk is full.
    pub fn log(&self) -> PathBuf {
        // Without an ending the server would add one.
        self.dir.join("server.log")
    }

    /// The statements that the server runs when it starts: they make our account.
    pub fn init(&self) -> PathBuf {
        self.dir.join("init.sql")
    }

    pub fn account(&self) -> PathBuf {
        self.dir.join("account.cnf")
    }

    pub fn temporary(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// What a supervisor holds while it runs.
    pub fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    /// What the supervisor saw last.
    pub fn report(&self) -> PathBuf {
        self.dir.join("status.json")
    }

    /// What a drill of this replica holds as long as it lives.
    pub fn drill_lock(&self) -> PathBuf {
        self.dir.join("drill.lock")
    }

    /// What a drill holds as long as the server is to stand still.
    pub fn still_lock(&self) -> PathBuf {
        self.dir.join("still.lock")
    }

    /// The mark of a server that stands still.
    pub fn still(&self) -> PathBuf {
        self.dir.join("still")
    }

    /// What the last order was.
    pub fn role(&self) -> PathBuf {
        self.dir.join("role.json")
    }
}

/// What tells a standby's server from all others of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The server's number while it is a replica.
    pub server: ServerId,
    /// Its number while it takes writes. A replica ignores what has its own number; so what this host wrote itself,
    /// and undid when it was replaced, comes back from its successor.
    pub serving: ServerId,
    /// Domain of what the server writes by itself, such as the emptying of MEMORY tables: never the store's.
    pub domain: DomainId,
}

impl Identity {
    /// Returns the numbers that a host's server may have, in each role and whichever seed it was made of.
    pub fn numbers(store: &str, host: &str) -> [ServerId; 4] {
        let one = Self::of(store, host, ServerId(0));
        let apart = |number: ServerId| Self::of(store, host, number);
        [one.server, one.serving, apart(one.server).server, apart(one.serving).serving]
    }

    /// Derives the identity of a host's replica of a store; `primary` is the number of the primary's server.
    pub fn of(store: &str, host: &str, primary: ServerId) -> Self {
        let hash = blake3::hash(format!("{store}\0{host}").as_bytes());
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *hash.as_bytes();
        // The last two bits tell roles apart, and a number from that of the first primary.
        let number = |bytes| u32::from_le_bytes(bytes) & !3 | 4;
        let apart = |number: u32| ServerId(if number == primary.0 { number | 2 } else { number });
        let (server, serving) = (number([a, b, c, d]), number([i, j, k, l]) | 1);
        let domain = STANDBY_DOMAINS + u32::from_le_bytes([e, f, g, h]) % DOMAINS;
        Self { server: apart(server), serving: apart(serving), domain: DomainId(domain) }
    }
}

/// What a configuration is made of.
pub struct Minimal<'a> {
    pub size: Size,
    pub memory_mib: u32,
    pub datadir: &'a Path,
    pub place: &'a Place,
    pub identity: Identity,
    /// The primary's variables when the seed was made.
    pub primary: &'a Variables,
    /// Path of the binary logs, where they are not our own.
    pub log_bin: Option<&'a str>,
    /// Whether the server is run by root, which it does only if it is told so.
    pub is_root: bool,
    /// Whether it acknowledges what it receives.
    pub acks: bool,
    /// Whether it undoes, when it starts, what it had not told its customers when it was killed.
    pub undoes: bool,
}

impl Minimal<'_> {
    /// Returns the text of the configuration.
    pub fn text(&self) -> String {
        let mut text = String::from("# Made by understudy at each start.\n[mariadbd]\n");
        text += &files(self.datadir, self.place, &self.place.socket());
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{name}={value}");
        };
        if self.is_root {
            line("user", &"root");
        }
        line("server-id", &self.identity.server);
        line("gtid-domain-id", &self.identity.domain);
        let durable = u8::from(self.size == Size::Private);
        // What is acknowledged is on the disk where commits are. That costs a write to the disk for each event, and
        // nothing else needs it: what was received and is lost is fetched anew.
        line("sync-relay-log", &if durable == 1 && self.acks { SYNC_ACKNOWLEDGED } else { SYNC_SELDOM });
        // Commits that wait for the disk wait together.
        line("slave-parallel-threads", &if durable == 1 { 4 } else { 2 });
        line("rpl-semi-sync-slave-enabled", &u8::from(self.acks || self.undoes));
        if self.undoes {
            line("init-rpl-role", &"SLAVE");
        }
        line("sync-binlog", &durable);
        line("innodb-flush-log-at-trx-commit", &if durable == 1 { 1 } else { 2 });
        line("innodb-buffer-pool-size", &format_args!("{}M", self.memory_mib));
        line("max-allowed-packet", &self.primary.number("max_allowed_packet").max(PACKET_MIN_BYTES));
        line("slave-max-allowed-packet", &(1u64 << 30));
        // A MEMORY table that is full here and not there would stop replication.
        line("max-heap-table-size", &self.primary.number("max_heap_table_size").max(16 << 10));
        text + &inherited(self.primary) + &log_bin(self.log_bin) + FIXED
    }
}

/// Returns the lines that say where a server's files are.
pub(super) fn files(datadir: &Path, place: &Place, socket: &Path) -> String {
    let mut text = String::new();
    for (name, path) in [
        ("datadir", datadir),
        ("socket", socket),
        ("pid-file", &place.pid_file()),
        ("log-error", &place.log()),
        ("tmpdir", &place.temporary()),
        ("init-file", &place.init()),
    ] {
        let _ = writeln!(text, "{name}={}", path.display());
    }
    text
}

/// Returns whether a value is one word of an option file.
pub(super) fn is_value(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:;/-".contains(&b))
}

/// Returns the line that names the binary logs.
pub(super) fn log_bin(name: Option<&str>) -> String {
    format!("log-bin={}\n", name.unwrap_or("binlog"))
}

/// Returns the lines that decide how files and tables are read.
pub(super) fn inherited(primary: &Variables) -> String {
    let mut text = String::new();
    for name in INHERITED {
        let value = primary.text(name);
        // Of what a server says about itself, only what cannot be another line.
        if is_value(value) {
            let _ = writeln!(text, "{name}={value}");
        }
    }
    text
}

/// What every replica has.
const FIXED: &str = "\
skip-networking
skip-name-resolve
skip-slave-start
read-only=1
event-scheduler=OFF
gtid-strict-mode=1
log-slave-updates=1
binlog-format=ROW
binlog-row-image=FULL
max-binlog-size=64M
binlog-expire-logs-seconds=259200
relay-log=relay
max-relay-log-size=16M
relay-log-recovery=1
relay-log-purge=1
slave-net-timeout=10
master-retry-count=0
slave-parallel-mode=optimistic
slave-parallel-max-queued=131072
innodb-buffer-pool-chunk-size=1M
innodb-log-file-size=16M
innodb-log-buffer-size=2M
innodb-flush-method=fsync
innodb-use-native-aio=0
innodb-read-io-threads=1
innodb-write-io-threads=2
innodb-purge-threads=1
performance-schema=0
key-buffer-size=64K
aria-pagecache-buffer-size=256K
table-open-cache=64
table-definition-cache=400
max-connections=10
thread-cache-size=0
query-cache-type=0
query-cache-size=0
tmp-table-size=64K
sort-buffer-size=64K
read-buffer-size=64K
join-buffer-size=64K
thread-stack=192K
host-cache-size=0
";

#[cfg(test)]
mod tests {
    use super::*;

    fn text(size: Size, primary: &Variables) -> String {
        let place = Place { dir: "/run/understudy/acme".into() };
        let identity =
            Identity { server: ServerId(4711), serving: ServerId(4712), domain: DomainId(900_042) };
        let datadir = Path::new("/data");
        let memory_mib = size.memory_mib();
        Minimal {
            size,
            memory_mib,
            datadir,
            place: &place,
            identity,
            primary,
            log_bin: None,
            is_root: true,
            acks: false,
            undoes: false,
        }
        .text()
    }

    #[test]
    fn a_configuration_is_this_text() {
        let primary = [
            ("max_heap_table_size", "16777216"),
            ("max_allowed_packet", "16777216"),
            ("innodb_page_size", "16384"),
            ("collation_server", "utf8mb4_general_ci"),
            ("character_set_server", "utf8mb4\nplugin-load=evil"),
        ];
        let primary = Variables(primary.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        let wanted = "# Made by understudy at each start.\n[mariadbd]\n\
            datadir=/data\nsocket=/run/understudy/acme/socket\npid-file=/run/understudy/acme/pid\n\
            log-error=/run/understudy/acme/server.log\ntmpdir=/run/understudy/acme/tmp\n\
            init-file=/run/understudy/acme/init.sql\nuser=root\nserver-id=4711\ngtid-domain-id=900042\n\
            sync-relay-log=10000\nslave-parallel-threads=2\nrpl-semi-sync-slave-enabled=0\nsync-binlog=0\ninnodb-flush-log-at-trx-commit=2\ninnodb-buffer-pool-size=6M\n\
            max-allowed-packet=67108864\nslave-max-allowed-packet=1073741824\nmax-heap-table-size=16777216\n\
            collation_server=utf8mb4_general_ci\ninnodb_page_size=16384\nlog-bin=binlog\n";
        assert_eq!(text(Size::Standard, &primary), wanted.to_owned() + FIXED);
        let private = text(Size::Private, &primary);
        for line in [
            "sync-binlog=1",
            "sync-relay-log=10000",
            "slave-parallel-threads=4",
            "innodb-flush-log-at-trx-commit=1",
            "innodb-buffer-pool-size=64M",
            "skip-networking",
        ] {
            assert!(private.lines().any(|found| found == line), "{line}: {private}");
        }
    }

    #[test]
    fn each_standby_is_another_server_with_a_domain_of_its_own() {
        let of = |store, host| Identity::of(store, host, ServerId(11));
        let (one, two, three) = (of("acme", "web-1"), of("acme", "web-2"), of("other", "web-1"));
        let numbers = Identity::numbers("acme", "web-1");
        for primary in [11, 0, one.server.0, one.serving.0] {
            let Identity { server, serving, .. } = Identity::of("acme", "web-1", ServerId(primary));
            assert!(numbers.contains(&server) && numbers.contains(&serving));
        }
        assert!(one.server != two.server && one.server != three.server && one.domain != two.domain);
        assert!(one.domain.0 >= STANDBY_DOMAINS && one == of("acme", "web-1"));
        for primary in [one.server, one.serving] {
            let other = Identity::of("acme", "web-1", primary);
            assert!(other.server != primary && other.serving != primary && other.server != other.serving);
        }
    }
}
