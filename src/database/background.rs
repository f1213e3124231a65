//! A question that may take long, asked on a thread of its own: who waits for its answer does other things
//! meanwhile. One is asked at a time; an answer that comes late is taken at the next look.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// A question that may be underway.
pub(super) struct Background<T> {
    running: Option<Receiver<T>>,
}

impl<T> Default for Background<T> {
    fn default() -> Self {
        Self { running: None }
    }
}

impl<T: Send + 'static> Background<T> {
    /// Asks, unless a question is underway, and returns an answer that comes within `patience`.
    pub(super) fn ask(
        &mut self,
        question: impl FnOnce() -> T + Send + 'static,
        patience: Duration,
    ) -> Option<T> {
        let running = self.running.get_or_insert_with(|| {
            let (sender, receiver) = channel();
            std::thread::spawn(move || sender.send(question()));
            receiver
        });
        match running.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => None,
            answer => {
                self.running = None;
                answer.ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_answer_is_taken_at_the_next_look_and_nothing_is_asked_meanwhile() {
        let mut background = Background::default();
        let (go, wait) = channel::<()>();
        let slow = move || {
            let _ = wait.recv();
            1
        };
        assert_eq!(background.ask(slow, Duration::from_millis(5)), None);
        assert_eq!(background.ask(|| 2, Duration::from_millis(5)), None);
        go.send(()).unwrap();
        assert_eq!(background.ask(|| 3, Duration::from_secs(60)), Some(1));
        assert_eq!(background.ask(|| 4, Duration::from_secs(60)), Some(4));
        // One whose thread has died has no answer, and the next one is asked.
        assert_eq!(background.ask(|| panic!("a test"), Duration::from_secs(60)), None);
        assert_eq!(background.ask(|| 5, Duration::from_secs(60)), Some(5));
    }
}
