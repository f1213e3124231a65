//! `understudy points`.

use super::context::Context;
use super::error::Result;
use super::exit::Exit;
use super::{Global, show};
use crate::database::drill_note::DrillNote;
use crate::database::points::{Hindrance, Point};
use crate::database::points_read::Site;
use crate::database::seed::store_name;
use crate::model::gtid::GtidPosition;
use crate::model::id::{Epoch, Sequence, StoreName};
use crate::repository::upkeep::{UpkeepNote, proven};
use crate::support::clock::UnixNanos;
use clap::Args;
use serde::Serialize;

#[derive(Args)]
pub(super) struct PointsArgs {
    #[arg(value_name = "STORE")]
    store: String,
}

/// A point as it is shown.
#[derive(Serialize)]
struct Row {
    snapshot: Sequence,
    scan_start_ns: UnixNanos,
    scan_end_ns: UnixNanos,
    epoch: Epoch,
    /// Where the database was before the scan.
    start: Option<GtidPosition>,
    /// Where it was after the scan.
    end: Option<GtidPosition>,
    /// Number of transactions between the two.
    transactions: Option<u64>,
    seconds: f64,
    reachable: bool,
    /// Where the database is brought to.
    position: Option<GtidPosition>,
    seed: Option<Sequence>,
    hindrance: Option<Hindrance>,
    /// The hindrance in words.
    why: Option<String>,
    /// When a drill last proved the files of the snapshot.
    files_proven_ns: Option<UnixNanos>,
    /// When a drill on this host last proved the database at the position.
    database_proven_ns: Option<UnixNanos>,
}

impl Row {
    fn new(point: Point, notes: &[UpkeepNote], drilled: &DrillNote) -> Self {
        let transactions = point.transactions();
        let Point { taken, position, seed, hindrance } = point;
        Self {
            snapshot: taken.snapshot,
            scan_start_ns: taken.scan_start,
            scan_end_ns: taken.scan_end,
            epoch: taken.epoch,
            transactions,
            seconds: taken.scan_end.since(taken.scan_start).as_secs_f64(),
            reachable: hindrance.is_none(),
            files_proven_ns: proven(notes, taken.snapshot),
            database_proven_ns: position.as_ref().and_then(|position| drilled.proven_at(position)),
            why: hindrance.as_ref().map(ToString::to_string),
            start: taken.start,
            end: taken.end,
            position,
            seed,
            hindrance,
        }
    }

    fn proven(&self) -> &'static str {
        match (self.files_proven_ns, self.database_proven_ns) {
            (Some(_), Some(_)) => "files, database",
            (Some(_), None) => "files",
            (None, Some(_)) => "database",
            (None, None) => "",
        }
    }

    fn cells(&self, name: &StoreName) -> Vec<String> {
        vec![
            format!("{name}@{}", self.snapshot),
            show::time(self.scan_start_ns),
            self.position.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            self.transactions.map_or_else(|| "?".to_owned(), show::count),
            format!("{:.1}", self.seconds),
            self.why.clone().unwrap_or_else(|| "yes".to_owned()),
            self.proven().to_owned(),
        ]
    }
}

pub(super) fn run(global: &Global, args: PointsArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let name = StoreName::parse(&args.store)?;
    let repository = context.repository_of(&name)?;
    let (files, database) = (repository.store(&name), repository.store(&store_name(&name)?));
    let points = Site { files: &files, database: &database }.points()?;
    let notes = files.notes().upkeep()?;
    let place = context.config.store(name.as_str()).and_then(|store| store.database_place().ok().flatten());
    let drilled = place.map(|place| DrillNote::read(&place)).unwrap_or_default();
    let rows: Vec<Row> = points.into_iter().map(|point| Row::new(point, &notes, &drilled)).collect();
    if global.json {
        show::json(&rows)?;
        return Ok(Exit::Done);
    }
    let head = [
        "point",
        "scan started (UTC)",
        "database",
        ">transactions",
        ">seconds",
        "both can be restored",
        "proven",
    ];
    let mut table = vec![head.map(String::from).to_vec()];
    table.extend(rows.iter().map(|row| row.cells(&name)));
    show::table(&table)?;
    if let (Some(newest), false) = (rows.iter().find(|row| row.reachable), global.quiet) {
        let at = newest.snapshot;
        show::line(&format!(
            "restore one: understudy restore {name}@{at} DIR, and: understudy database restore {name} --to @{at} --into DIR"
        ))?;
    }
    Ok(Exit::Done)
}
