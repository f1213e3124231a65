//! Promise 3: of two writers exactly one commits a number; the other one rebases, and nothing is lost.

use crate::support::command::{ok, understudy};
use crate::support::facts::{self, assert_same};
use crate::support::rig::{self, Rig};
use crate::support::servers::{self, Server};
use crate::support::tree::sample_tree;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use understudy::model::id::{Sequence, WriterId};
use understudy::model::record::Event;
use understudy::model::snapshot_ref::Moment;
use understudy::repository::append::RACES_MAX;
use understudy::repository::error::RepositoryError;
use understudy::support::failure::{Failure, FailureKind};

#[test]
fn writers_on_a_directory_never_both_win_a_number() {
    const WRITERS: usize = 3;
    const ROUNDS: usize = 30;
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("repository");
    std::fs::create_dir(&place).unwrap();
    let open = || {
        let local = object_store::local::LocalFileSystem::new_with_prefix(&place).unwrap().with_fsync(true);
        rig::repository(Arc::new(local), rig::disk_patience(3))
    };
    let mut commits = BTreeMap::new();
    let mut rebased = 0;
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let source = dir.path().join(format!("source-{writer}"));
                std::fs::create_dir(&source).unwrap();
                let open = &open;
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    for round in 0..ROUNDS {
                        let marker = format!("writer {writer} round {round}");
                        std::fs::write(source.join("marker"), &marker).unwrap();
                        let report = rig::run(&open(), &rig::request(&source)).unwrap();
                        mine.push((report.snapshot, marker, report.rebased));
                    }
                    mine
                })
            })
            .collect();
        for writer in writers {
            for (snapshot, marker, lost) in writer.join().unwrap() {
                rebased += lost;
                assert!(commits.insert(snapshot, marker).is_none(), "{snapshot} was committed twice");
            }
        }
    });
    let store = open().store(&rig::name());
    assert_eq!(commits.len(), WRITERS * ROUNDS);
    assert_eq!(store.log().state().unwrap().snapshots.len(), WRITERS * ROUNDS);
    assert!(rebased > 0, "the writers never met");
    for (snapshot, marker) in commits {
        let to = dir.path().join(format!("out-{snapshot}"));
        let request = understudy::restore::request::RestoreRequest {
            destination: to.clone(),
            path: Default::default(),
            existing: understudy::restore::request::Existing::Refuse,
            threads: 1,
            local: None,
            own: Vec::new(),
        };
        rig::restore_at(&store, Moment::At(snapshot), &request).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("marker")).unwrap(), marker);
    }
}

fn command(dir: &Path, server: &Server) -> Command {
    let mut command = understudy(dir);
    command.env("UNDERSTUDY_REPOSITORY", server.location).envs(server.environment.iter().cloned());
    command
}

/// Runs all commands against a server with the real binary; then two writers at once.
fn serve(server: &Server, rounds: usize) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    sample_tree(&source);
    ok(command(dir.path(), server).args(["resync", "source", "--store", "acme", "--quiet"]));
    std::fs::write(source.join("a/new"), b"new").unwrap();
    ok(command(dir.path(), server).args(["resync", "source", "--store", "acme", "--quiet"]));
    ok(command(dir.path(), server).args(["verify", "acme", "--read-data"]));
    // From a machine without a cache.
    ok(command(dir.path(), server)
        .env("XDG_CACHE_HOME", dir.path().join("other"))
        .args(["restore", "acme", "out", "--quiet"]));
    assert_same(&source, &dir.path().join("out"), server.location);
    ok(command(dir.path(), server).args(["diff", "acme", "1", "2"]));

    std::fs::create_dir_all(dir.path().join("a")).unwrap();
    std::fs::create_dir_all(dir.path().join("b")).unwrap();
    let mut commits = BTreeMap::new();
    let mut rebased = 0;
    for round in 0..rounds {
        let running: Vec<_> = ["a", "b"]
            .into_iter()
            .map(|writer| {
                let marker = format!("{writer} {round}");
                std::fs::write(dir.path().join(writer).join("marker"), &marker).unwrap();
                let mut resync = command(dir.path(), server);
                resync
                    .args(["resync", &format!("./{writer}"), "--store", "two", "--accept", "--json"])
                    .stdout(Stdio::piped());
                (marker, resync.spawn().unwrap())
            })
            .collect();
        for (marker, child) in running {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{marker}: {:?}", output.status);
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            rebased += report["rebased"].as_u64().unwrap();
            let taken = commits.insert(report["snapshot"].as_u64().unwrap(), marker);
            assert!(taken.is_none(), "two commits of one number");
        }
    }
    assert_eq!(commits.keys().copied().collect::<Vec<_>>(), (1..=2 * rounds as u64).collect::<Vec<_>>());
    assert!(rebased > 0 || rounds < 3, "the writers never met");
    for (snapshot, marker) in commits {
        let to = format!("two-{snapshot}");
        ok(command(dir.path(), server).args(["restore", &format!("two@{snapshot}"), &to, "--quiet"]));
        let facts = facts::of(&dir.path().join(&to));
        assert_eq!(facts.len(), 2);
        assert_eq!(std::fs::read_to_string(dir.path().join(to).join("marker")).unwrap(), marker);
    }
}

/// Appends after `rival` did so each time; returns the result, and the number of attempts.
fn append_after_rivals(rivals: u32) -> (Result<Option<Sequence>, RepositoryError>, u32) {
    let rig = Rig::new();
    let (store, rival) = (rig.store(), WriterId("rival".into()));
    sample_tree(&rig.source());
    rig.resync();
    let mut tried = 0;
    let unpin = || Event::Unpinned { snapshot: Sequence(1) };
    let appended =
        store.log().append_until_won(&mut store.log().state().unwrap(), &WriterId("op".into()), |state| {
            if tried < rivals {
                store.log().append(&mut state.clone(), &rival, unpin()).unwrap();
            }
            tried += 1;
            Ok(Some(unpin()))
        });
    (appended, tried)
}

#[test]
fn a_writer_that_loses_a_race_tries_again_and_gives_up_when_it_loses_all() {
    let (appended, tried) = append_after_rivals(3);
    assert_eq!((appended.unwrap(), tried), (Some(Sequence(5)), 4));
    let (appended, tried) = append_after_rivals(u32::MAX);
    assert_eq!(appended.unwrap_err().kind(), FailureKind::Unavailable);
    assert_eq!(tried, RACES_MAX + 1);
}

#[test]
fn an_s3_server_holds_a_store_and_settles_races() {
    serve(&servers::moto(), 6);
}

#[test]
fn azure_holds_a_store_and_settles_races() {
    serve(&servers::azurite(), 6);
}

#[test]
fn a_server_that_ignores_create_only_is_refused() {
    let server = servers::s3rver();
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    let output = command(dir.path(), &server).args(["resync", "source", "--store", "acme"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("ignores create-only conditions"), "{error}");
}

#[test]
fn a_server_that_is_not_there_is_exit_code_6() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(&dir.path().join("source"));
    let mut command = understudy(dir.path());
    command.env("UNDERSTUDY_REPOSITORY", "s3://bucket").env("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "x").env("AWS_REGION", "us-east-1");
    let output = command.args(["resync", "source", "--store", "acme"]).output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
}
