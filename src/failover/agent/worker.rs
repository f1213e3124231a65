//! A thread with a queue of jobs. A job that waits or runs already is not taken again.

use crate::support::lock::lock;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

struct Queue<J> {
    waiting: VecDeque<J>,
    running: Option<J>,
    is_ended: bool,
}

/// A thread that does jobs, one after the other. It ends when this is dropped, after the job that runs.
pub(crate) struct Worker<J> {
    shared: Arc<(Mutex<Queue<J>>, Condvar)>,
}

impl<J: Clone + PartialEq + Send + 'static> Worker<J> {
    pub(crate) fn start(name: &str, mut run: impl FnMut(J) + Send + 'static) -> io::Result<Self> {
        let queue = Queue { waiting: VecDeque::new(), running: None, is_ended: false };
        let shared = Arc::new((Mutex::new(queue), Condvar::new()));
        let its = shared.clone();
        let work = move || {
            while let Some(job) = next(&its) {
                run(job);
            }
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
        Ok(Self { shared })
    }

    /// Takes a job, unless an equal one waits or runs.
    pub(crate) fn put(&self, job: J) {
        let mut queue = lock(&self.shared.0);
        if !queue.waiting.contains(&job) && queue.running.as_ref() != Some(&job) {
            queue.waiting.push_back(job);
            self.shared.1.notify_one();
        }
    }

    /// Takes a job in place of all that wait.
    pub(crate) fn put_latest(&self, job: J) {
        let mut queue = lock(&self.shared.0);
        queue.waiting.clear();
        queue.waiting.push_back(job);
        self.shared.1.notify_one();
    }

    /// Takes a job, unless another one waits or runs.
    pub(crate) fn put_if_idle(&self, job: J) {
        let mut queue = lock(&self.shared.0);
        if queue.waiting.is_empty() && queue.running.is_none() {
            queue.waiting.push_back(job);
            self.shared.1.notify_one();
        }
    }
}

impl<J> Drop for Worker<J> {
    fn drop(&mut self) {
        let mut queue = lock(&self.shared.0);
        queue.is_ended = true;
        queue.waiting.clear();
        self.shared.1.notify_one();
    }
}

/// Waits for the next job; none when there will be none.
fn next<J: Clone>(shared: &(Mutex<Queue<J>>, Condvar)) -> Option<J> {
    let mut queue = lock(&shared.0);
    queue.running = None;
    loop {
        if queue.is_ended {
            return None;
        }
        if let Some(job) = queue.waiting.pop_front() {
            queue.running = Some(job.clone());
            return Some(job);
        }
        queue = shared.1.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}
