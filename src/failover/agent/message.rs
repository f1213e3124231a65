//! What the machine's thread is told.

use super::terms::Terms;
use crate::failover::decide::input::Input;
use crate::failover::decide::reason::Reason;
use crate::failover::decide::view::Cause;
use crate::model::id::{Epoch, WriterId};
use crate::model::member::Member;
use std::sync::mpsc::Sender;

/// A message to the machine's thread.
pub(crate) enum Message {
    Input(Input),
    /// A participant's part is done; `order` is that of the output which asked for it.
    Done {
        input: Input,
        order: u64,
    },
    /// Another host asks for a promise, and hears only if it is given.
    Asked {
        by: WriterId,
        epoch: Epoch,
        reply: Sender<()>,
    },
    TakeOver {
        cause: Cause,
        terms: Box<Terms>,
        /// Who asks hears why it is not done, if they wait.
        reply: Option<Sender<Vec<Reason>>>,
    },
    /// The same as the machine's input, and who asks hears why it is not done.
    HandOver {
        to: WriterId,
        /// Why this host does it by itself; none for a person.
        because: Option<String>,
        reply: Sender<Vec<Reason>>,
    },
    SetMembers {
        members: Vec<Member>,
    },
    /// A person says that a host is down.
    Attest {
        host: WriterId,
        reply: Sender<()>,
    },
    /// The gate closed and fenced by itself.
    GateFenced,
    End,
}
