//! Restores a database to a moment: the newest seed before it, and the archived transactions up to it.
//!
//! All is done beside the destination, in a directory `DESTINATION.unfinished`, and renamed at the end: what lies at
//! the destination is whole. The server that applied the transactions then says itself where it stands, and that
//! must be the position that was read; it is a second opinion on every transaction.

use super::archive_start::seeds;
use super::error::DatabaseError;
use super::minimal::Place;
use super::play::{Play, Played};
use super::private_server::{PrivateServer, PrivateSettings, RESTORE};
use super::replay::Replay;
use super::seed::{DATA, SeedNote, bring};
use super::target::Target;
use crate::format::binlog_segment::{Chain, SegmentPlace};
use crate::model::gtid::GtidPosition;
use crate::model::id::Sequence;
use crate::model::record::StoreState;
use crate::model::snapshot_ref::Moment;
use crate::repository::binlog::Line;
use crate::repository::store::Store;
use crate::support::env::Env;
use crate::support::progress::Progress;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What follows the destination's name while nothing there is whole.
const UNFINISHED: &str = "unfinished";
/// The mark that such a directory is this program's.
const MARK: &str = "understudy-restore";
/// The restored seed in it.
const ROOT: &str = "root";

/// A restore as it is to be.
pub struct Recovery<'a> {
    /// The store of the seeds and of the archive.
    pub store: &'a Store,
    pub target: Target,
    pub destination: &'a Path,
    /// Directory of the server's own files.
    pub place: Place,
    pub memory_mib: u32,
    pub threads: usize,
    /// Places of this program that a restore must not write to.
    pub own: Vec<PathBuf>,
    pub env: &'a Env,
    pub stop: &'a dyn Fn() -> bool,
    pub progress: &'a Progress,
    /// Called with each step's name.
    pub on_step: &'a dyn Fn(&'static str),
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    pub seed: Sequence,
    pub seed_position: GtidPosition,
    pub position: GtidPosition,
    pub played: Played,
}

/// Where a restore begins.
struct Begin {
    seed: Sequence,
    position: GtidPosition,
    /// The segment in which the seed's position is; none if nothing of the archive is to be applied.
    first: Option<SegmentPlace>,
}

/// Restores a database to a moment.
///
/// # Errors
/// The archive does not have it, or is damaged; nothing is at the destination then.
pub fn recover(recovery: &Recovery) -> Result<Recovered, DatabaseError> {
    let line = recovery.store.binlog().line()?;
    let state = recovery.store.log().state()?;
    let begin = begin(recovery, &line, &state)?;
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| DatabaseError::File { path, source }
    };
    let unfinished = make_unfinished(recovery.destination)?;
    let root = unfinished.join(ROOT);
    (recovery.on_step)("begun");
    let how = (recovery.threads, recovery.own.clone());
    bring(recovery.store, Moment::At(begin.seed), &root, false, how, recovery.progress)?;
    (recovery.on_step)("seed restored");
    let note = SeedNote::read(&root)?;
    let Some(note) = note.filter(|note| note.position.of_store() == begin.position) else {
        let text = format!("its position is not the one in record {}; seed again", begin.seed);
        return Err(DatabaseError::Content { path: root, text });
    };
    let (position, played) = apply(recovery, &line, &begin, &note, &root)?;
    (recovery.on_step)("applied");
    let destination = recovery.destination;
    // An empty directory is replaced.
    std::fs::rename(&root, destination).map_err(file(destination))?;
    std::fs::remove_dir_all(&unfinished).map_err(file(&unfinished))?;
    Ok(Recovered { seed: begin.seed, seed_position: begin.position, position, played })
}

/// Applies the archive to a restored seed; returns where the data is then.
fn apply(
    recovery: &Recovery,
    line: &Line,
    begin: &Begin,
    note: &SeedNote,
    root: &Path,
) -> Result<(GtidPosition, Played), DatabaseError> {
    let settings = PrivateSettings {
        place: recovery.place.clone(),
        data: &root.join(DATA),
        variables: &note.variables,
        memory_mib: recovery.memory_mib,
        store: recovery.store.name().as_str(),
        purpose: "restore",
        log_bin: None,
        extra: RESTORE,
    };
    let private = PrivateServer::start(&settings, recovery.env, recovery.stop)?;
    private.server.begin_history(&note.position)?;
    (recovery.on_step)("server started");
    let binlog = recovery.store.binlog();
    let mut play = Play::new(binlog, line, recovery.target.clone(), begin.position.clone());
    let mut replay = Replay::new(private.server.client.clone(), &recovery.place.dir);
    if let Some(first) = begin.first {
        let mut is_first = true;
        let mut feed = |part: &_, events: &[u8], is_whole| {
            replay.feed(part, events, is_whole)?;
            if std::mem::take(&mut is_first) {
                (recovery.on_step)("applying");
            }
            Ok(())
        };
        play.run(first, &mut feed, recovery.stop)?;
    }
    replay.finish()?;
    let there = private.server.binlog_position()?;
    // What the seed has of other domains is in no binary log of this server.
    let whole: GtidPosition = begin.position.gtids().chain(there.gtids()).collect();
    if whole != play.position {
        return Err(DatabaseError::Start(format!(
            "the server that applied the archive is at {whole}, and not at {}",
            play.position
        )));
    }
    private.finish(&play.position)?;
    Ok((play.position, play.played))
}

/// Makes the directory in which the restore is made, in place of one that a restore left there.
fn make_unfinished(destination: &Path) -> Result<PathBuf, DatabaseError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| DatabaseError::File { path, source }
    };
    let full = match std::fs::read_dir(destination) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(file(destination)(error)),
    };
    if full {
        let text = format!("{}: it is not empty; name a new directory", destination.display());
        return Err(DatabaseError::Settings(text));
    }
    let unfinished = PathBuf::from(format!("{}.{UNFINISHED}", destination.display()));
    if unfinished.join(MARK).exists() {
        std::fs::remove_dir_all(&unfinished).map_err(file(&unfinished))?;
    }
    crate::support::private::make_dirs(&unfinished).map_err(file(&unfinished))?;
    if std::fs::read_dir(&unfinished).map_err(file(&unfinished))?.next().is_some() {
        let text = format!("{}: it is in the way, and no restore left it there", unfinished.display());
        return Err(DatabaseError::Settings(text));
    }
    std::fs::write(unfinished.join(MARK), b"").map_err(file(&unfinished))?;
    Ok(unfinished)
}

/// Chooses the newest seed before the target that is in the archive's history.
fn begin(recovery: &Recovery, line: &Line, state: &StoreState) -> Result<Begin, DatabaseError> {
    let mut why = None;
    let whole = |seed: &Sequence| state.snapshots.get(seed).map(|record| record.scan_start);
    let fitting = seeds(state)
        .rev()
        .filter(|(seed, position)| {
            whole(seed).is_some_and(|whole| recovery.target.may_follow(position, whole))
        })
        .collect::<Vec<_>>();
    for (seed, position) in fitting {
        match first_of(recovery.store, &recovery.target, line, &position) {
            Ok(first) => return Ok(Begin { seed, position, first }),
            // Another seed may be in the history.
            Err(error @ DatabaseError::Missing(_)) => why = why.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    Err(why.unwrap_or_else(|| {
        let oldest = seeds(state).next();
        DatabaseError::Missing(match oldest {
            Some((seed, position)) => {
                format!("no seed is that old: the oldest is {}@{seed}, at {position}", recovery.store.name())
            }
            None => format!(
                "{} has no seed that says its position; make one: understudy database seed",
                recovery.store.name()
            ),
        })
    }))
}

/// Returns the segment in which a seed's position is; none if the seed is the target, or behind all that is archived.
pub(super) fn first_of(
    store: &Store,
    target: &Target,
    line: &Line,
    position: &GtidPosition,
) -> Result<Option<SegmentPlace>, DatabaseError> {
    if target.is_at(position) {
        return Ok(None);
    }
    let binlog = store.binlog();
    let missing = |text: String| Err(DatabaseError::Missing(text));
    let Some(place) = binlog.find(line, position)? else {
        return match line.last() {
            None if *target == Target::Latest => Ok(None),
            None => missing(format!("nothing is archived behind the seed at {position}")),
            Some(_) => missing(format!("the archive begins behind the seed at {position}")),
        };
    };
    let stored = binlog.read(place)?;
    let header = &stored.segment.header;
    if header.before == *position {
        return Ok(Some(place));
    }
    let is_last = line.last() == Some(place);
    if is_last && position.covers(&header.after) && header.after != *position {
        // It was made behind all that is archived.
        return match target {
            Target::Gtid(gtid) => missing(format!(
                "transaction {gtid} is not archived yet: the archive ends at {}",
                header.after
            )),
            Target::Position(wanted) => {
                missing(format!("{wanted} is not archived yet: the archive ends at {}", header.after))
            }
            _ => Ok(None),
        };
    }
    let mut is_there = header.after == *position;
    let mut at = header.before.clone();
    let mut chain = Chain::before(header, None);
    // Where a transaction goes on from the segment before, it is read by `Play`.
    let read = chain.read(stored.this, &stored.segment, &mut |told| {
        if let crate::format::binlog_event::Step::Ends(ended) = told.step {
            let _ = at.advance(ended.gtid);
            is_there |= at == *position;
        }
    });
    match (is_there, read) {
        (true, _) | (false, Err(_)) => Ok(Some(place)),
        (false, Ok(())) => missing(format!("the seed at {position} is not in the archive's history")),
    }
}
