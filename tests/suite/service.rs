//! The daemon: every store runs on time, requested runs begin immediately, and the figures are true.

use crate::support::command::ok;
use crate::support::facts::assert_same;
use crate::support::host::Host;
use crate::support::mount::MountPoint;
use crate::support::tree::{random, sample_tree};
use crate::support::wait::wait_until;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn a_daemon_runs_its_stores_and_a_standby_follows_them() {
    let mut host = Host::new(2);
    host.configure("[[store]]\nname='a'\npath='s0'\n[[store]]\nname='b'\npath='s1'\nplan='private'\n");
    host.start();
    // New stores are due immediately.
    for store in ["a", "b"] {
        wait_until("it has a snapshot", || host.store(store)["snapshot"] == 1);
    }
    assert_same(&host.path("s1"), &host.restored("b"), "the daemon's snapshot");
    // Another host follows the same repository.
    let mut standby = Host::new(0);
    let repository = host.path("data/understudy/repository").display().to_string();
    standby.configure(&format!("[[store]]\nname='a'\nrole='standby'\nrepository='{repository}'\n"));
    standby.start();
    wait_until("it is published", || standby.store("a")["snapshot"] == 1);
    // A run that a command asks for is made by the daemon.
    std::fs::write(host.path("s0/new"), b"new").unwrap();
    let said = ok(&mut host.command(&["resync", "a"])).stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("a@2 committed by the daemon") && said.contains("1 added"), "{said}");
    wait_until("the standby has it", || standby.store("a")["snapshot"] == 2);
    let point = MountPoint::new(&standby.path("mounted"));
    ok(standby.command(&["mount", "a", "--quiet"]).arg(&point.0));
    assert_same(&host.path("s0"), &point.0, "on the standby");
    // The table for people.
    let table = String::from_utf8(ok(&mut host.command(&["status"])).stdout).unwrap();
    assert!(table.contains("standard") && table.contains("@2") && table.contains("in "), "{table}");
    for line in table.lines().skip(1) {
        assert!(line.contains(" ok "), "{table}");
    }
    let lag = standby.store("a")["lag_seconds"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&lag), "{lag}");
}

#[test]
fn a_held_run_is_seen_everywhere_and_released() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\n");
    host.start();
    wait_until("it has a snapshot", || host.store("a")["snapshot"] == 1);
    let was = host.path("away");
    std::fs::rename(host.path("s0"), &was).unwrap();
    std::fs::create_dir(host.path("s0")).unwrap();
    let held = host.command(&["resync", "a"]).output().unwrap();
    assert_eq!(held.status.code(), Some(4), "{}", String::from_utf8_lossy(&held.stderr));
    let status = host.store("a");
    assert!(status["held"].as_str().unwrap().contains("the root is empty"), "{status}");
    assert!(host.get("/metrics").unwrap().contains("understudy_held{store=\"a\",role=\"primary\"} 1"));
    let table = host.command(&["status"]).output().unwrap();
    assert!(String::from_utf8_lossy(&table.stdout).contains("held"));
    assert_eq!(status["snapshot"], 1);
    // Without the token, the run cannot be let through.
    assert_eq!(host.ask("POST", "/api/v1/stores/a/release", None).0, 401);
    assert_eq!(host.ask("POST", "/api/v1/stores/a/release", Some("guessed-guessed-guessed")).0, 401);
    assert_eq!(host.ask("POST", "/api/v1/stores/a/release", Some(&host.token())).0, 200);
    wait_until("it was let through", || host.store("a")["snapshot"] == 2);
    assert_eq!(host.store("a")["held"], serde_json::Value::Null);
    // An operator's hold: nothing runs until it is released.
    assert_eq!(host.ask("POST", "/api/v1/stores/a/hold?reason=moving", Some(&host.token())).0, 200);
    let status = host.store("a");
    assert_eq!((status["held"].as_str(), status["next_run"].is_null()), (Some("moving"), true));
    let held = host.command(&["resync", "a"]).output().unwrap();
    assert_eq!(held.status.code(), Some(4), "{}", String::from_utf8_lossy(&held.stderr));
    assert!(String::from_utf8_lossy(&held.stderr).contains("moving"));
    host.ask("POST", "/api/v1/stores/a/release", Some(&host.token()));
    assert!(!host.store("a")["next_run"].is_null());
}

#[test]
fn many_who_ask_and_look_at_once_are_all_answered() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\n[store.hooks]\nbefore=['sleep','2']\n");
    host.start();
    let token = host.token();
    // More requests than there are threads for a repository's reads and writes.
    std::thread::scope(|scope| {
        let (host, token) = (&host, &token);
        for number in 0..60 {
            scope.spawn(move || {
                if number % 2 == 0 {
                    let events = host.ask("POST", "/api/v1/stores/a/resync", Some(token)).1;
                    assert!(events.contains("event: done"), "{events}");
                } else {
                    assert_eq!(host.ask("GET", "/api/v1/stores/a/snapshots", Some(token)).0, 200);
                }
            });
        }
    });
}

#[test]
fn two_who_ask_at_once_get_one_run() {
    let mut host = Host::new(1);
    // A run that takes some time.
    host.configure("[[store]]\nname='a'\npath='s0'\n[store.hooks]\nbefore=['sleep','1']\n");
    host.start();
    let token = host.token();
    let both: Vec<String> = std::thread::scope(|scope| {
        let ask = || host.ask("POST", "/api/v1/stores/a/resync", Some(&token)).1;
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for events in &both {
        assert!(events.contains("event: done") && events.contains("\"snapshot\":1"), "{events}");
    }
    assert_eq!(host.store("a")["totals"]["runs_done"], 1);
}

#[test]
fn a_failing_store_blocks_no_other_and_a_wrong_configuration_changes_nothing() {
    let mut host = Host::new(1);
    let good = "[[store]]\nname='a'\npath='s0'\n[[store]]\nname='broken'\npath='nowhere'\n";
    host.configure(good);
    host.start();
    wait_until("the one has a snapshot", || host.store("a")["snapshot"] == 1);
    wait_until("the other failed", || host.store("broken")["failures"] == 1);
    let status = host.store("broken");
    assert!(status["last_error"].as_str().unwrap().contains("nowhere"), "{status}");
    assert!(
        host.get("/metrics")
            .unwrap()
            .contains("understudy_consecutive_failures{store=\"broken\",role=\"primary\"} 1")
    );
    // Reload with a wrong configuration, then with a right one.
    host.configure("[[store]]\nname='a'\npaht='s0'\n");
    host.signal("-HUP");
    wait_until("it says so", || host.log().contains("keeping the previous one"));
    assert!(host.log().contains("did you mean `path`?"), "{}", host.log());
    assert_eq!(host.store("a")["snapshot"], 1);
    sample_tree(&host.path("later"));
    host.configure("[[store]]\nname='a'\npath='s0'\n[[store]]\nname='later'\npath='later'\n");
    host.signal("-HUP");
    wait_until("the new store has a snapshot", || {
        host.get("/api/v1/stores/later").is_some_and(|text| text.contains("\"snapshot\":1"))
    });
    assert_eq!(host.ask("GET", "/api/v1/stores/broken", Some(&host.token())).0, 404);
    // The daemon ends when asked to.
    host.signal("-TERM");
    let status = host.daemon.take().unwrap().wait().unwrap();
    assert!(status.success(), "{}", host.log());
}

#[test]
fn a_run_that_is_stopped_loses_nothing_of_what_it_shipped() {
    let mut host = Host::new(1);
    for number in 0..40u8 {
        std::fs::write(host.path(&format!("s0/large-{number}")), random(&[number], 6 << 20)).unwrap();
    }
    // Slow enough to be stopped in the middle.
    host.configure("[limits]\nbandwidth='60MiB'\n[[store]]\nname='a'\npath='s0'\n");
    host.start();
    wait_until("it ships", || {
        host.store("a")
            .pointer("/progress/shipped_bytes")
            .and_then(|b| b.as_u64())
            .is_some_and(|b| b > 60 << 20)
    });
    host.signal("-TERM");
    assert!(host.daemon.take().unwrap().wait().unwrap().success());
    assert!(host.log().contains("stopped before the commit"), "{}", host.log());
    let again = ok(&mut host.command(&["resync", "a", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    let (sent, all) = (report["shipped_bytes"].as_u64().unwrap(), 240u64 << 20);
    assert_eq!(report["snapshot"], 1);
    assert!(sent < all - (50 << 20), "{sent} of {all} shipped by the second run");
    assert_same(&host.path("s0"), &host.restored("a"), "stopped and gone on");
}

#[test]
fn a_continuous_store_is_resynced_seconds_after_a_change() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\nplan='continuous'\n");
    host.start();
    wait_until("it has a snapshot", || host.store("a")["snapshot"] == 1);
    // Nothing changed, so nothing is due before the hour; the first run's own changes do not count.
    for number in 0..3 {
        let before = host.store("a")["snapshot"].as_u64().unwrap();
        std::fs::create_dir_all(host.path(&format!("s0/new/{number}/below"))).unwrap();
        std::fs::write(host.path(&format!("s0/new/{number}/below/file")), number.to_string()).unwrap();
        let begun = Instant::now();
        wait_until("the change is there", || host.store("a")["snapshot"].as_u64() > Some(before));
        assert!(begun.elapsed() > Duration::from_secs(3), "debounced");
        assert_same(&host.path("s0"), &host.restored("a"), "after the change");
    }
    let report = &host.store("a")["last_report"];
    assert!(report["changes"]["unchanged"].as_u64() > Some(40), "{report}");
}

#[test]
fn a_continuous_store_is_due_when_its_daemon_starts_and_when_it_is_released() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\nplan='continuous'\n");
    host.start();
    wait_until("it has a snapshot", || host.store("a")["snapshot"] == 1);
    host.end();
    std::fs::write(host.path("s0/a/b/f1"), b"while it was down").unwrap();
    host.start();
    wait_until("it is resynced", || host.store("a")["snapshot"] == 2);
    std::fs::write(host.path("s0/a/b/f2"), b"and seconds after it is changed").unwrap();
    wait_until("it is watched", || host.store("a")["snapshot"] == 3);
    // Changes that were reported during an operator's hold are not forgotten.
    let token = host.token();
    assert_eq!(host.ask("POST", "/api/v1/stores/a/hold", Some(&token)).0, 200);
    std::fs::write(host.path("s0/a/b/f3"), b"while it was held").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(host.ask("POST", "/api/v1/stores/a/release", Some(&token)).0, 200);
    wait_until("it is resynced", || host.store("a")["snapshot"] == 4);
    assert_same(&host.path("s0"), &host.restored("a"), "after the release");
}

#[test]
fn a_token_that_is_none_keeps_no_store_from_running() {
    // A daemon that was killed while it created the token left this file.
    let mut host = Host::new(1);
    let path = host.path("state/understudy/token");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, b"").unwrap();
    host.configure("[[store]]\nname='a'\npath='s0'\n");
    host.start();
    assert!(host.token().len() >= 32);
    assert_eq!(host.ask("POST", "/api/v1/stores/a/resync", Some(&host.token())).0, 200);
    host.end();
    // A user's own file is left as it is, and reported.
    std::fs::write(&path, b"short").unwrap();
    std::fs::write(host.path("s0/new"), b"new").unwrap();
    host.configure("[[store]]\nname='b'\npath='s0'\n");
    host.start();
    wait_until("the store runs", || host.store("b")["snapshot"] == 1);
    assert!(host.log().contains("the token is too short: use at least 16 characters"), "{}", host.log());
    let (status, said) = host.ask("POST", "/api/v1/stores/b/resync", Some("short"));
    assert!(status == 503 && !said.contains(path.to_str().unwrap()), "{status} {said}");
    // Once it is valid, it is used without a restart.
    std::fs::write(&path, b"0123456789abcdef0123").unwrap();
    assert_eq!(host.ask("POST", "/api/v1/stores/b/resync", Some("0123456789abcdef0123")).0, 200);
    assert_eq!(host.ask("POST", "/api/v1/stores/b/resync", Some("short")).0, 401);
}

#[test]
fn what_is_due_is_run_once_and_then_nothing_is() {
    let host = Host::new(3);
    let stores: String =
        (0..3).map(|n| format!("[[store]]\nname='s{n}'\npath='s{n}'\nschedule='0 0 1 1 *'\n")).collect();
    host.configure(&(stores.clone() + "[[store]]\nname='broken'\npath='nowhere'\n"));
    let first = host.command(&["resync", "--due"]).output().unwrap();
    assert_eq!(first.status.code(), Some(1), "one of them fails");
    let said = String::from_utf8_lossy(&first.stdout).into_owned();
    for store in ["s0@1", "s1@1", "s2@1"] {
        assert!(said.contains(&format!("{store} committed")), "{said}");
    }
    assert!(String::from_utf8_lossy(&first.stderr).contains("broken: "));
    host.configure(&stores);
    let second = ok(&mut host.command(&["resync", "--due"]));
    assert_eq!(String::from_utf8_lossy(&second.stdout), "nothing is due\n");
}

fn python(code: &str, argument: &str) -> String {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/venv/bin/python");
    let output = Command::new(python).args(["-c", code, argument]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_figures_are_what_prometheus_reads() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\n");
    host.start();
    wait_until("it has a snapshot", || host.store("a")["snapshot"] == 1);
    // Uses Prometheus' own parser, and promtool's checks of names: units, `_total` for counters only, help
    // for all.
    let said = python(
        r#"
import sys, urllib.request
from prometheus_client.parser import text_string_to_metric_families as parse
text = urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode()
families = list(parse(text))
assert len({f.name for f in families}) == len(families), "each once"
for family in families:
    assert family.name.startswith("understudy_") and family.documentation, family
    assert family.type in ("gauge", "counter"), family
    for sample in family.samples:
        assert sample.name.endswith("_total") == (family.type == "counter"), sample
    assert not any(word in family.name for word in ("_ms", "_minutes", "_kb", "_mb")), family
lag = next(f for f in families if f.name == "understudy_lag_seconds").samples
print(len(families), lag[0].labels["store"], lag[0].value < 60)
"#,
        &host.port.to_string(),
    );
    assert!(said.trim().ends_with("a True"), "{said}");
}

#[test]
fn the_api_does_what_its_description_says() {
    let mut host = Host::new(1);
    host.configure("[[store]]\nname='a'\npath='s0'\n");
    host.start();
    wait_until("it has a snapshot", || host.store("a")["snapshot"] == 1);
    std::fs::write(host.path("s0/new"), b"new").unwrap();
    ok(&mut host.command(&["resync", "a", "--quiet"]));
    let changes = host.get("/api/v1/stores/a/changes?from=1").unwrap();
    let changes: serde_json::Value = serde_json::from_str(&changes).unwrap();
    assert_eq!(changes["counts"]["added"], 1, "{changes}");
    let schemathesis = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/venv/bin/schemathesis");
    let output = Command::new(schemathesis)
        .args(["run", "--max-examples", "25", "--seed", "7", "--header"])
        .arg(format!("Authorization: Bearer {}", host.token()))
        .arg(format!("http://127.0.0.1:{}/api/v1/openapi.json", host.port))
        .current_dir(host.dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", host.log());
    assert!(host.get("/healthz").is_some());
}

/// Returns the command lines in `schedules/`, as `program: arguments`.
fn command_lines() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("schedules");
    let told = python(
        r#"
import configparser, pathlib, sys, yaml
root = pathlib.Path(sys.argv[1])
def confined(image, path):
    name, _, tag = image.partition(":")
    assert tag and tag != "latest", path
def strict(path):
    return list(yaml.safe_load_all(path.read_text()))
for path in sorted(root.glob("kubernetes/*.yaml")):
    for document in strict(path):
        spec = document["spec"]
        assert document["apiVersion"] and document["metadata"]["name"], path
        if document["kind"] == "CronJob":
            print("schedule", spec["schedule"])
            assert spec["concurrencyPolicy"] == "Forbid", path
            spec = spec["jobTemplate"]["spec"]
        else:
            assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items(), path
        pod = spec["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False, path
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, path
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounted = [{mount["name"] for mount in container["volumeMounts"]} for container in pod["containers"]]
        assert set().union(*mounted) == volumes, path
        for container in pod["containers"]:
            confined(container["image"], path)
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and context["allowPrivilegeEscalation"] is False, path
            assert context["capabilities"]["drop"] == ["ALL"], path
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("livenessProbe", "readinessProbe"):
                assert container.get(probe, {}).get("httpGet", {}).get("port", "http") in ports | {"http"}, path
            print("command", *container["args"])
for path, document in ((path, document) for path in sorted(root.glob("compose*.yaml")) for document in strict(path)):
    named, used = set(document["volumes"]), set()
    for service in document["services"].values():
        confined(service["image"], path)
        assert service["read_only"] and service["cap_drop"] == ["ALL"], service
        assert service["security_opt"] == ["no-new-privileges:true"], service
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source[0] in "./" or source in named, volume
            used.add(source)
        print("command", *service["command"])
    assert named <= used, path
for path in sorted(root.glob("systemd/*")):
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string(path.read_text())
    assert unit["Unit"]["Description"], path
    if path.suffix == ".service":
        program, *arguments = unit["Service"]["ExecStart"].split()
        assert program == "/usr/local/bin/understudy", path
        print("command", *[argument.replace("%i", "acme") for argument in arguments])
    else:
        assert (root / "systemd" / (path.stem + ".service")).exists(), path
"#,
        root.to_str().unwrap(),
    );
    told.lines().map(str::to_owned).collect()
}

#[test]
fn what_schedules_has_for_engines_is_what_this_program_takes() {
    let host = Host::new(0);
    let lines = command_lines();
    assert_eq!(lines.len(), 15, "{lines:?}");
    for line in lines {
        let (what, rest) = line.split_once(' ').unwrap();
        if what == "schedule" {
            understudy::service::schedule::Schedule::parse(rest).unwrap();
            continue;
        }
        // Without the configuration that it names, a valid command line fails with exactly this error.
        let args: Vec<_> = rest.split(' ').collect();
        let output = host.command(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("/etc/understudy/understudy.toml: No such file"), "{rest}: {said}");
    }
}

/// Many stores under constant change, with a daemon that is killed repeatedly; at the end every standby has
/// what its source has.
fn survives(stores: usize, seconds: u64) {
    let mut host = Host::new(0);
    let mut text = String::from("stores_at_once = 4\n");
    for number in 0..stores {
        let root = host.path(&format!("s{number}"));
        std::fs::create_dir_all(root.join("d")).unwrap();
        for file in 0..5 {
            std::fs::write(root.join(format!("d/{file}")), format!("{number} {file}")).unwrap();
        }
        text += &format!("[[store]]\nname='s{number}'\npath='s{number}'\nschedule='* * * * *'\n");
    }
    host.configure(&text);
    let mut standby = Host::new(0);
    let repository = host.path("data/understudy/repository").display().to_string();
    let followed: String = (0..stores)
        .map(|n| format!("[[store]]\nname='s{n}'\nrole='standby'\nrepository='{repository}'\n"))
        .collect();
    standby.configure(&(String::from("stores_at_once = 4\n") + &followed));
    let begun = Instant::now();
    let mut round = 0;
    let mut peaks = Vec::new();
    while begun.elapsed() < Duration::from_secs(seconds) {
        host.start();
        standby.start();
        round += 1;
        let until = Instant::now() + Duration::from_secs(3 + round % 4);
        while Instant::now() < until {
            let number = crate::support::rig::nonce() as usize % stores;
            let file = host.path(&format!("s{number}/d/{}", crate::support::rig::nonce() % 8));
            std::fs::write(file, crate::support::rig::nonce().to_string()).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        peaks.push(resources(host.daemon.as_ref().unwrap().id()));
        for daemon in [&mut host.daemon, &mut standby.daemon] {
            let mut daemon = daemon.take().unwrap();
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }
    println!("{stores} stores, {round} kills, memory (MiB) and open files: {peaks:?}");
    // Without further changes: one more run of each.
    host.start();
    for number in 0..stores {
        ok(&mut host.command(&["resync", &format!("s{number}"), "--quiet"]));
    }
    standby.start();
    let name = |number: usize| format!("s{number}");
    for number in 0..stores {
        let wanted = host.store(&name(number))["snapshot"].clone();
        wait_until("the standby has it", || standby.store(&name(number))["snapshot"] == wanted);
        let point = MountPoint::new(&standby.path("mounted"));
        ok(standby.command(&["mount", &name(number), "--quiet", "--method", "kernel"]).arg(&point.0));
        assert_same(&host.path(&name(number)), &point.0, &name(number));
    }
    let (memory, files) = resources(host.daemon.as_ref().unwrap().id());
    assert!(memory < 300 && files < 200, "{memory} MiB, {files} open files");
}

/// Returns a process's memory in MiB, and its number of open files.
fn resources(id: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10;
    (memory, std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count())
}

#[test]
fn a_daemon_that_is_killed_again_and_again_brings_every_store_over() {
    survives(12, 12);
}

/// `cargo nextest run --run-ignored only two_hundred` takes about four minutes.
#[test]
#[ignore = "four minutes"]
fn two_hundred_stores_survive_two_minutes_of_kills() {
    survives(200, 120);
}
