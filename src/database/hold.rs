//! A replica that is held: it stands at a position and applies nothing, so that files and rows are of one moment.
//!
//! The server itself stops behind the transaction (`START SLAVE UNTIL`). It goes on receiving meanwhile: what the
//! primary commits is here, and customers whose commits wait for this replica go on. The hold is in the note on the
//! disk, so that it outlives the server and its supervisor. A promotion releases it first and applies everything.

use super::decide::{Act, Judgement, Room, State};
use super::desk::Desk;
use super::error::DatabaseError;
use super::orders::Order;
use super::role::{Hold, Role};
use super::server::{ReplicaStatus, Server};
use crate::model::gtid::GtidPosition;
use std::time::Duration;

/// Time for a replica to get to where it is held, before the order is answered.
const LIMIT: Duration = Duration::from_secs(10);

/// Judges a replica that is to be held, of which [`super::decide::judge`] thinks otherwise. Pure.
pub(super) fn judge(judgement: Judgement, status: &ReplicaStatus, room: Room, hold: &Hold) -> Judgement {
    if judgement.state == State::Broken || !status.applied.covers(&hold.position) {
        // It is not there yet.
        return judgement;
    }
    let act = match (status.applies, room) {
        (true, _) => Act::StopApplying,
        (false, Room::Low) if status.receives => Act::Stop,
        (false, Room::Enough) if !status.receives => Act::Receive,
        _ => Act::Nothing,
    };
    Judgement { state: State::Held, trouble: judgement.trouble, act }
}

/// Refuses a hold at a position that a replica is past.
pub(super) fn check(
    store: &str,
    applied: &GtidPosition,
    wanted: &GtidPosition,
    snapshot: Option<&str>,
) -> Result<(), DatabaseError> {
    if wanted.covers(applied) {
        return Ok(());
    }
    let of = snapshot.map_or_else(String::new, |snapshot| format!(" of {snapshot}"));
    let to = wanted.gtids().next().map_or_else(|| wanted.to_string(), |gtid| gtid.to_string());
    Err(DatabaseError::Held(format!(
        "the replica is at {applied}, past the position{of}, {wanted}, and does not go back; from the archive it is made anew: understudy database restore {store} --to {to} --into DIRECTORY. To step from snapshot to snapshot, hold it first: understudy database hold {store}"
    )))
}

/// Has a replica stand at a position, or where it is, and returns that position: it may be on its way there.
///
/// # Errors
/// It is past it, does not receive, or was fenced; it goes on then.
pub(super) fn stand_at(
    desk: &Desk,
    server: &Server,
    order: &Order,
    position: Option<GtidPosition>,
    snapshot: Option<String>,
) -> Result<GtidPosition, DatabaseError> {
    let before = desk.note()?;
    let status = server.replica_status()?;
    if before.role != Role::Follow || !status.is_some_and(|status| status.receives) {
        // What was received is fetched anew on the way to a position.
        return Err(DatabaseError::Held("this replica does not receive; it is held once it does".into()));
    }
    server.stop_applying()?;
    let applied = server.applied_position()?.of_store();
    let position = position.unwrap_or_else(|| applied.clone());
    let hold = Hold { position: position.clone(), snapshot, since: desk.env().wall() };
    let noted = check(&desk.settings.store, &applied, &position, hold.snapshot.as_deref())
        .and_then(|()| desk.obey(order, |note| note.hold = Some(hold)));
    if let Err(error) = noted {
        if before.hold.is_none() {
            go_on(server)?;
        }
        return Err(error);
    }
    if applied != position {
        server.stop_replica()?;
        server.start_replica_until(&position)?;
        server.wait_for(&position, LIMIT)?;
    }
    Ok(position)
}

/// Has a replica apply without an end. What was received stays, as long as the other thread runs.
pub(super) fn go_on(server: &Server) -> Result<(), DatabaseError> {
    server.stop_applying()?;
    server.start_applying()
}

/// Starts a replica, as far as its hold lets it.
pub(super) fn start(server: &Server, hold: Option<&Hold>) -> Result<(), DatabaseError> {
    match hold {
        Some(hold) => server.start_replica_until(&hold.position),
        None => server.start_replica(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::decide;
    use super::*;
    use crate::support::clock::UnixNanos;

    fn judged(applied: &str, receives: bool, applies: bool, room: Room) -> (State, Act) {
        let hold = Hold { position: "1-11-50".parse().unwrap(), snapshot: None, since: UnixNanos::EPOCH };
        let applied = applied.parse().unwrap();
        let status = ReplicaStatus { receives, applies, applied, ..Default::default() };
        let judgement = judge(decide::judge(&status, room, &mut 0), &status, room, &hold);
        (judgement.state, judgement.act)
    }

    #[test]
    fn a_held_replica_receives_and_applies_nothing_behind_its_position() {
        for (applied, receives, applies, room, wanted) in [
            ("1-11-49", true, true, Room::Enough, (State::Following, Act::Nothing)),
            ("1-11-49", false, false, Room::Enough, (State::Waiting, Act::Start)),
            ("1-11-50", true, true, Room::Enough, (State::Held, Act::StopApplying)),
            ("1-11-50", false, false, Room::Enough, (State::Held, Act::Receive)),
            ("1-11-50", true, false, Room::Enough, (State::Held, Act::Nothing)),
            ("1-11-50", true, false, Room::Low, (State::Held, Act::Stop)),
            ("1-11-50", false, false, Room::Low, (State::Held, Act::Nothing)),
            ("1-11-50", false, false, Room::Scarce, (State::Held, Act::Nothing)),
        ] {
            assert_eq!(judged(applied, receives, applies, room), wanted, "{applied} {receives} {applies}");
        }
    }

    #[test]
    fn a_position_that_is_past_is_refused_with_the_way_to_it() {
        let position = |text: &str| text.parse::<GtidPosition>().unwrap();
        let check = |applied, wanted| check("acme", &position(applied), &position(wanted), Some("acme@3"));
        check("1-11-50", "1-11-50").unwrap();
        check("1-11-50", "1-11-51").unwrap();
        let said = check("1-11-50", "1-11-49").unwrap_err().to_string();
        assert!(said.contains("restore acme --to 1-11-49") && said.contains("acme@3"), "{said}");
    }
}
