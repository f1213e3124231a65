//! What this host has of a store's database: where its files are, what its log says, and what asks its server.

use crate::database::client::Client;
use crate::database::decide::State;
use crate::database::desk::local;
use crate::database::error::DatabaseError;
use crate::database::report::Report;
use crate::database::role::LogSays;
use crate::database::seed::store_name;
use crate::model::id::WriterId;
use crate::model::record::StoreState;
use crate::model::role::Permission;
use crate::service::config::{ConfigError, StoreConfig, default_seeds, state_dir};
use crate::support::env::Env;
use std::path::PathBuf;

/// The database of one store on this host.
#[derive(Clone, Copy)]
pub(crate) struct DatabaseHere<'a> {
    pub store: &'a StoreConfig,
    pub env: &'a Env,
}

impl DatabaseHere<'_> {
    /// Returns what a store's log says of its primary. Pure.
    pub(crate) fn log_says(&self, state: &StoreState, own: &WriterId) -> LogSays {
        let primary = state.primary.clone();
        let member = primary.as_ref().and_then(|primary| state.authority.member(primary));
        LogSays {
            epoch: state.epoch,
            is_here: primary.as_ref() == Some(own),
            only_follows: self.store.role == Permission::Standby,
            database: member.and_then(|member| member.database.clone()),
            branch: state.authority.promotion.as_ref().and_then(|last| last.database.clone()),
            has_synced: !state.authority.synced.is_empty(),
            lossless_since: state.authority.lossless_since,
            primary,
        }
    }

    /// Returns what asks the primary's server: this host's own, if it is that.
    ///
    /// # Errors
    /// The configuration does not say where it is.
    pub(crate) fn primary(&self) -> Result<Client, DatabaseError> {
        if let Some(place) = self.store.database_place().map_err(settings)?
            && Report::read(&place).is_some_and(|report| report.state == State::Serving)
        {
            return Ok(local(&place, self.env));
        }
        self.store.database.primary(self.env).ok_or_else(|| {
            DatabaseError::Settings(format!(
                "store '{}': the configuration does not say where the primary's server is; set `socket` or `host` in [store.database]",
                self.store.name
            ))
        })
    }

    /// Returns what asks a server that has the store's rows: this host's own, replica or not, else the primary's.
    ///
    /// # Errors
    /// The configuration does not say where one is.
    pub(crate) fn any(&self) -> Result<Client, DatabaseError> {
        if let Some(place) = self.store.database_place().map_err(settings)?
            && Report::read(&place).is_some_and(|report| report.is_fresh(self.env.wall()))
        {
            return Ok(local(&place, self.env));
        }
        self.primary()
    }

    /// Returns what asks this host's server, whose files are read: never another host's.
    ///
    /// # Errors
    /// Likewise.
    pub(crate) fn server(&self) -> Result<Client, DatabaseError> {
        match (&self.store.database.serve, self.store.database_place().map_err(settings)?) {
            (Some(_), Some(place)) => Ok(local(&place, self.env)),
            _ => self.primary(),
        }
    }

    /// Returns whether this host is the store's primary: the log says so, or names none yet and the configuration
    /// does.
    pub(crate) fn is_primary(&self, says: &LogSays) -> bool {
        says.is_here || (says.primary.is_none() && self.store.role == Permission::Primary)
    }

    /// Returns whether this host's server takes writes; one that understudy does not run is asked later.
    pub(crate) fn serves(&self) -> Result<bool, DatabaseError> {
        if self.store.database.serve.is_none() {
            return Ok(true);
        }
        let report = self.store.database_place().map_err(settings)?.and_then(|place| Report::read(&place));
        Ok(report.is_some_and(|report| report.state == State::Serving && report.is_fresh(self.env.wall())))
    }

    /// Returns the store of the database's seeds and archive, as it is shipped from a directory.
    pub(crate) fn database_store(&self, directory: PathBuf) -> Result<StoreConfig, DatabaseError> {
        Ok(StoreConfig {
            plan: self.store.plan,
            repository: self.store.repository.clone(),
            encryption: self.store.encryption,
            ..StoreConfig::of(store_name(&self.store.name)?, directory)
        })
    }

    /// Returns the directory of the own files of what does `what` with the database.
    pub(crate) fn own_dir(&self, what: &str) -> Result<PathBuf, DatabaseError> {
        let dir = state_dir().map_err(settings)?.ok_or_else(no_place)?;
        Ok(dir.join(format!("{what}-{}", self.store.name)))
    }

    /// Returns the directory of an archiver's own files.
    pub(crate) fn archive_dir(&self) -> Result<PathBuf, DatabaseError> {
        self.own_dir("archive")
    }

    /// Returns the directory of the copy that seeds are made of.
    pub(crate) fn seed_directory(&self) -> Result<PathBuf, DatabaseError> {
        if let Some(directory) = &self.store.database.seed_directory {
            return Ok(directory.clone());
        }
        let text = "no place for the copy that seeds are made of; set `seed_directory` in [store.database]";
        let dir = default_seeds().map_err(settings)?;
        let dir = dir.ok_or_else(|| DatabaseError::Settings(text.to_owned()))?;
        Ok(dir.join(self.store.name.as_str()))
    }
}

/// Returns the error of settings that name no place.
pub(crate) fn settings(error: ConfigError) -> DatabaseError {
    DatabaseError::Settings(error.to_string())
}

pub(crate) fn no_place() -> DatabaseError {
    DatabaseError::Settings("no place for this process's files; set XDG_STATE_HOME or HOME".to_owned())
}
