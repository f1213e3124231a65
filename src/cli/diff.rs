//! `understudy diff`.

use super::context::Context;
use super::exit::Exit;
use super::{Global, show};
use crate::model::diff::{Change, ChangeCounts, next_side};
use crate::model::id::StoreName;
use crate::model::snapshot_ref::Moment;
use crate::repository::chunks::ChunkReader;
use crate::repository::index::Index;
use crate::repository::manifest::ManifestReader;
use anyhow::Result;
use clap::Args;
use serde::Serialize;
use std::cmp::Ordering;
use std::sync::Arc;

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

#[derive(Serialize)]
struct Line {
    change: Change,
    kind: &'static str,
    path: String,
    size_bytes: u64,
}

pub(super) fn run(global: &Global, args: DiffArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let name = StoreName::parse(&args.store)?;
    let store = context.repository_of(&name)?.store(&name);
    let state = store.state()?;
    let (_, from) = store.find(&state, Moment::parse(&args.from)?)?;
    let (_, to) = store.find(&state, Moment::parse(&args.to)?)?;
    let mut segments = from.index.clone();
    segments.extend(to.index.iter().filter(|s| !from.index.contains(s)).cloned());
    let index = Arc::new(Index::open(&store, &segments, Default::default())?);
    let manifests = ManifestReader::new(ChunkReader::new(store, index));
    // Entries on shared pages are equal: neither read nor counted.
    let (old, new) = manifests.differing_leaves(&from.manifest, &to.manifest)?;
    let (mut old, mut new) = (manifests.entries_of(old), manifests.entries_of(new));
    let (mut a, mut b) = (old.next().transpose()?, new.next().transpose()?);
    let mut counts = ChangeCounts::default();
    while let Some(side) = next_side(a.as_ref(), b.as_ref()) {
        let (left, right) = match side {
            Ordering::Less => (a.as_ref(), None),
            Ordering::Greater => (None, b.as_ref()),
            Ordering::Equal => (a.as_ref(), b.as_ref()),
        };
        if let Some(change) = Change::between(left, right)
            && let Some(entry) = right.or(left)
        {
            counts.count(Some(change));
            if global.json {
                let (kind, path, size_bytes) =
                    (entry.kind.name(), entry.path.to_string(), entry.size_bytes());
                show::json(&Line { change, kind, path, size_bytes })?;
            } else {
                let slash = if entry.kind.name() == "directory" { "/" } else { "" };
                show::line(&format!("{} {}{slash}", change.sign(), entry.path))?;
            }
        }
        if side != Ordering::Greater {
            a = old.next().transpose()?;
        }
        if side != Ordering::Less {
            b = new.next().transpose()?;
        }
    }
    if !global.json && !global.quiet {
        show::line(&format!(
            "{} added, {} modified, {} metadata only, {} removed",
            counts.added, counts.modified, counts.metadata, counts.removed
        ))?;
    }
    Ok(Exit::Done)
}
