//! What is asked of a server, and told to it: each a function with types.

use super::binlog_files::WrittenEnd;
use super::client::{Account, Address, Client, Rows, literal};
use super::error::DatabaseError;
use super::facts::{Facts, ForeignTable, VARIABLES, Variables};
use super::minimal::{SYNC_ACKNOWLEDGED, SYNC_SELDOM};
use crate::model::gtid::{GtidPosition, ServerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for a question that a server answers from memory.
const QUESTION_LIMIT: Duration = Duration::from_secs(10);
/// Time for a statement that waits for others, such as the end of an applier.
const STATEMENT_LIMIT: Duration = Duration::from_secs(60);
/// Error of a session that has ended.
const NO_SUCH_SESSION: u32 = 1094;
/// Seconds between heartbeats of a primary that has nothing to send.
const HEARTBEAT_SECONDS: u32 = 2;

/// What a replica says about its replication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaStatus {
    /// Whether the thread that receives is connected.
    pub receives: bool,
    /// Whether the thread that applies runs.
    pub applies: bool,
    /// The position that is received, of the store's own domains.
    pub received: GtidPosition,
    /// The position that is applied, of the store's own domains.
    pub applied: GtidPosition,
    /// The error of receiving, with its number.
    pub receive_error: Option<(u32, String)>,
    /// The error of applying, with its number.
    pub apply_error: Option<(u32, String)>,
}

/// Semi-synchronous replication, as a server sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acks {
    /// Whether commits wait for an acknowledgement.
    pub waits: bool,
    /// Number of servers that acknowledge, or whether this replica does.
    pub acknowledging: u64,
    /// Number of commits that wait at this moment.
    pub waiting: u64,
}

/// Where a replica finds its primary.
pub struct Source<'a> {
    pub host: &'a str,
    pub port: u16,
    pub user: &'a str,
    pub password: &'a str,
    pub tls_ca: Option<&'a str>,
}

/// The table of the row that shows whether a server takes writes. Customers do not see this schema.
const HEARTBEAT: &str = "mysql.understudy_heartbeat";
/// The server's error for a table that is not there.
const NO_SUCH_TABLE: u32 = 1146;
/// The server's error for a lock that was not had in time.
const LOCK_WAIT: u32 = 1205;
/// Maximum number of sessions that are ended by one request.
const SESSIONS_MAX: usize = 200;

/// Where a server's binary logs lie on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinlogPlace {
    pub dir: PathBuf,
    /// The file that names them.
    pub index: PathBuf,
    pub server: ServerId,
}

/// A server that is asked.
#[derive(Clone)]
pub struct Server {
    pub client: Client,
}

impl Server {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    fn question(&self, statements: &str) -> Result<Rows, DatabaseError> {
        self.client.ask(statements, QUESTION_LIMIT)
    }

    fn statement(&self, statements: &str) -> Result<(), DatabaseError> {
        self.client.ask(statements, STATEMENT_LIMIT).map(drop)
    }

    fn not_understood(&self, text: impl Into<String>) -> DatabaseError {
        DatabaseError::Answer { server: self.client.address.to_string(), text: text.into() }
    }

    fn position(&self, text: &str) -> Result<GtidPosition, DatabaseError> {
        text.parse().map_err(|error| self.not_understood(format!("{error}")))
    }

    /// Returns once the server answers.
    pub fn ping(&self) -> Result<(), DatabaseError> {
        self.question("SELECT 1;").map(drop)
    }

    /// Returns the variables in [`VARIABLES`] that the server has.
    pub fn variables(&self) -> Result<Variables, DatabaseError> {
        let names: Vec<String> = VARIABLES.iter().map(|name| literal(name)).collect();
        let rows =
            self.question(&format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({});", names.join(",")))?;
        let pairs = rows.rows.into_iter().filter_map(|row| {
            let [name, value]: [String; 2] = row.try_into().ok()?;
            Some((name, value))
        });
        Ok(Variables(pairs.collect()))
    }

    /// Returns all that the checks of a primary need.
    pub fn facts(&self) -> Result<Facts, DatabaseError> {
        let user = self.question("SELECT CURRENT_USER();")?;
        let (user, host) = user
            .first()
            .and_then(|account| account.rsplit_once('@'))
            .ok_or_else(|| self.not_understood("CURRENT_USER()"))?;
        let mut facts = Facts {
            variables: self.variables()?,
            account: format!("'{user}'@'{host}'"),
            ..Default::default()
        };
        let privileges = "SELECT GRANTEE, PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES;";
        for row in self.question(privileges)?.rows {
            if let [account, privilege] = &row[..] {
                facts.privileges.entry(account.clone()).or_default().insert(privilege.clone());
            }
        }
        let tables = "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME), ENGINE FROM information_schema.TABLES \
             WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE <> 'InnoDB' AND TABLE_SCHEMA NOT IN \
             ('mysql', 'sys', 'information_schema', 'performance_schema') ORDER BY 1;";
        let tables = self.question(tables)?.rows.into_iter().filter_map(|row| {
            let [name, engine]: [String; 2] = row.try_into().ok()?;
            Some(ForeignTable { name, engine })
        });
        facts.foreign_tables = tables.collect();
        Ok(facts)
    }

    /// Returns the last of the store's transactions in the server's binary log.
    pub fn binlog_position(&self) -> Result<GtidPosition, DatabaseError> {
        let rows = self.question("SELECT @@global.gtid_binlog_pos;")?;
        Ok(self.position(rows.first().unwrap_or_default())?.of_store())
    }

    /// Returns the last of the store's transactions, and who acknowledges them; with `beat`, also whether a row can be
    /// written, and read again. That row is in no binary log: nothing is replicated or archived for it.
    ///
    /// # Errors
    /// The server's error; [`DatabaseError::Held`] if somebody has made it read-only.
    pub fn serving_status(&self, beat: Option<u64>) -> Result<(GtidPosition, Acks), DatabaseError> {
        let of = |name: &str| {
            format!(
                "(SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'RPL_SEMI_SYNC_MASTER_{name}')"
            )
        };
        let (written, read) = match beat {
            Some(beat) => (
                format!(
                    "SET sql_log_bin=0, lock_wait_timeout=2, innodb_lock_wait_timeout=2; REPLACE INTO {HEARTBEAT} VALUES (1, {beat});"
                ),
                format!("@@global.read_only, (SELECT beat FROM {HEARTBEAT} WHERE id = 1)"),
            ),
            None => (String::new(), "'', ''".to_owned()),
        };
        let asked = format!(
            "{written} SELECT @@global.gtid_binlog_pos, @@global.rpl_semi_sync_master_enabled, {}, {}, {read};",
            of("CLIENTS"),
            of("WAIT_SESSIONS")
        );
        let rows = match self.question(&asked) {
            Err(DatabaseError::Server { code: NO_SUCH_TABLE, .. }) => {
                self.statement(&format!(
                    "SET sql_log_bin=0; CREATE TABLE IF NOT EXISTS {HEARTBEAT} \
                     (id INT PRIMARY KEY, beat BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB;"
                ))?;
                self.question(&asked)?
            }
            // A backup, or an administrator, holds a lock. What is locked for them is not broken.
            Err(DatabaseError::Server { code: LOCK_WAIT, .. }) => return self.serving_status(None),
            rows => rows?,
        };
        let [position, waits, clients, waiting, read_only, found] = match rows.rows.first().map(Vec::as_slice)
        {
            Some([position, waits, clients, waiting, read_only, found]) => {
                [position, waits, clients, waiting, read_only, found]
            }
            _ => return Err(self.not_understood(asked)),
        };
        if read_only == "1" {
            return Err(DatabaseError::Held(
                "the server is read-only, though customers write to it: somebody has set that; SET GLOBAL read_only=0".into(),
            ));
        }
        if beat.is_some_and(|beat| *found != beat.to_string()) {
            return Err(self.not_understood(format!("another row was read than was written: {found}")));
        }
        let number = |text: &str| text.parse().unwrap_or(0);
        let acks = Acks { waits: waits == "1", acknowledging: number(clients), waiting: number(waiting) };
        Ok((self.position(position)?.of_store(), acks))
    }

    /// Has commits wait until a standby has acknowledged them, however long that takes, or not any more: then those
    /// that wait are done.
    pub fn wait_for_standby(&self, on: bool) -> Result<(), DatabaseError> {
        self.statement(&format!("SET GLOBAL rpl_semi_sync_master_enabled={};", u8::from(on)))
    }

    /// Has this replica acknowledge what it receives, or not. It connects to its primary anew for that. A server whose
    /// commits are durable writes what it acknowledges to the disk first.
    pub fn acknowledge(&self, on: bool) -> Result<(), DatabaseError> {
        let rows = self.question("SHOW ALL SLAVES STATUS;")?;
        // One that is about to connect is not to be left standing.
        let runs =
            rows.named().next().is_some_and(|row| row.get("Slave_IO_Running").is_some_and(|is| *is != "No"));
        let again = if runs { " START SLAVE IO_THREAD;" } else { "" };
        let sync = if on { SYNC_ACKNOWLEDGED } else { SYNC_SELDOM };
        let on = u8::from(on);
        self.statement(&format!(
            "STOP SLAVE IO_THREAD; SET GLOBAL sync_relay_log=IF(@@global.sync_binlog=1, {sync}, {SYNC_SELDOM}); \
             SET GLOBAL rpl_semi_sync_slave_enabled={on};{again}"
        ))
    }

    /// Returns the server's number.
    pub fn server_id(&self) -> Result<ServerId, DatabaseError> {
        let rows = self.question("SELECT @@global.server_id;")?;
        let number = rows.first().and_then(|number| number.parse().ok());
        number.map(ServerId).ok_or_else(|| self.not_understood("@@server_id"))
    }

    /// Returns where the server's binary logs are.
    pub fn binlog_place(&self) -> Result<BinlogPlace, DatabaseError> {
        let asked = "SELECT @@global.log_bin_basename, @@global.log_bin_index, @@global.server_id;";
        let rows = self.question(asked)?;
        let [base, index, server] = match rows.rows.first().map(Vec::as_slice) {
            Some([base, index, server]) => [base, index, server],
            _ => return Err(self.not_understood(asked)),
        };
        let (Some(dir), Ok(server)) = (Path::new(base).parent(), server.parse()) else {
            return Err(self.not_understood(base));
        };
        if !Path::new(base).is_absolute() {
            let text = format!(
                "{}: the server writes no binary log; see `understudy database check`",
                self.address()
            );
            return Err(DatabaseError::Settings(text));
        }
        if !Path::new(index).exists() {
            return Err(DatabaseError::Settings(format!(
                "{index}: the server's binary logs are not on this host, or this user may not read them; archive on the host of the server"
            )));
        }
        Ok(BinlogPlace { dir: dir.to_owned(), index: index.into(), server: ServerId(server) })
    }

    /// Returns the names of the server's binary logs, the oldest first.
    pub fn binlog_names(&self) -> Result<Vec<String>, DatabaseError> {
        let rows = self.question("SHOW BINARY LOGS;")?;
        Ok(rows.rows.into_iter().filter_map(|row| row.into_iter().next()).collect())
    }

    /// Returns the end of what the server has written to its binary logs.
    pub fn written_end(&self) -> Result<WrittenEnd, DatabaseError> {
        let rows = self.question("SHOW MASTER STATUS;")?;
        let row = rows.rows.into_iter().next().unwrap_or_default();
        match (row.first(), row.get(1).and_then(|offset| offset.parse().ok())) {
            (Some(file), Some(offset_bytes)) => Ok(WrittenEnd { file: file.clone(), offset_bytes }),
            _ => Err(self.not_understood("SHOW MASTER STATUS")),
        }
    }

    /// Returns how far this replica has applied its primary's transactions.
    pub fn applied_position(&self) -> Result<GtidPosition, DatabaseError> {
        let rows = self.question("SELECT @@global.gtid_slave_pos;")?;
        self.position(rows.first().unwrap_or_default())
    }

    /// Declares that what this server has written itself is applied, as a former primary's must before it follows.
    /// (`MASTER_DEMOTE_TO_SLAVE` counts only what has the server's present number.)
    pub fn count_own_as_applied(&self) -> Result<(), DatabaseError> {
        let rows = self.question("SELECT @@global.gtid_binlog_pos;")?;
        let own = self.position(rows.first().unwrap_or_default())?;
        let all = self.applied_position()?.gtids().chain(own.gtids()).collect();
        self.set_applied_position(&all)
    }

    /// Returns the state of replication; none where no primary was ever named.
    pub fn replica_status(&self) -> Result<Option<ReplicaStatus>, DatabaseError> {
        self.status_after("")
    }

    /// Receives nothing more, and returns the state of replication then; what was received is applied.
    pub fn stop_receiving(&self) -> Result<Option<ReplicaStatus>, DatabaseError> {
        self.status_after("STOP SLAVE IO_THREAD; ")
    }

    fn status_after(&self, statements: &str) -> Result<Option<ReplicaStatus>, DatabaseError> {
        let rows = self.client.ask(&format!("{statements}SHOW ALL SLAVES STATUS;"), STATEMENT_LIMIT)?;
        let Some(row) = rows.named().next() else { return Ok(None) };
        let text = |name: &str| row.get(name).copied().unwrap_or_default();
        let error = |number: &str, words: &str| {
            let code = text(number).parse().unwrap_or(0);
            (code != 0).then(|| (code, text(words).to_owned()))
        };
        Ok(Some(ReplicaStatus {
            receives: text("Slave_IO_Running") == "Yes",
            applies: text("Slave_SQL_Running") == "Yes",
            received: self.position(text("Gtid_IO_Pos"))?.of_store(),
            applied: self.position(text("Gtid_Slave_Pos"))?.of_store(),
            receive_error: error("Last_IO_Errno", "Last_IO_Error"),
            apply_error: error("Last_SQL_Errno", "Last_SQL_Error"),
        }))
    }

    /// Waits until a replica has applied a position; returns whether it has, within `limit`.
    pub fn wait_for(&self, position: &GtidPosition, limit: Duration) -> Result<bool, DatabaseError> {
        let wait = format!(
            "SELECT MASTER_GTID_WAIT({}, {:.3});",
            literal(&position.to_string()),
            limit.as_secs_f64()
        );
        let rows = self.client.ask(&wait, limit + QUESTION_LIMIT)?;
        Ok(rows.first() == Some("0"))
    }

    /// Declares that all up to this position is in the data, which a seed brought.
    pub fn set_applied_position(&self, position: &GtidPosition) -> Result<(), DatabaseError> {
        let position = literal(&position.to_string());
        self.statement(&format!("SET sql_log_bin=0; SET GLOBAL gtid_slave_pos={position};"))
    }

    /// Forgets the server's own binary logs, and declares that all up to this position is in the data.
    pub fn begin_history(&self, position: &GtidPosition) -> Result<(), DatabaseError> {
        let position = literal(&position.to_string());
        self.statement(&format!("SET sql_log_bin=0; RESET MASTER; SET GLOBAL gtid_slave_pos={position};"))
    }

    /// Returns whether nothing was ever written to the server's binary log.
    pub fn has_no_binlog(&self) -> Result<bool, DatabaseError> {
        Ok(self.question("SELECT @@global.gtid_binlog_state;")?.first().unwrap_or_default().is_empty())
    }

    /// Has the server's binary log begin behind a position; there is nothing in it yet. Its first file says so, and
    /// nobody takes it for the log of another history.
    pub fn begin_binlog(&self, position: &GtidPosition) -> Result<(), DatabaseError> {
        let position = literal(&position.to_string());
        self.statement(&format!("SET sql_log_bin=0; SET GLOBAL gtid_binlog_state={position};"))
    }

    /// Drops our account, which is not written to the binary log, and asks the server to write all and to end.
    pub fn drop_account_and_end(&self, name: &str) -> Result<(), DatabaseError> {
        self.statement(&format!("SET sql_log_bin=0; DROP USER {}@'localhost'; SHUTDOWN;", literal(name)))
    }

    /// Names the primary that this server follows. What was received and not yet applied is fetched anew.
    pub fn follow(&self, source: &Source) -> Result<(), DatabaseError> {
        let tls = match source.tls_ca {
            Some(ca) => {
                format!("MASTER_SSL=1, MASTER_SSL_CA={}, MASTER_SSL_VERIFY_SERVER_CERT=1", literal(ca))
            }
            None => "MASTER_SSL=0, MASTER_SSL_VERIFY_SERVER_CERT=0".to_owned(),
        };
        self.statement(&format!(
            "SET sql_log_bin=0; CHANGE MASTER TO MASTER_HOST={}, MASTER_PORT={}, MASTER_USER={}, \
             MASTER_PASSWORD={}, MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, \
             MASTER_HEARTBEAT_PERIOD={HEARTBEAT_SECONDS}, {tls};",
            literal(source.host),
            source.port,
            literal(source.user),
            literal(source.password),
        ))
    }

    pub fn start_replica(&self) -> Result<(), DatabaseError> {
        self.statement("START SLAVE;")
    }

    /// Has a replica stop by itself behind a position.
    pub fn start_replica_until(&self, position: &GtidPosition) -> Result<(), DatabaseError> {
        let position = literal(&position.to_string());
        self.statement(&format!("START SLAVE UNTIL master_gtid_pos={position};"))
    }

    pub fn start_receiving(&self) -> Result<(), DatabaseError> {
        self.statement("START SLAVE IO_THREAD;")
    }

    pub fn stop_applying(&self) -> Result<(), DatabaseError> {
        self.statement("STOP SLAVE SQL_THREAD;")
    }

    pub fn stop_replica(&self) -> Result<(), DatabaseError> {
        self.statement("STOP SLAVE;")
    }

    pub fn start_applying(&self) -> Result<(), DatabaseError> {
        self.statement("START SLAVE SQL_THREAD;")
    }

    /// Forgets the primary, takes writes, and runs the server's own events.
    pub fn open(&self) -> Result<(), DatabaseError> {
        self.statement("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only=0; SET GLOBAL event_scheduler=ON;")
    }

    /// Refuses writes of accounts without special privileges, and runs no events.
    pub fn close(&self) -> Result<(), DatabaseError> {
        self.statement("SET GLOBAL event_scheduler=OFF; SET GLOBAL read_only=1;")
    }

    /// Enables the events that a replica had only heard of.
    pub fn enable_events(&self) -> Result<(), DatabaseError> {
        let events = "SELECT CONCAT('`', REPLACE(EVENT_SCHEMA, '`', '``'), '`.`', REPLACE(EVENT_NAME, '`', '``'), '`') \
             FROM information_schema.EVENTS WHERE STATUS = 'SLAVESIDE_DISABLED';";
        for name in self.question(events)?.rows.into_iter().flatten() {
            self.statement(&format!("ALTER EVENT {name} ENABLE;"))?;
        }
        Ok(())
    }

    /// Ends all sessions but this one and those of replicas; returns how many there were. One that has not logged in
    /// yet has begun nothing, and finds the server as it is by then.
    pub fn end_sessions(&self) -> Result<usize, DatabaseError> {
        let sessions = format!(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND COMMAND NOT IN \
             ('Binlog Dump', 'Daemon', 'Slave_IO', 'Slave_SQL', 'Slave_worker') AND USER NOT IN ('system user', 'unauthenticated user') LIMIT {SESSIONS_MAX};"
        );
        let ids: Vec<u64> =
            self.question(&sessions)?.rows.into_iter().flatten().filter_map(|id| id.parse().ok()).collect();
        if ids.is_empty() {
            return Ok(0);
        }
        let kill: String = ids.iter().map(|id| format!("KILL HARD CONNECTION {id};\n")).collect();
        match self.statement(&kill) {
            // One has ended by itself; the others are seen at the next look.
            Ok(()) | Err(DatabaseError::Server { code: NO_SUCH_SESSION, .. }) => Ok(ids.len()),
            Err(error) => Err(error),
        }
    }

    /// Returns all tables but the system's views, by schema and name.
    pub fn base_tables(&self) -> Result<Vec<(String, String)>, DatabaseError> {
        let tables = "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' \
             AND TABLE_SCHEMA NOT IN ('information_schema', 'performance_schema') ORDER BY 1, 2;";
        let rows = self.question(tables)?.rows.into_iter();
        Ok(rows
            .filter_map(|row| row.try_into().ok().map(|[schema, name]: [String; 2]| (schema, name)))
            .collect())
    }

    /// Has the server check a table and its indexes, row by row.
    pub fn check_table(&self, schema: &str, table: &str, limit: Duration) -> Result<Rows, DatabaseError> {
        let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
        self.client.ask(&format!("CHECK TABLE {}.{} EXTENDED;", quoted(schema), quoted(table)), limit)
    }

    /// Makes an account that reads everything and changes nothing.
    pub fn make_reader(&self, account: &Account) -> Result<(), DatabaseError> {
        let name = format!("{}@'localhost'", literal(&account.user));
        let password = literal(&account.password);
        self.statement(&format!(
            "SET sql_log_bin=0; CREATE OR REPLACE USER {name} IDENTIFIED BY {password}; \
             GRANT SELECT, SHOW VIEW, EXECUTE ON *.* TO {name};"
        ))
    }

    /// Returns the checksum of each table outside the system's schemas.
    pub fn checksums(&self) -> Result<BTreeMap<String, String>, DatabaseError> {
        let tables = "SELECT CONCAT('`', TABLE_SCHEMA, '`.`', TABLE_NAME, '`') FROM information_schema.TABLES \
             WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA NOT IN \
             ('mysql', 'sys', 'information_schema', 'performance_schema');";
        let names: Vec<String> = self.question(tables)?.rows.into_iter().flatten().collect();
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rows = self.client.ask(&format!("CHECKSUM TABLE {};", names.join(", ")), STATEMENT_LIMIT)?;
        Ok(rows
            .rows
            .into_iter()
            .filter_map(|row| Some((row.first()?.clone(), row.get(1)?.clone())))
            .collect())
    }

    /// Returns the address as it is shown.
    pub fn address(&self) -> &Address {
        &self.client.address
    }
}
