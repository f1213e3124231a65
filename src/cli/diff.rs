//! `understudy diff`.

use super::context::Context;
use super::error::Result;
use super::exit::Exit;
use super::{Global, show};
use crate::api::change::ChangeRow;
use crate::model::diff::ChangeCounts;
use crate::model::id::StoreName;
use crate::model::snapshot_ref::Moment;
use crate::repository::diff::changes;
use clap::Args;

#[derive(Args)]
pub(super) struct DiffArgs {
    #[arg(value_name = "STORE")]
    store: String,
    /// The older snapshot: a number, a time, or latest
    #[arg(value_name = "A")]
    from: String,
    /// The newer snapshot
    #[arg(value_name = "B", default_value = "latest")]
    to: String,
}

pub(super) fn run(global: &Global, args: DiffArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let name = StoreName::parse(&args.store)?;
    let store = context.repository_of(&name)?.store(&name);
    let state = store.log().state()?;
    let (_, from) = store.log().find(&state, Moment::parse(&args.from)?)?;
    let (_, to) = store.log().find(&state, Moment::parse(&args.to)?)?;
    let mut counts = ChangeCounts::default();
    changes(&store, &state, &from, &to, |change, entry| {
        counts.count(Some(change));
        if global.json {
            return show::json(&ChangeRow::new(change, entry));
        }
        let slash = if entry.kind.name() == "directory" { "/" } else { "" };
        show::line(&format!("{} {}{slash}", change.sign(), entry.path))
    })?;
    if !global.json && !global.quiet {
        show::line(&format!(
            "{} added, {} modified, {} metadata only, {} removed",
            counts.added, counts.modified, counts.metadata, counts.removed
        ))?;
    }
    Ok(Exit::Done)
}
