//! A drill of a database: a second server opens a copy of the replica's data, its tables and the user's queries are
//! checked there, and all of it is thrown away.
//!
//! The replica is not changed, and nothing is asked of its server: it stands still while its files are copied (see
//! [`super::still`]), and goes on. The copy's server recovers as the replica's would after a crash. It has no network,
//! and knows neither the primary nor its account; queries run with an account that only reads. It ends with this
//! process, and what a killed drill leaves is removed (see [`super::drill_place`]).

use super::client::{Account, Client, Rows, literal};
use super::drill_at::{At, From, bring_to};
use super::drill_command::{DrillCommand, OnCopy, READER, check};
use super::drill_copy::{Content, Source, Way, check_room, way};
use super::drill_fault::Fault;
use super::drill_place::DrillPlace;
use super::error::DatabaseError;
use super::minimal::Place;
use super::orders::{What, give};
use super::private_server::{PrivateServer, PrivateSettings};
use super::recover::{Recovery, recover};
use super::report::Report;
use super::seed::{DATA, SeedNote, data_dir};
use super::server::Server;
use super::still::{mark, try_lock};
use crate::model::gtid::GtidPosition;
use crate::model::id::Sequence;
use crate::support::durable;
use crate::support::env::Env;
use crate::support::progress::Progress;
use serde::Serialize;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time for a server to stand still.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Time for the check of one table.
const TABLE_LIMIT: Duration = Duration::from_hours(6);
/// Default time for one query.
const QUERY_LIMIT: Duration = Duration::from_secs(300);
/// Name of its option file.
const READER_FILE: &str = "reader.cnf";
const PRIVATE_MODE: u32 = 0o600;
/// Settings of the copy's server in addition to a replica's: what it loses by a crash is thrown away in any case.
const SETTINGS: &str =
    "read-only=1\nsync-binlog=0\ninnodb-flush-log-at-trx-commit=0\nbinlog-expire-logs-seconds=0\n";
/// What a server says of a table that it cannot check.
const NOT_CHECKABLE: &str = "doesn't support check";

/// A drill as it is to be.
pub struct Drill<'a> {
    pub store: &'a str,
    /// Place of the replica's supervisor.
    pub supervisor: &'a Place,
    /// Directory of the replica.
    pub root: &'a Path,
    pub memory_mib: u32,
    /// Each must succeed on the copy, and answer with something.
    pub queries: &'a [String],
    /// It must succeed on the copy, too.
    pub command: &'a DrillCommand,
    /// Time for one query, and for the command.
    pub query_limit: Option<Duration>,
    /// The transaction up to which the copy is brought first.
    pub at: Option<At<'a>>,
    /// Time for the tables; those that it does not suffice for are not checked.
    pub table_time: Option<Duration>,
    /// Whether customers may wait meanwhile, for a replica that acknowledges.
    pub customers_wait: bool,
    pub env: &'a Env,
    pub stop: &'a dyn Fn() -> bool,
    /// Called with each step's name.
    pub on_step: &'a dyn Fn(&'static str),
}

/// How long each step took, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    /// The replica stood still.
    pub still: f64,
    /// From the copy to the first answer of its server.
    pub start: f64,
    /// Transactions of the archive were applied.
    pub archive: f64,
    pub tables: f64,
    /// Queries, and the command.
    pub queries: f64,
    pub all: f64,
}

/// What a drill found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Drilled {
    pub way: Way,
    pub files: u64,
    pub bytes: u64,
    /// The position of the copy.
    pub position: GtidPosition,
    /// How far the replica was behind its primary then, as its supervisor saw it.
    pub lag_seconds: Option<f64>,
    /// The seed from which the data was restored; none for a copy of the replica.
    pub seed: Option<Sequence>,
    /// Number of transactions of the archive that were applied to the data.
    pub applied: u64,
    pub tables: u64,
    pub tables_checked: u64,
    /// Tables of an engine that checks none.
    pub not_checkable: Vec<String>,
    pub queries: u64,
    /// Whether a command ran.
    pub command: bool,
    pub faults: Vec<Fault>,
    pub seconds: Times,
}

/// Returns whether the data of a replica is copied by reference.
pub fn is_by_reference(root: &Path) -> bool {
    way(&data_dir(root), root).is_ok_and(|way| way == Way::Reflink)
}

/// Drills a replica.
///
/// # Errors
/// There is no copy, or no server on it. What is wrong with the data is no error, but a fault in the report.
pub fn drill(drill: &Drill) -> Result<Drilled, DatabaseError> {
    let begun = drill.env.stopwatch();
    let Some(made_by) = SeedNote::read(drill.root)? else {
        let text = format!("{}: there is no replica in it", drill.root.display());
        return Err(DatabaseError::Settings(text));
    };
    let place = DrillPlace::take(drill.supervisor, drill.root, drill.env)?;
    (drill.on_step)("place taken");
    if let Some(at @ At { from: From::Archive { threads }, .. }) = &drill.at {
        return drill.restored(at, *threads, place);
    }
    let source =
        Source { data: data_dir(drill.root), log_bin: made_by.log_bin.as_deref().map(PathBuf::from) };
    let lag_seconds = Report::read(drill.supervisor).and_then(|report| report.lag_seconds);
    let (way, content, (applied, still)) = drill.copy(&place, &source)?;
    let mut seconds = Times { still, ..Times::default() };
    let step = drill.env.stopwatch();
    let data = place.copy();
    let extra = format!("{SETTINGS}secure-file-priv={}\n", place.server.temporary().display());
    let settings = PrivateSettings {
        place: place.server.clone(),
        data: &data,
        variables: &made_by.variables,
        memory_mib: drill.memory_mib,
        store: drill.store,
        purpose: "drill",
        log_bin: source.log_name(),
        extra: &extra,
    };
    let private = PrivateServer::start(&settings, drill.env, drill.stop)?;
    seconds.start = step.seconds();
    (drill.on_step)("server started");
    let found = drill.examine(&private.server, &place, &applied, drill.at.as_ref(), &mut seconds)?;
    drop(private);
    place.remove()?;
    seconds.all = begun.seconds();
    let Content { files, bytes } = content;
    Ok(Drilled { way, files, bytes, lag_seconds, seconds, ..found })
}

impl Drill<'_> {
    /// Restores the database to a moment from its archive, and examines that.
    fn restored(&self, at: &At, threads: usize, place: DrillPlace) -> Result<Drilled, DatabaseError> {
        let begun = self.env.stopwatch();
        let root = place.restored();
        let recovered = recover(&Recovery {
            store: at.archive,
            target: at.target.clone(),
            destination: &root,
            place: place.server.clone(),
            memory_mib: self.memory_mib,
            threads,
            own: Vec::new(),
            env: self.env,
            stop: self.stop,
            progress: &Progress::default(),
            on_step: self.on_step,
        })?;
        let mut seconds = Times { archive: begun.seconds(), ..Times::default() };
        let missing = || DatabaseError::Settings(format!("{}: there is no seed in it", root.display()));
        let note = SeedNote::read(&root)?.ok_or_else(missing)?;
        let step = self.env.stopwatch();
        let data = root.join(DATA);
        let extra = format!("{SETTINGS}secure-file-priv={}\n", place.server.temporary().display());
        let settings = PrivateSettings {
            place: place.server.clone(),
            data: &data,
            variables: &note.variables,
            memory_mib: self.memory_mib,
            store: self.store,
            purpose: "drill",
            log_bin: None,
            extra: &extra,
        };
        let private = PrivateServer::start(&settings, self.env, self.stop)?;
        seconds.start = step.seconds();
        (self.on_step)("server started");
        let found = self.examine(&private.server, &place, &recovered.position, None, &mut seconds)?;
        drop(private);
        place.remove()?;
        seconds.all = begun.seconds();
        let (seed, applied) = (Some(recovered.seed), recovered.played.transactions);
        Ok(Drilled { seed, applied, seconds, ..found })
    }

    /// Examines the copy by its server.
    fn examine(
        &self,
        server: &Server,
        place: &DrillPlace,
        applied: &GtidPosition,
        at: Option<&At>,
        seconds: &mut Times,
    ) -> Result<Drilled, DatabaseError> {
        let mut position = server.applied_position()?.of_store();
        let mut faults = Vec::new();
        if !position.covers(applied) {
            let reason = format!("it recovered to {position}, and the replica had applied {applied}");
            faults.push(Fault { what: "the copy".to_owned(), reason });
        }
        let (mut played, step) = (0, self.env.stopwatch());
        if let Some(at) = at {
            (position, played) = bring_to(at, self.store, &position, server, &place.server.dir, self.stop)?;
            seconds.archive = step.seconds();
            (self.on_step)("archive applied");
        }
        let step = self.env.stopwatch();
        let (tables, tables_checked, not_checkable) = self.check_tables(server, &mut faults)?;
        seconds.tables = step.seconds();
        (self.on_step)("tables checked");
        let step = self.env.stopwatch();
        self.ask(server, place, &position, &mut faults)?;
        seconds.queries = step.seconds();
        (self.on_step)("queries asked");
        Ok(Drilled {
            position,
            applied: played,
            tables,
            tables_checked,
            not_checkable,
            queries: self.queries.len() as u64,
            command: !self.command.command.is_empty(),
            faults,
            ..Drilled::default()
        })
    }

    /// Copies the data while the replica stands still. Returns what it had applied at least, and for how long it
    /// stood.
    pub(super) fn copy(
        &self,
        place: &DrillPlace,
        source: &Source,
    ) -> Result<(Way, Content, (GtidPosition, f64)), DatabaseError> {
        let (data, to) = (&source.data, place.copy());
        let around = to.parent().unwrap_or(&to);
        let file = |path: &Path, source| DatabaseError::File { path: path.to_owned(), source };
        let way = way(data, around)?;
        if way == Way::Copy {
            check_room(around, source.content()?.bytes)?;
        }
        // What is written back now is not written back while the server stands.
        File::open(data).and_then(|dir| Ok(rustix::fs::syncfs(dir)?)).map_err(|source| file(data, source))?;
        let lock_path = self.supervisor.still_lock();
        let Some(lock) = try_lock(&lock_path)? else { return Err(DatabaseError::Taken(lock_path)) };
        let begun = self.env.stopwatch();
        let what = What::Still { customers_wait: self.customers_wait };
        let (applied, _) = give(self.supervisor, what, None, STOP_LIMIT)?;
        (self.on_step)("still");
        let before = mark(self.supervisor);
        let copied = source.content().and_then(|content| {
            source.copy(&to, way, self.stop)?;
            Ok(content)
        });
        (self.on_step)("copied");
        let is_whole = before.is_some() && mark(self.supervisor) == before;
        drop(lock);
        let still = begun.seconds();
        (self.on_step)("replica goes on");
        match copied {
            // Files vanish, and grow, below a server that runs.
            _ if !is_whole => Err(DatabaseError::Held(format!(
                "the replica went on before its copy was whole, after {still:.1} s: an order came first, it was started anew, or the copy took too long; drill again"
            ))),
            Ok(content) => Ok((way, content, (applied.unwrap_or_default(), still))),
            Err(error) => Err(error),
        }
    }

    /// Checks the tables. Returns how many there are, how many were checked, and which cannot be.
    fn check_tables(
        &self,
        server: &Server,
        faults: &mut Vec<Fault>,
    ) -> Result<(u64, u64, Vec<String>), DatabaseError> {
        let mut tables = server.base_tables()?;
        let count = tables.len();
        if self.table_time.is_some() {
            // Each drill checks others.
            for at in (1..tables.len()).rev() {
                tables.swap(at, (self.env.nonce() % (at as u64 + 1)) as usize);
            }
        }
        let (begun, mut checked, mut not_checkable) = (self.env.stopwatch(), 0, Vec::new());
        for (schema, table) in tables {
            if self.table_time.is_some_and(|time| begun.elapsed() >= time) {
                break;
            }
            if (self.stop)() {
                return Err(DatabaseError::Stopped);
            }
            let name = format!("{schema}.{table}");
            match verdict(&server.check_table(&schema, &table, TABLE_LIMIT)) {
                Verdict::Sound => checked += 1,
                Verdict::NotCheckable => not_checkable.push(name),
                Verdict::Fault(reason) => {
                    checked += 1;
                    faults.push(Fault { what: name, reason });
                }
            }
        }
        Ok((count as u64, checked, not_checkable))
    }

    /// Asks the user's queries, and runs the command, with an account that only reads.
    fn ask(
        &self,
        server: &Server,
        place: &DrillPlace,
        position: &GtidPosition,
        faults: &mut Vec<Fault>,
    ) -> Result<(), DatabaseError> {
        if self.queries.is_empty() && self.command.command.is_empty() {
            return Ok(());
        }
        let mut bytes = [0; 16];
        self.env.fill(&mut bytes);
        let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let account = Account { user: READER.to_owned(), password: password.clone().into() };
        server.make_reader(&account)?;
        let path = place.server.dir.join(READER_FILE);
        let text = format!("[client]\nuser={READER}\npassword={password}\n");
        durable::replace(self.env, &path, PRIVATE_MODE, text.as_bytes())
            .map_err(|source| DatabaseError::File { path: path.clone(), source })?;
        let reader = Client { account_file: Some(path), ..server.client.clone() };
        let limit = self.query_limit.unwrap_or(QUERY_LIMIT);
        for query in self.queries {
            if (self.stop)() {
                return Err(DatabaseError::Stopped);
            }
            let statement = format!("{};", query.trim_end().trim_end_matches(';'));
            if let Some(reason) = fault_of(&reader.ask(&statement, limit)) {
                faults.push(Fault { what: query.clone(), reason });
            }
        }
        if !self.command.command.is_empty() {
            let (store, passage) = (self.store, place.passage()?);
            let on = OnCopy { store, server: &place.server, passage, account: &account, position, limit };
            faults.extend(check(self.command, &on, self.env, self.stop)?);
        }
        Ok(())
    }
}

/// What a check says of a table.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Sound,
    NotCheckable,
    Fault(String),
}

/// Judges the answer of a check: its last row is `status OK`, and none before it is an error.
fn verdict(answer: &Result<Rows, DatabaseError>) -> Verdict {
    let rows = match answer {
        Ok(rows) => rows,
        Err(error) => return Verdict::Fault(error.to_string()),
    };
    let said: Vec<(&str, &str)> =
        rows.rows.iter().filter_map(|row| Some((row.get(2)?.as_str(), row.get(3)?.as_str()))).collect();
    if said.iter().any(|(_, text)| text.contains(NOT_CHECKABLE)) {
        return Verdict::NotCheckable;
    }
    let is_bad = |kind: &str| kind.eq_ignore_ascii_case("error") || kind.eq_ignore_ascii_case("warning");
    match said.last() {
        Some(("status", "OK")) if !said.iter().any(|(kind, _)| is_bad(kind)) => Verdict::Sound,
        None => Verdict::Fault("the server said nothing of it".to_owned()),
        Some(_) => Verdict::Fault(
            said.iter().map(|(kind, text)| format!("{kind}: {text}")).collect::<Vec<_>>().join("; "),
        ),
    }
}

/// Returns what is wrong with the answer of a query: an error, no row, or a first value that is nothing.
fn fault_of(answer: &Result<Rows, DatabaseError>) -> Option<String> {
    match answer.as_ref().map(Rows::first) {
        Err(error) => Some(error.to_string()),
        Ok(None) => Some("it answered without a row".to_owned()),
        Ok(Some(value @ ("" | "0" | "NULL"))) => Some(format!("it answered {}", literal(value))),
        Ok(Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Result<Rows, DatabaseError> {
        let rows = rows.iter().map(|row| row.iter().map(|&value| value.to_owned()).collect()).collect();
        Ok(Rows { columns: Vec::new(), rows })
    }

    #[test]
    fn a_table_is_sound_only_if_the_server_says_so() {
        let of = |said: &[(&str, &str)]| {
            let said: Vec<[&str; 4]> =
                said.iter().map(|(kind, text)| ["shop.t", "check", *kind, *text]).collect();
            verdict(&rows(&said.iter().map(|row| &row[..]).collect::<Vec<_>>()))
        };
        assert_eq!(of(&[("status", "OK")]), Verdict::Sound);
        assert_eq!(
            of(&[("note", "The storage engine for the table doesn't support check")]),
            Verdict::NotCheckable
        );
        assert!(matches!(of(&[]), Verdict::Fault(_)));
        let said = of(&[("Warning", "InnoDB: Index k is marked as corrupted"), ("error", "Corrupt")]);
        assert_eq!(
            said,
            Verdict::Fault("Warning: InnoDB: Index k is marked as corrupted; error: Corrupt".into())
        );
        assert!(matches!(of(&[("Warning", "wrong count"), ("status", "OK")]), Verdict::Fault(_)));
        assert!(matches!(verdict(&Err(DatabaseError::Stopped)), Verdict::Fault(_)));
    }

    #[test]
    fn a_query_must_answer_with_something() {
        for (answer, is_right) in [
            (rows(&[&["17", "0"]]), true),
            (rows(&[&["a"]]), true),
            (rows(&[&["0"]]), false),
            (rows(&[&["NULL"]]), false),
            (rows(&[&[""]]), false),
            (rows(&[]), false),
            (Err(DatabaseError::Stopped), false),
        ] {
            assert_eq!(fault_of(&answer).is_none(), is_right, "{answer:?}");
        }
    }
}
