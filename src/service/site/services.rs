//! The shop in a drill: the store's services that are commands, or programs in the foreground in place of all services.
//!
//! Services of systemd, Compose and Kubernetes are run by programs outside of the drill, which nothing here reaches:
//! they are named as not proven.

use super::root::OWN;
use super::task::Task;
use crate::failover::services::attend::Services;
use crate::failover::services::order::Part;
use crate::failover::services::settings::ServiceSettings;
use crate::support::child::{self, Confinement, THIS};
use crate::support::env::Env;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};

/// Number of bytes at the end of a program's output that are shown when it ends.
const SAID_BYTES: u64 = 1000;

/// Returns the services that a drill can start.
pub(super) fn startable(services: &[ServiceSettings]) -> Vec<ServiceSettings> {
    services.iter().filter(|service| !service.start.is_empty()).cloned().collect()
}

/// Returns the names of those that it cannot.
pub(super) fn others(services: &[ServiceSettings]) -> impl Iterator<Item = &str> {
    services.iter().filter(|service| service.start.is_empty()).map(|service| service.name.as_str())
}

/// A program in the foreground.
struct Foreground {
    name: String,
    log: PathBuf,
    child: Child,
    _leash: Option<ChildStdin>,
}

/// The shop.
pub(super) struct Shop<'a> {
    task: &'a Task,
    env: &'a Env,
    running: Vec<Foreground>,
}

impl<'a> Shop<'a> {
    pub fn new(task: &'a Task, env: &'a Env) -> Self {
        Self { task, env, running: Vec::new() }
    }

    /// Starts what serves customers.
    pub fn start(&mut self) -> Result<(), String> {
        for (number, program) in self.task.foreground.iter().enumerate() {
            let started = self.start_one(number, program)?;
            self.running.push(started);
        }
        self.part(Part::Serving)
    }

    /// Starts what acts without customers.
    pub fn start_last(&self) -> Result<(), String> {
        self.part(Part::Last)
    }

    fn part(&self, part: Part) -> Result<(), String> {
        let Task { store, services, .. } = self.task;
        let services =
            Services { store, list: services, this: Path::new(THIS), env: self.env, stop: &|| false };
        services.start(part).map_err(|error| error.to_string())
    }

    fn start_one(&self, number: usize, program: &[String]) -> Result<Foreground, String> {
        let (name, arguments) = program.split_first().ok_or("a service is empty")?;
        let failed = |how: String| format!("{name} was not started: {how}");
        let log = Path::new(OWN).join(format!("service-{number}.log"));
        let output = File::create(&log).map_err(|error| failed(error.to_string()))?;
        let how = Confinement { environment: self.task.environment.clone(), ..Confinement::default() };
        let command = child::command(Path::new(THIS), name, arguments, &how);
        let mut command = command.map_err(|error| failed(error.to_string()))?;
        let errors = output.try_clone().map_err(|error| failed(error.to_string()))?;
        command.env("UNDERSTUDY_STORE", self.task.store.as_str()).current_dir("/");
        let spawned = command.stdin(Stdio::piped()).stdout(output).stderr(errors).spawn();
        let mut child = spawned.map_err(|error| failed(error.to_string()))?;
        let leash = child.stdin.take();
        Ok(Foreground { name: name.clone(), log, child, _leash: leash })
    }

    /// Looks whether all programs in the foreground run.
    pub fn runs(&mut self) -> Result<(), String> {
        for program in &mut self.running {
            if let Ok(Some(status)) = program.child.try_wait() {
                return Err(format!("{} ended with {status}{}", program.name, end_of(&program.log)));
            }
        }
        Ok(())
    }
}

/// Returns the end of a program's output, as it ends a message.
fn end_of(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SAID_BYTES))).ok()?;
        let mut bytes = Vec::new();
        file.take(SAID_BYTES).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    match read() {
        Some(text) if !text.is_empty() => format!(": {text}"),
        _ => String::new(),
    }
}
