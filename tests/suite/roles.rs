//! Roles come from the log; and two daemons that write one store by turns are reported. Tested with the real
//! binary.

use crate::support::command::ok;
use crate::support::host::Host;
use crate::support::rig::{self, name};
use crate::support::wait::wait_until;
use object_store::ObjectStore;
use std::path::Path;
use std::sync::Arc;
use understudy::model::id::WriterId;
use understudy::model::record::Event;
use understudy::repository::append::Appended;
use understudy::repository::key_source::KeySource;
use understudy::repository::store::{Repository, RepositoryOptions, Store};

/// Returns a host with this name and the unencrypted store `acme` in a repository.
fn host(repository: &Path, writer: &str, store: &str) -> Host {
    let host = Host::new(1);
    let text = format!(
        "repository = '{}'\nwriter = '{writer}'\nencryption = 'none'\n[service]\nlisten = '127.0.0.1:{}'\nlook_seconds = 1\n\
         [[store]]\nname = 'acme'\nschedule = '0 0 1 1 *'\n{store}",
        repository.display(),
        host.port
    );
    std::fs::write(host.path("understudy.toml"), text).unwrap();
    host
}

const PRIMARY: &str = "path = 's0'\n";

/// Returns the store, opened by the library.
fn store(repository: &Path) -> Store {
    let local = object_store::local::LocalFileSystem::new_with_prefix(repository).unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::new(local);
    let options = RepositoryOptions { keys: KeySource::none(), ..Default::default() };
    Repository::over(objects, "test", options, rig::runtime()).store(&name())
}

fn promote(repository: &Path, primary: &str) {
    let store = store(repository);
    let mut state = store.log().state().unwrap();
    let primary = WriterId(primary.into());
    let event = Event::Promoted { primary: primary.clone() };
    let appended = store.log().append(&mut state, &primary, event);
    assert!(matches!(appended, Ok(Appended::Committed(_))));
}

fn snapshots(repository: &Path) -> usize {
    store(repository).log().state().map_or(0, |state| state.snapshots.len())
}

/// Resyncs by this host's daemon, if there is one.
fn resync(host: &Host) {
    ok(&mut host.command(&["resync", "acme", "--quiet"]));
}

fn status(host: &Host) -> serde_json::Value {
    let output = host.command(&["status", "--json"]).output().unwrap();
    serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()[0].clone()
}

fn has_rivals(host: &Host) -> bool {
    let metrics = host.get("/metrics").unwrap();
    let by_metrics =
        metrics.lines().any(|line| line.starts_with("understudy_rivals{") && line.ends_with(" 1"));
    let by_daemon = host.store("acme")["rivals"].is_string();
    assert_eq!(by_metrics, by_daemon);
    by_daemon
}

#[test]
fn two_daemons_of_one_name_on_one_store_are_told_and_a_restart_is_not() {
    let all = tempfile::tempdir().unwrap();
    let repository = all.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    let [mut one, mut two] = [(); 2].map(|()| host(&repository, "web", PRIMARY));
    one.start();
    wait_until("its first run", || snapshots(&repository) == 1);
    // After a restart it continues as the same host.
    one.end();
    one.start();
    resync(&one);
    resync(&one);
    assert!(!has_rivals(&one), "{}", one.log());
    assert!(status(&one)["rivals"].is_null() && !one.log().contains("take turns"));
    // Another process of that name begins; it is unknown which of the two has ended.
    two.start();
    resync(&two);
    assert!(!has_rivals(&two));
    resync(&one);
    assert!(has_rivals(&one));
    resync(&two);
    assert!(has_rivals(&two), "both are told");
    for host in [&one, &two] {
        let told = status(host)["rivals"].as_str().unwrap().to_owned();
        assert!(told.contains("both are host 'web'") && told.contains("`writer`"), "{told}");
        assert!(host.log().contains("take turns"), "{}", host.log());
    }
    let output = one.command(&["status"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("rivals"));
    // Nothing was refused, and nothing is lost.
    ok(&mut one.command(&["verify", "acme", "--read-data"]));
    // Once one of them has ended, it is no longer reported.
    two.end();
    for _ in 0..understudy::model::rivals::LOOK_BACK + 1 {
        resync(&one);
    }
    assert!(!has_rivals(&one) && status(&one)["rivals"].is_null());
}

#[test]
fn commands_beside_a_daemon_of_the_same_host_are_not_taken_for_another() {
    let all = tempfile::tempdir().unwrap();
    let repository = all.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    let mut host = host(&repository, "web", PRIMARY);
    host.start();
    wait_until("its first run", || snapshots(&repository) == 1);
    for _ in 0..3 {
        resync(&host);
        // With a named repository the command does not ask the daemon, but makes the run itself.
        let mut alone = host.command(&["resync", "acme", "--quiet", "--repository"]);
        let output = ok(alone.arg(&repository));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("take turns"));
        // A container engine's jobs are separate processes like this.
        ok(&mut host.command(&["resync", "--due", "--quiet"]));
    }
    resync(&host);
    assert_eq!(snapshots(&repository), 8);
    assert!(!has_rivals(&host) && status(&host)["rivals"].is_null(), "{}", host.log());
}

#[test]
fn a_host_that_the_log_fenced_runs_no_hook_and_may_become_a_standby() {
    let all = tempfile::tempdir().unwrap();
    let repository = all.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    let hook = "[store.hooks]\nbefore = ['touch', 'hooked']\n";
    let mut host = host(&repository, "web-1", &format!("{PRIMARY}{hook}"));
    ok(&mut host.command(&["resync", "acme", "--quiet"]));
    std::fs::remove_file(host.path("hooked")).unwrap();
    promote(&repository, "web-2");
    host.start();
    wait_until("it knows", || host.store("acme")["log_role"] == "fenced");
    let told = host.store("acme");
    assert_eq!((&told["role"], &told["fenced"]), (&"primary".into(), &true.into()), "{told}");
    assert!(told["next_run"].is_null() && host.log().contains("fenced"), "{told} {}", host.log());
    let row = status(&host);
    assert_eq!((&row["log_role"], &row["primary"]), (&"fenced".into(), &"web-2".into()));
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(!host.path("hooked").exists(), "it was not run");
    // When asked for a run, it reads the log again, and reports that it is fenced.
    assert_eq!(host.command(&["resync", "acme"]).output().unwrap().status.code(), Some(5));
    assert_eq!(snapshots(&repository), 1);
    // An operator makes it a standby.
    let text = std::fs::read_to_string(host.path("understudy.toml")).unwrap();
    let text = text.replace("name = 'acme'", "name = 'acme'\nrole = 'standby'");
    std::fs::write(host.path("understudy.toml"), text).unwrap();
    host.signal("-HUP");
    wait_until("it follows", || {
        let told = host.store("acme");
        told["log_role"] == "standby" && told["fenced"] == false && told["snapshot"] == 1
    });
}

#[test]
fn a_standby_that_the_log_names_as_the_primary_is_told() {
    let all = tempfile::tempdir().unwrap();
    let repository = all.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    let primary = host(&repository, "web-1", PRIMARY);
    ok(&mut primary.command(&["resync", "acme", "--quiet"]));
    let mut standby = host(&repository, "web-2", "role = 'standby'\n");
    standby.start();
    wait_until("it follows", || standby.store("acme")["snapshot"] == 1);
    assert_eq!(standby.store("acme")["log_role"], "standby");
    promote(&repository, "web-2");
    wait_until("it is told", || standby.store("acme")["log_role"] == "unassigned");
    assert!(standby.log().contains("no host resyncs the store"), "{}", standby.log());
    let metrics = standby.get("/metrics").unwrap();
    let is_told = |line: &str| line.starts_with("understudy_unassigned{") && line.ends_with(" 1");
    assert!(metrics.lines().any(is_told), "{metrics}");
    let output = standby.command(&["status"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("unassigned"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("role = \"primary\""));
    // The former primary is fenced.
    assert_eq!(status(&primary)["log_role"], "fenced");
}

#[test]
fn a_store_without_a_promotion_is_whose_configuration_says_so() {
    let all = tempfile::tempdir().unwrap();
    let repository = all.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    let primary = host(&repository, "web-1", PRIMARY);
    ok(&mut primary.command(&["resync", "acme", "--quiet"]));
    assert_eq!(status(&primary)["log_role"], "primary");
    let standby = host(&repository, "web-2", "role = 'standby'\n");
    assert_eq!(status(&standby)["log_role"], "standby");
    // A host is identified by its name: restored on another machine, it continues.
    let again = host(&repository, "web-1", PRIMARY);
    ok(&mut again.command(&["resync", "acme", "--quiet", "--accept"]));
    assert_eq!(snapshots(&repository), 2);
}
