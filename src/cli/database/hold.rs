//! `understudy database hold` and `release`.

use super::order::{LIMIT, epoch, said};
use super::run::place;
use super::{Configured, OfStore};
use crate::cli::Global;
use crate::cli::error::{Result, UsageError};
use crate::cli::exit::Exit;
use crate::database::orders::{What, give};
use crate::model::gtid::GtidPosition;
use crate::model::snapshot_ref::SnapshotRef;
use clap::Args;

#[derive(Args)]
pub(super) struct HoldArgs {
    /// A store, whose replica is held where it is, or a snapshot, at whose position it is held
    #[arg(value_name = "STORE[@SNAPSHOT]")]
    what: String,
}

pub(super) fn hold(global: &Global, args: &HoldArgs) -> Result<Exit> {
    let wanted = SnapshotRef::parse(&args.what)?;
    let configured = Configured::open(global, wanted.store.as_str())?;
    let name = &configured.store.name;
    let (position, snapshot) = match args.what.contains('@') {
        false => (None, None),
        true => {
            let store = configured.context.repository_of(name)?.store(name);
            let (sequence, record) = store.log().find(&store.log().state()?, wanted.moment)?;
            let snapshot = format!("{name}@{sequence}");
            let Some(position) = record.database_position else {
                return Err(UsageError(format!(
                    "{snapshot} does not say where the database was when its scan began: the host that made it did not reach the primary's server; by its time the archive has that: understudy database restore {name} --to TIME --into DIRECTORY"
                ))
                .into());
            };
            (Some(position.parse::<GtidPosition>()?), Some(snapshot))
        }
    };
    let what = What::Hold { position, snapshot };
    let (position, note) = give(&place(&configured)?, what, epoch()?, LIMIT)?;
    said(global, name, "is held", position, note)
}

pub(super) fn release(global: &Global, of: &OfStore) -> Result<Exit> {
    let configured = Configured::open(global, &of.store)?;
    let (position, note) = give(&place(&configured)?, What::Release, epoch()?, LIMIT)?;
    said(global, &configured.store.name, "follows again", position, note)
}
