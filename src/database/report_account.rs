//! The account for reports that a replica has: what it may, what it may use, and what ends its sessions.
//!
//! It is made by the replica's server when it starts, and by no other one: each start of a server of ours drops it
//! first. So it is there as long as the server is a replica, is in no binary log, and is gone once this host's server
//! takes writes. It reads the store's databases and nothing of the server's own.
//!
//! What it must not do is hold up what the replica applies. A statement, and a transaction that waits for its client,
//! end after a time; a session whose locks the replica waits for is ended; and threads of reports are the last ones
//! to get the processor.

use super::client::{Account, literal};
use super::error::DatabaseError;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Name of the account; no program of the store's has it.
pub const REPORT_ACCOUNT: &str = "understudy-reports";
/// Memory of a session from which on it is ended.
pub(super) const SESSION_MAX_BYTES: u64 = 256 << 20;
/// Schemas of the server's own.
const SYSTEM: [&str; 4] = ["information_schema", "mysql", "performance_schema", "sys"];

/// How reports reach a replica, and what they may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Option file with the account's name and password, as it is given to those who make reports.
    pub account_file: PathBuf,
    pub listen: Option<SocketAddr>,
    pub socket: Option<PathBuf>,
    /// The databases that it reads; empty for all of the store's.
    pub databases: Vec<String>,
    /// Number of sessions at a time.
    pub connections: u32,
    /// Time of a statement.
    pub statement_limit: Duration,
}

impl Reports {
    /// Returns the number of clients at the door, of which some have not said yet who they are.
    pub(super) fn clients(&self) -> u32 {
        self.connections.saturating_mul(2).saturating_add(2)
    }

    /// Reads the account.
    ///
    /// # Errors
    /// The file is not trusted, names another account, or has no password.
    pub(super) fn account(&self) -> Result<Account, DatabaseError> {
        let account = Account::read(&self.account_file)?;
        let wrong = |text: &str| DatabaseError::Content {
            path: self.account_file.clone(),
            text: format!("the account for reports {text}"),
        };
        match (account.user == REPORT_ACCOUNT, account.password.is_empty()) {
            (false, _) => {
                Err(wrong(&format!("is called `{REPORT_ACCOUNT}`; write `user = {REPORT_ACCOUNT}`")))
            }
            (_, true) => Err(wrong("needs a password; write `password = PASSWORD`")),
            _ => Ok(account),
        }
    }

    /// Returns the statements by which a server makes the account when it starts.
    pub(super) fn made(&self, account: &Account) -> String {
        format!(
            "CREATE USER {} IDENTIFIED BY {} WITH MAX_USER_CONNECTIONS {} MAX_STATEMENT_TIME {};\n",
            name(),
            literal(&account.password),
            self.connections,
            self.statement_limit.as_secs()
        )
    }

    /// Returns the lines of the server's configuration that limit what a session of reports uses. What a session may
    /// set has a maximum; our own sessions and the threads that apply have no use for more.
    pub(super) fn configuration(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "max-connections={}", 10 + self.clients());
        let _ = writeln!(
            text,
            "init-connect=\"SET max_session_mem_used={SESSION_MAX_BYTES}, sort_buffer_size={}, join_buffer_size={}, \
             tmp_table_size={}, tmp_disk_table_size={}, lock_wait_timeout=10\"",
            512 << 10,
            256 << 10,
            8 << 20,
            1u64 << 30,
        );
        text + MAXIMA
    }

    /// Returns the statements that let the account read what it may and does not yet. Pure.
    pub(super) fn grants(&self, schemas: &BTreeSet<String>, granted: &BTreeSet<String>) -> String {
        let is_wanted = |schema: &&String| {
            !SYSTEM.iter().any(|system| system.eq_ignore_ascii_case(schema))
                && (self.databases.is_empty() || self.databases.contains(schema))
                && !granted.contains(&pattern(schema))
        };
        let mut text = String::new();
        for schema in schemas.iter().filter(is_wanted) {
            let _ =
                writeln!(text, "GRANT SELECT ON `{}`.* TO {};", pattern(schema).replace('`', "``"), name());
        }
        text
    }
}

/// Most of what a session may set for itself.
const MAXIMA: &str = "\
maximum-sort-buffer-size=4M
maximum-join-buffer-size=4M
maximum-read-buffer-size=1M
maximum-read-rnd-buffer-size=1M
maximum-tmp-table-size=16M
maximum-group-concat-max-len=1M
";

/// Returns the account as it is written in statements.
pub(super) fn name() -> String {
    format!("'{REPORT_ACCOUNT}'@'localhost'")
}

/// Returns the statement by which every server of ours forgets the account when it starts.
pub(super) fn dropped() -> String {
    format!("DROP USER IF EXISTS {};\n", name())
}

/// Returns a database's name as grants know it: `_` and `%` stand for others in them.
fn pattern(schema: &str) -> String {
    schema.replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%")
}

/// A session of reports, as the server shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReportSession {
    pub id: u64,
    /// Number of its thread in the system.
    pub thread: i32,
    /// Whether it works on a statement.
    pub works: bool,
    /// Whether it has a transaction open.
    pub is_open: bool,
    /// How long it has worked, or waited for its client.
    pub time: Duration,
    pub memory_bytes: u64,
    /// Whether a row that the replica changes is locked by it.
    pub blocks: bool,
}

/// Returns the sessions that are to be ended. `is_blocked` says that the replica waits for the lock of a table, as
/// it already did at the look before: whichever session has it, all are ended. Pure.
pub(super) fn overdue(sessions: &[ReportSession], limit: Duration, is_blocked: bool) -> Vec<u64> {
    let is_over = |session: &&ReportSession| {
        let holds = session.works || session.is_open;
        is_blocked
            || session.blocks
            || session.memory_bytes > SESSION_MAX_BYTES
            || (holds && session.time > limit)
    };
    sessions.iter().filter(is_over).map(|session| session.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn the_account_reads_the_store_s_databases_and_none_of_the_server_s() {
        let schemas =
            set(&["shop", "my_shop", "a`b", "mysql", "Sys", "information_schema", "performance_schema"]);
        let all = Reports::default();
        let wanted = "GRANT SELECT ON `a``b`.* TO 'understudy-reports'@'localhost';\n\
             GRANT SELECT ON `my\\_shop`.* TO 'understudy-reports'@'localhost';\n\
             GRANT SELECT ON `shop`.* TO 'understudy-reports'@'localhost';\n";
        assert_eq!(all.grants(&schemas, &set(&[])), wanted);
        assert_eq!(all.grants(&schemas, &set(&["shop", "my\\_shop", "a`b"])), "");
        let some = Reports { databases: vec!["shop".into(), "mysql".into(), "gone".into()], ..all };
        assert_eq!(
            some.grants(&schemas, &set(&[])),
            "GRANT SELECT ON `shop`.* TO 'understudy-reports'@'localhost';\n"
        );
    }

    #[test]
    fn what_is_over_its_limits_or_in_the_way_is_ended_and_nothing_else() {
        let limit = Duration::from_secs(60);
        let idle = ReportSession { id: 1, time: Duration::from_secs(9000), ..Default::default() };
        let works = ReportSession { id: 2, works: true, time: limit, ..Default::default() };
        let of = |session: &ReportSession| overdue(std::slice::from_ref(session), limit, false);
        assert_eq!(overdue(&[idle.clone(), works.clone()], limit, false), [0; 0]);
        assert_eq!(overdue(&[idle.clone(), works.clone()], limit, true), [1, 2]);
        for over in [
            ReportSession { time: limit + Duration::from_secs(1), ..works.clone() },
            ReportSession { is_open: true, ..idle.clone() },
            ReportSession { memory_bytes: SESSION_MAX_BYTES + 1, ..idle.clone() },
            ReportSession { blocks: true, ..idle },
        ] {
            assert_eq!(of(&over), [over.id], "{over:?}");
        }
    }

    #[test]
    fn an_account_file_names_this_account_with_a_password() {
        let dir = tempfile::tempdir().unwrap();
        let reports = Reports { account_file: dir.path().join("reports.cnf"), ..Default::default() };
        for (text, wanted) in [
            ("[client]\nuser=shop\npassword=x\n", "user = understudy-reports"),
            ("[client]\nuser=understudy-reports\n", "needs a password"),
        ] {
            std::fs::write(&reports.account_file, text).unwrap();
            assert!(reports.account().err().unwrap().to_string().contains(wanted), "{text}");
        }
        std::fs::write(&reports.account_file, "[client]\nuser=understudy-reports\npassword=a'b\n").unwrap();
        let made = reports.made(&reports.account().unwrap());
        assert!(made.contains(r"IDENTIFIED BY 'a\'b' WITH MAX_USER_CONNECTIONS"), "{made}");
    }
}
