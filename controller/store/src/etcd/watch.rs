//! Watches that outlive the member they run on.
//!
//! A watch of etcd ends with its connection. Here it is opened anew at the member that serves, from the revision after
//! the last one that was seen whole; etcd never tears a revision apart, so nothing is missed and nothing comes twice.
//! As long as no member serves, it waits. It ends when etcd has forgotten what comes next, or lets us in no longer.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use futures::StreamExt;
use futures::stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::{Cluster, Troubles};
use super::failure::{Answer, Failure};
use super::keys::{Keys, answered_at, revision, signed};
use super::refusal;
use crate::error::Error;
use crate::store::{Event, Events, Revision, WatchBatch};

/// Most bytes of one message. etcd sends up to a thousand revisions at once to a watcher that has to catch up; one that
/// would get more than this has to list anew.
const MESSAGE_BYTES: usize = 64 << 20;
/// First and longest wait between two attempts to open a watch anew.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Follows a prefix.
pub(super) async fn follow(cluster: Arc<Cluster>, keys: Keys, prefix: &str, from: Revision) -> Result<Events, Error> {
    let serving = cluster.serving();
    // Revision 0 is the empty store; to etcd it would mean "from now on".
    let mut watcher =
        Watcher { prefix: keys.outer(prefix), cluster, keys, next: from.max(Revision(1)), serving, open: None };
    watcher.open_within(watcher.cluster.deadline()).await?;
    Ok(stream::unfold(Some(watcher), |watcher| async move {
        let mut watcher = watcher?;
        match watcher.next_batch().await {
            Ok(batch) => Some((Ok(batch), Some(watcher))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed())
}

/// The oldest revision that is kept, when `requested` is older.
pub(super) async fn oldest(cluster: &Cluster, keys: &Keys, requested: Revision) -> Option<Revision> {
    let (_, client) = cluster.member(*cluster.serving().borrow());
    let options = WatchOptions::new().with_start_revision(signed(requested.0));
    let look = async {
        let mut stream = client.watch_client().watch(keys.outer(""), Some(options)).await.ok()?;
        loop {
            let message = stream.message().await.ok()??;
            if message.canceled() {
                return Some(revision(message.compact_revision()));
            }
            if !message.created() {
                return None;
            }
        }
    };
    timeout(cluster.timeouts().request, look).await.ok().flatten()
}

struct Watcher {
    cluster: Arc<Cluster>,
    keys: Keys,
    /// In etcd's terms.
    prefix: Vec<u8>,
    /// Everything before this was seen.
    next: Revision,
    serving: watch::Receiver<usize>,
    open: Option<Open>,
}

struct Open {
    member: usize,
    stream: WatchStream,
}

/// What a message of etcd means.
enum Step {
    Batch(WatchBatch),
    Nothing,
    /// The stream is over; the watch goes on at another member.
    Broken(Failure),
    Over(Error),
}

impl Watcher {
    async fn next_batch(&mut self) -> Result<WatchBatch, Error> {
        loop {
            let Some(open) = &mut self.open else {
                self.open_anew().await?;
                continue;
            };
            let (member, step) = tokio::select! {
                message = open.stream.message() => (open.member, match message {
                    Ok(Some(message)) => self.take_in(&message),
                    Ok(None) => Step::Broken(Failure::Lost("the watch ended".to_owned())),
                    Err(error) => self.broken(error.into()),
                }),
                // Whoever moved on knew more about the member than the silence of this stream tells.
                changed = self.serving.changed() => match changed {
                    Ok(()) => { self.open = None; continue }
                    Err(_) => return Err(Error::Closed { reason: "the store was dropped".to_owned() }),
                },
            };
            match step {
                Step::Batch(batch) => return Ok(batch),
                Step::Nothing => {}
                Step::Broken(failure) => {
                    self.open = None;
                    self.cluster.leave(member, &failure);
                }
                Step::Over(error) => return Err(error),
            }
        }
    }

    fn take_in(&mut self, message: &WatchResponse) -> Step {
        if message.canceled() {
            return match (message.compact_revision(), message.cancel_reason()) {
                (oldest @ 1.., _) => Step::Over(Error::Compacted { requested: self.next, oldest: revision(oldest) }),
                (_, reason) if reason.contains("permission denied") => {
                    Step::Over(refusal(&self.cluster, Answer::Denied(reason.to_owned())))
                }
                (_, reason) => Step::Broken(Failure::Lost(format!("the watch was ended: {reason}"))),
            };
        }
        match self.batch(message) {
            Ok(batch) if !batch.events.is_empty() => {
                self.next = batch.revision.next();
                Step::Batch(batch)
            }
            Ok(_) => {
                // A sign of life, in order with the events: all up to its revision have come.
                if !message.created() && message.watch_id() >= 0 && message.events().is_empty() {
                    self.next = self.next.max(answered_at(message.header()).next());
                }
                Step::Nothing
            }
            Err(error) => Step::Over(error),
        }
    }

    /// The events of a message. Its header is of no use here: it may be ahead of a message that had to be cut.
    fn batch(&self, message: &WatchResponse) -> Result<WatchBatch, Error> {
        let mut batch = WatchBatch { revision: Revision::ZERO, events: Vec::with_capacity(message.events().len()) };
        for event in message.events() {
            let Some(entry) = event.kv().filter(|entry| revision(entry.mod_revision()) >= self.next) else { continue };
            let at = revision(entry.mod_revision());
            batch.revision = batch.revision.max(at);
            batch.events.push(match event.event_type() {
                EventType::Put => Event::Put(self.keys.entry(entry.clone())?),
                EventType::Delete => Event::Delete { key: self.keys.inner(entry.key())?, revision: at },
            });
        }
        Ok(batch)
    }

    fn broken(&self, failure: Failure) -> Step {
        match failure {
            Failure::Answer(Answer::Oversized) => {
                tracing::warn!(from = %self.next, "etcd: more changes than fit into a message wait for a watch; it has to list anew");
                Step::Over(Error::Compacted { requested: self.next, oldest: self.next.next() })
            }
            Failure::Answer(answer) => Step::Over(refusal(&self.cluster, answer)),
            failure => Step::Broken(failure),
        }
    }

    /// Opens the watch, or says why no member does.
    async fn open_within(&mut self, deadline: Instant) -> Result<(), Error> {
        let mut troubles = Troubles::default();
        loop {
            match self.try_open().await {
                Ok(()) => return Ok(()),
                Err((_, Failure::Answer(answer))) => return Err(refusal(&self.cluster, answer)),
                Err((endpoint, failure)) => troubles.note(&endpoint, &failure),
            }
            if Instant::now() >= deadline || troubles.all_refused(self.cluster.each().count()) {
                return Err(self.cluster.give_up(troubles));
            }
            sleep(PAUSES.0).await;
        }
    }

    /// Opens the watch again, however long it takes until a member serves.
    async fn open_anew(&mut self) -> Result<(), Error> {
        let (mut pause, longest) = PAUSES;
        let since = Instant::now();
        let mut said = false;
        loop {
            let (endpoint, failure) = match self.try_open().await {
                Ok(()) => return Ok(()),
                Err((_, Failure::Answer(answer))) => return Err(refusal(&self.cluster, answer)),
                Err(failure) => failure,
            };
            if !said && since.elapsed() >= self.cluster.timeouts().call {
                let reason = failure.text();
                tracing::warn!(endpoint, reason, "etcd: no endpoint serves; a watch waits until one does");
                said = true;
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn try_open(&mut self) -> Result<(), (String, Failure)> {
        let member = *self.serving.borrow_and_update();
        let (endpoint, client) = self.cluster.member(member);
        let options = WatchOptions::new().with_prefix().with_start_revision(signed(self.next.0)).with_progress_notify();
        let prefix = self.prefix.clone();
        // The stream begins with the answer to the request, so that this returns when the watch stands.
        let opening = async move {
            client.watch_client().max_decoding_message_size(MESSAGE_BYTES).watch(prefix, Some(options)).await
        };
        let patience = self.cluster.timeouts().request;
        let failure = match timeout(patience, opening).await {
            Ok(Ok(stream)) => {
                self.open = Some(Open { member, stream });
                return Ok(());
            }
            Ok(Err(error)) => Failure::from(error),
            Err(_) => Failure::silence(patience),
        };
        let endpoint = endpoint.to_owned();
        self.cluster.leave(member, &failure);
        Err((endpoint, failure))
    }
}
