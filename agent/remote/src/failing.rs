//! A wrapper that fails on order, for tests of what stands above a remote.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{fmt, io};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Capabilities, Error, ObjectInfo, ObjectName, Operation, Remote, Space};

/// How to fail. Operations are numbered from 0 in the order they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Operation `at` fails without effect.
    Once {
        /// Number of the operation.
        at: u64,
    },
    /// Operation `at` and every later one fail without effect: the remote (or this process) is gone.
    From {
        /// Number of the first operation that fails.
        at: u64,
    },
    /// Operation `at` takes effect and then fails, and so does every later one without effect: the answer was lost.
    AfterEffect {
        /// Number of the operation whose answer is lost.
        at: u64,
    },
    /// Operation `at` takes effect and then fails; later ones work.
    AfterEffectOnce {
        /// Number of the operation whose answer is lost.
        at: u64,
    },
    /// Creates fail with [`Error::NoSpace`] when this many bytes have been written in all.
    FullAfter {
        /// Room in bytes.
        bytes: u64,
    },
}

/// Passes everything on to a remote, until told to fail.
pub struct FailingRemote<R> {
    inner: R,
    fault: Mutex<Option<Fault>>,
    operations: AtomicU64,
    written: AtomicU64,
}

enum Verdict {
    Work,
    Fail,
    FailAfterEffect,
}

impl<R: Remote> FailingRemote<R> {
    /// Wraps `inner`, which works until [`Self::inject`].
    pub fn new(inner: R) -> Self {
        Self { inner, fault: Mutex::new(None), operations: AtomicU64::new(0), written: AtomicU64::new(0) }
    }

    /// Fails like this from now on (`None`: works again), counting operations and bytes from 0.
    pub fn inject(&self, fault: Option<Fault>) {
        self.operations.store(0, Ordering::SeqCst);
        self.written.store(0, Ordering::SeqCst);
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Operations called since the last [`Self::inject`].
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::SeqCst)
    }

    /// What is wrapped.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    fn judge(&self) -> Verdict {
        let number = self.operations.fetch_add(1, Ordering::SeqCst);
        match *self.fault.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Fault::Once { at }) if number == at => Verdict::Fail,
            Some(Fault::From { at }) if number >= at => Verdict::Fail,
            Some(Fault::AfterEffect { at }) if number > at => Verdict::Fail,
            Some(Fault::AfterEffect { at } | Fault::AfterEffectOnce { at }) if number == at => Verdict::FailAfterEffect,
            _ => Verdict::Work,
        }
    }

    fn failure(&self, operation: Operation, subject: impl fmt::Display) -> Error {
        Error::io(&self.describe(), operation, subject, io::Error::other("injected failure"))
    }

    fn reserve(&self, name: &ObjectName, body: &[Bytes]) -> Result<(), Error> {
        let more: u64 = body.iter().map(|part| part.len() as u64).sum();
        let before = self.written.fetch_add(more, Ordering::SeqCst);
        match *self.fault.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Fault::FullAfter { bytes }) if before + more > bytes => {
                let full = io::Error::from(io::ErrorKind::StorageFull);
                Err(Error::io(&self.describe(), Operation::Create, name, full))
            }
            _ => Ok(()),
        }
    }

    async fn pass<T>(
        &self,
        operation: Operation,
        subject: impl fmt::Display + Send,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        match self.judge() {
            Verdict::Work => call.await,
            Verdict::Fail => Err(self.failure(operation, subject)),
            Verdict::FailAfterEffect => {
                call.await?;
                Err(self.failure(operation, subject))
            }
        }
    }
}

impl<R: Remote> fmt::Debug for FailingRemote<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailingRemote").field("inner", &self.inner).field("fault", &self.fault).finish_non_exhaustive()
    }
}

#[async_trait]
impl<R: Remote> Remote for FailingRemote<R> {
    fn describe(&self) -> String {
        format!("failing {}", self.inner.describe())
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn create(&self, name: &ObjectName, body: Vec<Bytes>) -> Result<(), Error> {
        self.reserve(name, &body)?;
        self.pass(Operation::Create, name, self.inner.create(name, body)).await
    }

    async fn read(&self, name: &ObjectName) -> Result<Bytes, Error> {
        self.pass(Operation::Read, name, self.inner.read(name)).await
    }

    async fn read_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Bytes, Error> {
        self.pass(Operation::Read, name, self.inner.read_range(name, range)).await
    }

    async fn stat(&self, name: &ObjectName) -> Result<ObjectInfo, Error> {
        self.pass(Operation::Stat, name, self.inner.stat(name)).await
    }

    async fn list(&self, prefix: &ObjectName) -> Result<Vec<ObjectInfo>, Error> {
        self.pass(Operation::List, prefix, self.inner.list(prefix)).await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), Error> {
        self.pass(Operation::Delete, name, self.inner.delete(name)).await
    }

    async fn space(&self) -> Result<Option<Space>, Error> {
        self.pass(Operation::Space, "itself", self.inner.space()).await
    }
}
