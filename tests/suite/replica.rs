//! The read-only instance of a hot standby, with real daemons, mounts and services.

use crate::support::namespaces::{Lab, WebHost};
use crate::support::wait::wait_until;
use std::path::PathBuf;

/// Returns the file that is there while the instance's service runs.
fn running(host: &WebHost) -> PathBuf {
    host.dir.join("reports-run")
}

fn with_reports(host: &WebHost, text: String) -> String {
    let runs = running(host);
    let runs = runs.display();
    let replica = format!(
        "[store.replica]\npath = '/srv/reports'\naddress = '{}:8090'\n[[store.replica.service]]\nname = 'reports'\n\
         start = ['touch', '{runs}']\nstop = ['rm', '-f', '{runs}']\ncheck = ['sh', '-c', '[ -e {runs} ] || exit 3']\n",
        host.name
    );
    let text = text.replace("plan = \"standard\"", "plan = \"private\"");
    assert!(text.contains("plan = \"private\""), "{text}");
    text.replacen("[[store.edge]]", &format!("{replica}[[store.edge]]"), 1)
}

/// Returns the snapshot that a host's instance shows.
fn shown(host: &WebHost) -> Option<u64> {
    host.failover()?["replica"]["snapshot"].as_u64()
}

/// Returns whether a host has the instance's mount, and whether it is read-only.
fn mounted(host: &WebHost) -> Option<bool> {
    let output = host.run(&["mounts", "--json"]);
    let mounts: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let mount = mounts.iter().find(|mount| mount["dir"] == "/srv/reports")?;
    Some(mount["writable"].is_null())
}

#[test]
fn a_hot_standby_shows_the_newest_snapshot_until_it_takes_over() {
    let lab = Lab::serving(with_reports);
    wait_until("web-2 shows a snapshot", || shown(&lab.web[1]).is_some() && running(&lab.web[1]).exists());
    assert_eq!(mounted(&lab.web[1]), Some(true));
    assert_eq!(lab.web[1].failover().unwrap()["replica"]["address"], "web-2:8090");
    let first = shown(&lab.web[1]);
    lab.web[0].run(&["resync", "shop"]);
    wait_until("web-2 shows the next snapshot", || shown(&lab.web[1]) > first);
    // The primary has none.
    assert_eq!((shown(&lab.web[0]), mounted(&lab.web[0])), (None, None));
    assert!(!running(&lab.web[0]).exists());
    lab.web[0].run(&["switchover", "shop"]);
    lab.wait_for_primary(1);
    wait_until("the new primary has none", || {
        mounted(&lab.web[1]).is_none() && !running(&lab.web[1]).exists()
    });
    assert_eq!(shown(&lab.web[1]), None);
    wait_until("the new standby shows one", || shown(&lab.web[0]).is_some() && running(&lab.web[0]).exists());
    assert_eq!(mounted(&lab.web[0]), Some(true));
}
