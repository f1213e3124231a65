//! Worker threads with state of their own, fed by closures. Results come back by the order of their
//! handles, not by who is done first.
//!
//! Without threads, the caller does the work, in the order of its calls: so that a test's run can be run again.

use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

/// What a worker is to do.
pub type Job<'env, W> = Box<dyn FnOnce(&mut W) + Send + 'env>;

/// Where jobs are done: by threads that live as long as the scope, and end when the pool is dropped, or at once.
pub enum Pool<'env, W> {
    Threads(Sender<Job<'env, W>>),
    Inline(Mutex<W>),
}

/// A result to come.
pub struct Handle<T>(Receiver<T>);

impl<T> Handle<T> {
    /// Waits. `None` when the job panicked; its thread's panic ends the scope anyway.
    pub fn wait(self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<'env, W: Send + 'env> Pool<'env, W> {
    /// Does all with one worker, on the thread of its caller.
    pub fn inline(worker: W) -> Self {
        Self::Inline(Mutex::new(worker))
    }

    /// One thread for each of `workers`.
    pub fn start<'scope>(scope: &'scope Scope<'scope, 'env>, workers: Vec<W>) -> Self {
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

    /// Queues a job. The caller bounds how many are under way.
    pub fn submit<T: Send + 'env>(&self, job: impl FnOnce(&mut W) -> T + Send + 'env) -> Handle<T> {
        let (sender, receiver) = sync_channel(1);
        let jobs = match self {
            Self::Threads(jobs) => jobs,
            Self::Inline(worker) => {
                let _ = sender.send(job(&mut worker.lock().unwrap_or_else(PoisonError::into_inner)));
                return Handle(receiver);
            }
        };
        let boxed: Job<'env, W> = Box::new(move |worker| {
            // Nobody waits any more when the run has failed.
            let _ = sender.send(job(worker));
        });
        // A pool without threads left has none to wait for either.
        let _ = jobs.send(boxed);
        Handle(receiver)
    }
}
