//! Requests on their way to a connection: several connections take from one queue, so a slow one takes less.

use crate::NbdError;
use coffer_extent::{Buffer, RangeSet};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// What comes back of a request; the error is shared by all requests that a lost connection takes with it.
pub(super) type Answer<T> = Result<T, Arc<NbdError>>;

/// One idempotent request, with its memory.
#[derive(Debug)]
pub(super) struct Job {
    /// Tries that have failed.
    pub(super) failed: u32,
    pub(super) request: Request,
}

#[derive(Debug)]
pub(super) enum Request {
    /// Fill the first `len` bytes of the buffer with what stands at `offset`.
    Read { offset: u64, len: usize, buffer: Buffer, answer: oneshot::Sender<Answer<Buffer>> },
    /// Tell which parts of the range are zero; the server may speak of a part of it only.
    Status { offset: u64, len: u32, answer: oneshot::Sender<Answer<Status>> },
}

/// What a server says of the front of a range.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// Zero ranges, as places on the disk.
    pub(super) zero: RangeSet,
    /// Bytes that it spoke of.
    pub(super) covered: u64,
}

impl Job {
    pub(super) fn read(offset: u64, len: usize, buffer: Buffer) -> (Job, oneshot::Receiver<Answer<Buffer>>) {
        let (answer, receiver) = oneshot::channel();
        (Job { failed: 0, request: Request::Read { offset, len, buffer, answer } }, receiver)
    }

    pub(super) fn status(offset: u64, len: u32) -> (Job, oneshot::Receiver<Answer<Status>>) {
        let (answer, receiver) = oneshot::channel();
        (Job { failed: 0, request: Request::Status { offset, len, answer } }, receiver)
    }

    /// Ends the job without a result. Whoever asked may have gone, which is no concern of ours.
    pub(super) fn fail(self, error: Arc<NbdError>) {
        match self.request {
            Request::Read { answer, .. } => drop(answer.send(Err(error))),
            Request::Status { answer, .. } => drop(answer.send(Err(error))),
        }
    }

    /// True when nobody waits for it any more.
    pub(super) fn is_abandoned(&self) -> bool {
        match &self.request {
            Request::Read { answer, .. } => answer.is_closed(),
            Request::Status { answer, .. } => answer.is_closed(),
        }
    }
}

/// The jobs that no connection has taken yet, and how many workers there are for them.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    workers: usize,
    opening: bool,
}

impl Queue {
    /// Adds a job. True when the caller should start another worker, which is counted already: none is left, or the
    /// jobs are more than the workers can have in flight and none is being opened at the moment.
    pub(super) fn push(&self, job: Job, depth: usize, most_workers: usize) -> bool {
        let mut state = self.lock();
        state.jobs.push_back(job);
        let short = state.jobs.len() > depth && !state.opening && state.workers < most_workers;
        let wanted = state.workers == 0 || short;
        if wanted {
            state.workers += 1;
            state.opening = true;
        }
        drop(state);
        self.arrived.notify_one();
        wanted
    }

    /// Puts jobs back that were taken before; they keep their place at the front.
    pub(super) fn put_back(&self, jobs: Vec<Job>) {
        let count = jobs.len();
        let mut state = self.lock();
        jobs.into_iter().rev().for_each(|job| state.jobs.push_front(job));
        drop(state);
        (0..count).for_each(|_| self.arrived.notify_one());
    }

    /// Takes the next job that somebody still waits for.
    pub(super) fn pop(&self) -> Option<Job> {
        let mut state = self.lock();
        while let Some(job) = state.jobs.pop_front() {
            if !job.is_abandoned() {
                return Some(job);
            }
        }
        None
    }

    /// Waits until there may be a job. Dropping the future loses no job and no wake-up.
    pub(super) async fn wait(&self) {
        loop {
            let arrived = self.arrived.notified();
            if !self.lock().jobs.is_empty() {
                return;
            }
            arrived.await;
        }
    }

    /// Counts a worker that was started without being asked for.
    pub(super) fn add_worker(&self) {
        self.lock().workers += 1;
    }

    /// The connection of a worker is open; another one may be opened if there is work for it.
    pub(super) fn opened(&self) {
        self.lock().opening = false;
    }

    /// A worker gives up. If it was the last, nobody is left to do the jobs: they are returned, to be failed.
    pub(super) fn remove_worker(&self) -> Vec<Job> {
        let mut state = self.lock();
        state.opening = false;
        state.workers = state.workers.saturating_sub(1);
        if state.workers == 0 { state.jobs.drain(..).collect() } else { Vec::new() }
    }

    /// Takes all jobs, when there will be nobody to do them.
    pub(super) fn drain(&self) -> Vec<Job> {
        self.lock().jobs.drain(..).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
