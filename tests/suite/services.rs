//! A store's services: the order in which they start and stop, and what is said of one that does not.

use crate::support::stand_in::{again_with_path, calls, install};
use std::path::{Path, PathBuf};
use understudy::failover::services::attend::{Manner, Services};
use understudy::failover::services::kind::Standing;
use understudy::failover::services::order::Part;
use understudy::failover::services::settings::ServiceSettings;
use understudy::model::id::StoreName;
use understudy::support::env::Env;

/// Services as a configuration says them.
struct Shop {
    list: Vec<ServiceSettings>,
    store: StoreName,
    env: Env,
}

impl Shop {
    fn new(text: &str) -> Self {
        let text = format!("[[store]]\nname = 'acme'\npath = '/srv/acme'\n{text}");
        let path = Path::new("/etc/understudy.toml");
        let config = understudy::service::config::Config::parse(&text, path).unwrap();
        let store = &config.store[0];
        Self { list: store.service.clone(), store: store.name.clone(), env: Env::system() }
    }

    fn services(&self) -> Services<'_> {
        let this = Path::new(env!("CARGO_BIN_EXE_understudy"));
        Services { store: &self.store, list: &self.list, this, env: &self.env, stop: &|| false }
    }

    fn start(&self, part: Part) -> Result<(), String> {
        self.services().start(part).map_err(|error| error.to_string())
    }

    fn stop(&self, part: Part, manner: Manner) -> Vec<String> {
        self.services().stop(part, manner).iter().map(ToString::to_string).collect()
    }

    fn standings(&self) -> Vec<Standing> {
        self.services().standings().into_iter().map(|(_, standing)| standing).collect()
    }
}

/// Ends what a test started, also when it fails.
struct Units(PathBuf);

impl Units {
    fn new(dir: &Path, units: &[(&str, &str)]) -> Self {
        install(dir, "systemctl");
        for (name, command) in units {
            std::fs::write(dir.join("units").join(name), command).unwrap();
        }
        Self(dir.to_owned())
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.0.join("units")).unwrap().map(Result::unwrap) {
            if entry.path().extension().is_some_and(|extension| extension == "pid") {
                let pid = std::fs::read_to_string(entry.path()).unwrap();
                // The stand-in makes each unit a session, and so a group.
                let _ = std::process::Command::new("kill").args(["-KILL", "--", &format!("-{pid}")]).output();
            }
        }
    }
}

const RUNS: &str = "sleep 600";
const DEAF: &str = "trap '' TERM; while :; do sleep 600; done";

#[test]
fn services_start_in_order_and_stop_in_reverse_and_the_last_ones_apart() {
    let Some(dir) =
        again_with_path("services::services_start_in_order_and_stop_in_reverse_and_the_last_ones_apart")
    else {
        return;
    };
    let units = ["redis.service", "php.service", "web.service", "cron.timer", "cron.service"];
    let _units = Units::new(&dir, &units.map(|unit| (unit, RUNS)));
    let shop = Shop::new(
        "[[store.service]]\nname = 'cron'\nsystemd = ['cron.timer']\nlast = true\n\
         [[store.service]]\nname = 'cache'\nsystemd = ['redis.service']\n\
         [[store.service]]\nname = 'app'\nsystemd = ['php.service', 'web.service']\n",
    );
    shop.start(Part::Serving).unwrap();
    assert_eq!(shop.standings(), [Standing::Stopped, Standing::Running, Standing::Running]);
    shop.start(Part::Last).unwrap();
    assert_eq!(shop.standings(), [Standing::Running, Standing::Running, Standing::Running]);
    assert_eq!(shop.stop(Part::Last, Manner::Orderly), [""; 0]);
    assert_eq!(shop.stop(Part::Serving, Manner::Orderly), [""; 0]);
    assert_eq!(shop.standings(), [Standing::Stopped, Standing::Stopped, Standing::Stopped]);
    assert_eq!(
        calls(&dir, "show"),
        [
            "start -- redis.service",
            "start -- php.service web.service",
            "start -- cron.timer",
            "stop -- cron.timer cron.service",
            "stop -- php.service web.service",
            "stop -- redis.service",
        ]
    );
}

#[test]
fn a_service_that_does_not_stop_is_named_and_the_others_stop_all_the_same() {
    let Some(dir) =
        again_with_path("services::a_service_that_does_not_stop_is_named_and_the_others_stop_all_the_same")
    else {
        return;
    };
    let _units = Units::new(&dir, &[("a.service", RUNS), ("deaf.service", DEAF), ("b.service", RUNS)]);
    let shop = Shop::new(
        "[[store.service]]\nname = 'first'\nsystemd = ['a.service']\n\
         [[store.service]]\nname = 'deaf'\nsystemd = ['deaf.service']\ntimeout_seconds = 2\n\
         [[store.service]]\nname = 'third'\nsystemd = ['b.service']\n",
    );
    shop.start(Part::Serving).unwrap();
    let failed = shop.stop(Part::Serving, Manner::Orderly);
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].starts_with("service 'deaf' is not confirmed as stopped"), "{failed:?}");
    assert_eq!(shop.standings()[0], Standing::Stopped);
    assert_eq!(shop.standings()[2], Standing::Stopped);
    // By force it ends.
    assert_eq!(shop.stop(Part::Serving, Manner::Forced), [""; 0]);
    assert_eq!(shop.standings()[1], Standing::Stopped);
}

#[test]
fn a_unit_that_leaves_processes_behind_has_not_stopped() {
    let Some(dir) = again_with_path("services::a_unit_that_leaves_processes_behind_has_not_stopped") else {
        return;
    };
    let _units = Units::new(&dir, &[("a.service", "sleep 600 & sleep 600 & wait")]);
    std::fs::write(dir.join("units/a.service.leaves"), "").unwrap();
    let shop = Shop::new("[[store.service]]\nname = 'a'\nsystemd = ['a.service']\ntimeout_seconds = 2\n");
    shop.start(Part::Serving).unwrap();
    let failed = shop.stop(Part::Serving, Manner::Orderly);
    assert!(failed[0].contains("a.service left 2 processes"), "{failed:?}");
    assert_eq!(shop.stop(Part::Serving, Manner::Forced), [""; 0]);
}

#[test]
fn a_service_that_does_not_start_is_named_and_none_after_it_starts() {
    let Some(dir) =
        again_with_path("services::a_service_that_does_not_start_is_named_and_none_after_it_starts")
    else {
        return;
    };
    let _units = Units::new(&dir, &[("a.service", "exit 1"), ("b.service", RUNS)]);
    let shop = Shop::new(
        "[[store.service]]\nname = 'broken'\nsystemd = ['a.service']\n\
         [[store.service]]\nname = 'next'\nsystemd = ['b.service']\n",
    );
    let failed = shop.start(Part::Serving).unwrap_err();
    assert!(failed.starts_with("service 'broken' was not started") && failed.contains("failed"), "{failed}");
    assert_eq!(calls(&dir, "show"), ["start -- a.service"]);
    // A unit that is not there is no unit that has stopped.
    std::fs::remove_file(dir.join("units/b.service")).unwrap();
    assert!(matches!(&shop.standings()[1], Standing::Unclear(how) if how.contains("no unit b.service")));
}

#[test]
fn a_workload_of_kubernetes_stops_with_its_last_pod() {
    let Some(dir) = again_with_path("services::a_workload_of_kubernetes_stops_with_its_last_pod") else {
        return;
    };
    install(&dir, "kubectl");
    let shop = Shop::new(
        "[[store.service]]\nname = 'shop'\nkubernetes = 'deployment/shop'\nnamespace = 'live'\nreplicas = 2\n\
         timeout_seconds = 1\n",
    );
    shop.start(Part::Serving).unwrap();
    assert_eq!(shop.standings(), [Standing::Running]);
    assert_eq!(shop.stop(Part::Serving, Manner::Orderly), [""; 0]);
    let made = calls(&dir, "get");
    assert_eq!(
        made,
        [
            "--namespace live scale --replicas=2 deployment/shop",
            "--namespace live scale --replicas=0 deployment/shop",
        ]
    );
    let asked = calls(&dir, "scale");
    assert!(asked[0].starts_with("--namespace live get pods --selector=app=shop,tier=web"), "{asked:?}");
    // A pod on a node that does not answer stays.
    std::fs::write(dir.join("pods"), "stuck Unknown\n").unwrap();
    let failed = shop.stop(Part::Serving, Manner::Forced);
    assert!(failed[0].contains("'shop'") && failed[0].contains("0 of 1 pods"), "{failed:?}");
}

#[test]
fn a_project_of_compose_starts_and_stops() {
    let Some(dir) = again_with_path("services::a_project_of_compose_starts_and_stops") else { return };
    install(&dir, "docker");
    let shop = Shop::new("[[store.service]]\nname = 'shop'\ncompose = 'shop/compose.yaml'\n");
    shop.start(Part::Serving).unwrap();
    assert_eq!(shop.standings(), [Standing::Running]);
    assert_eq!(shop.stop(Part::Serving, Manner::Forced), [""; 0]);
    assert_eq!(shop.standings(), [Standing::Stopped]);
    assert_eq!(
        calls(&dir, "ps --quiet"),
        [
            "compose --file /etc/shop/compose.yaml up --detach --wait",
            "compose --file /etc/shop/compose.yaml kill",
            "compose --file /etc/shop/compose.yaml stop",
        ]
    );
}

#[test]
fn a_stop_is_done_only_when_a_check_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let shop = |check: &str| {
        Shop::new(&format!(
            "[[store.service]]\nname = 'own'\nstart = ['true']\nstop = ['sh', '-c', 'echo $UNDERSTUDY_STORE > {}']\n\
             check = ['sh', '-c', '{check}']\ntimeout_seconds = 1\n",
            dir.path().join("stopped").display()
        ))
    };
    assert_eq!(shop("exit 3").stop(Part::Serving, Manner::Orderly), [""; 0]);
    assert_eq!(std::fs::read_to_string(dir.path().join("stopped")).unwrap(), "acme\n");
    for (check, how) in [
        ("exit 0", "it still runs"),
        ("echo no idea >&2; exit 1", "no idea"),
        ("exec no-such-program", "127"),
        ("sleep 600", "took longer than"),
    ] {
        let failed = shop(check).stop(Part::Serving, Manner::Orderly);
        assert!(failed.len() == 1 && failed[0].contains("'own'") && failed[0].contains(how), "{failed:?}");
    }
}
