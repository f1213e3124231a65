//! A program of the user's, run once as it is configured: for the commands of a database, and those that stop a
//! host.

use super::child::{Confinement, THIS, User};
use super::env::Env;
use super::program::{Program, run};
use std::path::Path;
use std::time::Duration;

/// Default maximum time of a program.
const LIMIT: Duration = Duration::from_secs(30);

/// A program, as it is configured.
pub(crate) struct Configured<'a> {
    /// What it does, for messages.
    pub what: &'static str,
    pub command: &'a [String],
    pub user: Option<&'a str>,
    pub environment: &'a [String],
    pub timeout_seconds: Option<u64>,
}

impl Configured<'_> {
    /// Runs the program, and returns what it printed; none does nothing. `this` is the path of this program, which
    /// starts the other one.
    ///
    /// # Errors
    /// It did not succeed, in words that name it.
    pub fn run(
        &self,
        env: &Env,
        this: &Path,
        variables: Vec<(&'static str, String)>,
    ) -> Result<String, String> {
        let Some(name) = self.command.first() else { return Ok(String::new()) };
        let name = if name == THIS { "understudy" } else { name };
        let fail = |how: String| format!("{} ({name}): {how}", self.what);
        let user = self.user.map(User::find).transpose().map_err(|error| fail(error.to_string()))?;
        let program = Program {
            this,
            command: self.command,
            how: Confinement { user, environment: self.environment.to_vec(), ..Confinement::default() },
            variables,
            limit: self.timeout_seconds.map_or(LIMIT, Duration::from_secs),
        };
        match run(env, program) {
            Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Ok(output) => Err(fail(format!("it ended with {}{}", output.status, output.said))),
            Err(error) => Err(fail(error.to_string())),
        }
    }
}
