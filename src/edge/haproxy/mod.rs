//! HAProxy (2.6 or later) on this machine: a server of a backend, whose address is changed through the socket
//! and kept in files for the next start.
//!
//! The running HAProxy forgets at a reload what the socket told it. So two files say the same: a server-state
//! file with the address, which HAProxy reads for a server that has a name (`init-addr last`), and a map file
//! with the mark, from which it also makes the header with the epoch.
//!
//! Order of a change: address in the running HAProxy, server-state file, map file, map in the running HAProxy.
//! The mark is the last, so whatever interrupts it, the running HAProxy names the new epoch only once it and
//! its files have the new address; the next try does all of it again.

pub(crate) mod reply;
pub(crate) mod socket;

use super::address::{Address, AddressHost};
use super::config::{HaproxyConfig, Word};
use super::context::{Deadline, EdgeContext};
use super::error::EdgeError;
use super::held::{Held, dir_of};
use super::mark::Mark;
use super::switch::{Edge, Switch, There, newer};
use crate::model::id::StoreName;
use crate::support::{durable, trusted};
use reply::{ServerState, file_entry, map_entry, server_state, start_of};
use socket::Socket;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// Name of the server if the configuration gives none.
const SERVER: &str = "origin";
/// Maximum size of the files that are read back.
const FILE_MAX_BYTES: u64 = 4 << 20;
/// All users may read these files, which contain no secret: HAProxy gives up its rights.
const FILE_MODE: u32 = 0o644;

/// An edge of kind `haproxy`.
pub struct HaproxyEdge {
    name: String,
    store: StoreName,
    config: HaproxyConfig,
    backend: Word,
    server: Word,
    socket: Socket,
    limit: Duration,
    context: EdgeContext,
}

impl HaproxyEdge {
    pub fn new(
        store: &StoreName,
        config: HaproxyConfig,
        limit: Duration,
        context: &EdgeContext,
    ) -> Result<Self, EdgeError> {
        let word = |given: &Option<Word>, default: &str| match given {
            Some(word) => Ok(word.clone()),
            None => Word::parse(default).map_err(|reason| EdgeError::wrong("edge haproxy", reason)),
        };
        let (backend, server) = (word(&config.backend, store.as_str())?, word(&config.server, SERVER)?);
        Ok(Self {
            name: format!("edge haproxy {backend}/{server}"),
            store: store.clone(),
            socket: Socket::new(&config.socket, context),
            backend,
            server,
            config,
            limit,
            context: context.clone(),
        })
    }

    fn ask(&self, command: &str, deadline: &Deadline) -> Result<String, EdgeError> {
        self.socket.ask(&self.name, command, deadline)
    }

    /// Returns the backend's servers as HAProxy prints them, and this edge's server.
    fn state(&self, deadline: &Deadline) -> Result<(String, ServerState), EdgeError> {
        let text = self.ask(&format!("show servers state {}", self.backend), deadline)?;
        let state = self.state_in(&text).map_err(|reason| EdgeError::wrong(&self.name, reason))?;
        let missing = || {
            let reason = format!("HAProxy has no server '{}' in backend '{}'", self.server, self.backend);
            EdgeError::wrong(&self.name, reason)
        };
        Ok((text, state.ok_or_else(missing)?))
    }

    fn state_in(&self, text: &str) -> Result<Option<ServerState>, String> {
        server_state(text, &self.backend.to_string(), &self.server.to_string())
    }

    /// Returns whether the running map has an entry of the store, and its mark.
    fn running_mark(&self, deadline: &Deadline) -> Result<(bool, Option<Mark>), EdgeError> {
        let map = &self.config.map;
        let text = self.ask(&format!("show map {map}"), deadline)?;
        map_entry(&text, self.store.as_str()).map_err(|reason| {
            let reason = format!("map {map}: {reason}; HAProxy's configuration must use it in the backend");
            EdgeError::wrong(&self.name, reason)
        })
    }

    /// Returns a file's text; an empty one if there is no file.
    fn read(&self, path: &Path) -> Result<String, EdgeError> {
        let read = || {
            let mut text = String::new();
            match std::fs::File::open(path) {
                Ok(file) => file.take(FILE_MAX_BYTES).read_to_string(&mut text).map(|_| text),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(text),
                Err(error) => Err(error),
            }
        };
        read().map_err(|source| EdgeError::file(&self.name, path, source))
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), EdgeError> {
        trusted::look_at_dir(dir_of(path))
            .and_then(|()| durable::replace(&self.context.env, path, FILE_MODE, text.as_bytes()))
            .map_err(|source| EdgeError::file(&self.name, path, source))
    }

    /// Gives the running server its address, and makes it take requests.
    fn set_server(&self, address: &Address, deadline: &Deadline) -> Result<String, EdgeError> {
        let AddressHost::Ip(ip) = address.host() else {
            let reason = format!("{address} is a name; HAProxy needs an IP address, so give the host one");
            return Err(EdgeError::wrong(&self.name, reason));
        };
        let server = format!("{}/{}", self.backend, self.server);
        let said = self.ask(&format!("set server {server} addr {ip} port {}", address.port()), deadline)?;
        let ready = self.ask(&format!("set server {server} state ready"), deadline)?;
        let (mut text, mut state) = self.state(deadline)?;
        // Its checks may still speak of the host that was there before.
        if !state.is_up {
            self.ask(&format!("set server {server} health up"), deadline)?;
            (text, state) = self.state(deadline)?;
        }
        match state.address.as_ref() == Some(address) && state.is_ready {
            true => Ok(text),
            false => Err(EdgeError::refused(
                &self.name,
                format!("HAProxy did not take {address}: {} {}", start_of(&said), start_of(&ready)),
            )),
        }
    }
}

impl Edge for HaproxyEdge {
    fn name(&self) -> &str {
        &self.name
    }

    fn deadline(&self) -> Deadline {
        Deadline::of(&self.context.env, self.limit)
    }

    fn hold(&self, deadline: &Deadline) -> Result<Option<Held>, EdgeError> {
        Held::at(&self.context.env, &self.name, self.config.map.as_path(), deadline).map(Some)
    }

    fn there(&self, deadline: &Deadline) -> Result<Option<There>, EdgeError> {
        let (_, state) = self.state(deadline)?;
        let (_, running) = self.running_mark(deadline)?;
        let map = self.read(self.config.map.as_path())?;
        let kept = file_entry(&map, self.store.as_str()).map_err(|reason| {
            EdgeError::wrong(&self.name, format!("{}: {reason}; empty this file", self.config.map))
        })?;
        // A file that cannot be read is written again.
        let kept_state = self.state_in(&self.read(&self.config.state)?).ok().flatten();
        let has = |state: &ServerState, mark: &Mark| state.address.as_ref() == Some(&mark.address);
        let is_whole = running == kept
            && running.as_ref().is_some_and(|mark| {
                has(&state, mark) && state.is_ready && kept_state.is_some_and(|kept| has(&kept, mark))
            });
        Ok(Some(There { mark: newer(running, kept), is_whole }))
    }

    fn apply(&self, switch: &Switch, wanted: &Mark, deadline: &Deadline) -> Result<(), EdgeError> {
        let servers = self.set_server(&wanted.address, deadline)?;
        if !switch.cause.is_planned() {
            self.ask(&format!("shutdown sessions server {}/{}", self.backend, self.server), deadline)?;
        }
        self.write(&self.config.state, &servers)?;
        self.write(self.config.map.as_path(), &format!("{} {wanted}\n", self.store))?;
        let (is_there, _) = self.running_mark(deadline)?;
        let verb = if is_there { "set" } else { "add" };
        let command = format!("{verb} map {} {} {wanted}", self.config.map, self.store);
        self.ask(&command, deadline).map(drop)
    }

    fn test(&self) -> Result<(), EdgeError> {
        let deadline = self.deadline();
        let (_, state) = self.state(&deadline)?;
        if !state.has_name {
            let reason = format!(
                "server '{}' has an IP address in HAProxy's configuration, so a reload forgets the switch; \
                 write a name in its place: server {} {}.invalid:9 init-addr last,127.0.0.1",
                self.server, self.server, self.store
            );
            return Err(EdgeError::wrong(&self.name, reason));
        }
        for path in [self.config.map.as_path(), &self.config.state] {
            trusted::look_at_dir(dir_of(path)).map_err(|source| EdgeError::file(&self.name, path, source))?;
        }
        self.there(&deadline).map(drop)
    }
}
