//! `understudy run`: the daemon.

use super::context::{Context, kill_at};
use super::error::{Context as _, Result};
use super::exit::Exit;
use super::{Global, ending};
use crate::service::admission::Admission;
use crate::service::app_state::AppState;
use crate::service::audit::Audit;
use crate::service::config::{Config, OFF};
use crate::service::daemon::Daemon;
use crate::service::ending::EndLimits;
use crate::service::listen::{CONNECTIONS_MAX, PANEL_CONNECTIONS_MAX};
use crate::service::panel::{self, PanelParts, PanelState};
use crate::service::routes::Gate;
use crate::service::socket;
use crate::service::token::Token;
use crate::service::tokens::KnownTokens;
use crate::service::{http, listen};
use crate::support::local_socket::SocketError;
use crate::support::lossy::Lossy;
use clap::Args;
use std::io::ErrorKind;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Maximum times for runs to stop, and for upkeep after that.
const END_LIMITS: EndLimits = EndLimits { runs: Duration::from_secs(30), upkeep: Duration::from_secs(10) };
/// Maximum time to write the last lines of the log.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(super) struct RunArgs {
    /// Address that serves HTTP, in place of the configured one; `off` disables it
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
}

pub(super) fn run(global: &Global, args: RunArgs) -> Result<Exit> {
    let log = log(global)?;
    let done = run_logged(global, args, &log);
    // Writes what can still be written.
    log.flush(FLUSH_LIMIT);
    done
}

fn run_logged(global: &Global, args: RunArgs, log: &Lossy) -> Result<Exit> {
    let context = Context::telling(global, |said| tracing::warn!("{said}"))?;
    let config = context.config.clone();
    if config.store.is_empty() {
        tracing::warn!("no store is configured; run `understudy init` to write a sample configuration");
    }
    try_secrets(&config)?;
    let daemon = Daemon::new(context.host().clone(), true, Box::new(kill_at));
    let listen = args.listen.unwrap_or_else(|| config.service.listen().to_owned());
    serve(&context, &daemon, &listen, log)?;
    on_signals(global, &context, &daemon)?;
    tracing::info!(stores = config.store.len(), "started");
    daemon.run(END_LIMITS);
    tracing::info!("stopped");
    Ok(Exit::Done)
}

/// Checks that everybody can be notified who is to be.
fn try_secrets(config: &Config) -> Result<()> {
    for receiver in &config.notify {
        receiver.try_secrets()?;
    }
    Ok(())
}

/// Reads the configuration again.
fn load(path: Option<&Path>) -> Result<Config> {
    let config = Config::load(path)?;
    try_secrets(&config)?;
    Ok(config)
}

/// Starts the log: text on a terminal, JSON otherwise. `RUST_LOG` sets the level. Nothing waits for the log's
/// reader, not even a panic.
fn log(global: &Global) -> Result<Lossy> {
    let is_text = std::io::stderr().is_terminal() && !global.json;
    let told: fn(u64) -> String = match is_text {
        true => |count| format!("{count} lines of the log were lost"),
        false => |count| {
            serde_json::json!({ "level": "WARN", "message": "lines of the log were lost", "lines": count })
                .to_string()
        },
    };
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().context("standard error")?;
    let lossy = Lossy::start(std::fs::File::from(stderr), told).context("starting the log")?;
    let lines = lossy.clone();
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "this is a bug")));
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    let builder = builder.with_writer(move || lines.line());
    // Setting a second logger fails; tests run the daemon twice in one process.
    let _ = match is_text {
        true => builder.try_init(),
        false => builder.json().flatten_event(true).try_init(),
    };
    Ok(lossy)
}

/// Serves HTTP: the API at the socket and at the port, and the panel.
fn serve(context: &Context, daemon: &Daemon, listen: &str, log: &Lossy) -> Result<()> {
    let tokens = KnownTokens::new(context.env());
    let audit = Audit::new(&context.config, context.env());
    let site = AppState::new(daemon.clone(), log.clone());
    let gate = Gate::json(audit.clone());
    if let Some(place) = socket::of_daemon(&context.config, context.given_repository.as_deref()) {
        match place.bind() {
            Ok(bound) => {
                tracing::info!(at = %bound.path.display(), "listening for this host's commands");
                let admission = Admission::new(daemon.clone(), None, tokens.clone(), None);
                let router = http::router(site.clone(), admission, gate.clone());
                let env = context.env().clone();
                context.runtime.spawn(async move {
                    if let Err(error) = listen::at_socket(&env, bound, router).await {
                        tracing::error!(%error, "the socket does not answer this host's commands any more");
                    }
                });
            }
            Err(error @ SocketError::Taken { .. }) => return Err(error.into()),
            Err(error) => {
                tracing::error!(%error, "cannot listen for this host's commands: they do not find this daemon")
            }
        }
    }
    let panel = context.config.panel.clone();
    if listen == OFF && panel.listen().is_none() {
        return Ok(());
    }
    let token = Token::read_or_make(&context.config, context.env());
    if let Err(error) = &token {
        tracing::error!(%error, "HTTP serves only health and metrics until there is a token; the stores run");
    }
    let token = token.ok();
    if let Some(at) = panel.listen().map(str::to_owned) {
        let parts = PanelParts {
            site: site.clone(),
            settings: panel,
            bound: None,
            token: token.clone(),
            tokens: tokens.clone(),
            audit,
        };
        at_address(context, &at.clone(), "the panel", move |listener| serve_panel(parts, &at, listener))?;
    }
    if listen == OFF {
        return Ok(());
    }
    let daemon = daemon.clone();
    at_address(context, listen, "HTTP", move |listener| {
        let at = listener.local_addr()?;
        tracing::info!(%at, "listening for HTTP");
        if !at.ip().is_loopback() {
            tracing::warn!(%at, "HTTP is not encrypted here, and health and metrics need no token: everyone who can connect can read them");
        }
        let admission = Admission::new(daemon.clone(), token, tokens, Some(at.ip()));
        let env = daemon.env().clone();
        let router = http::router(site, admission, gate);
        tokio::spawn(async move { listen::at_port(&env, listener, router, CONNECTIONS_MAX).await });
        Ok(())
    })
}

/// Serves the panel.
fn serve_panel(parts: PanelParts, listen: &str, listener: TcpListener) -> std::io::Result<()> {
    let at = listener.local_addr()?;
    let env = parts.site.env().clone();
    let parts = PanelParts { bound: Some(at.ip()), ..parts };
    let state = PanelState::new(parts, listen).map_err(std::io::Error::other)?;
    tracing::info!(%at, url = state.url(), "listening for the panel");
    let router = panel::router(&state);
    tokio::spawn(async move { listen::at_port(&env, listener, router, PANEL_CONNECTIONS_MAX).await });
    Ok(())
}

/// Binds an address and serves there. While another process has it, that is tried again: any user of the host
/// may have taken the port, which is no reason to stop replicating.
fn at_address(
    context: &Context,
    listen: &str,
    what: &'static str,
    serve: impl FnOnce(TcpListener) -> std::io::Result<()> + Send + 'static,
) -> Result<()> {
    match context.runtime.block_on(TcpListener::bind(listen)) {
        Ok(listener) => {
            let _runtime = context.runtime.enter();
            serve(listener)?;
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            tracing::error!(%listen, %error, "cannot listen for {what} until the port is free; the stores run");
            let listen = listen.to_owned();
            context.runtime.spawn(async move {
                loop {
                    tokio::time::sleep(PORT_AGAIN).await;
                    if let Ok(listener) = TcpListener::bind(&listen).await {
                        return serve(listener);
                    }
                }
            });
        }
        Err(error) => return Err(error).with_context(|| format!("listening on {listen}")),
    }
    Ok(())
}

/// Interval between attempts to bind a port that another process has.
const PORT_AGAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// Ends the daemon at SIGTERM and SIGINT, and reloads the configuration at SIGHUP.
fn on_signals(global: &Global, context: &Context, daemon: &Daemon) -> Result<()> {
    let stopping = daemon.clone();
    ending::on_end(move || {
        tracing::info!("shutting down; runs stop at their next step");
        stopping.stop();
    });
    let _entered = context.runtime.enter();
    let (mut signals, daemon) = (signal(SignalKind::hangup())?, daemon.clone());
    let path = global.config.clone();
    context.runtime.spawn(async move {
        while signals.recv().await.is_some() {
            let (daemon, path) = (daemon.clone(), path.clone());
            // Reloading reads repositories, which blocks on the runtime, so it runs on its own thread.
            std::thread::spawn(move || match load(path.as_deref()) {
                Ok(config) => {
                    let stores = config.store.len();
                    daemon.reload(config);
                    tracing::info!(stores, "loaded the new configuration");
                }
                Err(error) => tracing::error!(%error, "invalid configuration; keeping the previous one"),
            });
        }
    });
    Ok(())
}
