//! Starts, stops and asks a store's services, by the programs that manage them.
//!
//! Nothing is believed that was not asked for: a start or a stop is done when the service's own manager, asked
//! afterwards, says so. A stop that is not confirmed within its limit is an error that names the service, and
//! the others are stopped all the same. What can race: something else may start a service again after it was
//! seen stopped; the gate and the database have fences of their own.

use super::kind::{Action, Answer, Finding, Kind, Standing};
use super::order::{Part, start_order, stop_order};
use super::settings::{ServiceSettings, SettingsError};
use crate::model::id::StoreName;
use crate::support::child::{Confinement, User};
use crate::support::env::Env;
use crate::support::failure::{Failure, FailureKind};
use crate::support::program::{Output, Program, ProgramError, run_until};
use std::path::Path;
use std::time::Duration;
use thiserror::Error;

/// Interval between questions to a service that is on its way.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Time that a command or a question has in any case, also once the limit has passed.
const LAST_TIME: Duration = Duration::from_secs(2);

/// The reason why a service is not as it should be.
#[derive(Debug, Error)]
pub enum ServiceError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("service '{service}' was not started: {how}")]
    NotStarted { service: String, how: String },
    #[error("service '{service}' is not confirmed as stopped: {how}")]
    NotStopped { service: String, how: String },
}

impl Failure for ServiceError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Settings(error) => error.kind(),
            Self::NotStarted { .. } | Self::NotStopped { .. } => FailureKind::Failed,
        }
    }
}

/// How services are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Each is asked to end, and has its time for that.
    Orderly,
    /// Each is ended at once, where its manager can do that.
    Forced,
}

/// The services of a store on this host.
pub struct Services<'a> {
    pub store: &'a StoreName,
    pub list: &'a [ServiceSettings],
    /// Path of this program, which starts the others.
    pub this: &'a Path,
    pub env: &'a Env,
    /// Returns whether this process is asked to end; starting is given up then, stopping is not.
    pub stop: &'a dyn Fn() -> bool,
}

impl Services<'_> {
    /// Starts the services of a part, each after the one before it runs.
    ///
    /// # Errors
    /// [`ServiceError`] of the first that does not run within its limit; those after it are not started.
    pub fn start(&self, part: Part) -> Result<(), ServiceError> {
        for service in start_order(self.list, part) {
            let kind = service.kind()?;
            let not_started = |how| ServiceError::NotStarted { service: service.name.clone(), how };
            let mut turn = Turn::new(self, service, &kind, self.stop).map_err(not_started)?;
            // A command that starts it may not be one that can be given twice.
            if turn.standing(LAST_TIME) == Ok(Standing::Running) {
                continue;
            }
            turn.carry_out(Action::Start).map_err(not_started)?;
            turn.wait_for(&Standing::Running).map_err(not_started)?;
        }
        Ok(())
    }

    /// Stops the services of a part, and returns an error for each that is not confirmed as stopped.
    pub fn stop(&self, part: Part, manner: Manner) -> Vec<ServiceError> {
        let one = |service: &&ServiceSettings| self.stop_one(service, manner).err();
        stop_order(self.list, part).iter().filter_map(one).collect()
    }

    fn stop_one(&self, service: &ServiceSettings, manner: Manner) -> Result<(), ServiceError> {
        let kind = service.kind()?;
        let not_stopped = |how| ServiceError::NotStopped { service: service.name.clone(), how };
        let action = match manner {
            Manner::Orderly => Action::Stop,
            Manner::Forced => Action::Kill,
        };
        let mut turn = Turn::new(self, service, &kind, &|| false).map_err(not_stopped)?;
        // Whether it failed does not matter if the service has stopped: it may not even have run.
        let carried_out = turn.carry_out(action);
        turn.wait_for(&Standing::Stopped).map_err(|how| match carried_out {
            Ok(()) => not_stopped(how),
            Err(failed) => not_stopped(format!("{how}; {failed}")),
        })
    }

    /// Asks for the standing of each service, in the order of the configuration.
    pub fn standings(&self) -> Vec<(&str, Standing)> {
        let one = |service: &ServiceSettings| {
            let kind = service.kind().map_err(|error| error.to_string())?;
            Turn::new(self, service, &kind, self.stop)?.standing(LAST_TIME)
        };
        self.list.iter().map(|s| (s.name.as_str(), one(s).unwrap_or_else(Standing::Unclear))).collect()
    }
}

/// One service's turn: all its commands and questions within one limit.
struct Turn<'a> {
    services: &'a Services<'a>,
    kind: &'a Kind,
    how: Confinement,
    stop: &'a dyn Fn() -> bool,
    limit: Duration,
    begun: crate::support::env::Stopwatch,
}

impl<'a> Turn<'a> {
    fn new(
        services: &'a Services<'a>,
        service: &ServiceSettings,
        kind: &'a Kind,
        stop: &'a dyn Fn() -> bool,
    ) -> Result<Self, String> {
        let user = service.user.as_deref().map(User::find).transpose().map_err(|error| error.to_string())?;
        let how = Confinement { user, environment: service.environment.clone(), ..Confinement::default() };
        let (limit, begun) = (service.timeout(), services.env.stopwatch());
        Ok(Self { services, kind, how, stop, limit, begun })
    }

    fn left(&self) -> Duration {
        self.limit.saturating_sub(self.begun.elapsed())
    }

    fn run(&self, command: &[String], limit: Duration) -> Result<Output, ProgramError> {
        let program = Program {
            this: self.services.this,
            command,
            how: self.how.clone(),
            variables: vec![("UNDERSTUDY_STORE", self.services.store.to_string())],
            limit,
        };
        run_until(self.services.env, program, self.stop, |command| {
            command.current_dir("/");
        })
    }

    /// Runs all commands of an action, each with some time left whatever the one before it took. Returns the
    /// first failure.
    fn carry_out(&mut self, action: Action) -> Result<(), String> {
        let mut first = Ok(());
        for command in self.kind.commands(action) {
            let done = match self.run(&command, self.left().max(LAST_TIME)) {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => {
                    Err(format!("`{}` ended with {}{}", command.join(" "), output.status, output.said))
                }
                Err(error) => Err(error.to_string()),
            };
            first = first.and(done);
        }
        first
    }

    fn ask(&self, question: &[String], limit: Duration) -> Result<Output, String> {
        self.run(question, limit).map_err(|error| error.to_string())
    }

    fn standing(&self, limit: Duration) -> Result<Standing, String> {
        let output = self.ask(&self.kind.question(), limit)?;
        match self.kind.judge(&answer(&output)) {
            Finding::Is(standing) => Ok(standing),
            Finding::Ask(next) => Ok(self.kind.judge_pods(&answer(&self.ask(&next, limit)?))),
        }
    }

    /// Waits until the service has a standing. The last question is asked after the limit, so that a command
    /// that took all the time is no proof against the service.
    fn wait_for(&mut self, wanted: &Standing) -> Result<(), String> {
        loop {
            let left = self.left();
            let found = self.standing(left.max(LAST_TIME)).unwrap_or_else(Standing::Unclear);
            if found == *wanted {
                return Ok(());
            }
            if (self.stop)() {
                return Err("this process is shutting down".into());
            }
            if left.is_zero() {
                let how = match found {
                    Standing::Running => "it still runs".to_owned(),
                    Standing::Stopped => "it does not run".to_owned(),
                    Standing::Unclear(how) => how,
                };
                return Err(format!("{how}, {} s after it was asked to", self.limit.as_secs()));
            }
            self.services.env.sleep(ASK_EVERY.min(left));
        }
    }
}

fn answer(output: &Output) -> Answer<'_> {
    Answer { code: output.status.code(), printed: &output.stdout, said: &output.said }
}
