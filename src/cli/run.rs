//! `understudy run`: the daemon.

use super::context::{Context, WORLD, kill_at};
use super::exit::Exit;
use super::{Global, show};
use crate::service::config::Config;
use crate::service::daemon::Daemon;
use crate::service::http;
use crate::service::token::Token;
use anyhow::{Context as _, Result};
use clap::Args;
use std::io::IsTerminal;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Where HTTP is answered, when nothing is configured.
pub(super) const LISTEN: &str = "127.0.0.1:9184";
/// How long runs may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(super) struct RunArgs {
    /// Where to answer HTTP, in place of the configured address; `off` for nowhere
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
}

pub(super) fn run(global: &Global, args: RunArgs) -> Result<Exit> {
    log(global);
    let context = Context::new(global)?;
    let config = context.config.clone();
    if config.store.is_empty() {
        tracing::warn!("no store is configured; `understudy init` writes a sample configuration");
    }
    let daemon = Daemon::new(context.host().clone(), WORLD, Box::new(kill_at));
    let listen = args.listen.or_else(|| config.service.listen.clone()).unwrap_or_else(|| LISTEN.to_owned());
    if listen != "off" {
        serve(&context, &daemon, &listen)?;
    }
    on_signals(global, &context, &daemon)?;
    tracing::info!(stores = config.store.len(), "understudy runs");
    let (keeping, program) = (daemon.clone(), super::drill::program(global)?);
    std::thread::spawn(move || keeping.keep_up(&program));
    daemon.run(STOP_LIMIT);
    tracing::info!("understudy ends");
    Ok(Exit::Done)
}

/// For people on a terminal, JSON otherwise. `RUST_LOG` says how much.
fn log(global: &Global) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second logger is not set: tests that run the daemon twice in a process.
    let _ = match std::io::stderr().is_terminal() && !global.json {
        true => builder.try_init(),
        false => builder.json().flatten_event(true).try_init(),
    };
}

fn serve(context: &Context, daemon: &Daemon, listen: &str) -> Result<()> {
    let token = Token::read_or_make(&context.config, WORLD.nonce)?;
    let listener = context.runtime.block_on(tokio::net::TcpListener::bind(listen));
    let listener = listener.with_context(|| format!("listening on {listen}"))?;
    let at = listener.local_addr()?;
    let loopback = at.ip().is_loopback();
    tracing::info!(%at, "answers HTTP");
    if !loopback {
        tracing::warn!(%at, "whoever can connect may read what the API tells; only changes need the token");
    }
    let router = http::router(daemon.clone(), token);
    context.runtime.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "HTTP ended");
        }
    });
    Ok(())
}

/// SIGTERM and SIGINT end it, SIGHUP has it read its configuration again.
fn on_signals(global: &Global, context: &Context, daemon: &Daemon) -> Result<()> {
    let ending = daemon.clone();
    context.on_end(move || {
        tracing::info!("asked to end; runs stop at their next step");
        ending.stop();
    })?;
    let _entered = context.runtime.enter();
    let (mut signals, daemon) = (signal(SignalKind::hangup())?, daemon.clone());
    let path = global.config.clone();
    context.runtime.spawn(async move {
        while signals.recv().await.is_some() {
            let (daemon, path) = (daemon.clone(), path.clone());
            // It asks repositories, which waits for the runtime.
            std::thread::spawn(move || match Config::load(path.as_deref()) {
                Ok(config) => {
                    let stores = config.store.len();
                    daemon.reload(config);
                    tracing::info!(stores, "took the new configuration");
                }
                Err(error) => tracing::error!(%error, "keeps the old configuration: the new one is wrong"),
            });
        }
    });
    Ok(())
}

/// Runs what is due and ends: for a CronJob.
pub(super) fn run_due(global: &Global) -> Result<Exit> {
    let context = Context::new(global)?;
    let daemon = Daemon::new(context.host().clone(), WORLD, Box::new(kill_at));
    let made = context.key_to_be_made();
    let ended = daemon.run_due();
    super::resync::tell_of_key(made.as_deref());
    let mut worst = Exit::Done;
    for (store, ended) in &ended {
        let exit = super::exit::of_ended(ended);
        worst = worst.max(exit);
        match &ended.result {
            Ok(report) if global.json => show::json(report)?,
            Ok(_) if global.quiet => {}
            Ok(report) => show::report(report)?,
            Err(error) => eprintln!("understudy: {store}: {error}"),
        }
    }
    if ended.is_empty() && !global.quiet && !global.json {
        show::line("nothing is due")?;
    }
    // What keeps the stores sound is due as well, at its own times.
    let kept = super::upkeep::keep_up(global, &context, &context.config.store)?;
    Ok(worst.max(kept))
}
