//! The loop around `event.from`: its own connection, the token, and what was lost on the way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coffer_runtime::retry::Policy;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::tables::CLASSES;
use super::{EventHealth, State, Tables};
use crate::client::decoded;
use crate::link::{Call, Repeat, Slot};
use crate::wire::{Batch, decode_batch};
use crate::{Client, Error};

/// The server gathers changes for 50 ms; without a pause of about that, a busy pool is polled without end.
const PAUSE: Duration = Duration::from_millis(50);

/// How much longer than asked for `event.from` may take.
const GRACE: Duration = Duration::from_secs(30);

/// Where the following stands.
pub(super) struct Cursor {
    slot: Slot,
    token: String,
    /// What was expected and held when a class was last read anew, so that a difference that reading does not mend is
    /// not mended for ever.
    mended: HashMap<&'static str, (u64, usize)>,
}

/// Reads everything.
pub(super) async fn first(client: &Client) -> Result<(Cursor, Tables), Error> {
    let mut cursor = Cursor { slot: Slot::default(), token: String::new(), mended: HashMap::new() };
    let batch = cursor.poll(client).await?;
    let mut tables = Tables::default();
    cursor.take(client, &mut tables, batch).await?;
    Ok((cursor, tables))
}

/// Follows the pool for ever: whoever started it drops it when nobody looks any more. Errors make the cache stale and
/// are retried for ever.
pub(super) async fn follow(client: Client, mut cursor: Cursor, sender: watch::Sender<State>) {
    let mut delays = Policy::RECONNECT.delays(rand::random());
    loop {
        tokio::time::sleep(PAUSE).await;
        match turn(&client, &mut cursor, &sender).await {
            Ok(()) => delays.reset(),
            Err(error) => {
                tracing::info!(
                    error = &error as &dyn std::error::Error,
                    "the pool's events are not followed at present"
                );
                let error = Arc::new(error);
                sender.send_modify(|state| {
                    let since = match state.health {
                        EventHealth::Stale { since, .. } => since,
                        EventHealth::Live => Instant::now(),
                    };
                    state.health = EventHealth::Stale { since, error };
                });
                // A restarted toolstack counts anew: the token of before means nothing.
                cursor.token.clear();
                tokio::time::sleep(delays.next().unwrap_or(Policy::RECONNECT.max)).await;
            }
        }
    }
}

async fn turn(client: &Client, cursor: &mut Cursor, sender: &watch::Sender<State>) -> Result<(), Error> {
    let from_scratch = cursor.token.is_empty();
    let batch = cursor.poll(client).await?;
    let nothing_new = batch.events.is_empty() && !from_scratch;
    // Read anew, what is not among the objects is gone.
    let before = sender.borrow().tables.clone();
    let mut tables = if from_scratch { Tables::default() } else { before };
    cursor.take(client, &mut tables, batch).await?;
    sender.send_if_modified(|state| {
        let changed = !nothing_new || !state.health.is_live() || state.tables != tables;
        state.tables = tables;
        state.health = EventHealth::Live;
        changed
    });
    Ok(())
}

impl Cursor {
    async fn poll(&mut self, client: &Client) -> Result<Batch, Error> {
        let classes: Vec<&str> = CLASSES.iter().map(|(event_class, _)| *event_class).collect();
        let poll = client.timeouts().poll;
        let call = Call {
            method: "event.from".to_owned(),
            params: vec![json!(classes), json!(self.token), json!(poll.as_secs_f64())],
            // With another session or host the token may mean something else: begin anew rather than repeat.
            repeat: if self.token.is_empty() { Repeat::Safe } else { Repeat::Never },
            timeout: poll + GRACE,
            asks_for_coordinator: false,
        };
        let result = client.perform(&self.slot, &call).await?;
        decode_batch(result).map_err(|source| Error::Answer { what: call.method, source })
    }

    /// Applies a batch and reads anew the classes about which events were lost. The token moves only when all is done.
    async fn take(&mut self, client: &Client, tables: &mut Tables, batch: Batch) -> Result<(), Error> {
        let token = batch.token.clone();
        let counts = batch.valid_ref_counts.clone();
        tables.apply(batch);
        for (class, expected) in tables.miscounted(&counts) {
            if self.mended.get(class) == Some(&(expected, tables.count(class))) {
                continue;
            }
            tracing::debug!(class, expected, held = tables.count(class), "events were lost, a class is read anew");
            let name = CLASSES.iter().find(|(event_class, _)| *event_class == class).map_or(class, |(_, name)| *name);
            let method = format!("{name}.get_all_records");
            let call = client.prepared(&method, Vec::new(), Repeat::Safe);
            let records: Map<String, Value> = decoded(&method, client.perform(&self.slot, &call).await?)?;
            tables.replace(class, records);
            self.mended.insert(class, (expected, tables.count(class)));
        }
        self.token = token;
        Ok(())
    }
}
