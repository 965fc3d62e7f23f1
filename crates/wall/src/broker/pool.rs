//! Worker threads: one takes the calls, the others do what may block: questions to a person,
//! connections, FIFOs, program starts.
//!
//! Grows to [`LIMIT`] threads; past that, jobs queue. An idle worker is reused.

use std::sync::{
    Arc, Condvar, Mutex,
    atomic::{AtomicUsize, Ordering},
};

type Job = Box<dyn FnOnce() + Send>;

const LIMIT: usize = 256;

/// Conditions are evaluated on these threads; the evaluator is recursive.
const STACK: usize = 2 << 20;

#[derive(Default)]
struct Shared {
    jobs: Mutex<std::collections::VecDeque<Job>>,
    ready: Condvar,
    idle: AtomicUsize,
    threads: AtomicUsize,
}

/// A growing pool.
pub(super) struct Pool {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.shared.threads)
            .finish()
    }
}

impl Pool {
    pub(super) fn new() -> Pool {
        Pool {
            shared: Arc::default(),
        }
    }

    /// Whether a job would find a thread at once, an idle one or a new one.
    pub(super) fn has_room(&self) -> bool {
        self.shared.idle.load(Ordering::SeqCst) > 0
            || self.shared.threads.load(Ordering::SeqCst) < LIMIT
    }

    /// Waits until every worker but `apart` is idle and no job is queued, or until `patience` is
    /// over: a worker that asks a person has no end of its own.
    pub(super) fn settle(&self, patience: std::time::Duration, apart: impl Fn() -> usize) {
        let deadline = std::time::Instant::now() + patience;
        while std::time::Instant::now() < deadline {
            let queued = self
                .shared
                .jobs
                .lock()
                .unwrap_or_else(|e| e.into_inner())
                .len();
            let threads = self.shared.threads.load(Ordering::SeqCst);
            if queued == 0 && self.shared.idle.load(Ordering::SeqCst) + apart() >= threads {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Gives a job to a thread. False if there is none and none can be started: then the job waits
    /// for the first one.
    pub(super) fn run(&self, job: Job) -> bool {
        let mut jobs = self.shared.jobs.lock().unwrap_or_else(|e| e.into_inner());
        jobs.push_back(job);
        let waiting = jobs.len();
        drop(jobs);
        let idle = self.shared.idle.load(Ordering::SeqCst);
        if idle < waiting && self.shared.threads.load(Ordering::SeqCst) < LIMIT {
            self.shared.threads.fetch_add(1, Ordering::SeqCst);
            let shared = Arc::clone(&self.shared);
            let spawned = std::thread::Builder::new()
                .stack_size(STACK)
                .spawn(move || work(&shared));
            if spawned.is_err() {
                self.shared.threads.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.shared.ready.notify_one();
        self.shared.threads.load(Ordering::SeqCst) > 0
    }
}

fn work(shared: &Shared) {
    loop {
        let job = {
            let mut jobs = shared.jobs.lock().unwrap_or_else(|e| e.into_inner());
            shared.idle.fetch_add(1, Ordering::SeqCst);
            while jobs.is_empty() {
                jobs = shared.ready.wait(jobs).unwrap_or_else(|e| e.into_inner());
            }
            shared.idle.fetch_sub(1, Ordering::SeqCst);
            jobs.pop_front()
        };
        if let Some(job) = job {
            job();
        }
    }
}
