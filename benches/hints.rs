//! Measures an hourly run over an unchanged tree with hints against a full scan: `cargo bench --bench hints
//! -- DIR`, where DIR is a tree of `benches/store_tree.py million DIR`. Prints a table in Markdown.

// The program prints figures.
#![allow(clippy::disallowed_macros)]
// The time of this real process is measured.
#![allow(clippy::disallowed_methods)]

#[path = "support/cpu.rs"]
mod cpu;

use cpu::cpu_seconds;
use rustix::time::ClockId;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use understudy::api::resync::ResyncReport;
use understudy::model::id::{StoreName, WriterId};
use understudy::model::plan::PlanName;
use understudy::replicate::resync::{Request, ResyncContext, Watched, resync};
use understudy::repository::key_source::KeySource;
use understudy::repository::location::RepositoryUrl;
use understudy::repository::store::{Repository, RepositoryOptions};
use understudy::source::hints::Watch;
use understudy::support::progress::Progress;

fn now_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
}

struct Bench {
    repository: Repository,
    source: PathBuf,
    watch: Arc<Watch>,
}

impl Bench {
    fn run(&self, what: &str, full: bool) -> ResyncReport {
        std::thread::sleep(Duration::from_millis(500));
        let hints = self.watch.take(full);
        let request = Request {
            store: StoreName::parse("bench").unwrap(),
            path: self.source.clone(),
            plan: PlanName::Private.plan(),
            excludes: Vec::new(),
            writer: WriterId("bench".into()),
            daemon: None,
            accept: true,
            compression_level: 1,
            holes_max_bytes: understudy::service::run::HOLES_MAX_BYTES,
            threads: 2,
            one_filesystem: false,
            own_places: Vec::new(),
            own_mounts: Vec::new(),
            database_position: None,
            database_end: None,
            watched: Some(Watched { watch: self.watch.clone(), hints }),
        };
        let progress = Progress::default();
        let around = ResyncContext {
            tree: &understudy::source::disk::Disk::default(),
            progress: &progress,
            on_step: &|_| {},
        };
        let (began, cpu) = (Instant::now(), cpu_seconds(ClockId::ProcessCPUTime));
        let report = resync(&self.repository, &request, &around).unwrap();
        println!(
            "| {what} | {:.3} | {:.3} | {} |",
            began.elapsed().as_secs_f64(),
            cpu_seconds(ClockId::ProcessCPUTime) - cpu,
            report.changes.added + report.changes.modified + report.changes.removed
        );
        report
    }
}

fn some_files(root: &Path, count: usize) -> Vec<PathBuf> {
    let files = walkdir::WalkDir::new(root).sort_by_file_name().into_iter().filter_map(Result::ok);
    let files: Vec<_> =
        files.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect();
    files.iter().step_by(files.len() / count).take(count).cloned().collect()
}

fn main() {
    let Some(source) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        return println!("cargo bench --bench hints -- DIR");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = RepositoryOptions {
        keys: KeySource::none(),
        cache: Some(dir.path().join("cache")),
        ..Default::default()
    };
    let location = RepositoryUrl::Directory(dir.path().join("repository"));
    let repository = Repository::open(&location, options, runtime.handle().clone()).unwrap();
    let watch = Arc::new(Watch::new(Path::new(&source), || {}).unwrap());
    let bench = Bench { repository, source: source.into(), watch };
    println!("| run | wall s | CPU s | changed |\n| --- | ---: | ---: | ---: |");
    let first = bench.run("first, sets up the watches", true);
    bench.run("unchanged, full scan", true);
    bench.run("unchanged, by hints", false);
    for count in [10, 1000] {
        for file in some_files(&bench.source, count) {
            std::fs::write(&file, format!("<?php // {}\n", now_ns())).unwrap();
        }
        bench.run(&format!("{count} files changed, by hints"), false);
        bench.run("unchanged, full scan", true);
    }
    println!("\n{} entries.", first.entries);
}
