//! What the pool looks like now: a cache of its objects, kept up to date by `event.from`.

mod follow;
mod tables;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::inventory::Inventory;
use crate::{Client, Error, Ref};

pub use tables::{Table, Tables, Watched};

/// Whether the cache can be believed.
#[derive(Debug, Clone)]
pub enum EventHealth {
    /// It follows the pool.
    Live,
    /// The pool is away since then, for this reason; the cache shows it as it was.
    Stale {
        /// Since when.
        since: Instant,
        /// Why.
        error: Arc<Error>,
    },
}

impl EventHealth {
    /// Whether the cache follows the pool.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Live)
    }
}

#[derive(Debug)]
struct State {
    tables: Tables,
    health: EventHealth,
}

/// The cache of one pool. Cheap to clone; the pool is followed until the last clone is dropped.
#[derive(Clone)]
pub struct Events {
    state: watch::Receiver<State>,
    /// `None` in the view that the client itself keeps, which must not keep the following alive.
    task: Option<Arc<AbortOnDropHandle<()>>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("health", &self.health()).field("owner", &self.task.is_some()).finish()
    }
}

impl Events {
    /// Reads all objects of the pool and goes on following their changes. From then on tasks of this client are awaited
    /// by events.
    ///
    /// # Errors
    /// Any error of the first reading; later ones show in [`Events::health`] and are retried for ever.
    pub async fn start(client: &Client) -> Result<Self, Error> {
        let (cursor, tables) = follow::first(client).await?;
        let (sender, state) = watch::channel(State { tables, health: EventHealth::Live });
        let task = tokio::spawn(follow::follow(client.clone(), cursor, sender));
        let events = Self { state, task: Some(Arc::new(AbortOnDropHandle::new(task))) };
        client.follow_tasks_with(Self { state: events.state.clone(), task: None });
        Ok(events)
    }

    /// Whether the cache can be believed.
    #[must_use]
    pub fn health(&self) -> EventHealth {
        self.state.borrow().health.clone()
    }

    /// Whether somebody still keeps the cache up to date.
    pub(crate) fn is_followed(&self) -> bool {
        self.state.has_changed().is_ok()
    }

    /// The cache as it is now; cheap, and it does not change while it is held.
    #[must_use]
    pub fn tables(&self) -> Tables {
        self.state.borrow().tables.clone()
    }

    /// The pool as people and jobs see it.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        Inventory::of(&self.tables())
    }

    /// Follows one object.
    #[must_use]
    pub fn object<C: Watched>(&self, reference: &Ref<C>) -> ObjectWatch<C> {
        ObjectWatch { state: self.state.clone(), reference: reference.clone(), seen: false }
    }

    /// Waits for any change of anything, or of the health.
    ///
    /// # Errors
    /// [`Error::EventsStopped`] when the pool is no longer followed.
    pub async fn changed(&mut self) -> Result<(), Error> {
        self.state.changed().await.map_err(|_| Error::EventsStopped)
    }
}

/// What is known of an object that is followed.
#[derive(Debug, PartialEq)]
pub enum ObjectState<C: Watched> {
    /// The events have not shown it yet.
    Unseen,
    /// It looks like this.
    Present(Arc<C::Record>),
    /// It was there and is no more.
    Gone,
}

/// Follows one object of the pool.
#[derive(Debug)]
pub struct ObjectWatch<C: Watched> {
    state: watch::Receiver<State>,
    reference: Ref<C>,
    seen: bool,
}

impl<C: Watched> ObjectWatch<C> {
    /// What is known now.
    pub fn now(&mut self) -> ObjectState<C> {
        let state = self.state.borrow_and_update();
        Self::look(&state, &self.reference, &mut self.seen)
    }

    /// Whether the events are followed and live.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state.has_changed().is_ok() && self.state.borrow().health.is_live()
    }

    /// Waits until the object is as wanted. Intermediate states may be missed: events show the latest only.
    ///
    /// # Errors
    /// [`Error::EventsStopped`] when the pool is no longer followed.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&ObjectState<C>) -> bool) -> Result<ObjectState<C>, Error> {
        loop {
            let now = self.now();
            if wanted(&now) {
                return Ok(now);
            }
            self.state.changed().await.map_err(|_| Error::EventsStopped)?;
        }
    }

    fn look(state: &State, reference: &Ref<C>, seen: &mut bool) -> ObjectState<C> {
        match state.tables.get_shared(reference) {
            Some(record) => {
                *seen = true;
                ObjectState::Present(record)
            }
            None if *seen => ObjectState::Gone,
            None => ObjectState::Unseen,
        }
    }
}
