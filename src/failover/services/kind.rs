//! What manages a service: the commands that start, stop and kill it, and the questions whose answers say
//! whether it runs. Pure.
//!
//! An answer counts only where it is certain. A question that fails, a unit that does not exist and a pod
//! whose node is silent do not prove that a service has stopped: they are [`Standing::Unclear`].

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The exit code of a check that says that the service does not run, as `systemctl status` and init scripts
/// use it. A check that fails, or that does not exist, mostly ends with others.
const NOT_RUNNING: i32 = 3;
/// Number of tasks that systemd prints where it counts none.
const TASKS_UNSET: u64 = u64::MAX;

/// The state of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// All of it runs.
    Running,
    /// None of it runs.
    Stopped,
    /// It is partly there, on its way, or cannot be asked; with the reason.
    Unclear(String),
}

/// What is done to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Start,
    Stop,
    /// Stops at once, without asking the service.
    Kill,
}

/// The manager of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Systemd { units: Vec<String> },
    Compose { file: PathBuf },
    Kubernetes(Workload),
    Commands { start: Vec<String>, stop: Vec<String>, check: Vec<String> },
}

/// A workload of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workload {
    /// `deployment` or `statefulset`.
    resource: &'static str,
    name: String,
    namespace: String,
    replicas: u32,
}

impl Workload {
    pub(crate) fn parse(text: &str, namespace: &str, replicas: u32) -> Option<Self> {
        let (resource, name) = text.split_once('/')?;
        let resource = ["deployment", "statefulset"].into_iter().find(|known| *known == resource)?;
        let is_label = |text: &str| {
            text.len() <= 253
                && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && text
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
        };
        (is_label(name) && is_label(namespace) && replicas > 0).then(|| Self {
            resource,
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            replicas,
        })
    }

    fn scale(&self, replicas: u32) -> Vec<String> {
        words(&["kubectl", "--namespace", &self.namespace, "scale", &format!("--replicas={replicas}")])
            .chain([format!("{}/{}", self.resource, self.name)])
            .collect()
    }
}

fn words<'a>(list: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    list.iter().map(|word| (*word).to_owned())
}

/// An answer to a question.
pub(crate) struct Answer<'a> {
    /// Exit code; none when a signal ended the program.
    pub code: Option<i32>,
    pub printed: &'a [u8],
    /// Standard error as it ends a message.
    pub said: &'a str,
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Is(Standing),
    /// Another question has to be asked; the answer to it is given to [`Kind::judge_pods`].
    Ask(Vec<String>),
}

impl Kind {
    /// Returns the commands that carry out an action, in their order.
    pub(crate) fn commands(&self, action: Action) -> Vec<Vec<String>> {
        let systemctl = |rest: &[&str], units: Vec<String>| {
            words(&["systemctl"]).chain(words(rest)).chain(units).collect::<Vec<_>>()
        };
        match (self, action) {
            (Self::Systemd { units }, Action::Start) => vec![systemctl(&["start", "--"], units.clone())],
            (Self::Systemd { .. }, Action::Stop) => vec![systemctl(&["stop", "--"], self.units())],
            // The stop goes first: it keeps systemd from starting again what the signal ends.
            (Self::Systemd { .. }, Action::Kill) => vec![
                systemctl(&["stop", "--no-block", "--"], self.units()),
                systemctl(&["kill", "--signal=SIGKILL", "--"], self.units()),
            ],
            (Self::Compose { .. }, Action::Start) => vec![self.compose(&["up", "--detach", "--wait"])],
            (Self::Compose { .. }, Action::Stop) => vec![self.compose(&["stop"])],
            (Self::Compose { .. }, Action::Kill) => vec![self.compose(&["kill"]), self.compose(&["stop"])],
            (Self::Kubernetes(workload), Action::Start) => vec![workload.scale(workload.replicas)],
            (Self::Kubernetes(workload), Action::Stop | Action::Kill) => vec![workload.scale(0)],
            (Self::Commands { start, .. }, Action::Start) => vec![start.clone()],
            (Self::Commands { stop, .. }, Action::Stop | Action::Kill) => vec![stop.clone()],
        }
    }

    /// Returns the question whose answer says whether the service runs.
    pub(crate) fn question(&self) -> Vec<String> {
        match self {
            Self::Systemd { .. } => {
                let what = "--property=Id,LoadState,ActiveState,TasksCurrent";
                words(&["systemctl", "show", what, "--"]).chain(self.units()).collect()
            }
            Self::Compose { .. } => self.compose(&["ps", "--quiet"]),
            Self::Kubernetes(workload) => {
                let Workload { resource, name, namespace, .. } = workload;
                let path = format!("/apis/apps/v1/namespaces/{namespace}/{resource}s/{name}/scale");
                words(&["kubectl", "get", "--raw", &path]).collect()
            }
            Self::Commands { check, .. } => check.clone(),
        }
    }

    /// Returns what follows from the answer to the question.
    pub(crate) fn judge(&self, answer: &Answer) -> Finding {
        if let Self::Commands { .. } = self {
            return Finding::Is(match answer.code {
                Some(0) => Standing::Running,
                Some(NOT_RUNNING) => Standing::Stopped,
                _ => Standing::Unclear(format!(
                    "its check ended with {} (0 says that it runs, {NOT_RUNNING} that it does not){}",
                    how_it_ended(answer.code),
                    answer.said
                )),
            });
        }
        if answer.code != Some(0) {
            return Finding::Is(unanswered(answer));
        }
        let text = String::from_utf8_lossy(answer.printed);
        match self {
            Self::Systemd { units } => Finding::Is(judge_units(units, &self.units(), &text)),
            Self::Compose { .. } if text.trim().is_empty() => Finding::Is(Standing::Stopped),
            Self::Kubernetes(workload) => judge_scale(workload, &text),
            _ => Finding::Is(Standing::Running),
        }
    }

    /// Returns what follows from the list of the workload's pods.
    pub(crate) fn judge_pods(&self, answer: &Answer) -> Standing {
        let Self::Kubernetes(workload) = self else {
            return Standing::Unclear("it has no pods".into());
        };
        if answer.code != Some(0) {
            return unanswered(answer);
        }
        let text = String::from_utf8_lossy(answer.printed);
        let pods: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let ready = pods.iter().filter(|line| line.split_whitespace().nth(1) == Some("True")).count();
        match pods.len() {
            0 => Standing::Stopped,
            count if ready == count && ready >= workload.replicas as usize => Standing::Running,
            count => Standing::Unclear(format!("{ready} of {count} pods are ready")),
        }
    }

    fn compose(&self, rest: &[&str]) -> Vec<String> {
        let Self::Compose { file } = self else { return Vec::new() };
        words(&["docker", "compose", "--file"])
            .chain([file.display().to_string()])
            .chain(words(rest))
            .collect()
    }

    /// Returns the units that have to be stopped: also what a timer, a socket or a path starts by itself.
    fn units(&self) -> Vec<String> {
        let Self::Systemd { units } = self else { return Vec::new() };
        let mut all = units.clone();
        for unit in units {
            if let Some((name, "timer" | "socket" | "path")) = unit.rsplit_once('.') {
                let started = format!("{name}.service");
                if !all.contains(&started) {
                    all.push(started);
                }
            }
        }
        all
    }
}

fn how_it_ended(code: Option<i32>) -> String {
    code.map_or_else(|| "a signal".to_owned(), |code| code.to_string())
}

fn unanswered(answer: &Answer) -> Standing {
    Standing::Unclear(format!("asking for it ended with {}{}", how_it_ended(answer.code), answer.said))
}

/// Judges the properties of `all` units. The service runs once the `named` ones are active; what they start by
/// themselves need not be.
fn judge_units(named: &[String], all: &[String], text: &str) -> Standing {
    let blocks: Vec<_> = text.split("\n\n").filter(|block| !block.trim().is_empty()).collect();
    if blocks.len() != all.len() {
        return Standing::Unclear(format!("systemd told of {} units, not of {}", blocks.len(), all.len()));
    }
    let (mut active, mut stopped, mut between) = (0, 0, None);
    for (unit, block) in all.iter().zip(blocks) {
        let property = |name: &str| {
            let line = block.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default()
        };
        let tasks = property("TasksCurrent").parse().ok().filter(|tasks| *tasks != TASKS_UNSET).unwrap_or(0);
        match (property("LoadState"), property("ActiveState")) {
            ("not-found" | "", _) => return Standing::Unclear(format!("there is no unit {unit}")),
            (_, "active") => active += usize::from(named.contains(unit)),
            (_, "inactive" | "failed") if tasks == 0 => stopped += 1,
            (_, "inactive" | "failed") => between = Some(format!("{unit} left {tasks} processes")),
            (_, state) => between = Some(format!("{unit} is {state}")),
        }
    }
    match between {
        // What a timer has just started does not say that the timer is not there.
        _ if active == named.len() => Standing::Running,
        Some(how) => Standing::Unclear(how),
        None if stopped == all.len() => Standing::Stopped,
        None => Standing::Unclear(format!("{active} of {} units are active", named.len())),
    }
}

fn judge_scale(workload: &Workload, text: &str) -> Finding {
    #[derive(Deserialize)]
    struct Scale {
        spec: Spec,
        status: Status,
    }
    #[derive(Deserialize)]
    struct Spec {
        #[serde(default)]
        replicas: u32,
    }
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        selector: String,
    }
    let scale: Scale = match serde_json::from_str(text) {
        Ok(scale) => scale,
        Err(error) => return Finding::Is(Standing::Unclear(format!("kubectl's answer: {error}"))),
    };
    if scale.status.selector.is_empty() {
        // Without one the next question would be about all pods.
        return Finding::Is(Standing::Unclear("the workload has no selector of its pods".into()));
    }
    if scale.spec.replicas != 0 && scale.spec.replicas < workload.replicas {
        let (is, wanted) = (scale.spec.replicas, workload.replicas);
        return Finding::Is(Standing::Unclear(format!("it is scaled to {is} replicas, not to {wanted}")));
    }
    let each =
        r#"{range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
    Finding::Ask(
        words(&[
            "kubectl",
            "--namespace",
            &workload.namespace,
            "get",
            "pods",
            &format!("--selector={}", scale.status.selector),
            // Pods that ended stay in the list, evicted ones for example.
            "--field-selector=status.phase!=Succeeded,status.phase!=Failed",
            &format!("--output=jsonpath={each}"),
        ])
        .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(code: i32, printed: &str) -> Answer<'_> {
        Answer { code: Some(code), printed: printed.as_bytes(), said: "" }
    }

    fn systemd(units: &[&str]) -> Kind {
        Kind::Systemd { units: units.iter().map(|unit| (*unit).to_owned()).collect() }
    }

    fn shown(units: &[(&str, &str, &str)]) -> String {
        let one = |(load, active, tasks): &(&str, &str, &str)| {
            format!("Id=x\nLoadState={load}\nActiveState={active}\nTasksCurrent={tasks}\n")
        };
        units.iter().map(one).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn only_units_without_a_process_are_stopped() {
        let is = |units: &[(&str, &str, &str)]| {
            let kind = systemd(&["a.service", "b.service"][..units.len()]);
            kind.judge(&answer(0, &shown(units)))
        };
        let stopped = Finding::Is(Standing::Stopped);
        assert_eq!(is(&[("loaded", "active", "3")]), Finding::Is(Standing::Running));
        assert_eq!(is(&[("loaded", "inactive", "[not set]")]), stopped);
        assert_eq!(is(&[("masked", "failed", &u64::MAX.to_string())]), stopped);
        assert_eq!(is(&[("loaded", "inactive", "0"), ("loaded", "failed", "0")]), stopped);
        for unclear in [
            &[("not-found", "inactive", "[not set]")][..],
            &[("loaded", "failed", "2")],
            &[("loaded", "deactivating", "1")],
            &[("loaded", "inactive", "0"), ("loaded", "active", "1")],
        ] {
            assert!(matches!(is(unclear), Finding::Is(Standing::Unclear(_))), "{unclear:?}");
        }
        let one_less = systemd(&["a.service", "b.service"]);
        let found = one_less.judge(&answer(0, &shown(&[("loaded", "inactive", "0")])));
        assert!(matches!(found, Finding::Is(Standing::Unclear(_))));
    }

    #[test]
    fn what_a_timer_starts_is_stopped_with_it() {
        let kind = systemd(&["cron.timer"]);
        assert_eq!(
            kind.commands(Action::Start),
            [["systemctl", "start", "--", "cron.timer"].map(String::from)]
        );
        let stop = ["systemctl", "stop", "--", "cron.timer", "cron.service"].map(String::from);
        assert_eq!(kind.commands(Action::Stop), [stop]);
        let is = |job, tasks| {
            kind.judge(&answer(0, &shown(&[("loaded", "inactive", "0"), ("loaded", job, tasks)])))
        };
        assert_eq!(is("inactive", "0"), Finding::Is(Standing::Stopped));
        assert!(matches!(is("activating", "1"), Finding::Is(Standing::Unclear(_))));
        let both = shown(&[("loaded", "active", "0"), ("loaded", "inactive", "0")]);
        assert_eq!(kind.judge(&answer(0, &both)), Finding::Is(Standing::Running));
    }

    #[test]
    fn a_check_that_fails_proves_no_stop() {
        let word = || vec!["x".to_owned()];
        let kind = Kind::Commands { start: word(), stop: word(), check: word() };
        assert_eq!(kind.judge(&answer(0, "")), Finding::Is(Standing::Running));
        assert_eq!(kind.judge(&answer(3, "")), Finding::Is(Standing::Stopped));
        for code in [1, 2, 4, 126, 127, 137] {
            assert!(matches!(kind.judge(&answer(code, "")), Finding::Is(Standing::Unclear(_))), "{code}");
        }
        let compose = Kind::Compose { file: "/c.yaml".into() };
        assert_eq!(compose.judge(&answer(0, "\n")), Finding::Is(Standing::Stopped));
        assert_eq!(compose.judge(&answer(0, "ab12\n")), Finding::Is(Standing::Running));
        assert!(matches!(compose.judge(&answer(1, "")), Finding::Is(Standing::Unclear(_))));
    }

    #[test]
    fn a_workload_has_stopped_once_its_last_pod_is_gone() {
        let kind = Kind::Kubernetes(Workload::parse("deployment/shop", "live", 2).unwrap());
        let scale = |replicas| {
            format!(r#"{{"spec":{{"replicas":{replicas}}},"status":{{"replicas":0,"selector":"app=shop"}}}}"#)
        };
        let Finding::Ask(next) = kind.judge(&answer(0, &scale(0))) else { panic!("no question") };
        assert!(next.contains(&"--selector=app=shop".to_owned()), "{next:?}");
        assert_eq!(kind.judge_pods(&answer(0, "")), Standing::Stopped);
        assert_eq!(kind.judge_pods(&answer(0, "a True\nb True\n")), Standing::Running);
        assert!(matches!(kind.judge_pods(&answer(0, "a True\nb \n")), Standing::Unclear(_)));
        assert!(matches!(kind.judge_pods(&answer(0, "a True\n")), Standing::Unclear(_)));
        let nobody = r#"{"spec":{"replicas":0},"status":{"replicas":0}}"#;
        assert!(matches!(kind.judge(&answer(0, nobody)), Finding::Is(Standing::Unclear(_))));
        assert!(matches!(kind.judge(&answer(0, &scale(1))), Finding::Is(Standing::Unclear(_))));
    }

    proptest! {
        #[test]
        fn no_answer_of_a_program_is_a_panic(code in proptest::option::of(0..256), printed: Vec<u8>) {
            let answer = Answer { code, printed: &printed, said: "" };
            let workload = Workload::parse("statefulset/a", "b", 1).unwrap();
            for kind in [systemd(&["a.service"]), Kind::Kubernetes(workload)] {
                let found = kind.judge(&answer);
                prop_assert!(code == Some(0) || matches!(found, Finding::Is(Standing::Unclear(_))));
                kind.judge_pods(&answer);
            }
        }
    }
}
