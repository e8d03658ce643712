//! The task behind each connection: takes jobs from the queue, keeps several in flight, connects again when the
//! connection is lost and gives the jobs of the lost one to whoever is free.

use super::connection::{Connection, Finished, within};
use super::queue::{Job, Queue};
use super::target::{NbdOptions, NbdTarget};
use super::tls::TlsSettings;
use crate::NbdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all workers of a disk share.
#[derive(Debug)]
pub(super) struct Shared {
    targets: Vec<(NbdTarget, Option<TlsSettings>)>,
    /// The target that worked last.
    preferred: AtomicUsize,
    pub(super) options: NbdOptions,
    queue: Queue,
    tracker: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Shared {
    pub(super) fn new(targets: Vec<NbdTarget>, options: NbdOptions) -> Result<Shared, NbdError> {
        let prepare = |target: NbdTarget| {
            let tls = target.tls.as_ref().map(|tls| TlsSettings::new(&target, tls)).transpose()?;
            Ok((target, tls))
        };
        Ok(Shared {
            targets: targets.into_iter().map(prepare).collect::<Result<_, NbdError>>()?,
            preferred: AtomicUsize::new(0),
            options,
            queue: Queue::default(),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Export and address, without the session.
    pub(super) fn subject(&self) -> String {
        let preferred = self.preferred.load(Ordering::Relaxed);
        self.targets.get(preferred).map_or_else(|| "without address".to_owned(), |(target, _)| target.to_string())
    }

    /// Tries the targets in turn, the one that worked last first.
    async fn connect(&self) -> Result<Connection, NbdError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut worst = NbdError::NoTarget;
        for step in 0..self.targets.len() {
            let index = (first + step) % self.targets.len();
            let Some((target, tls)) = self.targets.get(index) else { break };
            match Connection::open(target, tls.as_ref(), &self.options).await {
                Ok(connection) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => {
                    let reason: &dyn std::error::Error = &error;
                    tracing::debug!(export = %target, error = reason, "no NBD connection");
                    // If any address may work later, that is the answer.
                    if step == 0 || !worst.is_retryable() {
                        worst = error;
                    }
                }
            }
        }
        Err(worst)
    }

    /// Connects, with retries.
    pub(super) async fn connect_patiently(&self) -> Result<Connection, NbdError> {
        let mut failed = 0;
        loop {
            let error = match self.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            failed += 1;
            match self.options.retry.delay(failed).filter(|_| error.is_retryable()) {
                Some(delay) => sleep(delay).await,
                None => return Err(error),
            }
        }
    }

    /// Starts the worker of the first connection.
    pub(super) fn start(self: &Arc<Self>, connection: Connection, size: u64) {
        self.queue.add_worker();
        self.tracker.spawn(run(self.clone(), Some(connection), size));
    }

    /// Adds a job to the queue, and a worker if that takes one.
    pub(super) fn submit(self: &Arc<Self>, job: Job, size: u64) {
        if self.queue.push(job, self.options.depth, self.options.connections.max(1)) {
            self.tracker.spawn(run(self.clone(), None, size));
        }
        // Looked at after the job was queued: whoever comes later, this or `close`, finds it.
        if self.stop.is_cancelled() {
            self.queue.drain().into_iter().for_each(|job| job.fail(Arc::new(NbdError::Stopped)));
        }
    }

    /// Ends all workers; returns when every connection has taken its leave.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        self.queue.drain().into_iter().for_each(|job| job.fail(Arc::new(NbdError::Stopped)));
    }

    /// Gives a job another chance, after a while, if it has any left.
    fn again(self: &Arc<Self>, mut job: Job, error: NbdError) {
        job.failed += 1;
        let Some(delay) = self.options.retry.delay(job.failed).filter(|_| error.is_retryable()) else {
            return job.fail(Arc::new(error));
        };
        let shared = self.clone();
        self.tracker.spawn(async move {
            match shared.stop.run_until_cancelled(sleep(delay)).await {
                Some(()) => shared.queue.put_back(vec![job]),
                None => job.fail(Arc::new(NbdError::Stopped)),
            }
        });
    }

    /// Gives the jobs of a lost connection back to the queue; those that have lost too many fail.
    fn give_back(&self, jobs: Vec<Job>, error: &Arc<NbdError>) {
        let mut kept = Vec::with_capacity(jobs.len());
        for mut job in jobs {
            job.failed += 1;
            if self.options.retry.delay(job.failed).is_some() { kept.push(job) } else { job.fail(error.clone()) }
        }
        self.queue.put_back(kept);
    }
}

/// Serves the queue until the disk is closed, or no connection can be had any more.
async fn run(shared: Arc<Shared>, mut first: Option<Connection>, size: u64) {
    let mut failed = 0;
    loop {
        let mut replies = 0;
        let Err(error) = one_connection(&shared, first.take(), size, &mut replies).await else { return };
        failed = if replies > 0 { 1 } else { failed + 1 };
        let delay = shared.options.retry.delay(failed).filter(|_| error.is_retryable());
        log_lost(&shared, &error, failed, delay);
        let Some(delay) = delay else {
            shared.queue.remove_worker().into_iter().for_each(|job| job.fail(error.clone()));
            return;
        };
        shared.stop.run_until_cancelled(sleep(delay)).await;
    }
}

fn log_lost(shared: &Shared, error: &NbdError, failed: u32, delay: Option<Duration>) {
    let reason: &dyn std::error::Error = error;
    tracing::warn!(export = %shared.subject(), error = reason, failed, again_in = ?delay, "NBD connection lost");
}

/// Connects, unless that is done, and serves until the disk is closed (`Ok`) or the connection fails.
async fn one_connection(
    shared: &Arc<Shared>,
    open: Option<Connection>,
    size: u64,
    replies: &mut u64,
) -> Result<(), Arc<NbdError>> {
    let connecting = async {
        match open {
            Some(connection) => Ok(connection),
            None => shared.connect().await.inspect(|_| shared.queue.opened()),
        }
    };
    let Some(connection) = shared.stop.run_until_cancelled(connecting).await else { return Ok(()) };
    let mut connection = connection?;
    let found = connection.export().size;
    if found != size {
        return Err(Arc::new(NbdError::SizeChanged { expected: size, found }));
    }
    if let Err(error) = serve(shared, &mut connection, replies).await {
        let error = Arc::new(error);
        shared.give_back(connection.take_in_flight(), &error);
        return Err(error);
    }
    connection.disconnect().await;
    Ok(())
}

/// Serves until the disk is closed (`Ok`) or the connection fails.
async fn serve(shared: &Arc<Shared>, connection: &mut Connection, replies: &mut u64) -> Result<(), NbdError> {
    let limit = shared.options.reply_timeout;
    let depth = shared.options.depth.max(1);
    let mut deadline = Instant::now() + limit;
    loop {
        while connection.in_flight() < depth
            && let Some(job) = shared.queue.pop()
        {
            if connection.in_flight() == 0 {
                deadline = Instant::now() + limit;
            }
            within(limit, "sending a request", connection.send(job)).await?;
        }
        let (waiting, room) = (connection.in_flight() > 0, connection.in_flight() < depth);
        let header = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            header = timeout_at(deadline, connection.header()), if waiting => match header {
                Ok(header) => header?,
                Err(_) => return Err(NbdError::Timeout { waiting_for: "waiting for a reply", after: limit }),
            },
            () = shared.queue.wait(), if room => continue,
        };
        let finished = within(limit, "receiving a reply", connection.payload(header)).await?;
        deadline = Instant::now() + limit;
        *replies += 1;
        if let Some(Finished::Refused(job, error)) = finished {
            shared.again(job, error);
        }
    }
}
