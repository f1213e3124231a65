//! A change of the primary: asked for, then followed to its end.

use super::args::{FailoverArgs, SwitchoverArgs, person};
use super::at::At;
use super::back::Back;
use super::link::{Link, daemon};
use super::steps::Steps;
use crate::api::failover::FailoverStatus;
use crate::cli::context::Context;
use crate::cli::error::{LocalError, RefusedError, Result, UsageError};
use crate::cli::exit::Exit;
use crate::cli::{Global, show};
use crate::model::id::{StoreName, WriterId};
use crate::support::env::Stopwatch;
use crate::support::failure::FailureKind;
use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time between two questions to the primary whether it still hands over.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Time after which a command no longer waits for a change to end; the daemon goes on.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(300);
/// Time that a former primary has to say that it is closed, before a person is asked.
const STATEMENT_WAIT: Duration = Duration::from_secs(5);
/// Time after which a former primary is not expected to say it any more.
pub(super) const CLOSED_WAIT: Duration = Duration::from_secs(20);

/// One change, and who waits for it.
pub(super) struct Change<'a> {
    pub context: &'a Context,
    pub link: Link<'a>,
    pub global: &'a Global,
    pub steps: Steps,
    /// The epoch before it.
    pub before: u64,
    pub begun: Stopwatch,
    /// The handover that the primary was asked for; none for a failover.
    handover: Option<Handover>,
}

/// A handover that was asked for. It is in the primary's memory until it is in the log.
struct Handover {
    to: Option<String>,
    /// When the primary was last asked about it.
    asked: Duration,
    /// Whether it said then that it does not hand over.
    refused: bool,
}

/// What a person has said about the former primary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// It is down.
    Down,
    /// Nothing yet; a person can be asked.
    Ask,
    /// Nothing, and nobody is there to be asked.
    None,
}

impl Word {
    /// Returns what was said by the options.
    pub(super) fn of(args: &FailoverArgs) -> Self {
        match (args.is_down, std::io::stdin().is_terminal() && !args.yes) {
            (true, _) => Self::Down,
            (false, true) => Self::Ask,
            (false, false) => Self::None,
        }
    }
}

/// Has a person type the store's name, unless `--yes` goes on without it.
pub(super) fn confirm(args: &FailoverArgs, store: &StoreName) -> Result<()> {
    match args.yes || typed("Type the store's name to go on: ", store.as_str())? {
        true => Ok(()),
        false => {
            let text = "nothing was done: the store's name was not typed; --yes goes on without it";
            Err(UsageError(text.into()).into())
        }
    }
}

pub(in crate::cli) fn run_switchover(global: &Global, args: &SwitchoverArgs) -> Result<Exit> {
    let context = Context::new(global)?;
    let (name, remote) = (StoreName::parse(&args.store)?, daemon(&context)?);
    let mut change = Change::new(&context, global, Link::new(&remote, &name))?;
    let parameters = [("to", args.to.clone()), ("person", Some(person(args.person.as_deref())))];
    change.link.post("switchover", &parameters)?;
    change.handover = Some(Handover { to: args.to.clone(), asked: Duration::ZERO, refused: false });
    change.follow(Word::None)
}

/// Asks a person to type a text.
pub(super) fn typed(question: &str, wanted: &str) -> Result<bool> {
    let mut stderr = std::io::stderr();
    let _ = stderr.write_all(question.as_bytes()).and_then(|()| stderr.flush());
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| LocalError::new(error.to_string()))?;
    Ok(line.trim() == wanted)
}

impl<'a> Change<'a> {
    pub(super) fn new(context: &'a Context, global: &'a Global, link: Link<'a>) -> Result<Self> {
        let status = link.agent_status()?;
        let mut steps = Steps::default();
        steps.is_quiet = global.quiet || global.json;
        steps.skip(&status);
        Ok(Self {
            context,
            link,
            global,
            steps,
            before: status.epoch,
            begun: context.env().stopwatch(),
            handover: None,
        })
    }

    /// Asks this host to take over, or the one that is named.
    pub(super) fn ask_to_take_over(&self, args: &FailoverArgs, to: Option<&WriterId>) -> Result<()> {
        let at = match args.at {
            Some(At::Files(snapshot)) => Some(snapshot.to_string()),
            Some(At::Point(_)) | None => None,
        };
        let to = to.map(|to| to.0.clone());
        let parameters = [("person", None), ("reason", args.reason.clone()), ("at", at), ("to", to)];
        self.post_failover(args, parameters)
    }

    /// Asks this host to take over, and to go back to a point whose database was restored here.
    pub(super) fn ask_to_go_back(&self, args: &FailoverArgs, back: &Back, restore: String) -> Result<()> {
        let parameters = [
            ("person", None),
            ("reason", args.reason.clone()),
            ("at", Some(back.snapshot.to_string())),
            ("back_to", Some(back.position.to_string())),
            ("restore", Some(restore)),
            ("lost_transactions", Some(back.transactions.to_string())),
        ];
        self.post_failover(args, parameters)
    }

    fn post_failover<const N: usize>(
        &self,
        args: &FailoverArgs,
        mut parameters: [(&str, Option<String>); N],
    ) -> Result<()> {
        parameters[0] = ("person", Some(person(args.person.as_deref())));
        self.link.post("failover", &parameters).map(drop)
    }

    /// Asks whether the host that is named would take over, and why not.
    pub(super) fn would_take_over(&self, to: &WriterId) -> Result<()> {
        let parameters = [("to", Some(to.0.clone())), ("dry_run", Some("true".to_owned()))];
        self.link.post("failover", &parameters).map(drop)
    }

    /// Follows the change until it is complete, or was given up.
    pub(super) fn follow(&mut self, mut word: Word) -> Result<Exit> {
        let mut was_underway = false;
        loop {
            let status = self.link.status()?;
            self.steps.print(&status)?;
            let is_changed = status.epoch > self.before;
            if is_changed && status.completed {
                return self.done(&status);
            }
            if let [first, ..] = status.refused.as_slice()
                && !is_changed
            {
                let store = &self.link.store;
                return Err(RefusedError::held(format!("store '{store}': not done: {first}")).into());
            }
            let is_cancelled = status.steps.iter().any(|step| step.step == "handover cancelled");
            // Seen from another member, a handover that was cancelled is one that is gone.
            let is_gone = std::mem::replace(&mut was_underway, status.handover_to.is_some());
            let is_gone = is_gone && status.handover_to.is_none() && status.phase == "standby";
            if !is_changed && (is_gone || is_cancelled && status.phase == "primary") {
                return self.cancelled(&status);
            }
            if !is_changed && status.handover_to.is_none() && status.phase == "standby" {
                self.check_handover()?;
            }
            if !status.waits_for.is_empty() {
                self.attest(&status, &mut word)?;
            }
            if self.begun.elapsed() >= WAIT_MAX {
                return self.late(&status);
            }
            self.context.env().sleep(LOOK_EVERY);
        }
    }

    /// Asks the primary now and then whether it still hands over.
    fn check_handover(&mut self) -> Result<()> {
        let elapsed = self.begun.elapsed();
        let Some(handover) = self.handover.as_mut().filter(|of| elapsed >= of.asked + ASK_EVERY) else {
            return Ok(());
        };
        handover.asked = elapsed;
        let refused = match self.link.get("switchover", &[("to", handover.to.clone())]) {
            Err(error) if error.kind() == FailureKind::Held => Some(error),
            // It does not answer, which says nothing.
            _ => None,
        };
        match std::mem::replace(&mut handover.refused, refused.is_some()) {
            // This host may not have read its record yet.
            true => refused.map_or(Ok(()), Err),
            false => Ok(()),
        }
    }

    pub(super) fn done(&self, status: &FailoverStatus) -> Result<Exit> {
        if self.global.json {
            show::json(status)?;
        } else if !self.global.quiet {
            let primary = status.primary.as_ref().map_or("?", |primary| &primary.0);
            show::line(&format!(
                "{}store '{}': '{primary}' is the primary in epoch {}, and customers reach it; {:.1} s",
                self.steps.prefix,
                self.link.store,
                status.epoch,
                self.begun.seconds()
            ))?;
        }
        Ok(Exit::Done)
    }

    fn cancelled(&self, status: &FailoverStatus) -> Result<Exit> {
        let failures = status.steps.iter().filter_map(|step| step.failure.as_deref());
        let how: Vec<_> = failures.chain(status.failing.iter().map(String::as_str)).collect();
        let how = if how.is_empty() { "it did not end in time".to_owned() } else { how.join("; ") };
        let primary = status.primary.as_ref().map_or("nobody", |primary| &primary.0);
        let store = &self.link.store;
        let text =
            format!("store '{store}': the handover was cancelled, and '{primary}' serves again: {how}");
        Err(LocalError::new(text).into())
    }

    pub(super) fn late(&self, status: &FailoverStatus) -> Result<Exit> {
        let (store, seconds) = (&self.link.store, WAIT_MAX.as_secs());
        complain!(
            "understudy: store '{store}': not complete after {seconds} s; the daemon goes on (phase: {}; {}); `understudy why {store}` says where it stands",
            status.phase,
            if status.failing.is_empty() { "nothing fails".to_owned() } else { status.failing.join("; ") }
        );
        Ok(Exit::Unavailable)
    }

    /// Gives a person's word for each former primary that does not say itself that it is closed.
    fn attest(&self, status: &FailoverStatus, word: &mut Word) -> Result<()> {
        let is_early = self.begun.elapsed() < STATEMENT_WAIT;
        for host in &status.waits_for {
            match *word {
                Word::Down => {}
                // Its lease is broken, and runs out.
                _ if status.has_lease => continue,
                Word::Ask if is_early => continue,
                Word::Ask => {
                    complain!(
                        "understudy: '{host}' has not said that it is closed. If it still serves customers, what they do there is lost."
                    );
                    if !typed(
                        &format!("If '{host}' is down, and not merely out of reach, type its name: "),
                        &host.0,
                    )? {
                        complain!("understudy: waiting until '{host}' says that it is closed");
                        *word = Word::None;
                        continue;
                    }
                }
                Word::None if is_early => continue,
                Word::None => return self.nobody(host),
            }
            self.link.post("failover/attest", &[("host", Some(host.0.clone()))])?;
        }
        Ok(())
    }

    /// Ends, since nobody says that the former primary is closed. The take-over goes on by itself once it does.
    fn nobody(&self, host: &WriterId) -> Result<()> {
        if self.begun.elapsed() < CLOSED_WAIT {
            return Ok(());
        }
        let store = &self.link.store;
        Err(RefusedError::held(format!(
            "store '{store}': '{host}' has not said that it is closed, so this host does not open; it goes on by itself once '{host}' does. If '{host}' is down, and not merely out of reach: understudy failover {store} --is-down"
        ))
        .into())
    }
}
