//! The process in a drill's namespaces: makes the tree and the network, opens the database, starts the shop, asks the
//! probes, runs the user's command, and says how long each took.
//!
//! It is given no key. What it says is one line a step; a step that fails is the last one.

use super::capabilities::take_capabilities;
use super::network;
use super::resolver;
use super::root::{GATE_DIR, OWN, Root, within};
use super::services::Shop;
use super::sink::{self, Counts, Seen};
use super::task::{
    COMMAND, CONSUMERS, DATABASE, FILES, Files, GATE, PROBES, SERVICES, TASK_MAX_BYTES, Task, Told,
};
use crate::database::site_copy::Opened;
use crate::failover::agent::participants::{GateMode, GateOrder, GateOutcome};
use crate::failover::decide::view::Until;
use crate::failover::guard::settings::Setup;
use crate::failover::watch::probe::Prober;
use crate::model::id::Epoch;
use crate::mounts::mount::throw_away;
use crate::service::agents::gate::StoreGate;
use crate::standby::depot::Depot;
use crate::support::child::{Confinement, THIS, User};
use crate::support::env::Env;
use crate::support::lock::lock;
use crate::support::program::{Program, run_until};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time between two rounds of probes.
const ASK_EVERY: Duration = Duration::from_millis(50);
const RESOLVER: &str =
    "# A drill's: each name leads to its sink.\nnameserver 127.0.0.1\noptions timeout:2 attempts:2\n";

/// What failed, and in which step.
struct Failed {
    step: &'static str,
    how: String,
}

fn say(told: &Told) {
    let mut line = serde_json::to_vec(told).unwrap_or_default();
    line.push(b'\n');
    // The drill may have ended.
    let _ = io::stdout().write_all(&line).and_then(|()| io::stdout().flush());
}

/// Does everything, and returns the exit code. It returns once all is done: then all others end with it.
pub(super) fn run() -> io::Result<i32> {
    let mut line = Vec::new();
    io::stdin().lock().take(TASK_MAX_BYTES).read_until(b'\n', &mut line)?;
    let task: Task = serde_json::from_slice(&line)?;
    let namespace = std::fs::read_link("/proc/thread-self/ns/pid_for_children").unwrap_or_default();
    say(&Told::Within(namespace.display().to_string()));
    let env = Env::system();
    let counts = Arc::new(Mutex::new(Counts::default()));
    let performed = set_up(&task, &env).and_then(|()| {
        let failed =
            |error: io::Error| Failed { step: SERVICES, how: format!("the drill's network: {error}") };
        // There are threads from here on.
        watch_leash().map_err(failed)?;
        resolver::start(&counts).map_err(failed)?;
        sink::start(&task.ports, &counts).map_err(failed)?;
        perform(&task, &env)
    });
    let seen: Seen = lock(&counts).seen();
    match performed {
        Ok(()) => say(&Told::Ended(seen)),
        Err(Failed { step, how }) => say(&Told::Failed { step: step.to_owned(), how, seen }),
    }
    Ok(0)
}

/// Ends this process, and with it all others here, once the drill has ended.
fn watch_leash() -> io::Result<()> {
    let watch = || {
        let leash = io::stdin();
        loop {
            let mut ends = [PollFd::new(&leash, PollFlags::empty())];
            if poll(&mut ends, None).is_ok() && !ends[0].revents().is_empty() {
                std::process::exit(1);
            }
        }
    };
    std::thread::Builder::new().name("leash".into()).spawn(watch).map(drop)
}

fn timed<T>(env: &Env, step: &'static str, work: impl FnOnce() -> Result<T, String>) -> Result<T, Failed> {
    let begun = env.stopwatch();
    let done = work().map_err(|how| Failed { step, how })?;
    say(&Told::Did { step: step.to_owned(), seconds: begun.seconds() });
    Ok(done)
}

/// Makes network and tree, with the store's files in it, and enters it.
fn set_up(task: &Task, env: &Env) -> Result<(), Failed> {
    let failed = |how: String| Failed { step: FILES, how };
    network::set_up().map_err(|error| failed(format!("the drill's network: {error}")))?;
    let root = Root::begin(&task.place, task.memory_bytes).map_err(failed)?;
    root.not_shown.iter().for_each(|how| say(&Told::NotShown(how.clone())));
    root.directory(Path::new(OWN), 0o711).map_err(failed)?;
    root.directory(Path::new(GATE_DIR), 0o700).map_err(failed)?;
    // Anybody may put a mail there, and only this user looks.
    root.directory(&sink::mail_dir(), 0o1733).map_err(failed)?;
    root.put(Path::new("/etc/resolv.conf"), RESOLVER.as_bytes(), 0o644).map_err(failed)?;
    root.put(Path::new("/usr/sbin/sendmail"), sink::sendmail().as_bytes(), 0o755).map_err(failed)?;
    if let Some(files) = &task.files {
        timed(env, FILES, || mount(files, task, &root))?;
    }
    if let Some(copy) = &task.database {
        root.bind(&copy.data).map_err(failed)?;
    }
    root.enter().map_err(failed)?;
    take_capabilities().map_err(|error| failed(format!("capabilities: {error}")))
}

/// Mounts the snapshot writable at the store's path.
fn mount(files: &Files, task: &Task, root: &Root) -> Result<(), String> {
    let target: PathBuf = within(&root.dir, &files.path);
    std::fs::create_dir_all(&target).map_err(|error| format!("{}: {error}", target.display()))?;
    let depot = Depot::at(&files.depot);
    let mounted = throw_away(&depot, &task.store, files.snapshot, &root.changes("store"));
    let attached = mounted.and_then(|mounted| Ok(mounted.attach(&target)?));
    attached.map_err(|error| error.to_string())
}

fn perform(task: &Task, env: &Env) -> Result<(), Failed> {
    let mut database = match &task.database {
        Some(copy) => {
            Some(timed(env, DATABASE, || copy.open(env, &|| false).map_err(|error| error.to_string()))?)
        }
        None => None,
    };
    let mut shop = Shop::new(task, env);
    timed(env, SERVICES, || shop.start())?;
    if let Some(setup) = &task.gate {
        timed(env, GATE, || open_gate(setup))?;
    }
    if !task.probes.is_empty() {
        timed(env, PROBES, || probe(task, env, &mut shop, &mut database))?;
    }
    if task.services.iter().any(|service| service.last) {
        timed(env, CONSUMERS, || shop.start_last())?;
    }
    if !task.command.is_empty() {
        timed(env, COMMAND, || command(task, env))?;
    }
    let runs = shop.runs().and_then(|()| database_runs(&mut database));
    runs.map_err(|how| Failed { step: SERVICES, how })
}

/// Starts the gate, and opens it for ever: it ends with this namespace.
fn open_gate(setup: &Setup) -> Result<(), String> {
    let order = GateOrder { epoch: Epoch(1), mode: GateMode::Open, until: Until::Forever };
    match StoreGate::default().order(setup, order, None) {
        GateOutcome::Done => Ok(()),
        GateOutcome::Failed(how) | GateOutcome::Fenced(how) => Err(how),
    }
}

fn database_runs(database: &mut Option<Opened>) -> Result<(), String> {
    match database.as_mut().and_then(Opened::ended) {
        Some(how) => Err(format!("the database's server ended: {how}")),
        None => Ok(()),
    }
}

/// Asks all probes until each has answered in one round.
fn probe(task: &Task, env: &Env, shop: &mut Shop, database: &mut Option<Opened>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let prober = Prober::new(env.clone(), runtime.handle().clone(), task.store.clone())?;
    let begun = env.stopwatch();
    loop {
        shop.runs().and_then(|()| database_runs(database))?;
        let asked = task.probes.iter().try_for_each(|probe| prober.ask(probe, &task.host));
        match asked {
            Ok(()) => return Ok(()),
            Err(how) if begun.elapsed() >= task.limit => {
                return Err(format!("{how}, {} s after the services were started", task.limit.as_secs()));
            }
            Err(_) => env.sleep(ASK_EVERY),
        }
    }
}

/// Runs the user's command.
fn command(task: &Task, env: &Env) -> Result<(), String> {
    let user = task.user.as_deref().map(User::find).transpose().map_err(|error| error.to_string())?;
    let how = Confinement {
        user: Some(user.unwrap_or_else(User::nobody)),
        no_new_privileges: true,
        environment: task.environment.clone(),
        ..Confinement::default()
    };
    let files = task.files.as_ref().map(|files| files.path.display().to_string());
    let variables =
        vec![("UNDERSTUDY_STORE", task.store.to_string()), ("UNDERSTUDY_PATH", files.unwrap_or_default())];
    let program =
        Program { this: Path::new(THIS), command: &task.command, how, variables, limit: task.limit };
    let ended = run_until(env, program, &|| false, |command| {
        command.current_dir("/");
    });
    match ended {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(format!("`{}` ended with {}{}", task.command.join(" "), output.status, output.said))
        }
        Err(error) => Err(error.to_string()),
    }
}
