//! A server's process, as a child of this one.
//!
//! It ends with this process, also when that is killed: it runs on the leash of [`child`], so that no server is
//! left without a supervisor. It is asked to end by its own id, which it wrote to a directory of this process's
//! and which is a child of the intermediate process; nothing is ended by name.

use super::check::series;
use super::error::DatabaseError;
use super::minimal::Place;
use crate::support::child::{self, Confinement, own_path};
use crate::support::env::Env;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Interval between looks whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Size from which a log is begun anew at the next start; the last one is kept.
const LOG_MAX_BYTES: u64 = 8 << 20;
/// Number of bytes at a log's end in which errors are looked for: what a server says of itself when it crashes is
/// long, and its reason comes first.
const TAIL_BYTES: u64 = 64 << 10;
/// What a server logs when it starts.
const STARTING: &str = "[Note] Starting MariaDB";
/// Maximum number of errors that are shown.
const SHOWN_MAX: usize = 3;

/// A program on its leash.
pub(crate) struct Leashed {
    child: Child,
    leash: Option<ChildStdin>,
}

impl Leashed {
    /// Starts a program, whose output goes to a file.
    pub(crate) fn start(
        program: &str,
        arguments: &[String],
        output: &File,
        package: &'static str,
    ) -> Result<Self, DatabaseError> {
        let failed = |source| DatabaseError::Program { program: program.to_owned(), package, source };
        let how = Confinement::default();
        let mut command = child::command(Path::new(child::THIS), program, arguments, &how)
            .map_err(|error| DatabaseError::Settings(format!("{program}: {error}")))?;
        let mut child = command
            // Each arena of the allocator costs a small server as much as its pool.
            .env("MALLOC_ARENA_MAX", "1")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output.try_clone().map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let leash = child.stdin.take();
        Ok(Self { child, leash })
    }

    /// Returns how the program ended; none while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until the program ends, or ends it once `stop` returns true.
    pub(crate) fn wait(&mut self, env: &Env, stop: &dyn Fn() -> bool) -> Result<ExitStatus, DatabaseError> {
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if stop() {
                self.kill();
                return Err(DatabaseError::Stopped);
            }
            env.sleep(LOOK_EVERY);
        }
    }

    /// Ends the program at once.
    pub(crate) fn kill(&mut self) {
        drop(self.leash.take());
        let _ = self.child.wait();
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server that this process runs.
pub struct Process {
    leashed: Leashed,
    place: Place,
}

impl Process {
    /// Starts a server by the configuration in its place.
    pub fn start(place: &Place) -> Result<Self, DatabaseError> {
        let file = |source| DatabaseError::File { path: place.log(), source };
        let _ = std::fs::remove_file(place.pid_file());
        if std::fs::metadata(place.log()).is_ok_and(|meta| meta.len() > LOG_MAX_BYTES) {
            std::fs::rename(place.log(), place.dir.join("server.log.old")).map_err(file)?;
        }
        let log = File::options().create(true).append(true).open(place.log()).map_err(file)?;
        let arguments = [format!("--defaults-file={}", place.configuration().display())];
        let leashed = Leashed::start("mariadbd", &arguments, &log, "mariadb-server-core")?;
        Ok(Self { leashed, place: place.clone() })
    }

    /// Returns the reason why the server ended; none while it runs.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.leashed.ended()?;
        Some(format!("{status}: {}", tail(&self.place.log())))
    }

    /// Returns the server's own id, once it has told it.
    pub fn id(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.place.pid_file()).ok()?;
        let id = Pid::from_raw(text.trim().parse().ok()?)?;
        (value(id, "PPid")? == u64::from(self.leashed.child.id())).then_some(id)
    }

    /// Returns the memory that the server holds.
    pub fn resident_bytes(&self) -> Option<u64> {
        Some(value(self.id()?, "VmRSS")? << 10)
    }

    /// Ends the server: it is asked, and killed after `limit`.
    pub fn stop(mut self, env: &Env, limit: Duration) {
        if let Some(id) = self.id() {
            let _ = kill_process(id, Signal::TERM);
            let begun = env.stopwatch();
            while self.leashed.ended().is_none() && begun.elapsed() < limit {
                env.sleep(LOOK_EVERY);
            }
        }
    }
}

/// Returns the version that a program says it has.
pub(crate) fn version(program: &str, package: &'static str) -> Result<String, DatabaseError> {
    let output = Command::new(program)
        .arg("--version")
        .env("PATH", own_path())
        .output()
        .map_err(|source| DatabaseError::Program { program: program.to_owned(), package, source })?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Such as `mariadb-backup based on MariaDB server 10.11.19-MariaDB debian-linux-gnu (x86_64)`.
    Ok(said.split_whitespace().find(|word| series(word).is_some()).unwrap_or_default().to_owned())
}

/// Refuses a program of another series than `wanted`, that of a server whose files it would read.
pub(crate) fn check_series(program: &str, package: &'static str, wanted: &str) -> Result<(), DatabaseError> {
    let found = version(program, package)?;
    match series(&found) == series(wanted) {
        true => Ok(()),
        false => Err(DatabaseError::Settings(format!(
            "{program}: it is of version '{found}', and the primary's server of {wanted}; install the primary's series"
        ))),
    }
}

/// Returns a number from a process's status.
fn value(id: Pid, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", id.as_raw_nonzero())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the first errors since a program's last start, by its log, else the log's last line.
pub(crate) fn tail(path: &Path) -> String {
    let read = || {
        let mut file = File::open(path).ok()?;
        let length_bytes = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length_bytes.saturating_sub(TAIL_BYTES))).ok()?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    format!("{} (in {})", errors(&read().unwrap_or_default()), path.display())
}

/// Returns the first errors since the last start in a log's end, else its last line.
fn errors(text: &str) -> String {
    let last = text.rfind(STARTING).map_or(text, |at| &text[at..]);
    let is_error = |line: &&str| ["[ERROR]", "rror:", "ssertion"].iter().any(|word| line.contains(word));
    let mut found: Vec<&str> = last.lines().filter(is_error).map(str::trim).take(SHOWN_MAX).collect();
    if found.is_empty() {
        found.push(last.lines().last().map_or("it logged nothing", str::trim));
    }
    found.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_server_are_those_of_its_last_start() {
        let text = "0 [ERROR] before\n0 [Note] Starting MariaDB 10.11.19\n0 [Note] InnoDB: Using\n\
            0x7f InnoDB: Assertion failure in file ./trx0purge.cc line 277\nInnoDB: Failing assertion: ok\n\
            Fatal signal 6\n0 [ERROR] mysqld got signal 6 ;\n0 [ERROR] more\n";
        let said = errors(text);
        assert!(said.starts_with("0x7f InnoDB: Assertion failure"), "{said}");
        assert!(
            said.contains("Failing assertion: ok | 0 [ERROR] mysqld") && !said.contains("before"),
            "{said}"
        );
        assert_eq!(errors("one\n  two \n"), "two");
        assert_eq!(errors(""), "it logged nothing");
    }
}
