//! `understudy stranded`.

use super::confirm::confirm;
use super::context::Context;
use super::desk::Desk;
use super::error::{Error, Result, UsageError};
use super::exit::Exit;
use super::{Ending, Global, show, warnings};
use crate::api::stranded::{StrandedCounts, StrandedDropped};
use crate::failover::stranded::chosen::Choice;
use crate::failover::stranded::list;
use crate::failover::stranded::take::TakeReport;
use crate::failover::stranded::tree::StrandedView;
use crate::model::id::{Sequence, StoreName};
use crate::model::record::StoreState;
use crate::model::tree_path::TreePath;
use crate::repository::error::RepositoryError;
use crate::repository::store::Store;
use crate::service::stranded::{self, Settlement, transient};
use crate::support::clock::UnixNanos;
use crate::support::progress::Progress;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct StrandedArgs {
    #[command(subcommand)]
    command: StrandedCommand,
}

#[derive(Subcommand)]
enum StrandedCommand {
    /// List the trees of former primaries that no person has settled
    List {
        #[arg(value_name = "STORE")]
        store: String,
    },
    /// Show each path that a former primary changed, with its class
    Show(StrandedOf),
    /// Add files of a former primary to the live tree; nothing that is there is replaced
    Take(TakeArgs),
    /// Give up what is stranded: the next pruning deletes it
    Drop(DropArgs),
}

#[derive(Args)]
struct StrandedOf {
    #[arg(value_name = "STORE")]
    store: String,
    /// The record, as `stranded list` shows it
    #[arg(value_name = "N")]
    record: u64,
}

#[derive(Args)]
struct TakeArgs {
    #[command(flatten)]
    of: StrandedOf,
    /// Paths below the store's root, each with all that is stranded below it; `.` is everything but what is transient
    #[arg(value_name = "PATH", required_unless_present = "new")]
    paths: Vec<OsString>,
    /// Take all that only the former primary has
    #[arg(long)]
    new: bool,
    /// The live tree (default: the store's path on this host)
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    #[command(flatten)]
    by: By,
}

#[derive(Args)]
struct DropArgs {
    #[command(flatten)]
    of: StrandedOf,
    /// Do not ask for the store's name
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    by: By,
}

#[derive(Args)]
struct By {
    /// Who decides this, for the store's history (default: the user who is logged in)
    #[arg(long, value_name = "NAME")]
    person: Option<String>,
}

impl By {
    fn person(self) -> String {
        let variables = ["SUDO_USER", "USER", "LOGNAME"].into_iter();
        let logged_in =
            || variables.filter_map(|name| std::env::var(name).ok()).find(|name| !name.is_empty());
        let unknown = || format!("user {}", rustix::process::getuid().as_raw());
        self.person.or_else(logged_in).unwrap_or_else(unknown)
    }
}

impl StrandedArgs {
    pub(super) fn ending(&self) -> Ending {
        match self.command {
            StrandedCommand::Drop(_) => Ending::COMMITS_AT_ONCE,
            _ => Ending::AT_ONCE,
        }
    }

    pub(super) fn only_prints(&self) -> bool {
        matches!(self.command, StrandedCommand::List { .. } | StrandedCommand::Show(_))
    }

    /// Returns whether files are made whose modes are those of the former primary.
    pub(super) fn takes(&self) -> bool {
        matches!(self.command, StrandedCommand::Take(_))
    }
}

pub(super) fn run(global: &Global, args: StrandedArgs) -> Result<Exit> {
    match args.command {
        StrandedCommand::List { store } => list(global, &StoreName::parse(&store)?),
        StrandedCommand::Show(of) => show(global, &of),
        StrandedCommand::Take(args) => run_take(global, args),
        StrandedCommand::Drop(args) => run_drop(global, args),
    }
}

fn state_of(store: &Store) -> Result<StoreState> {
    let state = store.log().state()?;
    match state.head {
        Some(_) => Ok(state),
        None => Err(RepositoryError::NoStore(store.name().clone()).into()),
    }
}

fn list(global: &Global, name: &StoreName) -> Result<Exit> {
    let context = Context::new(global)?;
    let store = context.repository_of(name)?.store(name);
    let (state, transient) = (state_of(&store)?, transient(&context, name)?);
    let listed = list::list(&store, &state, &transient)?;
    if global.json {
        show::json(&listed)?;
        return Ok(Exit::Done);
    }
    if listed.is_empty() {
        show::line(&format!("store '{name}': nothing is stranded"))?;
        return Ok(Exit::Done);
    }
    let head =
        [">record", ">epoch", "host", ">only there", ">on both", ">deleted", ">transient", ">same", ">size"];
    let mut table = vec![head.map(String::from).to_vec()];
    for row in &listed {
        let StrandedCounts { only, both, deleted, transient, same, size_bytes, .. } = row.counts;
        let mut cells = vec![row.record.to_string(), row.of_epoch.to_string()];
        cells.push(row.host.as_ref().map_or_else(|| "-".to_owned(), |host| host.0.clone()));
        cells.extend([only, both, deleted, transient, same].map(show::count));
        cells.push(show::bytes(size_bytes));
        table.push(cells);
    }
    show::table(&table)?;
    for row in &listed {
        if let Some(said) = row.loss.said() {
            show::line(&format!("record {}: {said}", row.record))?;
        }
    }
    Ok(Exit::Done)
}

fn show(global: &Global, of: &StrandedOf) -> Result<Exit> {
    let context = Context::new(global)?;
    let name = StoreName::parse(&of.store)?;
    let store = context.repository_of(&name)?.store(&name);
    let (state, transient) = (state_of(&store)?, transient(&context, &name)?);
    let view = StrandedView::open(&store, &state, Sequence(of.record))?;
    let (counts, loss) = view.each(&transient, |class, three| {
        let Some(row) = list::told(class, three) else { return Ok(()) };
        if global.json {
            return show::json(&row);
        }
        let slash = if row.kind == "directory" { "/" } else { "" };
        let seconds = u64::try_from(row.mtime).unwrap_or(0);
        let time = show::time(UnixNanos(seconds.saturating_mul(1_000_000_000)));
        let size = show::bytes(row.size_bytes);
        show::line(&format!("{:<9}  {time}  {size:>10}  {}{slash}", row.class, row.path))
    })?;
    if !global.json && !global.quiet {
        show::line(&show::stranded(&counts, "there"))?;
        show::loss(&loss)?;
    }
    Ok(Exit::Done)
}

/// Reads a path below the store's root, as a person writes it.
fn path(given: &OsString) -> Result<TreePath> {
    match stranded::path(given.as_bytes()) {
        Some(path) => Ok(path?),
        None => Err(UsageError("a path is empty; `.` is everything".to_owned()).into()),
    }
}

/// What was taken, as it is shown.
#[derive(Serialize)]
struct Taken {
    #[serde(flatten)]
    report: TakeReport,
    /// The record that settles the tree, if all that could be taken is there.
    settled: Option<Sequence>,
}

fn run_take(global: &Global, args: TakeArgs) -> Result<Exit> {
    let name = StoreName::parse(&args.of.store)?;
    let desk = Desk::open(global, &name)?;
    let mut state = desk.state()?;
    desk.check_may_decide(&state)?;
    let paths = args.paths.iter().map(path).collect::<Result<Vec<_>>>()?;
    let (sequence, context, person) = (Sequence(args.of.record), &desk.context, args.by.person());
    let settlement = Settlement { host: context, store: &desk.store, maker: desk.maker(), person: &person };
    let (progress, choice) = (Progress::default(), Choice { new: args.new, paths });
    let (to, report, settled) = super::progress::watched(global, context.env(), &progress, "taken", || {
        settlement.take(&mut state, sequence, choice, args.to.as_deref(), &progress)
    })?;
    let shortfalls = report.report.warnings.clone();
    if global.json {
        show::json(&Taken { report, settled })?;
    } else if !global.quiet {
        let (written, kept) = (report.report.files_written, report.report.files_kept);
        show::line(&format!(
            "{name}: {} paths of record {sequence} taken to {}: {} files written, {} were there",
            show::count(report.chosen),
            to.display(),
            show::count(written),
            show::count(kept),
        ))?;
        show::line(&match settled {
            Some(record) => format!("  record {record} settles it: nothing more is stranded in {sequence}"),
            None => format!(
                "  {} paths remain; take them as well, or end it with: understudy stranded drop {name} {sequence}",
                show::count(report.remaining)
            ),
        })?;
    }
    warnings::shortfalls(&shortfalls, "what was taken differs from what was stranded");
    Ok(if shortfalls.total() > 0 { Exit::Warnings } else { Exit::Done })
}

fn run_drop(global: &Global, args: DropArgs) -> Result<Exit> {
    let name = StoreName::parse(&args.of.store)?;
    let desk = Desk::open(global, &name)?;
    let mut state = desk.state()?;
    desk.check_may_decide(&state)?;
    let sequence = Sequence(args.of.record);
    let view = StrandedView::open(&desk.store, &state, sequence)?;
    let (counts, _) = view.each(&transient(&desk.context, &name)?, |_, _| Ok::<_, Error>(()))?;
    if !args.yes {
        let what = format!(
            "{} paths ({}) that only a former primary of store '{name}' has",
            show::count(counts.to_take()),
            show::bytes(counts.size_bytes)
        );
        let question = format!("{what} will be deleted for ever");
        confirm(&name, &question, &format!("{what}: nothing was dropped"))?;
    }
    let (maker, person) = (desk.maker(), args.by.person());
    let settlement = Settlement { host: &desk.context, store: &desk.store, maker, person: &person };
    let settled = settlement.give_up(&mut state, sequence, counts.to_take())?;
    if global.json {
        show::json(&StrandedDropped { dropped: counts.to_take(), settled })?;
    } else if !global.quiet {
        show::line(&format!(
            "{name}: what was stranded in record {sequence} is given up; the next pruning deletes what nothing else needs"
        ))?;
    }
    Ok(Exit::Done)
}
