//! A switch: what an edge is asked to do, what it holds, and whether there is anything to do.

use super::address::Address;
use super::context::Deadline;
use super::error::EdgeError;
use super::held::Held;
use super::mark::{Mark, PlainHost};
use crate::model::escape;
use crate::model::id::{Epoch, StoreName, WriterId};
use serde::Serialize;
use std::fmt;

/// Why the customers are sent to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Founding,
    Handover,
    Forced,
    Automatic,
    Rollback,
}

impl Cause {
    pub const ALL: [Self; 5] =
        [Self::Founding, Self::Handover, Self::Forced, Self::Automatic, Self::Rollback];

    /// Returns whether the host that was the primary still answers: then requests in flight are left to finish.
    pub fn is_planned(self) -> bool {
        matches!(self, Self::Founding | Self::Handover)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Founding => "founding",
            Self::Handover => "handover",
            Self::Forced => "forced",
            Self::Automatic => "automatic",
            Self::Rollback => "rollback",
        })
    }
}

/// A switch of a store's customers to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    pub store: StoreName,
    /// The epoch of the promotion.
    pub epoch: Epoch,
    /// The host that was the primary; none at a founding.
    pub from: Option<WriterId>,
    /// The host that is the primary.
    pub to: WriterId,
    /// Where the edge reaches that host.
    pub address: Address,
    pub cause: Cause,
}

impl Switch {
    /// Returns the mark that the edge holds after this switch.
    pub fn mark(&self, edge: &str) -> Result<Mark, EdgeError> {
        let host =
            PlainHost::of(&self.to).map_err(|source| EdgeError::Host { edge: edge.to_owned(), source })?;
        Ok(Mark { epoch: self.epoch, host, address: self.address.clone() })
    }
}

/// What an edge holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct There {
    /// The newest mark of the running edge and of its files; none before the first switch.
    pub mark: Option<Mark>,
    /// Whether the running edge and its files all agree with that mark.
    pub is_whole: bool,
}

/// What is left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The edge must be changed.
    Change,
    /// The edge is as the switch wants it; nothing is changed.
    Done,
    /// The edge was given a higher epoch, or the same one of another host; nothing may be changed.
    Fenced,
}

/// Returns what is left to do on an edge that holds `there`.
pub fn judge(there: &There, wanted: &Mark) -> Verdict {
    match &there.mark {
        None => Verdict::Change,
        Some(mark) if mark.epoch > wanted.epoch => Verdict::Fenced,
        Some(mark) if mark.epoch == wanted.epoch && mark.host != wanted.host => Verdict::Fenced,
        Some(mark) if mark == wanted && there.is_whole => Verdict::Done,
        Some(_) => Verdict::Change,
    }
}

/// Judges what an edge holds; a fence is an error.
pub(crate) fn judge_or_fence(edge: &str, there: &There, wanted: &Mark) -> Result<Verdict, EdgeError> {
    match (judge(there, wanted), &there.mark) {
        (Verdict::Fenced, Some(mark)) => Err(EdgeError::Fenced {
            edge: edge.to_owned(),
            there: Box::new(mark.clone()),
            ours: Box::new(wanted.clone()),
        }),
        (verdict, _) => Ok(verdict),
    }
}

/// What a setup of an edge is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// Make what is missing; else it is only told.
    pub apply: bool,
    /// Name of a key value store to be made, unless there is one.
    pub key_value_store: Option<String>,
}

/// What a check of an edge found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether a switch would fail, or miss something.
    pub is_wrong: bool,
    pub what: String,
}

impl Finding {
    pub(crate) fn good(what: impl ToString) -> Self {
        Self { is_wrong: false, what: escape::line(&what.to_string()).into_owned() }
    }

    pub(crate) fn wrong(what: impl ToString) -> Self {
        Self { is_wrong: true, what: escape::line(&what.to_string()).into_owned() }
    }
}

/// Returns the newer of two marks.
pub(crate) fn newer(one: Option<Mark>, other: Option<Mark>) -> Option<Mark> {
    match (one, other) {
        (Some(one), Some(other)) if other.epoch > one.epoch => Some(other),
        (one, other) => one.or(other),
    }
}

/// A thing that sends customers to a host.
pub trait Edge: Send + Sync {
    /// Returns the edge's kind and place, as they begin its errors.
    fn name(&self) -> &str;

    /// Starts the time of a switch or a test.
    fn deadline(&self) -> Deadline;

    /// Takes turns with other processes of this machine; the turn ends with the value.
    fn hold(&self, deadline: &Deadline) -> Result<Option<Held>, EdgeError>;

    /// Returns the mark that the edge holds after a switch.
    fn wanted(&self, switch: &Switch) -> Result<Mark, EdgeError> {
        switch.mark(self.name())
    }

    /// Returns what the edge holds; none where it cannot tell.
    fn there(&self, deadline: &Deadline) -> Result<Option<There>, EdgeError>;

    /// Changes the edge, whatever it holds. May be repeated, also after it was interrupted.
    fn apply(&self, switch: &Switch, wanted: &Mark, deadline: &Deadline) -> Result<(), EdgeError>;

    /// Begins what follows a switch and is not waited for.
    fn settle(&self, _: &Mark) {}

    /// Checks without a change whether a switch could work.
    fn test(&self) -> Result<(), EdgeError>;

    /// Looks, without a change, at everything that a switch needs.
    fn check(&self) -> Vec<Finding> {
        match self.test() {
            Ok(()) => vec![Finding::good("a switch could work")],
            Err(error) => vec![Finding::wrong(error)],
        }
    }

    /// Tells what must exist at the edge, or makes it. Returns lines for a person.
    fn setup(&self, _: &Setup) -> Result<Vec<String>, EdgeError> {
        Ok(vec!["there is nothing to set up from here; see docs/how-to/edge.md".to_owned()])
    }

    /// Returns the highest epoch that the edge was given; none where there is none, or it cannot tell.
    fn epoch_there(&self) -> Result<Option<Epoch>, EdgeError> {
        Ok(self.there(&self.deadline())?.and_then(|there| there.mark).map(|mark| mark.epoch))
    }

    /// Sends the customers to the host of `switch`, and reads back that the edge took it.
    ///
    /// # Errors
    /// Fenced, with nothing changed, if the edge holds a higher epoch or the same one of another host.
    fn switch(&self, switch: &Switch) -> Result<Verdict, EdgeError> {
        let deadline = self.deadline();
        let wanted = self.wanted(switch)?;
        let _turn = self.hold(&deadline)?;
        if let Some(there) = self.there(&deadline)?
            && self.verdict(&there, &wanted)? == Verdict::Done
        {
            self.settle(&wanted);
            return Ok(Verdict::Done);
        }
        self.apply(switch, &wanted, &deadline)?;
        match self.there(&deadline)? {
            Some(there) if self.verdict(&there, &wanted)? == Verdict::Done => {
                self.settle(&wanted);
                Ok(Verdict::Change)
            }
            Some(there) if there.mark.as_ref() == Some(&wanted) => {
                Err(EdgeError::TakenInPart { edge: self.name().to_owned(), wanted: Box::new(wanted) })
            }
            Some(there) => Err(EdgeError::NotTaken {
                edge: self.name().to_owned(),
                shown: there.mark.map_or("nothing".into(), |mark| mark.to_string()),
                wanted: Box::new(wanted),
                advice: "what it runs and its files must agree: see what else changes them, and switch again",
            }),
            None => Ok(Verdict::Change),
        }
    }

    /// Judges what the edge holds; a fence is an error.
    fn verdict(&self, there: &There, wanted: &Mark) -> Result<Verdict, EdgeError> {
        judge_or_fence(self.name(), there, wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark(epoch: u64, host: u8) -> Mark {
        let host_name = WriterId(format!("web-{host}"));
        let address = format!("10.0.0.{host}:80").parse().unwrap();
        Mark { epoch: Epoch(epoch), host: PlainHost::of(&host_name).unwrap(), address }
    }

    proptest! {
        #[test]
        fn an_epoch_never_goes_down_and_has_one_host(held in proptest::option::of((0..4u64, 1..4u8)), is_whole: bool, wanted in (0..4u64, 1..4u8)) {
            let there = There { mark: held.map(|(epoch, host)| mark(epoch, host)), is_whole };
            let wanted_mark = mark(wanted.0, wanted.1);
            match judge(&there, &wanted_mark) {
                Verdict::Fenced => {
                    let (epoch, host) = held.unwrap();
                    prop_assert!(epoch > wanted.0 || (epoch == wanted.0 && host != wanted.1));
                }
                Verdict::Change => {
                    prop_assert!(held.is_none_or(|(epoch, host)| epoch < wanted.0 || (epoch == wanted.0 && host == wanted.1 && !is_whole)));
                    // After the change there is nothing left to do.
                    let after = There { mark: Some(wanted_mark.clone()), is_whole: true };
                    prop_assert_eq!(judge(&after, &wanted_mark), Verdict::Done);
                }
                Verdict::Done => prop_assert!(is_whole && held == Some(wanted)),
            }
        }

        #[test]
        fn hosts_that_switch_by_turns_in_any_order_end_with_the_highest_epoch(switches in proptest::collection::vec((1..6u64, 1..3u8), 1..20)) {
            let mut there = There { mark: None, is_whole: false };
            for (epoch, host) in &switches {
                let wanted = mark(*epoch, *host);
                if judge(&there, &wanted) == Verdict::Change {
                    prop_assert!(there.mark.as_ref().is_none_or(|mark| mark.epoch < wanted.epoch));
                    there = There { mark: Some(wanted), is_whole: true };
                }
            }
            prop_assert_eq!(there.mark.unwrap().epoch.0, switches.iter().map(|(epoch, _)| *epoch).max().unwrap());
        }
    }
}
