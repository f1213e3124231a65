//! A drill's copy, brought to a transaction: what the replica had not applied yet is in the archive.
//!
//! Nothing of it touches the replica, or asks the primary. A copy does not go back: what is past the transaction is
//! refused.

use super::error::DatabaseError;
use super::play::Play;
use super::recover::first_of;
use super::replay::Replay;
use super::server::Server;
use super::target::Target;
use crate::model::gtid::{Gtid, GtidPosition};
use crate::repository::store::Store;
use std::path::Path;

/// Where a copy is to be.
pub struct At<'a> {
    pub gtid: Gtid,
    /// The store of the database's archive.
    pub archive: &'a Store,
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
    let Gtid { domain, number, .. } = at.gtid;
    match position.of(domain) {
        Some(has) if has == at.gtid => return Ok((position.clone(), 0)),
        Some(has) if has.number >= number => {
            return Err(DatabaseError::Held(format!(
                "the replica is at {position}, past {}, and a copy does not go back; hold it before (understudy database hold {store}), or: understudy database restore {store} --to {} --into DIRECTORY",
                at.gtid, at.gtid
            )));
        }
        _ => {}
    }
    let (binlog, target) = (at.archive.binlog(), Target::Gtid(at.gtid));
    let line = binlog.line()?;
    let missing = || {
        let text = format!("the replica is at {position}, and nothing behind that is archived yet");
        DatabaseError::Missing(text)
    };
    let first = first_of(at.archive, target, &line, position)?.ok_or_else(missing)?;
    // What it has of its own says nothing about the store.
    server.begin_history(position)?;
    let mut play = Play::new(binlog, &line, target, position.clone());
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
