//! What a supervisor does about what it sees of its replica. Pure and total.

use super::error::Trouble;
use super::server::ReplicaStatus;
use serde::{Deserialize, Serialize};

/// How often what was received is fetched anew, because it cannot be read.
const REFETCHES_MAX: u32 = 3;

/// The state of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its server does not run, or not yet.
    Down,
    /// It receives and applies.
    Following,
    /// It waits: for room, or for the primary. It goes on by itself.
    Waiting,
    /// It applies nothing until a person acts.
    Broken,
    /// It applies nothing until it is released: a person wants it to stand where it is.
    Held,
    /// It takes the customers' writes.
    Serving,
    /// It takes no writes, or does not run, until an order comes.
    Fenced,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Following => "following",
            Self::Waiting => "waiting",
            Self::Broken => "broken",
            Self::Held => "held",
            Self::Serving => "serving",
            Self::Fenced => "fenced",
        }
    }
}

/// The free part of the disk that holds the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The reserve is reached.
    Low,
    /// There is little; what runs goes on, and what stands does not begin.
    Scarce,
    Enough,
}

impl Room {
    /// Percentage of a disk at which replication stops, so that the server never meets a full one.
    const RESERVE_PERCENT: u64 = 5;

    /// Judges the free blocks of a disk. Replication goes on at a percentage more than where it stops.
    pub fn of(free: u64, all: u64) -> Self {
        let has = |percent: u64| u128::from(free) * 100 >= u128::from(all) * u128::from(percent);
        match () {
            () if !has(Self::RESERVE_PERCENT) => Self::Low,
            () if !has(Self::RESERVE_PERCENT + 1) => Self::Scarce,
            () => Self::Enough,
        }
    }
}

/// What a supervisor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Nothing,
    Start,
    Stop,
    /// Applies nothing more, and goes on receiving.
    StopApplying,
    /// Receives, and applies nothing.
    Receive,
    /// Stops and starts: what was received is fetched anew.
    Refetch,
}

/// What a supervisor thinks, and does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub state: State,
    pub trouble: Option<Trouble>,
    pub act: Act,
}

/// Judges a replica. `refetches` counts how often in a row it was fetched anew.
pub fn judge(status: &ReplicaStatus, room: Room, refetches: &mut u32) -> Judgement {
    let runs = status.receives || status.applies;
    let trouble = |error: &Option<(u32, String)>| error.as_ref().map(|(code, text)| Trouble::of(*code, text));
    let of = |state, trouble, act| Judgement { state, trouble, act };
    let (applying, receiving) = (trouble(&status.apply_error), trouble(&status.receive_error));
    if status.applies && status.receives {
        *refetches = 0;
    }
    match (applying, receiving) {
        // A person must look; a full disk does not change that.
        (Some(trouble), _) if !matches!(trouble, Trouble::Corrupt | Trouble::Full | Trouble::Unreachable) => {
            of(State::Broken, Some(trouble), Act::Nothing)
        }
        (_, Some(trouble @ (Trouble::Diverged | Trouble::Gone | Trouble::Failed))) if !status.receives => {
            of(State::Broken, Some(trouble), Act::Nothing)
        }
        _ if room == Room::Low => {
            of(State::Waiting, Some(Trouble::Full), if runs { Act::Stop } else { Act::Nothing })
        }
        _ if room == Room::Scarce && !runs => of(State::Waiting, Some(Trouble::Full), Act::Nothing),
        (Some(Trouble::Corrupt), _) if *refetches >= REFETCHES_MAX => {
            of(State::Broken, Some(Trouble::Corrupt), Act::Nothing)
        }
        (Some(Trouble::Corrupt), _) => {
            *refetches += 1;
            of(State::Waiting, Some(Trouble::Corrupt), Act::Refetch)
        }
        (applying, receiving) if !status.applies => of(State::Waiting, applying.or(receiving), Act::Start),
        // The server itself tries to connect again and again.
        (_, receiving) if !status.receives => of(State::Waiting, receiving, Act::Nothing),
        _ => of(State::Following, None, Act::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(receives: bool, applies: bool, receive: u32, apply: u32) -> ReplicaStatus {
        let error = |code| (code != 0).then(|| (code, String::new()));
        ReplicaStatus {
            receives,
            applies,
            receive_error: error(receive),
            apply_error: error(apply),
            ..Default::default()
        }
    }

    fn judged(status: &ReplicaStatus, room: Room) -> (State, Option<Trouble>, Act) {
        let judgement = judge(status, room, &mut 0);
        (judgement.state, judgement.trouble, judgement.act)
    }

    #[test]
    fn each_state_has_its_act() {
        use Act::{Nothing, Refetch, Start, Stop};
        use State::{Broken, Following, Waiting};
        for (seen, room, wanted) in [
            (status(true, true, 0, 0), Room::Enough, (Following, None, Nothing)),
            (status(true, true, 0, 0), Room::Scarce, (Following, None, Nothing)),
            (status(true, true, 0, 0), Room::Low, (Waiting, Some(Trouble::Full), Stop)),
            (status(false, false, 0, 0), Room::Low, (Waiting, Some(Trouble::Full), Nothing)),
            (status(false, false, 0, 0), Room::Scarce, (Waiting, Some(Trouble::Full), Nothing)),
            (status(false, false, 0, 0), Room::Enough, (Waiting, None, Start)),
            (status(false, true, 2003, 0), Room::Enough, (Waiting, Some(Trouble::Unreachable), Nothing)),
            (status(false, true, 1045, 0), Room::Enough, (Waiting, Some(Trouble::Refused), Nothing)),
            (status(false, true, 1236, 0), Room::Enough, (Broken, Some(Trouble::Gone), Nothing)),
            (status(true, false, 0, 1032), Room::Enough, (Broken, Some(Trouble::Conflict), Nothing)),
            (status(true, false, 0, 1062), Room::Low, (Broken, Some(Trouble::Conflict), Nothing)),
            (status(true, false, 0, 1594), Room::Enough, (Waiting, Some(Trouble::Corrupt), Refetch)),
            (status(true, false, 0, 1021), Room::Enough, (Waiting, Some(Trouble::Full), Start)),
        ] {
            assert_eq!(judged(&seen, room), wanted, "{seen:?} {room:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_fetched_anew_three_times() {
        let (corrupt, mut refetches) = (status(true, false, 0, 1594), 0);
        let acts: Vec<Act> = (0..5).map(|_| judge(&corrupt, Room::Enough, &mut refetches).act).collect();
        assert_eq!(acts, [Act::Refetch, Act::Refetch, Act::Refetch, Act::Nothing, Act::Nothing]);
        judge(&status(true, true, 0, 0), Room::Enough, &mut refetches);
        assert_eq!(judge(&corrupt, Room::Enough, &mut refetches).act, Act::Refetch);
    }

    #[test]
    fn a_reserve_of_five_percent_is_kept() {
        assert_eq!([4, 5, 6].map(|free| Room::of(free, 100)), [Room::Low, Room::Scarce, Room::Enough]);
        assert_eq!(Room::of(u64::MAX, u64::MAX), Room::Enough);
    }
}
