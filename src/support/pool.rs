//! Worker threads with state of their own, fed by closures. Results are returned in the order of their
//! handles, not of their completion.
//!
//! Without threads, the caller does the work, in the order of its calls, so that a test's run can be repeated
//! exactly.

use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

/// A closure for a worker.
pub type Job<'env, W> = Box<dyn FnOnce(&mut W) + Send + 'env>;

/// Executor of jobs: threads that live as long as the scope, and end when the pool is dropped; or the caller
/// itself.
pub(crate) enum Pool<'env, W> {
    Threads(Sender<Job<'env, W>>),
    Inline(Mutex<W>),
}

/// A future result.
pub(crate) struct Handle<T>(Receiver<T>);

impl<T> Handle<T> {
    /// Waits for the result. `None` when the job panicked; its thread's panic ends the scope anyway.
    pub(crate) fn wait(self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<'env, W: Send + 'env> Pool<'env, W> {
    /// Makes a pool of one worker, on the thread of its caller.
    pub(crate) fn inline(worker: W) -> Self {
        Self::Inline(Mutex::new(worker))
    }

    /// Starts one thread for each of `workers`.
    pub(crate) fn start<'scope>(scope: &'scope Scope<'scope, 'env>, workers: Vec<W>) -> Self {
        let (jobs, receiver) = channel::<Job<'env, W>>();
        let queue = Arc::new(Mutex::new(receiver));
        for mut worker in workers {
            let queue = queue.clone();
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    match next {
                        Ok(job) => job(&mut worker),
                        Err(_) => return,
                    }
                }
            });
        }
        Self::Threads(jobs)
    }

    /// Queues a job. The caller limits the number of unfinished jobs.
    pub(crate) fn submit<T: Send + 'env>(&self, job: impl FnOnce(&mut W) -> T + Send + 'env) -> Handle<T> {
        let (sender, receiver) = sync_channel(1);
        let jobs = match self {
            Self::Threads(jobs) => jobs,
            Self::Inline(worker) => {
                let _ = sender.send(job(&mut worker.lock().unwrap_or_else(PoisonError::into_inner)));
                return Handle(receiver);
            }
        };
        let boxed: Job<'env, W> = Box::new(move |worker| {
            // When the run has failed, no caller waits for the result.
            let _ = sender.send(job(worker));
        });
        // If no thread of the pool is left, the handle returns `None`.
        let _ = jobs.send(boxed);
        Handle(receiver)
    }
}
