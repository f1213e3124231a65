//! The holds that keep a store from running: by the figures of a held run, or by an operator.

/// Holds of one store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holds {
    /// The reason why the last run was held.
    run: Option<String>,
    /// The reason why an operator holds the store.
    operator: Option<String>,
    /// The reason why the store's failover agent has no run now.
    agent: Option<String>,
    /// Whether the next run is let through although its figures would hold it.
    accept: bool,
}

impl Holds {
    /// Returns the reason to show: an operator's reason takes precedence over a run's.
    pub fn reason(&self) -> Option<&String> {
        self.operator.as_ref().or(self.agent.as_ref()).or(self.run.as_ref())
    }

    /// Returns the reason why no run may be asked for.
    pub(crate) fn refusal(&self) -> Option<&String> {
        self.operator.as_ref().or(self.agent.as_ref())
    }

    pub(crate) fn set_agent(&mut self, reason: Option<String>) {
        self.agent = reason;
    }

    pub(crate) fn set_operator(&mut self, reason: String) {
        self.operator = Some(reason);
    }

    /// Ends an operator's hold. Returns whether there was one.
    pub(crate) fn release_operator(&mut self) -> bool {
        self.operator.take().is_some()
    }

    pub(crate) fn is_run_held(&self) -> bool {
        self.run.is_some()
    }

    pub(crate) fn set_run(&mut self, reason: Option<String>) {
        self.run = reason;
    }

    /// Lets the next run through.
    pub(crate) fn accept_next(&mut self) {
        self.accept = true;
    }

    /// Returns whether the run that begins now is let through, and resets the mark for the run after it.
    pub(crate) fn take_accept(&mut self) -> bool {
        std::mem::take(&mut self.accept)
    }
}
