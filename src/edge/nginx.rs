//! nginx on this machine: an upstream in a file that nginx includes.
//!
//! The file is replaced as a whole, tested by `nginx -t`, and put back if the test or the reload fails: a
//! configuration that is wrong elsewhere never stands in the way of the next start because of this file. After
//! the reload nginx itself must show the mark, at an address of its own, on several new connections in a row:
//! while the old workers still listen, they may answer some of them.
//!
//! Connections that are in flight end with the old workers, which nginx bounds (`worker_shutdown_timeout`).

use super::address::Address;
use super::ask::Asker;
use super::config::NginxConfig;
use super::context::{Deadline, EdgeContext};
use super::error::EdgeError;
use super::held::{Held, dir_of};
use super::mark::Mark;
use super::switch::{Edge, Switch, There, newer};
use crate::model::id::StoreName;
use crate::support::child::Confinement;
use crate::support::program::{self, Program};
use crate::support::{durable, trusted};
use std::fmt::Write;
use std::io::{self, Read};
use std::time::Duration;
use url::Url;

/// Number of answers in a row that must show the new mark.
const AGREE: u32 = 5;
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Maximum time of one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(3);
const FILE_MAX_BYTES: u64 = 64 << 10;
const FILE_MODE: u32 = 0o644;
/// What stands before the mark in the file.
const MARK_LINE: &str = "# mark: ";

/// An edge of kind `nginx`.
pub struct NginxEdge {
    name: String,
    store: StoreName,
    config: NginxConfig,
    check: Address,
    url: Url,
    asker: Asker,
    limit: Duration,
    context: EdgeContext,
}

impl NginxEdge {
    pub fn new(
        store: &StoreName,
        config: NginxConfig,
        limit: Duration,
        context: &EdgeContext,
    ) -> Result<Self, EdgeError> {
        let name = format!("edge nginx {}", config.snippet.display());
        let wrong = |reason: String| EdgeError::wrong(&name, reason);
        let check = config.check().map_err(wrong)?;
        let url = Url::parse(&format!("http://{check}/")).map_err(|error| wrong(error.to_string()))?;
        let asker = Asker::new(context.runtime.clone(), true).map_err(wrong)?;
        Ok(Self { name, store: store.clone(), config, check, url, asker, limit, context: context.clone() })
    }

    /// Returns the file's text; none if there is no file.
    fn read(&self) -> Result<Option<String>, EdgeError> {
        let path = &self.config.snippet;
        let read = || {
            let mut text = String::new();
            match std::fs::File::open(path) {
                Ok(file) => file.take(FILE_MAX_BYTES).read_to_string(&mut text).map(|_| Some(text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        read().map_err(|source| EdgeError::file(&self.name, path, source))
    }

    /// Gives the file this text; none removes it.
    fn write(&self, text: Option<&str>) -> Result<(), EdgeError> {
        let path = &self.config.snippet;
        let replace = |text: &str| durable::replace(&self.context.env, path, FILE_MODE, text.as_bytes());
        trusted::look_at_dir(dir_of(path))
            .and_then(|()| text.map_or_else(|| std::fs::remove_file(path), replace))
            .map_err(|source| EdgeError::file(&self.name, path, source))
    }

    fn run(&self, what: &str, command: &[String], deadline: &Deadline) -> Result<(), EdgeError> {
        let limit = deadline.left(&self.name, self.limit)?;
        let (this, how) = (&*self.context.this, Confinement::default());
        let program = Program { this, command, how, variables: Vec::new(), limit };
        let output = program::run(&self.context.env, program)
            .map_err(|error| EdgeError::of_program(&self.name, error, self.limit))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(EdgeError::refused(
                &self.name,
                format!("`{what}` ended with {}{}", output.status, output.said),
            )),
        }
    }

    /// Returns the mark that the running nginx shows; none where it shows none.
    fn running_mark(&self, deadline: &Deadline) -> Result<Option<Mark>, EdgeError> {
        let limit = deadline.left(&self.name, REQUEST_LIMIT)?;
        let answer = match self.asker.get(&self.url, Some(&server_name(&self.store)), limit) {
            Ok(answer) => answer,
            Err(error) if error.is_late => {
                return Err(EdgeError::silent(&self.name, format!("{}: {}", self.url, error.reason)));
            }
            // Before the first switch nothing listens there.
            Err(_) => return Ok(None),
        };
        let text = String::from_utf8_lossy(&answer.body);
        // Another store's server answers for one that nginx does not know.
        let Some(text) = text.strip_prefix(&format!("{} ", self.store)) else { return Ok(None) };
        Ok(text.trim_end().parse().ok())
    }

    /// Waits until the running nginx shows the mark.
    fn wait_for(&self, wanted: &Mark, deadline: &Deadline) -> Result<(), EdgeError> {
        let mut in_a_row = 0;
        let mut shown = None;
        while !deadline.is_over() {
            // New workers may take their time.
            shown = self.running_mark(deadline).unwrap_or_default();
            in_a_row = if shown.as_ref() == Some(wanted) { in_a_row + 1 } else { 0 };
            if in_a_row == AGREE {
                return Ok(());
            }
            self.context.env.sleep(LOOK_EVERY);
        }
        Err(EdgeError::NotTaken {
            edge: self.name.clone(),
            shown: shown.map_or("nothing".into(), |mark| mark.to_string()),
            wanted: Box::new(wanted.clone()),
            advice: "see nginx's error log, whether it includes this file, and whether another server listens at `check`",
        })
    }
}

impl Edge for NginxEdge {
    fn name(&self) -> &str {
        &self.name
    }

    fn deadline(&self) -> Deadline {
        Deadline::of(&self.context.env, self.limit)
    }

    fn hold(&self, deadline: &Deadline) -> Result<Option<Held>, EdgeError> {
        Held::at(&self.context.env, &self.name, &self.config.snippet, deadline).map(Some)
    }

    fn there(&self, deadline: &Deadline) -> Result<Option<There>, EdgeError> {
        let (running, text) = (self.running_mark(deadline)?, self.read()?);
        let kept = text.as_deref().and_then(mark_in);
        let is_whole = running.as_ref().is_some_and(|mark| {
            Some(mark) == kept.as_ref() && text.as_deref() == Some(&snippet(&self.store, &self.check, mark))
        });
        Ok(Some(There { mark: newer(running, kept), is_whole }))
    }

    fn apply(&self, _: &Switch, wanted: &Mark, deadline: &Deadline) -> Result<(), EdgeError> {
        let before = self.read()?;
        self.write(Some(&snippet(&self.store, &self.check, wanted)))?;
        let taken = self
            .run("test", &self.config.test(), deadline)
            .and_then(|()| self.run("reload", &self.config.reload(), deadline));
        if let Err(error) = taken {
            self.write(before.as_deref())?;
            return Err(error);
        }
        self.wait_for(wanted, deadline)
    }

    fn test(&self) -> Result<(), EdgeError> {
        let deadline = self.deadline();
        trusted::look_at_dir(dir_of(&self.config.snippet))
            .map_err(|source| EdgeError::file(&self.name, &self.config.snippet, source))?;
        self.run("test", &self.config.test(), &deadline)?;
        let there = self.there(&deadline)?;
        match there {
            Some(There { mark: Some(mark), is_whole: false }) => {
                let reason = format!("nginx and the file do not agree on {mark}; see whether nginx runs");
                Err(EdgeError::refused(&self.name, reason))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the name under which nginx shows a store's mark.
fn server_name(store: &StoreName) -> String {
    format!("{store}.understudy.invalid")
}

/// Returns a store's name as a part of nginx's names: letters and digits stay, others become `_` and two
/// hexadecimal digits, so that two stores never share one.
fn identifier(store: &StoreName) -> String {
    let mut text = String::new();
    for byte in store.as_str().bytes() {
        match byte.is_ascii_alphanumeric() {
            true => text.push(byte.into()),
            // Writing to a string never fails.
            false => drop(write!(text, "_{byte:02x}")),
        }
    }
    text
}

/// Returns the file's text.
fn snippet(store: &StoreName, check: &Address, mark: &Mark) -> String {
    let (id, name, epoch, address) = (identifier(store), server_name(store), mark.epoch.0, &mark.address);
    format!(
        "# Written by understudy at each switch of store {store}; changes are lost.\n\
         {MARK_LINE}{mark}\n\
         upstream understudy_{id} {{\n    server {address};\n}}\n\
         map \"\" $understudy_{id}_epoch {{\n    default {epoch};\n}}\n\
         server {{\n    listen {check};\n    server_name {name};\n    access_log off;\n    \
         location / {{\n        default_type text/plain;\n        return 200 \"{store} {mark}\\n\";\n    }}\n}}\n"
    )
}

/// Returns the mark in a file's text; none if it was not written by this program.
fn mark_in(text: &str) -> Option<Mark> {
    text.lines().find_map(|line| line.strip_prefix(MARK_LINE)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::mark::PlainHost;
    use crate::model::id::{Epoch, WriterId};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn two_stores_never_share_a_name_in_nginx() {
        let names = ["a-b", "a.b", "a_b", "ab", "a_2db", "a.2db"];
        let ids: BTreeSet<_> =
            names.iter().map(|name| identifier(&StoreName::parse(name).unwrap())).collect();
        assert_eq!(ids.len(), names.len(), "{ids:?}");
    }

    proptest! {
        #[test]
        fn a_file_has_the_same_lines_whatever_the_log_says_and_names_its_mark(name in "(?s).{0,40}", epoch: u64, ip: std::net::IpAddr) {
            let store = StoreName::parse("acme").unwrap();
            let check = "127.0.0.1:8189".parse().unwrap();
            let address = std::net::SocketAddr::new(ip, 80).to_string().parse().unwrap();
            let host = PlainHost::of(&WriterId(name)).unwrap();
            let mark = Mark { epoch: Epoch(epoch), host, address };
            let text = snippet(&store, &check, &mark);
            prop_assert_eq!(mark_in(&text), Some(mark));
            prop_assert_eq!((text.lines().count(), text.matches(';').count()), (17, 8));
            prop_assert_eq!((text.matches('{').count(), text.matches('}').count(), text.matches('$').count()), (4, 4, 1));
        }
    }
}
