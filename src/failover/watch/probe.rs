//! Asks a probe once. Each has a connection of its own, and a limit: a server that hangs behind an old connection
//! is found, too.

use super::settings::{CommandSettings, DiskSettings, HttpSettings, Method, ProbeSettings};
use crate::edge::ask::beginning;
use crate::model::escape;
use crate::model::id::{StoreName, WriterId};
use crate::support::chain::chain;
use crate::support::child::THIS;
use crate::support::configured::Configured;
use crate::support::env::Env;
use crate::support::lock::lock;
use reqwest::header::{CACHE_CONTROL, HOST};
use reqwest::redirect::Policy;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::runtime::Handle;

/// Number of bytes of an answer in which a text is looked for.
const BODY_MAX_BYTES: usize = 64 << 10;

/// Asks probes about one store.
#[derive(Clone)]
pub struct Prober {
    pub env: Env,
    pub runtime: Handle,
    pub store: StoreName,
    client: reqwest::Client,
    /// What has a thread that did not come back yet.
    hanging: Arc<Mutex<BTreeSet<String>>>,
}

impl Prober {
    /// # Errors
    /// There is no client for HTTP, for example without root certificates.
    pub fn new(env: Env, runtime: Handle, store: StoreName) -> Result<Self, String> {
        // The second call in a process fails because the provider is installed, which is no error.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            .user_agent(concat!("understudy/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| chain(&error))?;
        Ok(Self { env, runtime, store, client, hanging: Arc::default() })
    }

    /// Asks once, of the primary `primary`. This takes no longer than the probe's limit, and a little.
    ///
    /// # Errors
    /// The reason why the answer is not the right one, or that there is none; it names the probe.
    pub fn ask(&self, probe: &ProbeSettings, primary: &WriterId) -> Result<(), String> {
        let limit = probe.limit();
        let answer = match probe {
            ProbeSettings::Http(http) => self.http(http, limit),
            ProbeSettings::Tcp(tcp) => self.tcp(&tcp.address, limit),
            ProbeSettings::Command(command) => self.command(command, limit, primary),
            ProbeSettings::Disk(disk) => self.disk(disk, limit),
        };
        answer.map_err(|how| escape::line(&format!("{}: {how}", probe.name())).into_owned())
    }

    fn http(&self, http: &HttpSettings, limit: Duration) -> Result<(), String> {
        let request = match http.method {
            Method::Get => self.client.get(&http.url),
            Method::Post => self.client.post(&http.url).body("understudy"),
        };
        let request = request.timeout(limit).header(CACHE_CONTROL, "no-cache, no-store");
        let request = match &http.host {
            Some(host) => request.header(HOST, host),
            None => request,
        };
        let asked = self.runtime.block_on(async {
            let mut response = request.send().await?;
            let body = beginning(&mut response, BODY_MAX_BYTES).await?;
            Ok((response.status().as_u16(), body))
        });
        let (status, body) = asked.map_err(|error: reqwest::Error| match error.is_timeout() {
            true => format!("no answer within {} s", limit.as_secs()),
            false => chain(&error.without_url()),
        })?;
        let is_wanted = http.status.map_or(status < 400, |wanted| status == wanted);
        if !is_wanted {
            return Err(format!("it answers with status {status}"));
        }
        let is_there = |text: &String| body.windows(text.len().max(1)).any(|part| part == text.as_bytes());
        match &http.text {
            Some(text) if !text.is_empty() && !is_there(text) => {
                Err(format!("its answer does not contain '{text}'"))
            }
            _ => Ok(()),
        }
    }

    fn tcp(&self, address: &str, limit: Duration) -> Result<(), String> {
        let address = address.to_owned();
        // A resolver has no limit of its own.
        self.within(limit, address.clone(), move || {
            let found = address.to_socket_addrs().map_err(|error| error.to_string())?.next();
            let found = found.ok_or("its name has no address")?;
            TcpStream::connect_timeout(&found, limit).map(drop).map_err(|error| error.to_string())
        })
    }

    fn command(&self, command: &CommandSettings, limit: Duration, primary: &WriterId) -> Result<(), String> {
        let configured = Configured {
            what: "a probe",
            command: &command.command,
            user: command.user.as_deref(),
            environment: &command.environment,
            timeout_seconds: Some(limit.as_secs()),
        };
        let variables =
            vec![("UNDERSTUDY_STORE", self.store.to_string()), ("UNDERSTUDY_PRIMARY", primary.to_string())];
        configured.run(&self.env, Path::new(THIS), variables).map(drop)
    }

    fn disk(&self, disk: &DiskSettings, limit: Duration) -> Result<(), String> {
        let path = disk.path.join(format!(".understudy-probe-{}", self.store));
        let nonce = self.env.nonce().to_le_bytes();
        self.within(limit, disk.path.display().to_string(), move || {
            write_and_read(&path, &nonce).map_err(|error| error.to_string())
        })
    }

    /// Returns whether one of these paths is there; false where the filesystem does not say so within `limit`.
    pub fn is_there(&self, paths: Vec<PathBuf>, limit: Duration) -> bool {
        let is_any = move || match paths.iter().any(|path| fs::symlink_metadata(path).is_ok()) {
            true => Ok(()),
            false => Err(String::new()),
        };
        self.within(limit, "the files of maintenance".into(), is_any).is_ok()
    }

    /// Does something on a thread of its own, which is left behind if it takes longer than `limit`. As long as it
    /// has not come back, it is not begun again.
    fn within(
        &self,
        limit: Duration,
        what: String,
        work: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        if !lock(&self.hanging).insert(what.clone()) {
            return Err("the last one still hangs".into());
        }
        let hanging = self.hanging.clone();
        let (sender, receiver) = mpsc::channel();
        let started = std::thread::Builder::new().name("probe".into()).spawn(move || {
            let done = work();
            lock(&hanging).remove(&what);
            // Nobody waits any more if it came too late.
            let _ = sender.send(done);
        });
        started.map_err(|error| error.to_string())?;
        let late = |_| format!("it took longer than {} s", limit.as_secs());
        receiver.recv_timeout(limit).map_err(late)?
    }
}

fn write_and_read(path: &PathBuf, bytes: &[u8]) -> io::Result<()> {
    // What an earlier probe left that did not come to its end.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let found = fs::read(path)?;
    fs::remove_file(path)?;
    match found == bytes {
        true => Ok(()),
        false => Err(io::Error::other("what was written is not what is read")),
    }
}
