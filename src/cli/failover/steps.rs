//! The steps of an operation, printed as they happen.

use crate::api::failover::{FailoverStatus, FailoverStep};
use crate::cli::error::Result;
use crate::cli::show;
use std::collections::BTreeMap;

/// Returns whether two looks show the same step.
fn is_same(one: &FailoverStep, other: &FailoverStep) -> bool {
    one.step == other.step && one.at_seconds == other.at_seconds
}

/// What of an operation was printed.
#[derive(Default)]
pub(super) struct Steps {
    operation: String,
    /// The steps that were printed as done.
    printed: Vec<FailoverStep>,
    /// The failures that were printed, by step.
    failures: BTreeMap<String, String>,
    waits: String,
    /// What stands before each line.
    pub prefix: String,
    pub is_quiet: bool,
}

impl Steps {
    /// Ignores the steps of the operation that ended before.
    pub(super) fn skip(&mut self, status: &FailoverStatus) {
        self.operation.clone_from(&status.operation);
        self.printed.clone_from(&status.steps);
    }

    fn say(&self, text: &str) -> Result<()> {
        if self.is_quiet { Ok(()) } else { show::line(&format!("{}{text}", self.prefix)) }
    }

    /// Prints what is new.
    pub(super) fn print(&mut self, status: &FailoverStatus) -> Result<()> {
        let is_there = |done: &FailoverStep| status.steps.iter().any(|step| is_same(step, done));
        let began_again = !self.printed.iter().all(is_there);
        if status.operation != self.operation || began_again {
            self.printed.clear();
            self.operation.clone_from(&status.operation);
            self.say(&format!("{}: {}", status.host, status.operation))?;
        }
        for step in &status.steps {
            let is_printed = self.printed.iter().any(|done| is_same(step, done));
            if let (Some(took), false) = (step.took_seconds, is_printed) {
                let detail =
                    if step.detail.is_empty() { String::new() } else { format!("  ({})", step.detail) };
                self.say(&format!(
                    "  {:>7.2} s  {:<24} {took:>6.2} s{detail}",
                    step.at_seconds + took,
                    step.step
                ))?;
                self.printed.push(step.clone());
            }
        }
        self.print_failures(status)?;
        let waits: Vec<_> = status.waits_for.iter().map(|host| format!("'{host}'")).collect();
        let waits = waits.join(", ");
        if waits != self.waits {
            if !waits.is_empty() {
                self.say(&format!("             waiting until {waits} is known to be closed"))?;
            }
            self.waits = waits;
        }
        Ok(())
    }

    fn print_failures(&mut self, status: &FailoverStatus) -> Result<()> {
        for step in status.steps.iter().filter(|step| step.took_seconds.is_none()) {
            let Some(how) = &step.failure else { continue };
            if self.failures.insert(step.step.clone(), how.clone()).as_ref() != Some(how) {
                self.say(&format!("             {}: {how}; it is tried again", step.step))?;
            }
        }
        Ok(())
    }
}
