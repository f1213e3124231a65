//! How a former primary's server comes to follow again, though it has transactions that the new primary never had.
//!
//! It is a person's command, done while no supervisor runs, under the supervisor's lock. First what is stranded is
//! kept, whatever follows; then a note says that a rejoin was begun, and until its end no supervisor starts the server.
//!
//! By flashback the rows go back in one transaction ([`super::rewind`]), and the server's own history begins anew at
//! the branch. If this is killed, the mark of that transaction says whether it was done; what follows may be done
//! again. By a reseed the newest seed takes the data's place.
//!
//! What can race: a fence, which only closes; and a server that somebody starts by hand, which is not started over and
//! whose new transactions are noticed, since they are not those that were kept.

use super::columns::{Columns, columns};
use super::find::{Found, Logs, Promotion, find_newest};
use super::journal::{How, Rejoin};
use super::keep::{keep, keep_all};
use super::kept::KeptNote;
use super::rewind::{changes, forget, is_done, rewind};
use super::summary::{Summary, summary};
use crate::database::desk::{Around, Desk, Settings, local};
use crate::database::error::DatabaseError;
use crate::database::minimal::Minimal;
use crate::database::report::Report;
use crate::database::role::Role;
use crate::database::role_file;
use crate::database::seed::{SeedNote, data_dir};
use crate::database::server::Server;
use crate::format::binlog_rows::TableName;
use crate::model::gtid::GtidPosition;
use crate::support::env::Env;
use crate::support::kill_point;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Time for a server to end.
const END_LIMIT: Duration = Duration::from_secs(60);
/// Time for a statement.
const LIMIT: Duration = Duration::from_secs(60);
/// Settings in addition to a replica's: what is undone is on the disk before the binary logs go.
const SETTINGS: &str =
    "innodb-flush-log-at-trx-commit=1\nsync-binlog=1\nmax-allowed-packet=1G\nslave-max-allowed-packet=1G\n";

/// What a rejoin is about.
pub struct Request<'a> {
    pub settings: &'a Settings,
    pub env: &'a Env,
    pub stop: &'a dyn Fn() -> bool,
    /// The promotions that the log knows, the newest first.
    pub promotions: Vec<Promotion>,
    /// What is archived, where the store has an archive.
    pub archived: Option<GtidPosition>,
    /// Where what is stranded is kept: a new directory.
    pub into: PathBuf,
}

/// Returns what a server is to be asked for the names of columns.
pub fn names(summary: &Summary) -> BTreeSet<TableName> {
    let split = |text: &str| {
        let (schema, table) = text.split_once('.')?;
        Some(TableName { schema: schema.to_owned(), table: table.to_owned() })
    };
    summary.tables.iter().filter_map(|touched| split(&touched.table)).collect()
}

impl Request<'_> {
    /// Undoes what is stranded, so that the server may follow.
    ///
    /// # Errors
    /// It cannot be undone, and nothing was changed; or it was begun, and the same request goes on.
    pub fn flashback(&self) -> Result<Rejoin, DatabaseError> {
        let begun = self.begun()?;
        if begun.as_ref().is_some_and(|begun| begun.how == How::Reseed) {
            return Err(DatabaseError::Held(format!(
                "a reseed was begun, and the data may be half of two; end it: understudy database rejoin {} --reseed",
                self.settings.store
            )));
        }
        let done = self.with_server(|server| {
            let mut rejoin = match begun {
                Some(begun) => begun,
                None => self.prepare(Some(server), How::Flashback)?,
            };
            if !rejoin.is_rewound {
                self.rewind(server, &rejoin)?;
                rejoin.is_rewound = true;
                rejoin.write(&self.settings.place, self.env)?;
                kill_point::reached("rewound");
            }
            forget(server)?;
            kill_point::reached("mark forgotten");
            Ok(rejoin)
        })?;
        self.finish()?;
        Ok(done)
    }

    /// Keeps what is stranded, if anything may be, and notes that a reseed was begun. Once the seed is there,
    /// [`Self::finish`] ends it.
    ///
    /// # Errors
    /// It was not kept, and nothing was changed.
    pub fn begin_reseed(&self, may_be_ahead: bool) -> Result<Rejoin, DatabaseError> {
        if let Some(begun) = self.begun()? {
            let begun = Rejoin { how: How::Reseed, ..begun };
            begun.write(&self.settings.place, self.env)?;
            return Ok(begun);
        }
        if !may_be_ahead {
            return self.note_begun(How::Reseed, None, None, GtidPosition::default());
        }
        match self.with_server(|server| self.prepare(Some(server), How::Reseed)) {
            // A server that does not start has its binary logs all the same.
            Err(DatabaseError::Start(_)) => self.prepare(None, How::Reseed),
            prepared => prepared,
        }
    }

    /// Ends a rejoin: from now on the server is one that follows.
    ///
    /// # Errors
    /// It is not noted; the same command does it.
    pub fn finish(&self) -> Result<(), DatabaseError> {
        let place = &self.settings.place;
        role_file::change(place, self.env, |note| {
            (note.role, note.branch, note.accepts_loss) = (Role::Follow, None, false);
            note.source = None;
            note.was_primary = false;
        })?;
        kill_point::reached("role noted");
        Rejoin::end(place)?;
        // What the supervisor saw is of a server that there is no more.
        let _ = std::fs::remove_file(place.report());
        kill_point::reached("rejoin ended");
        Ok(())
    }

    /// Returns the rejoin that was begun, if the server may rejoin.
    fn begun(&self) -> Result<Option<Rejoin>, DatabaseError> {
        let note = role_file::read(&self.settings.place)?;
        match note.role {
            Role::Follow | Role::Fenced => Rejoin::read(&self.settings.place),
            Role::Serve | Role::Hand => Err(DatabaseError::Held(format!(
                "this host's server is the customers'; fence it first: understudy database fence {}",
                self.settings.store
            ))),
        }
    }

    /// Keeps what is stranded, and notes that the rejoin was begun.
    fn prepare(&self, server: Option<&Server>, how: How) -> Result<Rejoin, DatabaseError> {
        let (settings, root) = (self.settings, &self.settings.root);
        let made_by = SeedNote::read(root)?;
        let log_bin = made_by.as_ref().and_then(|note| note.log_bin.as_deref());
        let logs = match server {
            Some(server) => Logs::of_server(server)?,
            None => Logs::of_data(&data_dir(root), log_bin)?,
        };
        let found = find_newest(&logs, &self.promotions)?;
        let (kept, branch) = match &found {
            Some(found) => {
                if how == How::Flashback {
                    self.check(server, found)?;
                }
                (self.keep(server, found)?, Some(found.branch.clone()))
            }
            None if how == How::Flashback => return Err(self.no_branch()),
            None => {
                keep_all(&settings.store, &logs, &self.into)?;
                (Some(self.into.clone()), None)
            }
        };
        kill_point::reached("kept");
        let end = server.map(Server::binlog_position).transpose()?.unwrap_or_default();
        self.note_begun(how, branch, kept, end)
    }

    fn note_begun(
        &self,
        how: How,
        branch: Option<GtidPosition>,
        kept: Option<PathBuf>,
        end: GtidPosition,
    ) -> Result<Rejoin, DatabaseError> {
        let id = format!("{:016x}", self.env.nonce());
        let rejoin = Rejoin { id, how, branch, kept, end, is_rewound: false };
        rejoin.write(&self.settings.place, self.env)?;
        kill_point::reached("rejoin noted");
        Ok(rejoin)
    }

    fn no_branch(&self) -> DatabaseError {
        let store = &self.settings.store;
        DatabaseError::Held(match self.promotions.is_empty() {
            true => format!(
                "the log does not say where the new primary's history begins; give it with --branch: `understudy database status {store}` on the new primary shows it"
            ),
            false => format!(
                "the position at which the new primary began is not in this server's binary logs any more, so that nobody knows what is stranded; begin again from a seed, which keeps all binary logs: understudy database rejoin {store} --reseed"
            ),
        })
    }

    /// Refuses a flashback that is not safe.
    fn check(&self, server: Option<&Server>, found: &Found) -> Result<(), DatabaseError> {
        let store = &self.settings.store;
        if found.transactions.is_empty() && !found.has_followed {
            return Err(DatabaseError::Held(format!(
                "nothing is stranded here: understudy database demote {store} suffices"
            )));
        }
        if let Some(archived) = &self.archived
            && !archived.covers(&found.branch)
        {
            return Err(DatabaseError::Held(format!(
                "the archive ends at {archived}, and this server's binary logs, which a flashback deletes, have what was committed up to {}: archive it first, or begin again from a seed: understudy database rejoin {store} --reseed",
                found.branch
            )));
        }
        match server {
            Some(server) => changes(found)?.check(server, store),
            None => Ok(()),
        }
    }

    fn keep(&self, server: Option<&Server>, found: &Found) -> Result<Option<PathBuf>, DatabaseError> {
        if found.transactions.is_empty() {
            return Ok(None);
        }
        let summary = summary(found)?;
        let named = server.map(|server| columns(server, &names(&summary)));
        let named = named.transpose()?.unwrap_or_else(Columns::new);
        if self.is_kept(found) {
            return Ok(Some(self.into.clone()));
        }
        keep(&self.settings.store, found, &summary, &named, &self.into)?;
        Ok(Some(self.into.clone()))
    }

    /// Returns whether the directory has these very transactions: this was killed before it was noted.
    fn is_kept(&self, found: &Found) -> bool {
        let kept = KeptNote::read(&self.into).and_then(|note| Ok((note.found(&self.into)?, note)));
        kept.is_ok_and(|(kept, note)| {
            let of = |found: &Found| -> Vec<_> {
                found.transactions.iter().map(|one| (one.gtid, one.length_bytes)).collect()
            };
            note.store == self.settings.store && kept.branch == found.branch && of(&kept) == of(found)
        })
    }

    /// Undoes what was kept, unless that is done, and begins the server's history at the branch.
    fn rewind(&self, server: &Server, rejoin: &Rejoin) -> Result<(), DatabaseError> {
        let (Some(branch), Some(kept)) = (&rejoin.branch, &rejoin.kept) else {
            return Err(self.no_branch());
        };
        if !is_done(server, &rejoin.id)? {
            let now = server.binlog_position()?;
            if now != rejoin.end {
                return Err(DatabaseError::Held(format!(
                    "the server was at {} when its stranded transactions were kept, and is at {now}: somebody has written to it since. Begin again from a seed: understudy database rejoin {} --reseed",
                    rejoin.end, self.settings.store
                )));
            }
            let found = KeptNote::read(kept)?.found(kept)?;
            rewind(server, &rejoin.id, &found)?;
            kill_point::reached("rows undone");
        }
        server.client.ask("SET sql_log_bin=0; STOP SLAVE; RESET SLAVE ALL;", LIMIT)?;
        kill_point::reached("primary forgotten");
        server.begin_history(branch)?;
        kill_point::reached("history begun");
        Ok(())
    }

    /// Runs the server as a replica that follows nobody, for as long as `work` takes.
    fn with_server<T>(
        &self,
        work: impl FnOnce(&Server) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let settings = self.settings;
        let made_by = SeedNote::read(&settings.root)?.ok_or_else(|| {
            DatabaseError::Settings(format!("{}: there is no database in it", settings.root.display()))
        })?;
        let (_, inbox) = mpsc::channel();
        let log = Arc::new(|| Err(DatabaseError::Log("it was asked before".into())));
        let mut on_report = |_: &Report| {};
        let mut around = Around { env: self.env, stop: self.stop, log, on_report: &mut on_report };
        let mut desk = Desk::new(settings, &mut around, made_by, inbox);
        let text = Minimal {
            size: settings.size,
            memory_mib: settings.memory_mib,
            datadir: &desk.data(),
            place: &settings.place,
            identity: desk.identity(),
            primary: &desk.made_by.variables,
            log_bin: desk.made_by.log_bin.as_deref(),
            is_root: rustix::process::geteuid().is_root(),
            // It receives nothing, and whatever it has committed is kept.
            acks: false,
            undoes: false,
        }
        .text();
        let mut process = desk.start(text + SETTINGS, &settings.place.socket())?;
        let server = Server::new(local(&settings.place, self.env));
        let done = desk.wait_until_ready(&mut process, &server).and_then(|()| work(&server));
        process.stop(self.env, END_LIMIT);
        done
    }
}
