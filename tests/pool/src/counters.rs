//! What the pool has done, for tests to look at. Counts only.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::control::Counters;

/// The running totals.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    totals: Counters,
    open: HashMap<String, u64>,
    open_total: u64,
    snapshots: u64,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn show(&self) -> Counters {
        self.lock().totals.clone()
    }

    /// Sets the totals to zero; what is open stays open.
    pub(crate) fn reset(&self) {
        self.lock().totals = Counters::default();
    }

    pub(crate) fn call(&self, method: &str) {
        *self.lock().totals.calls.entry(method.to_owned()).or_default() += 1;
    }

    pub(crate) fn failure(&self, code: &str) {
        *self.lock().totals.failures.entry(code.to_owned()).or_default() += 1;
    }

    pub(crate) fn vdi_exported(&self, uuid: &str, format: &str, bytes: u64) {
        *self.lock().totals.vdi_exported.entry(format!("{uuid}/{format}")).or_default() += bytes;
    }

    pub(crate) fn vdi_imported(&self, uuid: &str, format: &str, bytes: u64) {
        *self.lock().totals.vdi_imported.entry(format!("{uuid}/{format}")).or_default() += bytes;
    }

    pub(crate) fn vm_exported(&self, uuid: &str, bytes: u64) {
        *self.lock().totals.vm_exported.entry(uuid.to_owned()).or_default() += bytes;
    }

    pub(crate) fn vm_imported(&self, bytes: u64) {
        self.lock().totals.vm_imported += bytes;
    }

    pub(crate) fn nbd_read(&self, uuid: &str, bytes: u64) {
        add(&mut self.lock().totals.nbd_read, uuid, bytes);
    }

    pub(crate) fn nbd_connected(&self, uuid: &str, host: usize, open_on_host: u64) {
        let mut inner = self.lock();
        add(&mut inner.totals.nbd_connections, uuid, 1);
        let max = inner.totals.nbd_connections_max.entry(host.to_string()).or_default();
        *max = (*max).max(open_on_host);
    }

    /// Counts a transfer as open, for each of these VMs, until the answer is dropped.
    pub(crate) fn open(self: &Arc<Self>, vms: Vec<String>) -> OpenStream {
        let mut inner = self.lock();
        for vm in &vms {
            let open = inner.open.entry(vm.clone()).or_default();
            *open += 1;
            let open = *open;
            let max = inner.totals.open_streams_max.entry(vm.clone()).or_default();
            *max = (*max).max(open);
        }
        inner.open_total += 1;
        inner.totals.open_streams_total_max = inner.totals.open_streams_total_max.max(inner.open_total);
        drop(inner);
        OpenStream { tally: Arc::clone(self), vms }
    }

    /// Counts a snapshot as being taken until the answer is dropped.
    pub(crate) fn snapshot(self: &Arc<Self>) -> OpenSnapshot {
        let mut inner = self.lock();
        inner.snapshots += 1;
        inner.totals.snapshots_max = inner.totals.snapshots_max.max(inner.snapshots);
        OpenSnapshot(Arc::clone(self))
    }
}

fn add(map: &mut BTreeMap<String, u64>, key: &str, bytes: u64) {
    match map.get_mut(key) {
        Some(total) => *total += bytes,
        None => drop(map.insert(key.to_owned(), bytes)),
    }
}

/// A transfer that is open.
#[derive(Debug)]
pub(crate) struct OpenStream {
    tally: Arc<Tally>,
    vms: Vec<String>,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut inner = self.tally.lock();
        inner.open_total = inner.open_total.saturating_sub(1);
        for vm in &self.vms {
            if let Some(open) = inner.open.get_mut(vm) {
                *open = open.saturating_sub(1);
            }
        }
    }
}

/// A snapshot that is being taken.
#[derive(Debug)]
pub(crate) struct OpenSnapshot(Arc<Tally>);

impl Drop for OpenSnapshot {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.snapshots = inner.snapshots.saturating_sub(1);
    }
}
