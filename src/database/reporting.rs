//! Reports on a replica, as its supervisor keeps them: the door is open while the server is a replica, the account
//! reads the databases that there are, and what is over its limits is ended.
//!
//! Nothing of it holds the replica up: what fails shows in the supervisor's report, and is tried again.

use super::door::{Door, DoorPlace};
use super::error::DatabaseError;
use super::report_account::{REPORT_ACCOUNT, ReportSession, Reports, overdue};
use super::server::Server;
use crate::support::env::{Env, Stopwatch};
use rustix::process::{Pid, setpriority_process};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Time for a question to the server.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);
/// Interval between looks for new databases.
const GRANT_EVERY: Duration = Duration::from_secs(15);
/// Priority of a thread of reports; threads that apply have 0.
const NICE: i32 = 10;

/// What a supervisor sees of reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportsSeen {
    /// Number of clients that are connected.
    pub clients: usize,
    /// Number of sessions that were ended since the server was started: over a limit, or in the replica's way.
    pub ended: u64,
    /// Why there are none now.
    pub error: Option<String>,
}

/// The reports on one server.
pub(super) struct Reporting<'a> {
    reports: Option<&'a Reports>,
    door: Option<Door>,
    /// What the account reads, as granted last.
    granted: Option<Stopwatch>,
    was_blocked: bool,
    seen: ReportsSeen,
}

/// What a server is started with for the sake of reports.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    /// Lines of its configuration.
    pub configuration: String,
    /// Statements that it runs.
    pub statements: String,
}

impl<'a> Reporting<'a> {
    /// Prepares reports for the start of a replica's server; none where there are none.
    pub fn new(reports: Option<&'a Reports>) -> (Self, Start) {
        let mut this =
            Self { reports, door: None, granted: None, was_blocked: false, seen: ReportsSeen::default() };
        let mut start = Start::default();
        if let Some(reports) = reports {
            match reports.account() {
                Ok(account) => {
                    start.statements += &reports.made(&account);
                    start.configuration = reports.configuration();
                }
                Err(error) => {
                    this.seen.error = Some(error.to_string());
                    this.reports = None;
                }
            }
        }
        (this, start)
    }

    /// Keeps the door open, and the sessions within their limits.
    pub fn attend(&mut self, server: &Server, socket: &Path, env: &Env) {
        let Some(reports) = self.reports else { return };
        let attended = self.let_read(reports, server, env).and_then(|()| {
            if self.door.is_none() {
                let door = Door::open(&place_of(reports), socket);
                self.door = Some(door.map_err(|source| place_error(reports, &source))?);
            }
            match self.door.as_ref().map_or(0, Door::clients) {
                0 => Ok(()),
                _ => self.limit(reports, server),
            }
        });
        self.seen.error = attended.err().map(|error| error.to_string());
    }

    /// Closes the door and ends what is underway: the server is to stop being a replica.
    pub fn close(&mut self, server: &Server) {
        if self.door.take().is_some() {
            // Those of a server that does not answer end with it.
            let _ = sessions(server).map(|(sessions, _)| {
                let ids: Vec<u64> = sessions.iter().map(|session| session.id).collect();
                end(server, &ids)
            });
        }
    }

    /// Returns what is seen of them; none where the configuration wants none.
    pub fn seen(&self) -> Option<ReportsSeen> {
        let is_wanted = self.reports.is_some() || self.seen.error.is_some();
        let clients = self.door.as_ref().map_or(0, Door::clients);
        is_wanted.then(|| ReportsSeen { clients, ..self.seen.clone() })
    }

    /// Lets the account read databases that are new.
    fn let_read(&mut self, reports: &Reports, server: &Server, env: &Env) -> Result<(), DatabaseError> {
        if self.granted.as_ref().is_some_and(|since| since.elapsed() < GRANT_EVERY) {
            return Ok(());
        }
        let ask = |statement: &str| -> Result<BTreeSet<String>, DatabaseError> {
            Ok(server.client.ask(statement, QUESTION_LIMIT)?.rows.into_iter().flatten().collect())
        };
        let schemas = ask("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA;")?;
        let granted =
            ask(&format!("SELECT Db FROM mysql.db WHERE User='{REPORT_ACCOUNT}' AND Host='localhost';"))?;
        let grants = reports.grants(&schemas, &granted);
        if !grants.is_empty() {
            server.client.ask(&format!("SET sql_log_bin=0;\n{grants}"), QUESTION_LIMIT)?;
        }
        self.granted = Some(env.stopwatch());
        Ok(())
    }

    fn limit(&mut self, reports: &Reports, server: &Server) -> Result<(), DatabaseError> {
        let (sessions, is_blocked) = sessions(server)?;
        for session in &sessions {
            // A server that runs as another user keeps its threads' priority.
            let _ = Pid::from_raw(session.thread).map(|thread| setpriority_process(Some(thread), NICE));
        }
        let over = overdue(&sessions, reports.statement_limit, is_blocked && self.was_blocked);
        self.was_blocked = is_blocked;
        self.seen.ended += over.len() as u64;
        end(server, &over)
    }
}

fn place_of(reports: &Reports) -> DoorPlace {
    DoorPlace {
        listen: reports.listen,
        socket: reports.socket.clone(),
        account: REPORT_ACCOUNT,
        clients: reports.clients(),
    }
}

fn place_error(reports: &Reports, source: &std::io::Error) -> DatabaseError {
    let place = [
        reports.listen.map(|address| address.to_string()),
        reports.socket.as_ref().map(|path| path.display().to_string()),
    ];
    let place: Vec<String> = place.into_iter().flatten().collect();
    DatabaseError::Settings(format!("no reports at {}: {source}", place.join(", ")))
}

/// Returns the sessions of reports, and whether the replica waits for the lock of a table.
fn sessions(server: &Server) -> Result<(Vec<ReportSession>, bool), DatabaseError> {
    let asked = format!(
        "SELECT p.ID, p.TID, p.COMMAND <> 'Sleep', t.trx_id IS NOT NULL, p.TIME_MS, p.MEMORY_USED, \
         EXISTS (SELECT 1 FROM information_schema.INNODB_LOCK_WAITS w WHERE w.blocking_trx_id = t.trx_id), \
         (SELECT COUNT(*) FROM information_schema.PROCESSLIST a WHERE a.USER = 'system user' \
          AND a.STATE LIKE 'Waiting for % lock') \
         FROM information_schema.PROCESSLIST p \
         LEFT JOIN information_schema.INNODB_TRX t ON t.trx_mysql_thread_id = p.ID WHERE p.USER = '{REPORT_ACCOUNT}';"
    );
    let rows = server.client.ask(&asked, QUESTION_LIMIT)?;
    let (mut sessions, mut is_blocked) = (Vec::new(), false);
    for row in &rows.rows {
        let number = |at: usize| row.get(at).and_then(|text| text.split('.').next()?.parse::<u64>().ok());
        let is = |at: usize| number(at).is_some_and(|number| number > 0);
        is_blocked |= is(7);
        sessions.push(ReportSession {
            id: number(0).unwrap_or(0),
            thread: number(1).and_then(|thread| thread.try_into().ok()).unwrap_or(0),
            works: is(2),
            is_open: is(3),
            time: Duration::from_millis(number(4).unwrap_or(0)),
            memory_bytes: number(5).unwrap_or(0),
            blocks: is(6),
        });
    }
    Ok((sessions, is_blocked))
}

/// Ends sessions. One that has ended by itself is no error.
fn end(server: &Server, ids: &[u64]) -> Result<(), DatabaseError> {
    for id in ids {
        match server.client.ask(&format!("KILL HARD CONNECTION {id};"), QUESTION_LIMIT) {
            Ok(_) | Err(DatabaseError::Server { code: 1094, .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
