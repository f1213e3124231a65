//! The audit: who asked for what, from where, and what came of it, as JSON lines in a file.
//!
//! It has each request that changes something or reads content, of callers who were recognised, and each way
//! in. Others leave no line: nobody can fill the disk by asking. A line is one append to a file that is opened
//! for it, so several daemons share a file, and one that is moved away is begun anew.

use super::config::{Config, state_dir};
use crate::model::access::Identity;
use crate::support::env::Env;
use crate::support::private;
use rustix::fs::{CWD, Mode, OFlags};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

/// Maximum length of a detail.
const DETAIL_MAX_CHARS: usize = 1000;
/// Maximum number of lines that are shown, and of bytes that are read for it.
const SHOWN_MAX_LINES: usize = 200;
const SHOWN_MAX_BYTES: u64 = 256 << 10;

/// The audit's file. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Audit {
    path: Option<PathBuf>,
    env: Env,
}

/// One line.
#[derive(Serialize)]
pub(crate) struct AuditLine<'a> {
    pub who: &'a str,
    pub role: &'static str,
    pub from: &'a str,
    pub action: &'a str,
    pub store: Option<&'a str>,
    /// What exactly: the request, and what was given with it.
    pub detail: String,
    /// `done`, `refused` or `failed`.
    pub outcome: &'static str,
    pub status: u16,
}

#[derive(Serialize)]
struct Dated<'a> {
    /// Seconds since 1970.
    at: f64,
    #[serde(flatten)]
    line: AuditLine<'a>,
}

impl<'a> AuditLine<'a> {
    pub(crate) fn of(identity: &'a Identity, from: &'a str, action: &'a str, status: u16) -> Self {
        let outcome = match status {
            0..=399 => "done",
            400..=499 => "refused",
            _ => "failed",
        };
        let (who, role) = (identity.who.as_str(), identity.role.name());
        Self { who, role, from, action, store: None, detail: String::new(), outcome, status }
    }
}

impl Audit {
    /// Returns the audit of a configuration; by default it is in the state directory.
    pub(crate) fn new(config: &Config, env: &Env) -> Self {
        let default = || state_dir().ok().flatten().map(|dir| dir.join("audit.jsonl"));
        Self { path: config.service.audit_file.clone().or_else(default), env: env.clone() }
    }

    /// Returns an audit that keeps nothing.
    pub(crate) fn none() -> Self {
        Self { path: None, env: Env::system() }
    }

    /// Adds a line. What fails is in the log: the request was answered by then.
    pub(crate) fn write(&self, mut line: AuditLine) {
        if line.detail.chars().count() > DETAIL_MAX_CHARS {
            line.detail = line.detail.chars().take(DETAIL_MAX_CHARS).collect();
        }
        let (who, action, outcome) = (line.who.to_owned(), line.action.to_owned(), line.outcome);
        if let Err(error) = self.append(line) {
            tracing::error!(%error, who, action, outcome, "not written to the audit");
        }
    }

    /// Reads the last lines.
    pub(crate) fn last(&self) -> io::Result<Vec<String>> {
        let Some(path) = &self.path else { return Ok(Vec::new()) };
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let from = file.metadata()?.len().saturating_sub(SHOWN_MAX_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(SHOWN_MAX_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        // The first line may be a part of one.
        let lines = text.lines().skip(usize::from(from > 0));
        let mut lines: Vec<_> = lines.map(str::to_owned).collect();
        Ok(lines.split_off(lines.len().saturating_sub(SHOWN_MAX_LINES)))
    }

    fn append(&self, line: AuditLine) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut text = serde_json::to_vec(&Dated { at: self.env.wall().seconds(), line })?;
        text.push(b'\n');
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(CWD, path, flags, Mode::RUSR | Mode::WUSR);
        let file = match open() {
            Err(rustix::io::Errno::NOENT) => {
                path.parent().map_or(Ok(()), |dir| private::own(dir).map(drop))?;
                open()
            }
            other => other,
        };
        File::from(file?).write_all(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn each_line_is_json_whatever_a_caller_writes_and_only_this_user_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/audit.jsonl");
        let audit = Audit { path: Some(path.clone()), env: Env::system() };
        let identity = Identity { who: "Anna\n{\"".into(), ..Identity::local() };
        for status in [200, 303, 404, 500] {
            let line = AuditLine::of(&identity, "10.0.0.1", "hold", status);
            audit.write(AuditLine { store: Some("acme"), detail: "é\r\n".repeat(5000), ..line });
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
        assert_eq!(outcomes, ["done", "done", "refused", "failed"]);
        assert_eq!((&lines[0]["who"], &lines[0]["role"]), (&"Anna\n{\"".into(), &"admin".into()));
        assert!(lines[0]["at"].as_f64().unwrap() > 1.7e9);
        assert!(lines[0]["detail"].as_str().unwrap().chars().count() == DETAIL_MAX_CHARS);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // One that was moved away is begun anew.
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        audit.write(AuditLine::of(&identity, "socket", "hold", 200));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
