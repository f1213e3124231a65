//! How a replica stops being one: it receives nothing more, applies all that it has received, and what it has
//! then is the branch, from which its own transactions go on.
//!
//! Until the branch is noted nothing was changed that another try does not find again: a replica that does not
//! receive goes on with applying.

use super::decide::{self, Room, State};
use super::error::{DatabaseError, Trouble};
use super::received::Received;
use super::server::{ReplicaStatus, Server};
use crate::model::gtid::GtidPosition;
use crate::support::env::Env;
use std::time::Duration;

/// Time for what a handover names to arrive.
const HANDOVER_LIMIT: Duration = Duration::from_secs(20);
/// Interval between looks at a server that may yet be a replica again.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time of one wait, between two looks at what goes wrong.
const WAIT: Duration = Duration::from_millis(500);

/// What a promotion is about.
pub(super) struct Promotion<'a> {
    pub store: &'a str,
    pub server: &'a Server,
    pub env: &'a Env,
    /// All up to here must be applied, as a handover said.
    pub position: Option<&'a GtidPosition>,
    /// Whether a person takes the replica as it is.
    pub accepts_loss: bool,
    /// Returns the reason for which it is given up.
    pub given_up: &'a dyn Fn() -> Option<DatabaseError>,
    /// What servers before this one had received.
    pub received: Option<&'a Received>,
}

/// Returns what is wrong with a replica, so that it lacks what the primary had; none if it is sound.
pub fn hindrance(status: &ReplicaStatus) -> Option<Trouble> {
    let judgement = decide::judge(status, Room::Enough, &mut 0);
    let lacks = judgement.state == State::Broken || judgement.trouble == Some(Trouble::Corrupt);
    judgement.trouble.filter(|_| lacks)
}

impl Promotion<'_> {
    /// Refuses a broken replica, unless a person takes it.
    pub(super) fn check(&self) -> Result<(), DatabaseError> {
        let status = self.server.replica_status()?;
        match status.as_ref().and_then(hindrance) {
            Some(trouble) if !self.accepts_loss => Err(DatabaseError::Held(format!(
                "the replica of '{store}' on this host is broken ({}): {}. {}; or take it as it is, with what it lacks: understudy database promote {store} --accept-loss",
                trouble.name(),
                trouble.meaning(),
                trouble.mend(self.store),
                store = self.store,
            ))),
            _ => Ok(()),
        }
    }

    /// Ends the replication; returns the branch.
    pub(super) fn carry_out(&self) -> Result<GtidPosition, DatabaseError> {
        if let Some(position) = self.position {
            self.wait_for_handover(position)?;
        }
        let Some(status) = self.server.replica_status()? else {
            // It never followed anybody: all that it has is its own.
            let (applied, own) = (self.server.applied_position()?, self.server.binlog_position()?);
            return Ok(applied.gtids().chain(own.gtids()).collect());
        };
        let received = self.server.stop_receiving()?.map(|status| status.received).unwrap_or_default();
        if !status.applies && status.apply_error.is_none() {
            self.server.start_applying()?;
        }
        loop {
            let applied = self.server.applied_position()?;
            if applied.covers(&received) {
                return self.apply_received(applied);
            }
            self.check()?;
            let broken = self.server.replica_status()?.as_ref().and_then(hindrance).is_some();
            if broken && self.accepts_loss {
                return Ok(applied);
            }
            self.give_up()?;
            self.server.wait_for(&received, WAIT)?;
        }
    }

    /// Applies what an earlier server had received and lost with its end.
    fn apply_received(&self, applied: GtidPosition) -> Result<GtidPosition, DatabaseError> {
        let Some(received) = self.received else { return Ok(applied) };
        let end = match received.end() {
            Err(_) if self.accepts_loss => return Ok(applied),
            end => end?,
        };
        if applied.covers(&end) {
            return Ok(applied);
        }
        // It neither receives nor applies any more.
        self.server.stop_replica()?;
        // An attempt before this one may have ended within.
        let has = applied.gtids().chain(self.server.binlog_position()?.gtids()).collect();
        match received.apply(&has, &self.server.client) {
            Ok(reached) => {
                self.server.set_applied_position(&reached)?;
                Ok(reached)
            }
            Err(_) if self.accepts_loss => Ok(applied),
            Err(error) => Err(error),
        }
    }

    fn wait_for_handover(&self, position: &GtidPosition) -> Result<(), DatabaseError> {
        let begun = self.env.stopwatch();
        while !self.server.applied_position()?.covers(position) {
            if self.server.replica_status()?.is_none() && self.server.binlog_position()?.covers(position) {
                return Ok(());
            }
            self.check()?;
            self.give_up()?;
            if begun.elapsed() >= HANDOVER_LIMIT {
                let has = self.server.applied_position()?;
                return Err(DatabaseError::Held(format!(
                    "the handover ends at {position}, and this replica is at {has} after {} s",
                    HANDOVER_LIMIT.as_secs()
                )));
            }
            self.server.wait_for(position, WAIT)?;
        }
        Ok(())
    }

    fn give_up(&self) -> Result<(), DatabaseError> {
        (self.given_up)().map_or(Ok(()), Err)
    }
}

/// Waits until a server has applied a position.
///
/// # Errors
/// Its replica is broken, or it has not within `limit`.
pub fn wait_until_applied(
    server: &Server,
    wanted: &GtidPosition,
    env: &Env,
    limit: Duration,
    store: &str,
) -> Result<(), DatabaseError> {
    let begun = env.stopwatch();
    let (given_up, position, received): (&dyn Fn() -> _, _, _) = (&|| None, None, None);
    let promotion = Promotion { store, server, env, position, accepts_loss: false, given_up, received };
    loop {
        let has = server.applied_position()?;
        if has.covers(wanted) || server.binlog_position()?.covers(wanted) {
            return Ok(());
        }
        promotion.check()?;
        if begun.elapsed() >= limit {
            let text = format!("it is at {has}, and not at {wanted}, after {} s", limit.as_secs());
            return Err(DatabaseError::Held(text));
        }
        if !server.wait_for(wanted, WAIT)? {
            env.sleep(LOOK_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_misses_its_primary_is_sound_and_one_that_misses_rows_is_not() {
        let status = |receive: u32, apply: u32| {
            let error = |code| (code != 0).then(|| (code, String::new()));
            ReplicaStatus { receive_error: error(receive), apply_error: error(apply), ..Default::default() }
        };
        for (status, wanted) in [
            (status(0, 0), None),
            (status(2003, 0), None),
            (status(0, 1021), None),
            (status(0, 1032), Some(Trouble::Conflict)),
            (status(0, 1594), Some(Trouble::Corrupt)),
            (status(1236, 0), Some(Trouble::Gone)),
        ] {
            assert_eq!(hindrance(&status), wanted, "{status:?}");
        }
    }
}
