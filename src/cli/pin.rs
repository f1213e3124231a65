//! `understudy pin`, `understudy unpin`.

use super::context::Context;
use super::error::{Error, Result, UsageError};
use super::exit::Exit;
use super::{Global, show};
use crate::model::id::Sequence;
use crate::model::record::Event;
use crate::model::snapshot_ref::SnapshotRef;

use clap::Args;

#[derive(Args)]
pub(super) struct PinArgs {
    /// STORE, STORE@latest, STORE@42 or STORE@2026-11-23T10:00 (UTC)
    #[arg(value_name = "STORE[@SNAPSHOT]")]
    snapshot: String,
    /// Reason for the pin
    #[arg(long, default_value = "")]
    note: String,
}

#[derive(Args)]
pub(super) struct UnpinArgs {
    /// STORE@42
    #[arg(value_name = "STORE@SNAPSHOT")]
    snapshot: String,
}

/// Maximum length of a note, which is shown in a line of a table.
const NOTE_MAX_BYTES: usize = 1 << 10;

pub(super) fn run(global: &Global, args: PinArgs) -> Result<Exit> {
    if args.note.len() > NOTE_MAX_BYTES {
        return Err(UsageError(format!("a note has at most {NOTE_MAX_BYTES} bytes")).into());
    }
    change(global, &args.snapshot, Some(args.note))
}

pub(super) fn run_unpin(global: &Global, args: UnpinArgs) -> Result<Exit> {
    change(global, &args.snapshot, None)
}

fn change(global: &Global, wanted: &str, note: Option<String>) -> Result<Exit> {
    let context = Context::new(global)?;
    let wanted = SnapshotRef::parse(wanted)?;
    let store = context.repository_of(&wanted.store)?.store(&wanted.store);
    let mut pinned = Sequence(0);
    store.log().append_until_won(&mut store.log().state()?, &context.writer(), |state| {
        let (snapshot, _) = store.log().find(state, wanted.moment)?;
        pinned = snapshot;
        match &note {
            Some(note) => Ok(Some(Event::Pinned { snapshot, note: note.clone() })),
            None if !state.pins.contains_key(&snapshot) => {
                Err(UsageError(format!("{}@{snapshot} is not pinned", wanted.store)).into())
            }
            None => Ok::<_, Error>(Some(Event::Unpinned { snapshot })),
        }
    })?;
    if !global.quiet {
        let done = if note.is_some() {
            "pinned: it stays whatever the plan says"
        } else {
            "unpinned: the retention plan applies to it again"
        };
        show::line(&format!("{}@{pinned} {done}", wanted.store))?;
    }
    Ok(Exit::Done)
}
