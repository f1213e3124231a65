//! What members ask each other, outside the log: promises, to read the log now, to hand over, and to take over.
//!
//! One request is one short HTTP POST to the address that the log has for a member ([`client`]). Its daemon
//! answers it without a token ([`answer`]): what admits it is the signature of a member that may serve the
//! store. [`question`] is the form of both.
//!
//! # Why it is safe
//!
//! - The request is signed for its store, for the host that is asked, and for a number drawn for it alone, so it
//!   counts nowhere else. The answer is signed over the same number: a promise that somebody else forges would
//!   let a primary serve beside another one. Both keys are those of the log that each side has read.
//! - Nothing depends on an answer that does not come, or comes late. A promise counts from when it was asked for.
//! - Whoever records a request can send it again. For a promise or a look that is harmless: a promise only
//!   holds this host back while it follows the very primary that the log names. A person's request counts once,
//!   and for a minute ([`heard`]).
//!
//! The log remains what decides. A member that asks for a handover cannot do more by this than the primary's own
//! operator: the primary hands over only to a member, and in its own signed words. Nor can one that asks for a
//! takeover, or says that a host is down, do more than by promoting itself.

pub mod answer;
pub mod client;
pub mod error;
pub(crate) mod heard;
pub mod question;

/// The path at which a member's daemon is asked.
pub const ASK_PATH: &str = "/api/v1/members/ask";
/// The header of an answer that names the version of who gave it.
pub const VERSION_HEADER: &str = "x-understudy-version";
