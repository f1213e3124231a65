//! What a failover goes back to: a point of the store's, whose database is restored here before anybody is asked to
//! take over, so that customers do not wait for it.

use super::args::FailoverArgs;
use super::at::At;
use crate::cli::context::Context;
use crate::cli::error::{Result, UsageError};
use crate::cli::{Global, ending, progress};
use crate::database::error::DatabaseError;
use crate::database::minimal::Place;
use crate::database::points_read::Site;
use crate::database::recover::{Recovery, recover};
use crate::database::report::Report;
use crate::database::restored::{Restored, aside_dir, restored_dir};
use crate::database::seed::store_name;
use crate::database::target::Target;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Sequence, StoreName};
use crate::repository::store::Repository;
use crate::service::config::StoreConfig;
use crate::service::databases::here::DatabaseHere;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Default memory of the server that applies the archive.
const MEMORY_MIB: u32 = 256;

/// A point to go back to.
pub(super) struct Back {
    config: StoreConfig,
    repository: Repository,
    pub snapshot: Sequence,
    pub position: GtidPosition,
    /// Number of transactions behind it that are known here.
    pub transactions: u64,
    /// Directory of the replica's data.
    root: PathBuf,
}

impl Back {
    /// Finds the point that is wanted; none if the database does not go back.
    ///
    /// # Errors
    /// It cannot be reached, or understudy does not run the database on this host.
    pub(super) fn find(context: &Context, args: &FailoverArgs, name: &StoreName) -> Result<Option<Self>> {
        let Some(At::Point(moment)) = args.at else { return Ok(None) };
        let wrong = |how: &str| UsageError(format!("store '{name}': --at @SNAPSHOT: {how}"));
        let config = context.config.store(name.as_str()).cloned();
        let config = config.ok_or_else(|| wrong("the store is not in this host's configuration"))?;
        let is_own = config.database.serve.is_some() && config.database.promote.is_empty();
        let (Some(root), true) = (config.database.datadir.clone(), is_own) else {
            return Err(wrong(
                "understudy does not run the store's database on this host ([store.database.serve]); for the files alone, give the number without @",
            )
            .into());
        };
        let owner = std::fs::metadata(&root).map(|meta| meta.uid());
        if owner.is_ok_and(|uid| uid != rustix::process::geteuid().as_raw()) {
            return Err(
                wrong("run it as the user whose the database is: what is restored takes its place").into()
            );
        }
        let repository = context.repository_of(name)?;
        let (files, database) = (repository.store(name), repository.store(&store_name(name)?));
        let (point, position) = Site { files: &files, database: &database }.reachable(moment)?;
        let known = config.database_place()?.and_then(|place| Report::read(&place));
        let known: GtidPosition = known
            .into_iter()
            .flat_map(|report| report.applied.gtids().chain(report.received.gtids()).collect::<Vec<_>>())
            .collect();
        let transactions = position.behind(&known.of_store());
        let snapshot = point.taken.snapshot;
        Ok(Some(Self { config, repository, snapshot, position, transactions, root }))
    }

    /// Returns what is lost of the database, in words.
    pub(super) fn text(&self) -> String {
        format!(
            "it goes back to {}; {} transactions behind that are known here, and are not served any more. The replica's data is kept beside it, and what only the former primary has is stranded",
            self.position,
            crate::cli::show::count(self.transactions)
        )
    }

    /// Returns the step that comes before all others.
    pub(super) fn step(&self) -> String {
        format!(
            "restore the database to {} in {}, before anything else is done; then it takes the place of the replica's data, which is kept as {}",
            self.position,
            restored_dir(&self.root, self.snapshot.0).display(),
            aside_dir(&self.root, "…").display()
        )
    }

    /// Restores the database, unless an earlier attempt has. Returns the restore's name.
    pub(super) fn restore(&self, context: &Context, global: &Global) -> Result<String> {
        let destination = restored_dir(&self.root, self.snapshot.0);
        if let Some(mark) = Restored::read(&destination)?.filter(|mark| mark.position == self.position) {
            return Ok(mark.id);
        }
        let store = self.repository.store(&store_name(&self.config.name)?);
        let place =
            Place { dir: DatabaseHere { store: &self.config, env: context.env() }.own_dir("restore")? };
        let _taken = crate::database::supervisor::take(&place)?;
        let bars = crate::cli::context::progress();
        let recovery = Recovery {
            store: &store,
            target: Target::at(&self.position),
            destination: &destination,
            place,
            memory_mib: MEMORY_MIB,
            threads: context.threads(),
            own: context.own_places().into_iter().chain(context.keys()?.key_file).collect(),
            env: context.env(),
            stop: &ending::is_asked,
            progress: &bars,
            on_step: &crate::support::kill_point::reached,
        };
        let recovered = progress::watched(global, context.env(), &bars, "restored", || recover(&recovery))?;
        if recovered.position != self.position {
            let text =
                format!("the database was restored to {}, and not to {}", recovered.position, self.position);
            return Err(DatabaseError::Held(text).into());
        }
        let id = format!("{:016x}", context.env().nonce());
        Restored { id: id.clone(), position: recovered.position }.write(&destination, context.env())?;
        Ok(id)
    }
}
