//! The token that whoever changes something by HTTP must show: a file's, or one that the daemon makes up and leaves for
//! its own user's commands.

use super::config::{Config, state_dir};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A secret.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Compared as a whole, so that the time it takes tells nothing.
    pub fn is(&self, shown: &str) -> bool {
        blake3::hash(self.0.as_bytes()) == blake3::hash(shown.as_bytes())
    }

    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Where it lies.
    pub fn path(config: &Config) -> Option<PathBuf> {
        config.service.token_file.clone().or_else(|| state_dir().map(|dir| dir.join("token")))
    }

    /// The one that is configured, or that a daemon left.
    pub fn read(config: &Config) -> std::io::Result<Option<Self>> {
        let Some(path) = Self::path(config) else { return Ok(None) };
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= 16 => Ok(Some(Self(text.trim().to_owned()))),
            Ok(_) => {
                let text = format!("{}: a token has 16 characters at least", path.display());
                Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }

    /// The one that is there, else a new one, left for commands of the same user. A configured file must be there.
    pub fn read_or_make(config: &Config, nonce: fn() -> u64) -> std::io::Result<Self> {
        if let Some(token) = Self::read(config)? {
            return Ok(token);
        }
        if let Some(path) = &config.service.token_file {
            let text = format!("{}: the token file is not there", path.display());
            return Err(std::io::Error::new(std::io::ErrorKind::NotFound, text));
        }
        let token = Self(format!("{:016x}{:016x}", nonce(), nonce()));
        if let Some(path) = Self::path(config) {
            token.leave(&path).map_err(|error| {
                let text = format!("{}: {error}; set service.token_file, or XDG_STATE_HOME", path.display());
                std::io::Error::new(error.kind(), text)
            })?;
        }
        Ok(token)
    }

    fn leave(&self, path: &Path) -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let mut options = std::fs::File::options();
        options.write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(self.0.as_bytes())
    }
}
