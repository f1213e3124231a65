//! One failure has the same kind everywhere: in the exit code of every command, in the status and in the
//! daemon's responses.

use crate::support::command::{host, ok, said, understudy};
use crate::support::host::Host;
use crate::support::tree::sample_tree;
use crate::support::wait::wait_until;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn ends(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", said(&output));
    said(&output)
}

/// Returns a command that uses the repositories of its configuration.
fn configured(dir: &Path) -> Command {
    let mut command = understudy(dir);
    command.env_remove("UNDERSTUDY_REPOSITORY");
    command
}

/// Gives the command credentials for an address at which no server answers.
fn unreachable(command: &mut Command) -> &mut Command {
    command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").env("AWS_REGION", "us-east-1");
    command.env("AWS_ACCESS_KEY_ID", "x").env("AWS_SECRET_ACCESS_KEY", "x")
}

/// Creates a store `acme` where a record dropped a snapshot that the rules keep, so that a pruning is held.
fn held(dir: &Path) {
    sample_tree(&dir.join("source"));
    for round in 0..2 {
        std::fs::write(dir.join("source/changing"), [round; 100]).unwrap();
        ok(understudy(dir).args(["resync", "source", "--store", "acme", "--quiet"]));
    }
    ok(understudy(dir).args(["prune", "acme", "--keep-last", "1", "--quiet"]));
}

const RETENTION: &str = "[store.retention]\nlast = 10\n";
const PRUNED: &str = "[store.upkeep]\nprune_hours = 24\nverify_hours = 0\ndrill_hours = 0\n";

#[test]
fn a_held_pruning_is_exit_code_4_by_itself_and_in_upkeep() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    held(dir);
    let config = format!("[[store]]\nname = \"acme\"\npath = \"source\"\n{RETENTION}{PRUNED}");
    std::fs::write(dir.join("understudy.toml"), config).unwrap();
    assert!(ends(understudy(dir).args(["prune", "acme"]), 4).contains("--accept"));
    let json = ends(understudy(dir).args(["upkeep", "--json"]), 4);
    assert!(json.contains("\"duty\":\"prune\"") && json.contains("--accept"), "{json}");
}

#[test]
fn the_exit_code_of_several_failures_is_that_of_the_most_serious() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    held(dir);
    let configure = |upkeep: &str| {
        let away =
            format!("[[store]]\nname = \"away\"\npath = \"source\"\nrepository = \"s3://bucket\"\n{PRUNED}");
        let acme = format!("[[store]]\nname = \"acme\"\npath = \"source\"\n{RETENTION}{upkeep}");
        let text = format!("repository = \"{}\"\n{away}{acme}", dir.join("repository").display());
        std::fs::write(dir.join("understudy.toml"), text).unwrap();
    };
    // A store whose repository is unreachable does not keep others from their upkeep, and is less serious
    // than a hold.
    configure(PRUNED);
    let text = ends(unreachable(configured(dir).arg("upkeep")), 4);
    assert!(text.contains("away: ") && text.contains("--accept"), "{text}");
    // A damaged store is more serious.
    let packs = walkdir::WalkDir::new(dir.join("repository/acme/packs")).into_iter().flatten();
    let packs = packs.filter(|entry| entry.file_type().is_file());
    let largest = packs.max_by_key(|entry| entry.metadata().unwrap().len()).unwrap();
    std::fs::remove_file(largest.path()).unwrap();
    configure("[store.upkeep]\nprune_hours = 0\nverify_hours = 24\nverify_days = 1\ndrill_hours = 0\n");
    let text = ends(unreachable(configured(dir).arg("upkeep")), 1);
    assert!(text.contains("away: ") && text.contains("verify acme --repair"), "{text}");
}

#[test]
fn an_unreachable_repository_is_exit_code_6_of_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    let config = format!(
        "repository = \"repository\"\n[[store]]\nname = \"acme\"\npath = \"source\"\n{PRUNED}[[store]]\nname = \"away\"\npath = \"source\"\nrepository = \"s3://bucket\"\n{PRUNED}"
    );
    std::fs::write(dir.join("understudy.toml"), config).unwrap();
    let commands: [&[&str]; 13] = [
        &["resync", "away"],
        &["snapshots", "away"],
        &["diff", "away", "1"],
        &["restore", "away", "out"],
        &["follow", "away", "--once", "--standby", "standby"],
        &["mount", "away", "point", "--method", "fuse", "--foreground", "--standby", "standby"],
        &["verify", "away"],
        &["prune", "away"],
        &["pin", "away"],
        &["drill", "away"],
        &["key", "list", "away"],
        &["upkeep", "away"],
        &["upkeep"],
    ];
    std::thread::scope(|scope| {
        for command in commands {
            scope.spawn(move || ends(unreachable(configured(dir).args(command)), 6));
        }
    });
    // The state of one store does not depend on that of another either.
    ok(configured(dir).args(["resync", "acme", "--quiet"]));
    let text = ends(unreachable(configured(dir).arg("status")), 6);
    let row = |store: &str| text.lines().find(|line| line.starts_with(store)).unwrap().to_owned();
    assert!(row("away").contains("unreachable") && row("acme").contains(" ok "), "{text}");
    assert!(!text.contains("damaged"), "{text}");
}

#[test]
fn the_daemon_and_the_commands_say_the_same_of_a_repository_that_is_away() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname = \"away\"\npath = \"s0\"\nrepository = \"s3://bucket\"\n");
    let alone = ends(unreachable(&mut host.command(&["resync", "--due"])), 6);
    assert!(alone.contains("away: "), "{alone}");
    host.start_with(unreachable);
    let (status, answer) = host.ask("GET", "/api/v1/stores/away/snapshots", Some(&host.token()));
    assert_eq!(status, 503, "{answer}");
    ends(unreachable(&mut host.command(&["resync", "away"])), 6);
    wait_until("its run failed", || host.store("away")["last_error_kind"] == "unavailable");
    // The status asks the repository itself, and also shows what the daemon reports of the store.
    let text = ends(unreachable(&mut host.command(&["status"])), 6);
    assert!(text.contains("unreachable") && !text.contains("damaged"), "{text}");
}

#[test]
fn a_key_file_that_is_refused_is_exit_code_2_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    sample_tree(&dir.join("source"));
    let with_key = |path: &Path| {
        ok(host(dir, "a").args(["key", "new"]).arg(path));
        // Every user may write to the file, so it may hold another key by now.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
    };
    let default: PathBuf = dir.join("a/.config/understudy/key");
    std::fs::create_dir_all(default.parent().unwrap()).unwrap();
    with_key(&default);
    let text = ends(host(dir, "a").args(["resync", "source", "--store", "acme"]), 2);
    assert!(text.contains(default.to_str().unwrap()), "{text}");
    std::fs::remove_file(&default).unwrap();
    let named = dir.join("named");
    with_key(&named);
    let given = ["resync", "source", "--store", "acme", "--key-file", "named"];
    assert!(ends(host(dir, "a").args(given), 2).contains("named"));
}
