//! Questions to a database server, asked by MariaDB's own client program.
//!
//! The client knows every way to log in and TLS, and brings no crate with it (docs/explanation/packages.md).
//! Statements go through its standard input, and passwords through an option file: neither is on a command line,
//! which all users of a host may read. Its answer is text, whose columns are escaped, so that no value is taken
//! for two.

use super::error::DatabaseError;
use crate::support::child::own_path;
use crate::support::env::Env;
use crate::support::trusted;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;
use zeroize::Zeroizing;

/// Time for a connection.
const CONNECT_SECONDS: u32 = 5;
/// Makes a session one in which [`literal`] is right, whatever the server's mode is.
const PRELUDE: &str = "SET SESSION sql_mode='';\n";
/// Interval between looks whether the client has ended.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Maximum size of an answer.
const ANSWER_MAX_BYTES: u64 = 64 << 20;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Socket(PathBuf),
    Tcp { host: String, port: u16, tls_ca: Option<PathBuf> },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
        }
    }
}

/// Returns whether a name is this host's, or an address of a private network.
pub fn is_near(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || address.is_private(),
        Ok(IpAddr::V6(address)) => address.is_loopback() || address.is_unique_local(),
        Err(_) => host == "localhost",
    }
}

/// The name and the password of an account.
pub struct Account {
    pub user: String,
    pub password: Zeroizing<String>,
}

impl Account {
    /// Reads an account from an option file of MariaDB's: `user` and `password` below `[client]`.
    ///
    /// # Errors
    /// The file is not trusted, or has no user.
    pub fn read(path: &Path) -> Result<Self, DatabaseError> {
        let text = trusted::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|source| DatabaseError::File { path: path.to_owned(), source })?;
        let (mut is_client, mut user, mut password) = (false, None, Zeroizing::new(String::new()));
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                is_client = line == "[client]";
            }
            let Some((key, value)) = line.split_once('=').filter(|_| is_client) else { continue };
            let value = option_value(value.trim());
            match key.trim() {
                "user" => user = Some(value.to_string()),
                "password" => password = value,
                _ => {}
            }
        }
        let user = user.filter(|user| !user.is_empty()).ok_or_else(|| DatabaseError::Content {
            path: path.to_owned(),
            text: "no account in it; write `[client]`, `user = NAME` and `password = PASSWORD`, a line each"
                .into(),
        })?;
        Ok(Self { user, password })
    }
}

/// Reads a value as MariaDB's programs do: in quotes or up to a `#`, with escapes.
fn option_value(value: &str) -> Zeroizing<String> {
    let quoted = |quote| value.strip_prefix(quote).and_then(|value: &str| value.strip_suffix(quote));
    let value = quoted('\'')
        .or_else(|| quoted('"'))
        .unwrap_or_else(|| value.split('#').next().unwrap_or_default().trim_end());
    let (mut read, mut chars) = (Zeroizing::new(String::with_capacity(value.len())), value.chars());
    while let Some(c) = chars.next() {
        if c != '\\' {
            read.push(c);
            continue;
        }
        match chars.next() {
            Some('\\') => read.push('\\'),
            Some('s') => read.push(' '),
            Some('n') => read.push('\n'),
            Some('t') => read.push('\t'),
            Some('r') => read.push('\r'),
            Some('b') => read.push('\u{8}'),
            Some(other) => read.extend(['\\', other]),
            None => read.push('\\'),
        }
    }
    read
}

/// The rows of an answer, with the names of their columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Rows {
    /// Returns each row by the names of its columns.
    pub fn named(&self) -> impl Iterator<Item = BTreeMap<&str, &str>> {
        self.rows
            .iter()
            .map(|row| self.columns.iter().map(String::as_str).zip(row.iter().map(String::as_str)).collect())
    }

    /// Returns the first value.
    pub fn first(&self) -> Option<&str> {
        self.rows.first()?.first().map(String::as_str)
    }
}

/// What asks one server.
#[derive(Clone)]
pub struct Client {
    pub address: Address,
    /// An option file with the account; none to be the user of this process, as a server's socket allows.
    pub account_file: Option<PathBuf>,
    pub env: Env,
}

impl Client {
    /// Returns the options by which a program of MariaDB's reaches this server.
    pub(crate) fn options(&self) -> Vec<String> {
        let mut options = vec![match &self.account_file {
            Some(path) => format!("--defaults-file={}", path.display()),
            None => "--no-defaults".to_owned(),
        }];
        match &self.address {
            Address::Socket(path) => {
                options.extend(["--protocol=socket".to_owned(), format!("--socket={}", path.display())])
            }
            Address::Tcp { host, port, tls_ca } => {
                options.extend(["--protocol=tcp".to_owned(), format!("--host={host}")]);
                options.push(format!("--port={port}"));
                if let Some(ca) = tls_ca {
                    options.push(format!("--ssl-ca={}", ca.display()));
                    options.push("--ssl-verify-server-cert".to_owned());
                }
            }
        }
        options
    }

    /// Runs statements, which end with a semicolon each, and returns the rows of the one that has some; at most
    /// one may.
    ///
    /// # Errors
    /// The server's error, with its number; [`DatabaseError::Late`] if it takes longer than `limit`.
    pub fn ask(&self, statements: &str, limit: Duration) -> Result<Rows, DatabaseError> {
        if let Some(path) = &self.account_file {
            trusted::open(path).map_err(|source| DatabaseError::File { path: path.clone(), source })?;
        }
        let mut command = Command::new("mariadb");
        command.args(self.options()).args(["--batch", "--column-names", "--default-character-set=utf8mb4"]);
        command.arg(format!("--connect-timeout={CONNECT_SECONDS}"));
        command.args(["--skip-reconnect", "--max-allowed-packet=1G"]);
        command.env_clear().env("PATH", own_path()).current_dir("/");
        let program =
            |source| DatabaseError::Program { program: "mariadb".into(), package: "mariadb-client", source };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(program)?;
        let (stdout, stderr) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
        if let Some(mut stdin) = child.stdin.take() {
            // A client that has ended already says why.
            let _ = stdin.write_all(PRELUDE.as_bytes()).and_then(|()| stdin.write_all(statements.as_bytes()));
        }
        let is_done = self.wait(&mut child, limit).map_err(program)?;
        let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        match is_done {
            None => Err(DatabaseError::Late { server: self.address.to_string(), limit }),
            Some(true) => Ok(rows(&String::from_utf8_lossy(&stdout))),
            Some(false) => Err(self.error(&String::from_utf8_lossy(&stderr))),
        }
    }

    /// Waits for the client's end; returns whether it succeeded, none if it had to be ended.
    fn wait(&self, child: &mut Child, limit: Duration) -> std::io::Result<Option<bool>> {
        let begun = self.env.stopwatch();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status.success()));
            }
            if begun.elapsed() >= limit {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            self.env.sleep(LOOK_EVERY);
        }
    }

    /// Reads `ERROR 1045 (28000) at line 1: Access denied …`.
    pub(super) fn error(&self, said: &str) -> DatabaseError {
        let server = self.address.to_string();
        let line = said.lines().find_map(|line| line.strip_prefix("ERROR "));
        let parsed = line.and_then(|line| {
            let (code, rest) = line.split_once(' ')?;
            let (_, text) = rest.split_once(": ")?;
            Some((code.parse().ok()?, text.to_owned()))
        });
        match parsed {
            Some((code, text)) => DatabaseError::Server { server, code, text },
            None => DatabaseError::Answer { server, text: said.trim().to_owned() },
        }
    }
}

/// Reads a pipe to its end, in a thread of its own, so that the other end never waits.
fn read_all(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            let _ = pipe.take(ANSWER_MAX_BYTES).read_to_end(&mut bytes);
        }
        bytes
    })
}

/// Reads the client's table: a line with the columns' names, then one for each row.
fn rows(text: &str) -> Rows {
    let fields = |line: &str| line.split('\t').map(unescaped).collect::<Vec<_>>();
    let mut lines = text.lines().map(fields);
    Rows { columns: lines.next().unwrap_or_default(), rows: lines.collect() }
}

fn unescaped(field: &str) -> String {
    let mut text = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, false) => text.push(c),
            _ => match chars.next() {
                Some('t') => text.push('\t'),
                Some('n') => text.push('\n'),
                Some('0') => text.push('\0'),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
        }
    }
    text
}

/// Returns a text as a literal of SQL, for a session whose mode leaves backslashes their meaning.
pub(crate) fn literal(text: &str) -> String {
    let mut literal = String::from("'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => literal.extend(['\\', c]),
            '\n' => literal.push_str("\\n"),
            '\0' => literal.push_str("\\0"),
            c => literal.push(c),
        }
    }
    literal.push('\'');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_with_its_escapes() {
        let read = rows("a\tb c\nx\\ty\\n\\\\\t\n\tNULL\n");
        assert_eq!(read.columns, ["a", "b c"]);
        assert_eq!(read.rows, [["x\ty\n\\", ""], ["", "NULL"]]);
        assert_eq!(read.named().next().unwrap()["a"], "x\ty\n\\");
        assert_eq!(rows("").first(), None);
    }

    #[test]
    fn a_password_is_quoted_whatever_is_in_it() {
        assert_eq!(literal("1-2-3,4-5-6"), "'1-2-3,4-5-6'");
        assert_eq!(literal("a'\\\n"), r"'a\'\\\n'");
    }

    #[test]
    fn an_account_is_read_from_an_option_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("account");
        std::fs::write(
            &path,
            "[mariadb]\nuser = no\n[client]\n# ours\nuser = understudy\npassword = 'a b='\n",
        )
        .unwrap();
        let account = Account::read(&path).unwrap();
        assert_eq!((account.user.as_str(), account.password.as_str()), ("understudy", "a b="));
        for (written, wanted) in [
            ("a\\\\b", "a\\b"),
            ("\"a # b\"", "a # b"),
            ("a # b", "a"),
            ("a\\sb\\q", "a b\\q"),
            ("'a\\\\'", "a\\"),
        ] {
            assert_eq!(option_value(written).as_str(), wanted, "{written}");
        }
        std::fs::write(&path, "[client]\npassword = x\n").unwrap();
        assert!(Account::read(&path).err().unwrap().to_string().contains("no account in it"));
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(Account::read(&path).err().unwrap().to_string().contains("chmod go-w"));
    }
}
