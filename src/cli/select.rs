//! Which stores a command is for.

use super::context::Context;
use super::error::{Result, UsageError};
use crate::model::id::StoreName;
use crate::service::config::StoreConfig;

/// The configured store of this name; with the Standard plan if none is.
pub(super) fn configured(context: &Context, name: &str) -> Result<StoreConfig> {
    let found = context.config.store(name).cloned();
    Ok(match found {
        Some(store) => store,
        None => StoreConfig::of(StoreName::parse(name)?, Default::default()),
    })
}

/// Those named, or all that are configured.
pub(super) fn chosen(context: &Context, named: &[String]) -> Result<Vec<StoreConfig>> {
    if !named.is_empty() {
        return named.iter().map(|name| configured(context, name)).collect();
    }
    if context.config.store.is_empty() {
        return Err(UsageError("no store is configured: name one".into()).into());
    }
    Ok(context.config.store.clone())
}
