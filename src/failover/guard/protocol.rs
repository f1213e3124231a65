//! What is said at a guard's socket: one line of JSON for each request, one for each reply.

use crate::model::id::{Epoch, StoreName};
use crate::support::clock::BootNanos;
use crate::support::failure::{Failure, FailureKind};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Maximum length of a line.
pub(crate) const LINE_MAX_BYTES: usize = 256 << 10;

/// What a gate does with requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Each is refused; those in flight are cut.
    #[default]
    Closed,
    /// New ones wait for another mode, for a limited time; those in flight go on.
    Hold,
    /// Each is forwarded to the store's web server.
    Open,
    /// Each is forwarded to the gate of the new primary, `HOST:PORT`.
    Relay { address: String },
}

impl Mode {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Hold => "hold",
            Self::Open => "open",
            Self::Relay { .. } => "relay",
        }
    }
}

/// What a gate is to do, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    pub epoch: Epoch,
    pub mode: Mode,
    /// The time of the clock `CLOCK_BOOTTIME` at which the guard closes and fences by itself; none for never.
    #[serde(rename = "until_boot_ns")]
    pub until: Option<BootNanos>,
    /// Number of fences that the daemon knows of and has dealt with. Until it knows of the last one, the gate
    /// only closes: a feed that was on its way when the time passed opens nothing.
    pub fences_known: u64,
}

/// A request to a guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    Feed(Feed),
    Ask,
    /// Close and fence now.
    Fence {
        reason: String,
    },
    /// End the process.
    Stop,
}

/// One fence: what was done since the gate closed by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Its number, from 1.
    pub number: u64,
    pub reason: String,
    #[serde(rename = "at_boot_ns")]
    pub at: BootNanos,
    /// When all steps were done; none while they are.
    #[serde(rename = "ended_boot_ns")]
    pub ended: Option<BootNanos>,
    /// Whether everything that had to stop was seen stopped.
    pub verified: bool,
    pub failures: Vec<String>,
}

/// What is known of the ports that lead to the store without the gate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortsState {
    /// None are configured.
    #[default]
    None,
    Passed,
    Rejected,
    /// They are not rejected, though they should be; with the reason.
    Unmanaged(String),
}

/// The state of a guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardState {
    pub store: StoreName,
    /// Hash of what the guard was given at its start.
    pub setup: String,
    pub process: u32,
    pub epoch: Epoch,
    pub mode: Mode,
    #[serde(rename = "until_boot_ns")]
    pub until: Option<BootNanos>,
    /// Number of requests and tunnels that are being forwarded.
    pub in_flight: usize,
    /// Number of fences since the guard started.
    pub fences: u64,
    /// The last fence.
    pub fence: Option<Fence>,
    pub ports: PortsState,
    /// Whether the guard's memory cannot be paged out.
    pub memory_is_locked: bool,
}

/// The reason why a feed has no effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "lowercase")]
pub enum Refusal {
    #[error("the guard has seen epoch {}, which is higher: another host was promoted", seen.0)]
    Epoch { seen: Epoch },
    #[error("the time until which the gate should be open has passed already")]
    Late,
    #[error(
        "fence {number} has acted; start the services again, and feed the guard with the number of that fence"
    )]
    Fenced { number: u64 },
    #[error("'{address}' is no address of a gate; give HOST:PORT")]
    Address { address: String },
}

impl Failure for Refusal {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Epoch { .. } | Self::Fenced { .. } => FailureKind::Fenced,
            Self::Late => FailureKind::Unavailable,
            Self::Address { .. } => FailureKind::Usage,
        }
    }
}

/// The reply of a guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    State(Box<GuardState>),
    Refused(Refusal),
    /// The request could not be read.
    Wrong(String),
}
