//! A drill's copy, brought to a moment: what the replica had not applied yet is in the archive. What the replica is
//! past already is restored from a seed and the archive, beside it.
//!
//! Nothing of it touches the replica, or asks the primary. A copy does not go back: what is past the moment is
//! refused.

use super::error::DatabaseError;
use super::play::Play;
use super::recover::first_of;
use super::replay::Replay;
use super::server::Server;
use super::target::Target;
use crate::model::gtid::GtidPosition;
use crate::repository::store::Store;
use std::path::Path;

/// Where a copy is to be.
pub struct At<'a> {
    pub target: Target,
    /// The store of the database's archive.
    pub archive: &'a Store,
    pub from: From,
}

/// What a drill's data is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A copy of the replica.
    Replica,
    /// A seed and the archive; the number is that of threads that restore it.
    Archive { threads: usize },
}

/// Brings a copy that is at `position` to a transaction. Returns where it is then, and how many were applied.
///
/// # Errors
/// It is past that, or the archive does not have what comes between.
pub(super) fn bring_to(
    at: &At,
    store: &str,
    position: &GtidPosition,
    server: &Server,
    dir: &Path,
    stop: &dyn Fn() -> bool,
) -> Result<(GtidPosition, u64), DatabaseError> {
    let (binlog, target) = (at.archive.binlog(), &at.target);
    if target.is_at(position) {
        return Ok((position.clone(), 0));
    }
    if target.is_passed(position) {
        return Err(DatabaseError::Held(format!(
            "the replica is at {position}, past {target}, and a copy does not go back; hold it before (understudy database hold {store}), or: understudy database restore {store} --to {target} --into DIRECTORY"
        )));
    }
    let line = binlog.line()?;
    let missing = || {
        let text = format!("the replica is at {position}, and nothing behind that is archived yet");
        DatabaseError::Missing(text)
    };
    let first = first_of(at.archive, target, &line, position)?.ok_or_else(missing)?;
    // What it has of its own says nothing about the store.
    server.begin_history(position)?;
    let mut play = Play::new(binlog, &line, target.clone(), position.clone());
    let mut replay = Replay::new(server.client.clone(), dir);
    play.run(first, &mut |part, events, is_whole| replay.feed(part, events, is_whole), stop)?;
    replay.finish()?;
    let there = server.binlog_position()?;
    let whole: GtidPosition = position.gtids().chain(there.gtids()).collect();
    match whole == play.position {
        true => Ok((whole, play.played.transactions)),
        false => Err(DatabaseError::Start(format!(
            "the server of the copy is at {whole}, and not at {}",
            play.position
        ))),
    }
}
