//! The token that a request must show which changes something by HTTP. It comes from a configured file, or
//! the daemon generates it and stores it for its own user's commands.

use super::config::{Config, state_dir};
use crate::support::env::Env;
use crate::support::{durable, private, trusted};
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// A secret that requests must show.
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    /// Compares the whole token, so that the time it takes reveals nothing.
    pub(crate) fn is(&self, shown: &str) -> bool {
        blake3::hash(self.0.as_bytes()) == blake3::hash(shown.as_bytes())
    }

    /// Returns the path of the token's file.
    fn path(config: &Config) -> io::Result<Option<PathBuf>> {
        match &config.service.token_file {
            Some(path) => Ok(Some(path.clone())),
            None => Ok(state_dir().map_err(io::Error::other)?.map(|dir| dir.join("token"))),
        }
    }

    /// Reads the token that is configured, or that a daemon has stored.
    pub(crate) fn read(config: &Config) -> io::Result<Option<Self>> {
        let Some(path) = Self::path(config)? else { return Ok(None) };
        match trusted::read_to_string(&path) {
            Ok(text) if text.trim().len() >= 16 => Ok(Some(Self(text.trim().to_owned()))),
            // A daemon of this user was interrupted while it wrote the file.
            Ok(_) if config.service.token_file.is_none() && !durable::is_made(&path) => Ok(None),
            Ok(_) => {
                let text = format!("{}: the token is too short: use at least 16 characters", path.display());
                Err(io::Error::new(ErrorKind::InvalidData, text))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(io::Error::new(error.kind(), format!("token file {}: {error}", path.display())))
            }
        }
    }

    /// Reads the token; if there is none, generates one and stores it for commands of the same user. A
    /// configured file must exist.
    pub(crate) fn read_or_make(config: &Config, env: &Env) -> io::Result<Self> {
        if let Some(token) = Self::read(config)? {
            return Ok(token);
        }
        if let Some(path) = &config.service.token_file {
            let text = format!(
                "{}: the token file does not exist; create it, or remove service.token_file",
                path.display()
            );
            return Err(io::Error::new(ErrorKind::NotFound, text));
        }
        let token = Self(format!("{:016x}{:016x}", env.nonce(), env.nonce()));
        let Some(path) = Self::path(config)? else { return Ok(token) };
        let made = path.parent().map_or(Ok(()), |dir| private::own(dir).map(drop));
        match made.and_then(|()| durable::create(env, &path, 0o600, token.0.as_bytes())) {
            Ok(()) => Ok(token),
            // Another daemon of this user created it first.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let missing =
                    || io::Error::new(ErrorKind::AlreadyExists, format!("{}: {error}", path.display()));
                Self::read(config)?.ok_or_else(missing)
            }
            Err(error) => {
                let text = format!("{}: {error}; set service.token_file, or XDG_STATE_HOME", path.display());
                Err(io::Error::new(error.kind(), text))
            }
        }
    }
}
