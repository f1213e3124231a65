//! The commands: one file each. The only place that prints, exits, or reads clocks and randomness.

use crate::support::private;
use clap::{Args, Parser, Subcommand};
use ending::Ending;
use exit::Exit;
use rustix::process::DumpableBehavior;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

#[macro_use]
mod out;
mod confined;
mod confirm;
mod context;
mod database;
mod database_cell;
mod desk;
mod diff;
mod drill;
mod due;
mod edge;
mod ending;
mod error;
mod exit;
mod failover;
mod follow;
mod guard;
mod history;
mod init;
mod key;
mod look;
mod media;
mod member;
mod mount;
mod notify;
mod pin;
mod points;
mod progress;
mod prune;
mod reference;
mod rejoin;
mod remote;
mod restore;
mod resync;
mod run;
mod select;
mod show;
mod site_text;
mod snapshots;
mod stage;
mod status;
mod stranded;
mod token;
mod umount;
mod upkeep;
mod values;
mod verify;
mod warnings;

pub use reference::{parses, reference};

/// Keeps every store's filesystem replicated to a standby, through an object store.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
pub(crate) struct Global {
    /// The repository: a directory, s3://BUCKET/PREFIX, gs://… or az://…
    #[arg(long, global = true, env = "UNDERSTUDY_REPOSITORY", value_name = "URL")]
    repository: Option<String>,
    /// The configuration file
    #[arg(long, global = true, env = "UNDERSTUDY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The key file, in age's format
    #[arg(long, global = true, env = "UNDERSTUDY_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Write to a store whose keyring no key here made or accepted, or accept a keyring past a gap that no key here opens. Give it once, after checking the holders (key list)
    #[arg(long, global = true, help_heading = "Trust")]
    trust_keyring: bool,
    /// Write to an existing store that is not encrypted and that the configuration does not name. Give it once
    #[arg(long, global = true, help_heading = "Trust")]
    allow_unencrypted: bool,
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Print only errors
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Args)]
pub(crate) struct StandbyArgs {
    /// Directory where this host keeps the stores that it follows
    #[arg(long, env = "UNDERSTUDY_STANDBY", value_name = "DIR")]
    standby: Option<PathBuf>,
}

impl StandbyArgs {
    fn dir(&self, context: &context::Context) -> crate::cli::error::Result<PathBuf> {
        Ok(context.standby(self.standby.as_deref())?)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Ship what changed in a store and commit a snapshot of it
    Resync(resync::ResyncArgs),
    /// Run all configured stores when they are due, and serve HTTP
    Run(run::RunArgs),
    /// List a store's snapshots
    Snapshots(snapshots::SnapshotsArgs),
    /// List the moments to which a store's files and its database can be brought together
    Points(points::PointsArgs),
    /// Say which files the database names and a snapshot lacks, and the other way round
    Media(media::MediaArgs),
    /// Show all stores: last snapshot, lag, sizes
    Status(status::StatusArgs),
    /// Show what changed between two snapshots
    Diff(diff::DiffArgs),
    /// Write a snapshot out as plain files
    Restore(restore::RestoreArgs),
    /// Keep snapshots ready to mount on this host
    Follow(follow::FollowArgs),
    /// Mount a snapshot: through the kernel if `follow` brought it here, otherwise through FUSE from the repository
    Mount(mount::MountArgs),
    /// Unmount a snapshot
    Umount(umount::UmountArgs),
    /// List the snapshots that are mounted
    Mounts(umount::MountsArgs),
    /// Check that every snapshot can be restored
    Verify(verify::VerifyArgs),
    /// Drop snapshots that no rule keeps, and delete what only they needed
    Prune(prune::PruneArgs),
    /// Keep a snapshot whatever the plan says
    Pin(pin::PinArgs),
    /// Unpin a snapshot: the retention plan applies to it again
    Unpin(pin::UnpinArgs),
    /// Mount the last snapshot and read it, as after a failure
    Drill(drill::DrillArgs),
    /// Prune, verify and drill the configured stores, each when it is due
    Upkeep(upkeep::UpkeepArgs),
    /// Manage the keys of a store
    Key(key::KeyArgs),
    /// Manage the members of a store: the hosts that decide who its primary is
    Member(member::MemberArgs),
    /// Show what was decided about a store's members and primary: when, where and by whom
    History(history::HistoryArgs),
    /// Move a store to another host as planned: nothing is lost, and it is closed for seconds
    Switchover(failover::SwitchoverArgs),
    /// Have this host take a store over whose primary has failed, after showing what is lost
    Failover(failover::FailoverArgs),
    /// Say where a store's failover stands, and why this host would not take over
    Why(failover::WhyArgs),
    /// Have no host take a store over by itself, until it is resumed
    Pause(failover::PauseArgs),
    /// Let hosts take a store over by themselves again
    Resume(failover::ResumeArgs),
    /// Commit what only this host has, after another became the primary in its place; run on the former primary
    Rejoin(rejoin::RejoinArgs),
    /// Show what only a former primary has, take it over, or give it up
    Stranded(stranded::StrandedArgs),
    /// Replicate a store's database: check the primary, seed, follow, show where it stands
    Database(database::DatabaseArgs),
    /// Look at what sends a store's customers to its primary, and set it up
    Edge(edge::EdgeArgs),
    /// Try who is told when something of a store is wrong
    Notify(notify::NotifyArgs),
    /// Manage the tokens of people and programs that use the panel and the API
    Token(token::TokenArgs),
    /// Write a commented understudy.toml
    Init(init::InitArgs),
    /// Look at a drill's mount, and remove it when the drill is gone
    #[command(hide = true)]
    Look(look::LookArgs),
    /// Be the gate and the fence of a store on this host, as standard input says
    #[command(hide = true)]
    Guard(guard::GuardArgs),
    /// Run another program, as another user perhaps, no longer than the one that asks for it lives
    #[command(hide = true)]
    Confined(confined::ConfinedArgs),
    /// Be the stage of a drill of a failover, as standard input says
    #[command(hide = true)]
    Stage(stage::StageArgs),
}

impl Command {
    fn ending(&self) -> Ending {
        match self {
            // More time than the daemon gives its runs.
            Self::Run(_) => Ending::within(45),
            Self::Resync(_) | Self::Rejoin(_) | Self::Mount(_) | Self::Drill(_) | Self::Upkeep(_) => {
                Ending::within(30)
            }
            Self::Prune(_) => Ending::within(30),
            // A snapshot is published completely or not at all.
            Self::Follow(args) => Ending { code: Some(args.asked_to_end()), ..Ending::within(5) },
            Self::Verify(_) => Ending { code: Some(Exit::Failed), ..Ending::within(5) },
            Self::Pin(_) | Self::Unpin(_) | Self::Key(_) | Self::Umount(_) => Ending::COMMITS_AT_ONCE,
            Self::Snapshots(_) | Self::Points(_) | Self::Status(_) | Self::Diff(_) | Self::Restore(_) => {
                Ending::AT_ONCE
            }
            Self::Media(_) => Ending { code: Some(Exit::Failed), ..Ending::within(5) },
            Self::Member(args) => args.ending(),
            Self::Database(args) => args.ending(),
            Self::Stranded(args) => args.ending(),
            Self::Token(args) => args.ending(),
            Self::History(_) | Self::Why(_) | Self::Edge(_) | Self::Notify(_) => Ending::AT_ONCE,
            // The daemon goes on, or has the record.
            Self::Switchover(_) | Self::Failover(_) | Self::Pause(_) | Self::Resume(_) => {
                Ending::COMMITS_AT_ONCE
            }
            // It ends with its drill; a signal to all processes reaches the drill as well.
            Self::Look(_) => Ending::within(30),
            Self::Mounts(_) | Self::Init(_) | Self::Confined(_) | Self::Guard(_) | Self::Stage(_) => {
                Ending::AT_ONCE
            }
        }
    }

    /// Returns whether all files that the command makes are for this user alone.
    ///
    /// That is not so for files of a restore and for mount points, whose modes the snapshot or the user
    /// determines, nor for a process that becomes another program, whose umask is the caller's.
    fn is_private(&self) -> bool {
        let takes = matches!(self, Self::Stranded(args) if args.takes());
        !takes && !matches!(self, Self::Restore(_) | Self::Mount(_) | Self::Confined(_) | Self::Stage(_))
    }

    /// Returns whether output is all that the command produces.
    fn only_prints(&self) -> bool {
        match self {
            Self::Member(args) => args.only_prints(),
            Self::Database(args) => args.only_prints(),
            Self::Stranded(args) => args.only_prints(),
            Self::Token(args) => args.only_prints(),
            Self::Edge(args) => args.only_prints(),
            Self::Snapshots(_) | Self::Points(_) | Self::Status(_) | Self::Diff(_) | Self::Mounts(_) => true,
            Self::Media(_) | Self::History(_) | Self::Why(_) => true,
            _ => false,
        }
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Keys are in this memory: no core dump of it is written, and no other process of this user can read it.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if cli.command.is_private() {
        private::close_umask();
    }
    let exit = match done(cli) {
        Ok(exit) => exit.into(),
        // The reader has closed the pipe, since it needs no more.
        Err(error)
            if AsRef::<dyn std::error::Error>::as_ref(&error)
                .downcast_ref::<out::OutputLost>()
                .is_some_and(|lost| lost.0.kind() == ErrorKind::BrokenPipe) =>
        {
            Exit::Done.into()
        }
        Err(error) => exit::report(&error),
    };
    if let Some(error) = out::lost() {
        complain!("understudy: standard output: {error}; the work is done, but its report is lost");
    }
    exit
}

fn done(cli: Cli) -> crate::cli::error::Result<Exit> {
    // This must happen before there are threads and signal handlers.
    if let Command::Confined(args) = cli.command {
        confined::run(args);
    }
    if let Command::Stage(args) = cli.command {
        stage::run(&args);
    }
    ending::listen(cli.command.ending())?;
    if cli.command.only_prints() {
        out::is_all();
    }
    match cli.command {
        Command::Resync(args) => resync::run(&cli.global, args),
        Command::Run(args) => run::run(&cli.global, args),
        Command::Snapshots(args) => snapshots::run(&cli.global, args),
        Command::Points(args) => points::run(&cli.global, args),
        Command::Media(args) => media::run(&cli.global, args),
        Command::Status(args) => status::run(&cli.global, args),
        Command::Diff(args) => diff::run(&cli.global, args),
        Command::Restore(args) => restore::run(&cli.global, args),
        Command::Follow(args) => follow::run(&cli.global, args),
        Command::Mount(args) => mount::run(&cli.global, args),
        Command::Umount(args) => umount::run(&cli.global, args),
        Command::Mounts(args) => umount::run_mounts(&cli.global, args),
        Command::Verify(args) => verify::run(&cli.global, args),
        Command::Prune(args) => prune::run(&cli.global, args),
        Command::Pin(args) => pin::run(&cli.global, args),
        Command::Unpin(args) => pin::run_unpin(&cli.global, args),
        Command::Drill(args) => drill::run(&cli.global, args),
        Command::Upkeep(args) => upkeep::run(&cli.global, args),
        Command::Key(args) => key::run(&cli.global, args),
        Command::Member(args) => member::run(&cli.global, args),
        Command::History(args) => history::run(&cli.global, args),
        Command::Switchover(args) => failover::run_switchover(&cli.global, &args),
        Command::Failover(args) => failover::run_failover(&cli.global, &args),
        Command::Why(args) => failover::run_why(&cli.global, &args),
        Command::Pause(args) => failover::run_pause(&cli.global, &args),
        Command::Resume(args) => failover::run_resume(&cli.global, &args),
        Command::Rejoin(args) => rejoin::run(&cli.global, &args),
        Command::Stranded(args) => stranded::run(&cli.global, args),
        Command::Database(args) => database::run(&cli.global, args),
        Command::Edge(args) => edge::run(&cli.global, &args),
        Command::Notify(args) => notify::run(&cli.global, &args),
        Command::Token(args) => token::run(&cli.global, args),
        Command::Init(args) => init::run(args),
        Command::Look(args) => look::run(&args),
        Command::Guard(args) => guard::run(&args),
        Command::Confined(args) => confined::run(args),
        Command::Stage(args) => stage::run(&args),
    }
}
