//! Following a run: the full picture first, then what changed, until it has ended. A client that does not read is cut
//! off; nothing is kept for it beyond one message.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use coffer_model::RunId;
use coffer_proto::v1;
use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::runs::{all_tasks, find, shape, tasks};
use crate::convert::{duration_in, name_in};
use crate::fault::Fault;
use crate::plane::Plane;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const LONGEST_INTERVAL: Duration = Duration::from_secs(60);
/// Tasks in one message, so that a run of many stays below the limit of a message.
const TASKS_PER_MESSAGE: usize = 100;

type Answer = Result<v1::FollowRunResponse, Status>;

pub(super) async fn follow(
    plane: Arc<Plane>,
    request: v1::FollowRunRequest,
) -> Result<Pin<Box<dyn Stream<Item = Answer> + Send>>, Fault> {
    let run: RunId = name_in("name", &request.name)?;
    let interval = request.interval.map(|interval| duration_in("interval", interval)).transpose()?.unwrap_or_default();
    let interval = if interval.is_zero() { DEFAULT_INTERVAL } else { interval };
    let interval = interval.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL);
    plane.read(|state| find(state, &run).map(|_| ()))?;
    let (out, answers) = mpsc::channel(1);
    // The channel may be full when something goes wrong; a stream that just ended would say that the run did.
    let (end, ended) = oneshot::channel();
    tokio::spawn(async move {
        let mut follower = Follower { plane, run, interval, out, run_sent: None, sent: BTreeMap::new() };
        if let Err(fault) = follower.work().await {
            // The client may be gone; then there is nobody to tell.
            drop(end.send(Status::from(fault)));
        }
    });
    let last = futures::stream::once(ended).filter_map(|end| async move { end.ok().map(Err) });
    Ok(Box::pin(ReceiverStream::new(answers).map(Ok).chain(last)))
}

struct Follower {
    plane: Arc<Plane>,
    run: RunId,
    interval: Duration,
    out: mpsc::Sender<v1::FollowRunResponse>,
    run_sent: Option<(v1::Run, Instant)>,
    sent: BTreeMap<String, (u64, Instant, v1::Task)>,
}

impl Follower {
    async fn work(&mut self) -> Result<(), Fault> {
        let mut changes = self.plane.changes();
        loop {
            changes.borrow_and_update();
            if self.send_changes().await? {
                return Ok(());
            }
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Err(Fault::Stopping);
                    }
                }
                () = tokio::time::sleep(self.interval) => {}
                () = self.plane.stop.cancelled() => return Err(Fault::Stopping),
                () = self.out.closed() => return Ok(()),
            }
        }
    }

    /// Sends what is new; true when the run has ended and all of it was sent.
    async fn send_changes(&mut self) -> Result<bool, Fault> {
        let (run, ended, archived, current) = self.plane.read(|state| {
            let found = find(state, &self.run)?;
            let run = shape(&self.plane, state, &self.run, found);
            let current = tasks(&self.plane, state, &self.run);
            Ok::<_, Fault>((run, found.record.verdict().is_some(), found.record.archived, current))
        })?;
        let current: Vec<(u64, v1::Task)> = if archived {
            all_tasks(&self.plane, &self.run).await?.into_iter().map(|task| (u64::MAX, task)).collect()
        } else {
            current.into_iter().map(|(_, modified, task)| (modified, task)).collect()
        };
        let now = Instant::now();
        let due = |since: Instant| now.duration_since(since) >= self.interval;
        let mut news = Vec::new();
        for (modified, task) in current {
            let send = match self.sent.get(&task.name) {
                None => true,
                Some((_, _, sent)) if *sent == task => false,
                // Progress comes at its pace; everything else at once.
                Some((seen, since, sent)) => {
                    *seen != modified || sent.waits_for != task.waits_for || due(*since) || ended
                }
            };
            if send {
                self.sent.insert(task.name.clone(), (modified, now, task.clone()));
                news.push(task);
            }
        }
        let run_news = match &self.run_sent {
            None => true,
            Some((sent, since)) => {
                let moved = v1::Run { transfer: sent.transfer, ..run.clone() } != *sent;
                *sent != run && (moved || due(*since) || ended)
            }
        };
        let mut run_message = None;
        if run_news {
            self.run_sent = Some((run.clone(), now));
            run_message = Some(run);
        }
        let mut rest = news.into_iter().peekable();
        while run_message.is_some() || rest.peek().is_some() {
            let tasks = rest.by_ref().take(TASKS_PER_MESSAGE).collect();
            self.send(v1::FollowRunResponse { run: run_message.take(), tasks }).await?;
        }
        Ok(ended)
    }

    async fn send(&self, message: v1::FollowRunResponse) -> Result<(), Fault> {
        match tokio::time::timeout(self.plane.timings.slow_client, self.out.send(message)).await {
            Ok(Ok(())) => Ok(()),
            // Whoever hung up is told nothing.
            Ok(Err(_)) | Err(_) => Err(Fault::SlowClient),
        }
    }
}
