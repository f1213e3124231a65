//! A service of a store as `[[store.service]]` configures it.

use super::kind::{Kind, Workload};
use crate::support::child::may_be_handed_on;
use crate::support::failure::{Failure, FailureKind};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Default maximum time for a service to start or stop.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The reason why a service cannot be used as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    #[error(
        "service '{0}': give exactly one of `systemd`, `compose`, `kubernetes`, or `start` with `stop` and `check`"
    )]
    Kinds(String),
    #[error(
        "service '{0}': `start`, `stop` and `check` are needed together; a stop that nothing checks proves nothing"
    )]
    Incomplete(String),
    #[error("service '{service}': '{text}' is no unit of systemd; write for example php-fpm.service")]
    Unit { service: String, text: String },
    #[error("service '{service}': `kubernetes` is '{text}'; write deployment/NAME or statefulset/NAME")]
    Workload { service: String, text: String },
    #[error("service '{service}': `{key}` is only for `kubernetes`")]
    Stray { service: String, key: &'static str },
    #[error("service '{service}': `environment` cannot contain '{name}'")]
    Variable { service: String, name: String },
    #[error("service '{0}': a name is 1 to 64 letters, digits, '.', '_' and '-'")]
    Name(String),
    #[error("two services are named '{0}'; rename one of them")]
    Duplicate(String),
}

impl Failure for SettingsError {
    fn kind(&self) -> FailureKind {
        FailureKind::Usage
    }
}

/// One service, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    pub name: String,
    /// Units of systemd.
    #[serde(default)]
    pub systemd: Vec<String>,
    /// File of a Compose project.
    pub compose: Option<PathBuf>,
    /// Workload of Kubernetes: `deployment/NAME` or `statefulset/NAME`.
    pub kubernetes: Option<String>,
    /// Namespace of the workload; default: `default`.
    pub namespace: Option<String>,
    /// Number of the workload's replicas where it runs; default: 1.
    pub replicas: Option<u32>,
    /// Command that starts the service.
    #[serde(default)]
    pub start: Vec<String>,
    /// Command that stops the service.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Command that ends with 0 where the service runs, and with 3 where it does not.
    #[serde(default)]
    pub check: Vec<String>,
    /// Maximum time in seconds to start or to stop.
    pub timeout_seconds: Option<u64>,
    /// Whether the service is started after all others, once customers reach this host, and stopped first.
    #[serde(default)]
    pub last: bool,
    /// User that the commands run as; default: the user of this process.
    pub user: Option<String>,
    /// Names of this process's variables that are handed on to the commands.
    #[serde(default)]
    pub environment: Vec<String>,
}

impl ServiceSettings {
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout_seconds.map_or(TIMEOUT, Duration::from_secs)
    }

    /// Returns what manages the service.
    ///
    /// # Errors
    /// [`SettingsError`] when the configuration does not say that, or not only.
    pub(crate) fn kind(&self) -> Result<Kind, SettingsError> {
        let service = || self.name.clone();
        let commands = [&self.start, &self.stop, &self.check];
        let has_commands = commands.iter().any(|command| !command.is_empty());
        let named =
            [!self.systemd.is_empty(), self.compose.is_some(), self.kubernetes.is_some(), has_commands];
        if named.iter().filter(|is_named| **is_named).count() != 1 {
            return Err(SettingsError::Kinds(service()));
        }
        if self.kubernetes.is_none() {
            let stray = [("namespace", self.namespace.is_some()), ("replicas", self.replicas.is_some())];
            if let Some((key, _)) = stray.into_iter().find(|(_, is_given)| *is_given) {
                return Err(SettingsError::Stray { service: service(), key });
            }
        }
        if let Some(text) = self.systemd.iter().find(|unit| !is_unit(unit)) {
            return Err(SettingsError::Unit { service: service(), text: text.clone() });
        }
        match (&self.compose, &self.kubernetes) {
            (Some(file), _) => Ok(Kind::Compose { file: file.clone() }),
            (_, Some(text)) => {
                let wrong = || SettingsError::Workload { service: service(), text: text.clone() };
                let namespace = self.namespace.as_deref().unwrap_or("default");
                let replicas = self.replicas.unwrap_or(1);
                Ok(Kind::Kubernetes(Workload::parse(text, namespace, replicas).ok_or_else(wrong)?))
            }
            _ if has_commands && commands.iter().any(|command| command.is_empty()) => {
                Err(SettingsError::Incomplete(service()))
            }
            _ if has_commands => {
                let [start, stop, check] = commands.map(Clone::clone);
                Ok(Kind::Commands { start, stop, check })
            }
            _ => Ok(Kind::Systemd { units: self.systemd.clone() }),
        }
    }
}

/// Checks all services of a store.
///
/// # Errors
/// The first [`SettingsError`].
pub(crate) fn check(services: &[ServiceSettings]) -> Result<(), SettingsError> {
    for (at, service) in services.iter().enumerate() {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !(1..=64).contains(&service.name.len()) || !service.name.chars().all(is_plain) {
            return Err(SettingsError::Name(service.name.clone()));
        }
        if services[..at].iter().any(|other| other.name == service.name) {
            return Err(SettingsError::Duplicate(service.name.clone()));
        }
        if let Some(name) = service.environment.iter().find(|name| !may_be_handed_on(name)) {
            return Err(SettingsError::Variable { service: service.name.clone(), name: name.clone() });
        }
        service.kind()?;
    }
    Ok(())
}

/// Returns whether a text is a unit's whole name. systemd would read a pattern as many units, or none.
fn is_unit(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    text.len() <= 255
        && text.chars().all(is_plain)
        && text.rsplit_once('.').is_some_and(|(name, _)| !name.is_empty() && !name.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Kind, SettingsError> {
        let service: ServiceSettings = toml::from_str(&format!("name = 'web'\n{text}")).unwrap();
        check(std::slice::from_ref(&service)).and_then(|()| service.kind())
    }

    #[test]
    fn a_service_says_exactly_one_way_to_manage_it() {
        assert!(matches!(of("systemd = ['php-fpm.service', 'shop@1.service']"), Ok(Kind::Systemd { .. })));
        assert!(matches!(of("compose = '/srv/compose.yaml'"), Ok(Kind::Compose { .. })));
        assert!(matches!(of("kubernetes = 'deployment/shop'"), Ok(Kind::Kubernetes(_))));
        assert!(matches!(of("start = ['a']\nstop = ['b']\ncheck = ['c']"), Ok(Kind::Commands { .. })));
        for none in ["", "systemd = ['a.service']\nkubernetes = 'deployment/a'"] {
            assert!(matches!(of(none), Err(SettingsError::Kinds(_))), "{none}");
        }
        assert!(matches!(of("start = ['a']\nstop = ['b']"), Err(SettingsError::Incomplete(_))));
        assert!(matches!(of("compose = 'a'\nreplicas = 2"), Err(SettingsError::Stray { .. })));
    }

    #[test]
    fn no_option_and_no_pattern_passes_for_a_name() {
        for unit in ["--force.service", "php*.service", "php-fpm", ".service", "a b.service", "[a].service"] {
            assert!(
                matches!(of(&format!("systemd = ['{unit}']")), Err(SettingsError::Unit { .. })),
                "{unit}"
            );
        }
        for workload in ["shop", "pod/shop", "deployment/", "deployment/-a", "deployment/a/b", "deployment/A"]
        {
            let found = of(&format!("kubernetes = '{workload}'"));
            assert!(matches!(found, Err(SettingsError::Workload { .. })), "{workload}");
        }
        let found = of("kubernetes = 'deployment/a'\nnamespace = '--all'");
        assert!(matches!(found, Err(SettingsError::Workload { .. })));
        let found = of("compose = 'a'\nenvironment = ['UNDERSTUDY_PASSPHRASE']");
        assert!(matches!(found, Err(SettingsError::Variable { .. })));
    }
}
