//! The places of the Unix socket by which the commands of this host reach its daemon.
//!
//! While a daemon is down any process may answer at its port, so commands never send anything to a port,
//! least of all a token; why the socket is safe, [`crate::support::local_socket`] says. It is named for the
//! configuration (and for the repository, where one is given on the command line), so that of several daemons
//! of one user a command reaches the one with its own configuration.

use super::config::{Config, OFF, state_dir};
use crate::support::local_socket::SocketPlace;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The directory of the shipped unit's socket. systemd creates it, and only the daemon's environment names
/// it.
const OF_UNIT: &str = "/run/understudy";

/// Returns where a daemon of this configuration listens; none when the socket is disabled or there is no
/// place for it.
pub(crate) fn of_daemon(config: &Config, repository: Option<&str>) -> Option<SocketPlace> {
    let given = std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from).filter(|dir| dir.is_absolute());
    all(config, repository, given).into_iter().next()
}

/// Returns the places where a command of this configuration looks for the daemon.
pub(crate) fn of_command(config: &Config, repository: Option<&str>) -> Vec<SocketPlace> {
    let mut found = all(config, repository, None);
    if found.first().is_some_and(|place| place.is_default) {
        let name = name(config, repository);
        found.push(place(OF_UNIT.into(), name, true));
    }
    found
}

fn all(config: &Config, repository: Option<&str>, given: Option<PathBuf>) -> Vec<SocketPlace> {
    match &config.service.socket {
        Some(path) if path.as_os_str() == OFF => Vec::new(),
        Some(path) => match (path.parent(), path.file_name()) {
            (Some(dir), Some(name)) => {
                vec![place(dir.to_owned(), name.to_owned(), false)]
            }
            _ => Vec::new(),
        },
        None => {
            let dir = given.or_else(|| state_dir().ok().flatten());
            let name = name(config, repository);
            dir.map(|dir| place(dir, name, true)).into_iter().collect()
        }
    }
}

fn place(dir: PathBuf, name: OsString, is_default: bool) -> SocketPlace {
    SocketPlace { dir, name, is_default, listener: "daemon", key: "service.socket" }
}

/// Returns the socket's name.
fn name(config: &Config, repository: Option<&str>) -> OsString {
    format!("daemon-{}.socket", tag(config, repository)).into()
}

/// Returns what tells daemons of one user apart: it differs for each configuration and each repository that overrides
/// a configured one.
pub(crate) fn tag(config: &Config, repository: Option<&str>) -> String {
    let origin = config.origin.as_deref().map(|path| std::fs::canonicalize(path).unwrap_or(path.to_owned()));
    let mut hasher = blake3::Hasher::new();
    hasher.update(origin.as_deref().map_or(&b""[..], |path| path.as_os_str().as_bytes()));
    hasher.update(&[0]).update(repository.unwrap_or_default().as_bytes());
    hasher.finalize().to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn two_configurations_have_two_sockets() {
        let of = |origin: Option<&str>| Config { origin: origin.map(PathBuf::from), ..Config::default() };
        let names = [
            name(&of(None), None),
            name(&of(Some("/etc/a")), None),
            name(&of(Some("/etc/b")), None),
            name(&of(Some("/etc/a")), Some("s3://other")),
        ];
        for (at, one) in names.iter().enumerate() {
            assert!(!names[..at].contains(one) && *one == names[at].clone());
        }
        let off = Config::parse("[service]\nsocket = 'off'", Path::new("/etc/x.toml")).unwrap();
        assert!(of_daemon(&off, None).is_none() && of_command(&off, None).is_empty());
        let named = Config::parse("[service]\nsocket = 'run/it'", Path::new("/etc/x.toml")).unwrap();
        let found = of_command(&named, None);
        assert_eq!((found.len(), found[0].path()), (1, PathBuf::from("/etc/run/it")));
    }
}
