//! What keeps a store from running: figures of a run that was held, or an operator.

/// Holds of one store.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    /// Why the last run was held.
    run: Option<String>,
    /// Why an operator wants no runs.
    operator: Option<String>,
    /// The next run may go through although it would be held.
    accept: bool,
}

impl Holds {
    /// Returns what is shown: an operator's reason before a run's.
    pub fn reason(&self) -> Option<&String> {
        self.operator.as_ref().or(self.run.as_ref())
    }

    pub fn by_operator(&self) -> Option<&String> {
        self.operator.as_ref()
    }

    pub fn set_operator(&mut self, reason: String) {
        self.operator = Some(reason);
    }

    /// Ends an operator's hold. Returns whether there was one.
    pub fn release_operator(&mut self) -> bool {
        self.operator.take().is_some()
    }

    pub fn is_run_held(&self) -> bool {
        self.run.is_some()
    }

    pub fn set_run(&mut self, reason: Option<String>) {
        self.run = reason;
    }

    /// Lets the next run through.
    pub fn accept_next(&mut self) {
        self.accept = true;
    }

    /// Returns whether the run that begins is let through; the one after it is not.
    pub fn take_accept(&mut self) -> bool {
        std::mem::take(&mut self.accept)
    }
}
