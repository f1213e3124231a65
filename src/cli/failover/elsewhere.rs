//! A failover to another host: that host is asked by this one's daemon, and what comes of it is read from the log.
//!
//! The other host may take over even if this command ends, or this host does. What this host does meanwhile, such
//! as closing, is shown live; the other host's steps are in the log once they are complete.

use super::args::{FailoverArgs, person};
use super::change::{CLOSED_WAIT, Change, LOOK_EVERY, WAIT_MAX, Word, confirm, typed};
use super::triage::Triage;
use crate::api::failover::FailoverStatus;
use crate::cli::error::{RefusedError, Result, UsageError};
use crate::cli::exit::Exit;
use crate::cli::show;
use crate::model::decision::{Decision, StepTime};
use crate::model::id::WriterId;
use crate::model::record::Event;
use crate::repository::store::Store;
use std::collections::BTreeSet;
use std::time::Duration;

/// Time after which a host that said that it takes over should be promoted.
const PROMOTION_WAIT: Duration = Duration::from_secs(30);
/// Time between two words to the other host that a former primary is down.
const WORD_EVERY: Duration = Duration::from_secs(2);

/// A failover to another host.
struct Elsewhere<'a> {
    change: Change<'a>,
    store: Store,
    to: WriterId,
    me: WriterId,
    person: String,
}

/// Has another host take over, and follows that to its end.
pub(super) fn run(mut change: Change, args: &FailoverArgs, to: WriterId) -> Result<Exit> {
    let (name, global) = (change.link.store.clone(), change.global);
    let status = change.link.agent_status()?;
    if !status.members.contains(&to) {
        let members: Vec<_> = status.members.iter().map(|member| format!("'{member}'")).collect();
        return Err(UsageError(format!(
            "store '{name}': '{to}' is no member that may serve; those are {}",
            members.join(", ")
        ))
        .into());
    }
    let is_primary = status.primary.as_ref() == Some(&to);
    if is_primary && status.completed {
        return Err(RefusedError::held(format!("store '{name}': '{to}' is the primary already")).into());
    }
    let mut triage = Triage::of(change.context, &status, args, &to)?;
    if args.dry_run {
        // Else it says it when it is asked to take over.
        triage.why_not.extend(change.would_take_over(&to).err().map(|error| error.to_string()));
    }
    triage.show(global, args)?;
    if args.dry_run {
        return Ok(if triage.why_not.is_empty() || is_primary { Exit::Done } else { Exit::Held });
    }
    let person = person(args.person.as_deref());
    if is_primary {
        // It was asked for already, and may wait for a person's word.
        change.before = status.epoch.saturating_sub(1);
    } else {
        confirm(args, &name)?;
        change.ask_to_take_over(args, Some(&to))?;
    }
    let store = change.context.repository_of(&name)?.store(&name);
    Elsewhere { change, store, to, me: status.host, person }.follow(Word::of(args))
}

impl Elsewhere<'_> {
    fn follow(&mut self, mut word: Word) -> Result<Exit> {
        let (env, mut said) = (self.change.context.env(), None);
        loop {
            let status = self.change.link.status()?;
            self.change.steps.print(&status)?;
            let (name, to) = (&self.change.link.store, &self.to);
            let is_promoted = status.epoch > self.change.before;
            let waited = self.change.begun.elapsed();
            if is_promoted && status.primary.as_ref() != Some(to) {
                let primary = status.primary.as_ref().map_or("nobody", |primary| &primary.0);
                return Err(RefusedError::held(format!(
                    "store '{name}': not '{to}', but '{primary}' is the primary in epoch {}",
                    status.epoch
                ))
                .into());
            }
            if is_promoted && status.completed {
                self.print_steps(&status)?;
                return self.change.done(&status);
            }
            if !is_promoted && waited >= PROMOTION_WAIT {
                return Err(RefusedError::held(format!(
                    "store '{name}': '{to}' said that it takes over, and is not promoted after {} s; there, `understudy why {name}` says why",
                    waited.as_secs()
                ))
                .into());
            }
            if waited >= WAIT_MAX {
                return self.change.late(&status);
            }
            let is_due = |said: Option<Duration>| said.is_none_or(|said| waited >= said + WORD_EVERY);
            if is_promoted && is_due(said) {
                said = Some(waited);
                self.say_down(&mut word, waited, status.has_lease)?;
            }
            env.sleep(LOOK_EVERY);
        }
    }

    /// Returns the hosts that may still serve by the log, except for those that speak for themselves.
    fn former(&self) -> Result<BTreeSet<WriterId>> {
        let reigns = self.store.log().state()?.authority.reigns;
        let former = reigns.into_iter().map(|reign| reign.host);
        Ok(former.filter(|host| *host != self.to && *host != self.me).collect())
    }

    /// Gives a person's word to the other host, which takes it only of those for which it waits.
    fn say_down(&self, word: &mut Word, waited: Duration, has_lease: bool) -> Result<()> {
        for host in self.former()? {
            match *word {
                Word::Down => {}
                // Its lease is broken, and runs out.
                _ if has_lease || waited < CLOSED_WAIT => continue,
                Word::Ask => {
                    let question =
                        format!("If '{host}' is down, and not merely out of reach, type its name: ");
                    if !typed(&question, &host.0)? {
                        complain!("understudy: waiting until '{host}' says that it is closed");
                        *word = Word::None;
                        continue;
                    }
                }
                Word::None => {
                    let (store, to) = (&self.change.link.store, &self.to);
                    return Err(RefusedError::held(format!(
                        "store '{store}': '{to}' is the primary by the log, and has not opened; it does by itself once '{host}' is known to be closed. If '{host}' is down, and not merely out of reach: understudy failover {store} --to {to} --is-down"
                    ))
                    .into());
                }
            }
            let text = |text: &str| Some(text.to_owned());
            let parameters =
                [("host", text(&host.0)), ("to", text(&self.to.0)), ("person", text(&self.person))];
            if let Err(error) = self.change.link.post("failover/attest", &parameters) {
                // Another proof may have come first. It is said again as long as the other host is not open.
                tracing::debug!(%error, "the word was not taken");
            }
        }
        Ok(())
    }

    /// Prints the other host's steps, as they are in the log.
    fn print_steps(&self, status: &FailoverStatus) -> Result<()> {
        if self.change.global.quiet || self.change.global.json {
            return Ok(());
        }
        show::line(&format!("{}: taking over", self.to))?;
        for StepTime { step, ms } in self.steps_of(status.epoch)? {
            show::line(&format!("             {step:<24} {:>6.2} s", ms as f64 / 1000.0))?;
        }
        Ok(())
    }

    fn steps_of(&self, epoch: u64) -> Result<Vec<StepTime>> {
        let history = self.store.log().history()?;
        let of_epoch = history.into_iter().rev().filter(|one| one.record.epoch.0 == epoch);
        let steps = of_epoch.filter(|one| one.irregular.is_none()).find_map(|one| match one.record.event {
            Event::Decided(decided) => match decided.statement()?.decision {
                Decision::Completed { steps, .. } => Some(steps),
                _ => None,
            },
            _ => None,
        });
        Ok(steps.unwrap_or_default())
    }
}
