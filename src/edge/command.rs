//! An edge that the user's own program switches: DNS, a load balancer, a content delivery network.
//!
//! The program must be safe to repeat, and must itself refuse a switch that is older than the one it carried
//! out last (exit code 5), as nothing else stands between two hosts that call it at once. `show` prints the
//! mark that it was given; with it, this side checks as well, before and after.

use super::config::CommandConfig;
use super::context::{Deadline, EdgeContext};
use super::error::EdgeError;
use super::held::Held;
use super::mark::Mark;
use super::switch::{Edge, Switch, There};
use crate::model::escape;
use crate::model::id::StoreName;
use crate::support::child::{Confinement, User};
use crate::support::program::{self, Output, Program};
use std::time::Duration;

/// The exit code by which a program says that it knows a higher epoch; the same as this program's own.
const FENCED: i32 = 5;
/// The exit code by which the starting process says that the program cannot be started.
const NOT_STARTED: i32 = 127;

/// An edge of kind `command`.
pub struct CommandEdge {
    name: String,
    store: StoreName,
    config: CommandConfig,
    limit: Duration,
    context: EdgeContext,
}

impl CommandEdge {
    pub fn new(store: &StoreName, config: CommandConfig, limit: Duration, context: &EdgeContext) -> Self {
        let name = format!("edge command {}", config.command.first().map_or("", String::as_str));
        Self { name, store: store.clone(), config, limit, context: context.clone() }
    }

    fn run(
        &self,
        command: &[String],
        variables: Vec<(&'static str, String)>,
        deadline: &Deadline,
    ) -> Result<Output, EdgeError> {
        let user = self.config.user.as_deref().map(User::find).transpose();
        let user = user.map_err(|error| EdgeError::wrong(&self.name, error.to_string()))?;
        let how =
            Confinement { user, environment: self.config.environment.clone(), ..Confinement::default() };
        let mut all = vec![("UNDERSTUDY_STORE", self.store.to_string())];
        all.extend(variables);
        let limit = deadline.left(&self.name, self.limit)?;
        let program = Program { this: &self.context.this, command, how, variables: all, limit };
        program::run(&self.context.env, program)
            .map_err(|error| EdgeError::of_program(&self.name, error, self.limit))
    }

    fn failed(&self, what: &str, output: &Output) -> EdgeError {
        let reason = format!("{what} ended with {}{}", output.status, output.said);
        match output.status.code() {
            Some(NOT_STARTED) => EdgeError::wrong(&self.name, reason),
            _ => EdgeError::refused(&self.name, reason),
        }
    }
}

impl Edge for CommandEdge {
    fn name(&self) -> &str {
        &self.name
    }

    fn deadline(&self) -> Deadline {
        Deadline::of(&self.context.env, self.limit)
    }

    fn hold(&self, _: &Deadline) -> Result<Option<Held>, EdgeError> {
        Ok(None)
    }

    fn there(&self, deadline: &Deadline) -> Result<Option<There>, EdgeError> {
        if self.config.show.is_empty() {
            return Ok(None);
        }
        let output = self.run(&self.config.show, Vec::new(), deadline)?;
        if !output.status.success() {
            return Err(self.failed("`show`", &output));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let mark = match text.trim() {
            "" => None,
            text => {
                let wrong =
                    |error| EdgeError::refused(&self.name, format!("`show` printed no mark: {error}"));
                Some(text.parse::<Mark>().map_err(wrong)?)
            }
        };
        Ok(Some(There { mark, is_whole: true }))
    }

    fn apply(&self, switch: &Switch, wanted: &Mark, deadline: &Deadline) -> Result<(), EdgeError> {
        let from = switch.from.as_ref().map(|from| Switch { to: from.clone(), ..switch.clone() });
        let from = from.map(|from| from.mark(&self.name)).transpose()?;
        let variables = vec![
            ("UNDERSTUDY_EPOCH", wanted.epoch.0.to_string()),
            ("UNDERSTUDY_FROM", from.map_or(String::new(), |mark| mark.host.to_string())),
            ("UNDERSTUDY_TO", wanted.host.to_string()),
            ("UNDERSTUDY_ADDRESS", wanted.address.to_string()),
            ("UNDERSTUDY_CAUSE", switch.cause.to_string()),
            ("UNDERSTUDY_MARK", wanted.to_string()),
        ];
        let output = self.run(&self.config.command, variables, deadline)?;
        match output.status.code() {
            Some(0) => Ok(()),
            Some(FENCED) => Err(EdgeError::FencedByCommand {
                edge: self.name.clone(),
                ours: wanted.epoch,
                said: escape::line(&output.said).into_owned(),
            }),
            _ => Err(self.failed("it", &output)),
        }
    }

    fn test(&self) -> Result<(), EdgeError> {
        let deadline = self.deadline();
        if !self.config.test.is_empty() {
            let output = self.run(&self.config.test, Vec::new(), &deadline)?;
            if !output.status.success() {
                return Err(self.failed("`test`", &output));
            }
        }
        self.there(&deadline).map(drop)
    }
}
