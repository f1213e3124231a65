//! The choice of the stores that a command works on.

use super::context::Context;
use super::error::{Result, UsageError};
use crate::model::id::StoreName;
use crate::service::config::StoreConfig;

/// Returns the configured store of this name; if there is none, one with the Standard plan.
pub(super) fn configured(context: &Context, name: &str) -> Result<StoreConfig> {
    let found = context.config.store(name).cloned();
    Ok(match found {
        Some(store) => store,
        None => StoreConfig::of(StoreName::parse(name)?, Default::default()),
    })
}

/// Returns the named stores, or all configured ones.
pub(super) fn chosen(context: &Context, named: &[String]) -> Result<Vec<StoreConfig>> {
    if !named.is_empty() {
        return named.iter().map(|name| configured(context, name)).collect();
    }
    if context.config.store.is_empty() {
        return Err(UsageError("no store is configured: give the name of one".into()).into());
    }
    Ok(context.config.store.clone())
}
