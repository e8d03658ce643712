//! The durable record of a task: steps, intents and log lines, each written down by a controller before or after it
//! happened. Operations of an epoch are numbered without gaps, so that a repetition is recognised.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use coffer_model::names::Named;
use coffer_model::{RemoteId, TaskName};
use coffer_proto::v1::log_entry::Severity;
use coffer_proto::v1::{
    CompleteRequest, Intent, LogEntry, PlanRetentionRequest, PlanRetentionResponse, ReportCatalogueRequest,
    ReportCatalogueResponse, ReportDeletedRequest, RequestCommitRequest, RestorePoint, Step, TransitionRequest,
    complete_request, step,
};
use prost_types::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::control::Controllers;
use crate::halt::{Halt, Outcome, chain};
use crate::progress::TaskProgress;

/// Log lines that wait to be sent; more are dropped, the oldest first.
const MAX_WAITING_LINES: usize = 200;
/// Longest log line, in bytes.
const MAX_LINE: usize = 2_000;

/// What a step did, once it is done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Done {
    /// Result in words.
    pub(crate) message: String,
    /// Bytes that it read.
    pub(crate) read_bytes: u64,
    /// Bytes that it wrote.
    pub(crate) written_bytes: u64,
    /// Intents of which nothing is left to do now.
    pub(crate) settled: Vec<Intent>,
}

impl From<String> for Done {
    fn from(message: String) -> Self {
        Self { message, ..Self::default() }
    }
}

impl From<&str> for Done {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}

/// The record of one task under one epoch.
pub(crate) struct Journal {
    controllers: Arc<dyn Controllers>,
    task: TaskName,
    epoch: u64,
    attempt: u32,
    progress: TaskProgress,
    cancel: CancellationToken,
    /// Held across a call: operations are numbered in the order in which they arrive.
    last_op: tokio::sync::Mutex<u64>,
    lines: Mutex<Vec<LogEntry>>,
    open: Mutex<BTreeMap<String, Intent>>,
    begun: Mutex<Option<(&'static str, Timestamp)>>,
}

impl Journal {
    /// Goes on behind operation `last_op` with these intents open.
    pub(crate) fn new(
        controllers: Arc<dyn Controllers>,
        task: TaskName,
        (epoch, attempt, last_op): (u64, u32, u64),
        open: Vec<Intent>,
        progress: TaskProgress,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            controllers,
            task,
            epoch,
            attempt,
            progress,
            cancel,
            last_op: tokio::sync::Mutex::new(last_op),
            lines: Mutex::default(),
            open: Mutex::new(open.into_iter().map(|intent| (intent.id.clone(), intent)).collect()),
            begun: Mutex::default(),
        }
    }

    /// Notes something for people; it goes out with the next record.
    pub(crate) fn info(&self, message: impl Display) {
        tracing::info!(task = %self.task, "{message}");
        self.line(Severity::Info, message.to_string());
    }

    /// Notes that something did not go as it should.
    pub(crate) fn warn(&self, message: impl Display) {
        tracing::warn!(task = %self.task, "{message}");
        self.line(Severity::Warning, message.to_string());
    }

    fn line(&self, severity: Severity, mut message: String) {
        if message.len() > MAX_LINE {
            let mut end = MAX_LINE;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
            message.push('…');
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == MAX_WAITING_LINES {
            lines.remove(0);
        }
        lines.push(LogEntry { time: Some(now()), severity: severity.into(), message });
    }

    /// The intents that are open.
    pub(crate) fn open_intents(&self) -> Vec<Intent> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Records that a step begins, and what it is about to do.
    pub(crate) async fn begin(&self, name: &'static str, intents: Vec<Intent>) -> Outcome<()> {
        self.progress.enter(name);
        let start = now();
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some((name, start));
        self.record(Some(self.step(name, start, step::State::Running, Done::default())), intents).await
    }

    /// Records that the step is done, and what is settled with it.
    pub(crate) async fn done(&self, name: &'static str, done: Done) -> Outcome<()> {
        self.end(name, step::State::Done, done).await
    }

    /// Records that the step failed.
    pub(crate) async fn failed(&self, name: &'static str, why: &Halt) -> Outcome<()> {
        self.end(name, step::State::Failed, why.to_string().into()).await
    }

    /// Records that the effects of a step were undone.
    pub(crate) async fn undone(&self, name: &'static str, message: &str, settled: Vec<Intent>) -> Outcome<()> {
        self.end(name, step::State::Undone, Done { settled, ..message.into() }).await
    }

    /// Records intents alone: opened, or settled.
    pub(crate) async fn intend(&self, intents: Vec<Intent>) -> Outcome<()> {
        self.record(None, intents).await
    }

    async fn end(&self, name: &'static str, state: step::State, mut done: Done) -> Outcome<()> {
        let settled = std::mem::take(&mut done.settled);
        let begun = *self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let start = begun.filter(|(step, _)| *step == name).map_or_else(now, |(_, start)| start);
        self.record(Some(self.step(name, start, state, done)), settled).await
    }

    fn step(&self, name: &'static str, start: Timestamp, state: step::State, done: Done) -> Step {
        Step {
            name: name.to_owned(),
            state: state.into(),
            start_time: Some(start),
            end_time: (state != step::State::Running).then(now),
            message: done.message,
            attempt: self.attempt,
            read_bytes: done.read_bytes,
            written_bytes: done.written_bytes,
        }
    }

    async fn record(&self, step: Option<Step>, intents: Vec<Intent>) -> Outcome<()> {
        let mut last_op = self.last_op.lock().await;
        let request = TransitionRequest {
            session: String::new(),
            task: self.task.name(),
            epoch: self.epoch,
            op_seq: *last_op + 1,
            step,
            intents: intents.clone(),
            log: self.take_lines(),
            disks: self.progress.disks(),
        };
        let response = self.controllers.transition(request).await?;
        *last_op += 1;
        drop(last_op);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for intent in intents {
            if intent.closed {
                open.remove(&intent.id);
            } else {
                open.insert(intent.id.clone(), intent);
            }
        }
        if response.cancel {
            self.cancel.cancel();
        }
        Ok(())
    }

    /// Asks for the right to publish a prepared snapshot; returns the incarnation for the commit record.
    pub(crate) async fn request_commit(&self, remote: &RemoteId, snapshot_id: &str) -> Outcome<u64> {
        let mut last_op = self.last_op.lock().await;
        let request = RequestCommitRequest {
            session: String::new(),
            task: self.task.name(),
            epoch: self.epoch,
            op_seq: *last_op + 1,
            remote: remote.name(),
            snapshot_id: snapshot_id.to_owned(),
        };
        let response = self.controllers.request_commit(request).await?;
        *last_op += 1;
        Ok(response.incarnation)
    }

    /// Asks what retention lets go, given what this task has published.
    pub(crate) async fn plan_retention(&self, published: Vec<RestorePoint>) -> Outcome<PlanRetentionResponse> {
        let request =
            PlanRetentionRequest { session: String::new(), task: self.task.name(), epoch: self.epoch, published };
        Ok(self.controllers.plan_retention(request).await?)
    }

    /// Records that restore points are gone.
    pub(crate) async fn report_deleted(&self, points: Vec<String>) -> Outcome<()> {
        let request =
            ReportDeletedRequest { session: String::new(), task: self.task.name(), epoch: self.epoch, points };
        Ok(self.controllers.report_deleted(request).await?)
    }

    /// Reports every restore point on a remote.
    pub(crate) async fn report_catalogue(
        &self,
        remote: &RemoteId,
        points: Vec<RestorePoint>,
    ) -> Outcome<ReportCatalogueResponse> {
        /// Restore points in one part: far below the most that one message may hold.
        const PART: usize = 200;
        let part = |points: &[RestorePoint]| ReportCatalogueRequest {
            session: String::new(),
            task: self.task.name(),
            epoch: self.epoch,
            remote: remote.name(),
            points: points.to_vec(),
        };
        let parts = if points.is_empty() { vec![part(&[])] } else { points.chunks(PART).map(part).collect() };
        Ok(self.controllers.report_catalogue(parts).await?)
    }

    /// Ends the task. Returns whether another attempt will be made.
    pub(crate) async fn complete(&self, outcome: complete_request::Outcome) -> Outcome<bool> {
        self.progress.over();
        let mut last_op = self.last_op.lock().await;
        let request = CompleteRequest {
            session: String::new(),
            task: self.task.name(),
            epoch: self.epoch,
            op_seq: *last_op + 1,
            log: self.take_lines(),
            disks: self.progress.disks(),
            outcome: Some(outcome),
        };
        let response = self.controllers.complete(request).await?;
        *last_op += 1;
        Ok(response.will_retry)
    }

    fn take_lines(&self) -> Vec<LogEntry> {
        std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes an error that does not stop the task.
    pub(crate) fn warn_error(&self, what: &str, error: &(dyn std::error::Error + 'static)) {
        self.warn(format_args!("{what}: {}", chain(error)));
    }
}

/// Now, for records that people read.
pub(crate) fn now() -> Timestamp {
    to_timestamp(jiff::Timestamp::now())
}

/// An instant for the wire.
pub(crate) fn to_timestamp(time: jiff::Timestamp) -> Timestamp {
    Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}
