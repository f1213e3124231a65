//! The configuration of a server that customers reach. Pure, and tested as a whole.
//!
//! It begins read-only: its supervisor opens it by a statement, after it has looked once more whether it may.
//! What a standby needs of it (binary log, rows, domain, durability) comes after the user's own option file, so
//! that nothing there can take it away.

use super::facts::Variables;
use super::minimal::{Identity, Place, files, inherited, log_bin};
use crate::model::gtid::DomainId;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Default memory of the pool.
pub(crate) const MEMORY_MIB: u32 = 128;
const PORT: u16 = 3306;

/// How customers reach a server, and what it may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Customers {
    /// Address for the store's programs, and for the standbys.
    pub listen: Option<SocketAddr>,
    /// Socket for the store's programs.
    pub socket: Option<PathBuf>,
    pub memory_mib: Option<u32>,
    /// The user's own option file.
    pub options: Option<PathBuf>,
}

/// What the configuration is made of.
pub struct ForCustomers<'a> {
    pub customers: &'a Customers,
    pub datadir: &'a Path,
    pub place: &'a Place,
    pub identity: Identity,
    /// The store's domain.
    pub domain: DomainId,
    /// The variables of the server that the data was made by.
    pub made_by: &'a Variables,
    /// Path of the binary logs, where they are not our own.
    pub log_bin: Option<&'a str>,
    pub is_root: bool,
    /// Whether commits wait for a standby from the first one on.
    pub waits: bool,
}

impl ForCustomers<'_> {
    /// Returns the text of the configuration.
    pub fn text(&self) -> String {
        let customers = self.customers;
        let mut text = String::from("# Made by understudy at each start.\n[mariadbd]\n");
        text += &inherited(self.made_by);
        text += DEFAULTS;
        let memory_mib = customers.memory_mib.unwrap_or(MEMORY_MIB);
        let _ = writeln!(text, "innodb-buffer-pool-size={memory_mib}M");
        if let Some(options) = &customers.options {
            let _ = writeln!(text, "!include {}\n[mariadbd]", options.display());
        }
        text += &files(self.datadir, self.place, &self.socket());
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{name}={value}");
        };
        if self.is_root {
            line("user", &"root");
        }
        match customers.listen {
            Some(address) => {
                line("skip-networking", &0);
                line("bind-address", &address.ip());
                line("port", &if address.port() == 0 { PORT } else { address.port() });
            }
            None => line("skip-networking", &1),
        }
        line("server-id", &self.identity.serving);
        line("gtid-domain-id", &self.domain);
        line("rpl-semi-sync-master-enabled", &u8::from(self.waits));
        text + &log_bin(self.log_bin) + FIXED
    }

    /// Returns the path of the server's socket.
    pub fn socket(&self) -> PathBuf {
        self.customers.socket.clone().unwrap_or_else(|| self.place.socket())
    }
}

/// What the user's own option file may change.
const DEFAULTS: &str = "\
skip-name-resolve
performance-schema=0
event-scheduler=ON
max-allowed-packet=64M
innodb-log-file-size=96M
innodb-flush-method=O_DIRECT
binlog-expire-logs-seconds=604800
";

/// What it may not.
const FIXED: &str = "\
skip-slave-start
read-only=1
gtid-strict-mode=1
log-slave-updates=1
binlog-format=ROW
binlog-row-image=FULL
sync-binlog=1
innodb-flush-log-at-trx-commit=1
relay-log=relay
relay-log-recovery=1
slave-max-allowed-packet=1073741824
rpl-semi-sync-master-wait-point=AFTER_SYNC
rpl-semi-sync-master-timeout=31536000000
rpl-semi-sync-master-wait-no-slave=1
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gtid::ServerId;

    #[test]
    fn what_a_standby_needs_comes_after_the_user_s_own_options() {
        let place = Place { dir: "/run/understudy/acme".into() };
        let customers = Customers {
            listen: Some("10.0.0.12:0".parse().unwrap()),
            options: Some("/etc/acme.cnf".into()),
            ..Default::default()
        };
        let made_by = Variables([("innodb_page_size".to_owned(), "8192".to_owned())].into());
        let identity =
            Identity { server: ServerId(4710), serving: ServerId(4711), domain: DomainId(900_042) };
        let text = ForCustomers {
            customers: &customers,
            datadir: Path::new("/data"),
            place: &place,
            identity,
            domain: DomainId(7),
            made_by: &made_by,
            log_bin: Some("/var/log/mysql/bin"),
            is_root: false,
            waits: true,
        }
        .text();
        let wanted = "# Made by understudy at each start.\n[mariadbd]\ninnodb_page_size=8192\n".to_owned()
            + DEFAULTS
            + "innodb-buffer-pool-size=128M\n!include /etc/acme.cnf\n[mariadbd]\n\
            datadir=/data\nsocket=/run/understudy/acme/socket\npid-file=/run/understudy/acme/pid\n\
            log-error=/run/understudy/acme/server.log\ntmpdir=/run/understudy/acme/tmp\n\
            init-file=/run/understudy/acme/init.sql\nskip-networking=0\nbind-address=10.0.0.12\nport=3306\n\
            server-id=4711\ngtid-domain-id=7\nrpl-semi-sync-master-enabled=1\nlog-bin=/var/log/mysql/bin\n"
            + FIXED;
        assert_eq!(text, wanted);
        for line in ["read-only=1", "sync-binlog=1", "log-slave-updates=1"] {
            assert!(FIXED.lines().any(|found| found == line), "{line}");
        }
    }
}
