//! The context of a command: configuration, runtime, repository, clock, randomness.

use super::error::{Context as _, Result, UsageError};
use super::{Global, ending};
use crate::model::id::StoreName;
use crate::repository::store::Notice;
use crate::service::config::{Config, FILE_NAME};
use crate::service::host::{GivenKeys, Host};
use crate::support::kill_point;
use crate::support::progress::{Progress, Step};
use std::env::VarError;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

pub(super) struct Context {
    host: Host,
    pub runtime: Bounded,
}

/// A runtime whose end waits at most [`THREADS_LIMIT`] for its threads.
pub(super) struct Bounded(Option<Runtime>);

/// Maximum time that a finished command waits for threads which may hang on a disk.
const THREADS_LIMIT: Duration = Duration::from_secs(1);

impl std::ops::Deref for Bounded {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().unwrap_or_else(|| unreachable!("it is taken by its drop alone"))
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        let _ = self.0.take().map(|runtime| runtime.shutdown_timeout(THREADS_LIMIT));
    }
}

impl Context {
    pub fn new(global: &Global) -> Result<Self> {
        Self::telling(global, |said| complain!("understudy: {said}"))
    }

    /// Creates a context like [`Self::new`], and passes warnings about the configuration and the secrets to
    /// `tell`.
    pub(crate) fn telling(global: &Global, tell: impl Fn(&str)) -> Result<Self> {
        let config = Config::load(global.config.as_deref())?;
        if config.is_found && !global.quiet {
            let path = std::path::absolute(FILE_NAME).unwrap_or_else(|_| FILE_NAME.into());
            tell(&format!("using the configuration in the current directory: {}", path.display()));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(16)
            .enable_all()
            .build()
            .context("starting the runtime")?;
        // Taken out of the environment, since no other part of this process needs them.
        let keys = GivenKeys {
            key_file: global.key_file.clone(),
            passphrase: passphrase()?,
            trust_keyring: global.trust_keyring,
            allow_unencrypted: global.allow_unencrypted,
        };
        let notice = Notice::new(|text| complain!("understudy: {text}"));
        let host = Host::new(config, runtime.handle().clone(), global.repository.clone());
        let host = host.with_keys(keys).with_notice(notice);
        host.exposures().iter().for_each(|said| tell(said));
        Ok(Self { host, runtime: Bounded(Some(runtime)) })
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }
}

/// Returns the passphrase in the environment. An empty one is an error: probably a variable that was never
/// filled in.
fn passphrase() -> Result<Option<Zeroizing<String>>> {
    const VARIABLE: &str = "UNDERSTUDY_PASSPHRASE";
    match std::env::var(VARIABLE).map(Zeroizing::new) {
        Ok(text) if text.is_empty() => {
            Err(UsageError(format!("{VARIABLE} is empty: set it to the passphrase, or unset it")).into())
        }
        Ok(text) => Ok(Some(text)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(UsageError(format!("{VARIABLE} is not UTF-8")).into()),
    }
}

impl std::ops::Deref for Context {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

/// Returns the progress of a command, which stops once this process is asked to end.
pub(super) fn progress() -> Progress {
    Progress { stop: ending::flag(), ..Progress::default() }
}

/// Lets a test kill this process at a step.
pub(super) fn kill_at(step: Step) {
    kill_point::reached(step.name());
}

/// Derives a store's name from a directory's name.
pub(super) fn name_from_path(path: &Path) -> Result<StoreName> {
    let full = std::fs::canonicalize(path).with_context(|| path.display().to_string())?;
    let base = full.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain: String = base
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_') { c } else { '-' })
        .collect();
    let plain: String = plain.trim_start_matches(['.', '_', '-']).chars().take(64).collect();
    StoreName::parse(&plain).map_err(|_| {
        UsageError(format!(
            "{}: cannot derive a store's name from this directory; give one with --store",
            full.display()
        ))
        .into()
    })
}
