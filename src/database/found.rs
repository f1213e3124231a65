//! The first database of a store: made anew, or taken over from a server that there is.
//!
//! All that a supervisor needs to know of data is in the note beside it (see [`super::seed`]): so it runs what
//! was founded like what was restored from a seed. Without the note nothing was founded; what an interrupted one
//! left is made again.

use super::client::Client;
use super::error::DatabaseError;
use super::facts::Variables;
use super::minimal::is_value;
use super::process::{tail, version};
use super::seed::{DATA, NOTE, SeedNote};
use super::server::Server;
use crate::model::gtid::{GtidPosition, STANDBY_DOMAINS};
use crate::support::child::own_path;
use crate::support::durable;
use crate::support::env::Env;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

const MODE: u32 = 0o600;

/// What was founded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Founded {
    /// There was one.
    Before,
    New,
    /// The data of a server that there is.
    Adopted,
}

/// Founds the database of a store below `root`. `server` asks the server that has run there until now.
///
/// # Errors
/// Something else is there, or a tool fails.
pub fn found(store: &str, root: &Path, server: Option<Client>, env: &Env) -> Result<Founded, DatabaseError> {
    if SeedNote::read(root)?.is_some() {
        return Ok(Founded::Before);
    }
    let file = |path: &Path, source| DatabaseError::File { path: path.to_owned(), source };
    durable::create_dirs(root).map_err(|source| file(root, source))?;
    let is_server_s = root.join("ibdata1").exists();
    let (variables, founded) = match is_server_s {
        true => (adopted(root, server)?, Founded::Adopted),
        false => (new(store, root)?, Founded::New),
    };
    let name = variables.text("log_bin_basename").to_owned();
    let log_bin = Some(name).filter(|_| founded == Founded::Adopted);
    let note = SeedNote { position: GtidPosition::default(), variables, log_bin };
    let text = serde_json::to_vec_pretty(&note).unwrap_or_default();
    let path = root.join(NOTE);
    durable::replace(env, &path, MODE, &text).map_err(|source| file(&path, source))?;
    Ok(founded)
}

/// Returns what the server that has this data says of it.
fn adopted(root: &Path, server: Option<Client>) -> Result<Variables, DatabaseError> {
    let wrong = |how: &str| DatabaseError::Settings(format!("{}: {how}", root.display()));
    let server = server.ok_or_else(|| {
        wrong("it is a server's; start that server, and set `socket` in [store.database], so that it can be asked what its files are")
    })?;
    let variables = Server::new(server).variables()?;
    let (here, there) = (root.canonicalize(), Path::new(variables.text("datadir")).canonicalize());
    if here.is_err() || here.ok() != there.ok() {
        return Err(wrong(&format!("the server that answers has its data in {}", variables.text("datadir"))));
    }
    if variables.number("gtid_domain_id") == 0 || !variables.is_on("log_bin") {
        return Err(wrong(
            "its server has no binary log, or no gtid_domain_id of its own; see `understudy database check`",
        ));
    }
    if !is_value(variables.text("log_bin_basename")) {
        return Err(wrong("the path of its binary logs has characters that an option file cannot hold"));
    }
    Ok(variables)
}

fn new(store: &str, root: &Path) -> Result<Variables, DatabaseError> {
    let file = |path: &Path, source| DatabaseError::File { path: path.to_owned(), source };
    let data = root.join(DATA);
    let others = std::fs::read_dir(root)
        .map_err(|source| file(root, source))?
        .filter_map(Result::ok)
        .any(|entry| entry.file_name() != DATA && entry.file_name() != "install.log");
    if others {
        let text =
            format!("{}: it holds something that is no database; name an empty directory", root.display());
        return Err(DatabaseError::Settings(text));
    }
    match std::fs::remove_dir_all(&data) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(file(&data, error)),
        _ => {}
    }
    let version = version("mariadbd", "mariadb-server-core")?;
    let log_path = root.join("install.log");
    let log = File::create(&log_path).map_err(|source| file(&log_path, source))?;
    let tool = "mariadb-install-db";
    let program =
        |source| DatabaseError::Program { program: tool.to_owned(), package: "mariadb-server-core", source };
    let mut command = Command::new(tool);
    command.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=socket"]);
    command
        .arg(format!("--datadir={}", data.display()))
        .env_clear()
        .env("PATH", own_path())
        .env("TMPDIR", root);
    let output = log.try_clone().map_err(program)?;
    let status =
        command.current_dir("/").stdin(Stdio::null()).stdout(output).stderr(log).status().map_err(program)?;
    if !status.success() {
        return Err(DatabaseError::Tool { program: tool.to_owned(), text: tail(&log_path) });
    }
    let variables = [("version", version), ("gtid_domain_id", domain(store).to_string())];
    Ok(Variables(variables.map(|(name, value)| (name.to_owned(), value)).into()))
}

/// Returns a domain for the transactions of a store.
fn domain(store: &str) -> u32 {
    let [a, b, c, d, ..] = *blake3::hash(store.as_bytes()).as_bytes();
    1 + u32::from_le_bytes([a, b, c, d]) % (STANDBY_DOMAINS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_s_domain_is_none_of_a_standby_s_and_never_the_default() {
        for number in 0..10_000 {
            assert!((1..STANDBY_DOMAINS).contains(&domain(&format!("shop-{number}"))));
        }
    }
}
