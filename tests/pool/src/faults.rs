//! What goes wrong, and when: counts matching events and tells whoever asks what to do. Carries nothing out itself.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::control::{ActiveFault, Fault};
use crate::value::Failure;

/// The faults that are switched on.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    active: BTreeMap<u64, Armed>,
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    seen: u64,
    hits: u64,
    /// Cancelled when the fault is switched off.
    cleared: CancellationToken,
}

/// What a call meets.
#[derive(Debug, Default)]
pub(crate) struct CallFaults {
    pub(crate) hang: Option<CancellationToken>,
    pub(crate) delay: Option<Duration>,
    pub(crate) error: Option<Failure>,
    pub(crate) unanswered: bool,
}

/// What a transfer meets.
#[derive(Debug, Default)]
pub(crate) struct StreamFaults {
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) cut_after: Option<u64>,
    pub(crate) corrupt_at: Option<u64>,
    pub(crate) stall: Option<(u64, CancellationToken)>,
    pub(crate) error_in_body: Option<u64>,
    pub(crate) task_fails: Option<Failure>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Switches one on; returns its number.
    pub(crate) fn arm(&self, fault: Fault) -> u64 {
        let mut inner = self.lock();
        inner.last += 1;
        let id = inner.last;
        inner.active.insert(id, Armed { fault, seen: 0, hits: 0, cleared: CancellationToken::new() });
        id
    }

    /// Switches one off, or all (0); what waits for it goes on. Whether there was one.
    pub(crate) fn clear(&self, id: u64) -> bool {
        let mut inner = self.lock();
        let ids: Vec<u64> = inner.active.keys().copied().filter(|k| id == 0 || *k == id).collect();
        for id in &ids {
            if let Some(armed) = inner.active.remove(id) {
                armed.cleared.cancel();
            }
        }
        id == 0 || !ids.is_empty()
    }

    pub(crate) fn list(&self) -> Vec<ActiveFault> {
        let inner = self.lock();
        let show = |(id, armed): (&u64, &Armed)| ActiveFault {
            id: *id,
            fault: armed.fault.clone(),
            seen: armed.seen,
            hits: armed.hits,
        };
        inner.active.iter().map(show).collect()
    }

    /// Counts an event on every fault that `matches`, and returns those that it hits.
    fn strike(&self, matches: impl Fn(&Fault) -> bool) -> Vec<(Fault, CancellationToken)> {
        let mut inner = self.lock();
        let mut struck = Vec::new();
        for armed in inner.active.values_mut().filter(|a| matches(&a.fault)) {
            armed.seen += 1;
            let (nth, times) = window(&armed.fault);
            if armed.seen >= nth.max(1) && (times == 0 || armed.hits < times) {
                armed.hits += 1;
                struck.push((armed.fault.clone(), armed.cleared.clone()));
            }
        }
        struck
    }

    /// What this call meets.
    pub(crate) fn call(&self, called: &str) -> CallFaults {
        let mine = |method: &str| method == "*" || method.eq_ignore_ascii_case(called);
        let mut found = CallFaults::default();
        for (fault, cleared) in self.strike(|f| method_of(f).is_some_and(mine)) {
            match fault {
                Fault::CallError { code, params, .. } => found.error = Some(Failure { code, params }),
                Fault::CallDelay { delay_ms, .. } => found.delay = Some(Duration::from_millis(delay_ms)),
                Fault::CallHang { .. } => found.hang = Some(cleared),
                Fault::CallUnanswered { .. } => found.unanswered = true,
                _ => {}
            }
        }
        found
    }

    /// What a transfer at `path` on one of `subjects` (UUIDs) meets.
    pub(crate) fn stream(&self, path: &str, subjects: &[String]) -> StreamFaults {
        let mine = |fault: &Fault| {
            stream_of(fault).is_some_and(|(p, subject)| {
                (p == "*" || p.trim_end_matches('/') == path)
                    && (subject.is_empty() || subjects.iter().any(|s| s.eq_ignore_ascii_case(subject)))
            })
        };
        let mut found = StreamFaults::default();
        for (fault, cleared) in self.strike(mine) {
            match fault {
                Fault::SlowStream { bytes_per_second, .. } => found.bytes_per_second = Some(bytes_per_second.max(1)),
                Fault::CutStream { after_bytes, .. } => found.cut_after = Some(after_bytes),
                Fault::CorruptStream { at_byte, .. } => found.corrupt_at = Some(at_byte),
                Fault::StallStream { after_bytes, .. } => found.stall = Some((after_bytes, cleared)),
                Fault::ErrorInBody { after_bytes, .. } => found.error_in_body = Some(after_bytes),
                Fault::TaskFails { code, params, .. } => found.task_fails = Some(Failure { code, params }),
                _ => {}
            }
        }
        found
    }

    /// The status that refuses a transfer.
    pub(crate) fn refusal(&self, path: &str) -> Option<u16> {
        let mine = |f: &Fault| matches!(f, Fault::TransferRefused { path: p, .. } if p == "*" || p.trim_end_matches('/') == path);
        self.strike(mine).into_iter().find_map(|(f, _)| match f {
            Fault::TransferRefused { status, .. } => Some(status),
            _ => None,
        })
    }

    /// Whether an event is lost.
    pub(crate) fn loses(&self, class: &str, operation: &str) -> bool {
        let mine = |f: &Fault| {
            matches!(f, Fault::LoseEvents { class: c, operation: o, .. }
                if c.eq_ignore_ascii_case(class) && (o.is_empty() || o == operation))
        };
        !self.strike(mine).is_empty()
    }

    /// Whether an SR, by any of its names, is full.
    pub(crate) fn sr_full(&self, names: &[String]) -> bool {
        !self.strike(|f| matches!(f, Fault::SrFull { sr } if names.contains(sr))).is_empty()
    }

    /// Whether attaching a disk for NBD fails.
    pub(crate) fn nbd_refused(&self, uuid: &str) -> bool {
        let mine = |f: &Fault| matches!(f, Fault::NbdRefused { subject, .. } if subject.is_empty() || subject == uuid);
        !self.strike(mine).is_empty()
    }
}

fn method_of(fault: &Fault) -> Option<&str> {
    match fault {
        Fault::CallError { method, .. }
        | Fault::CallDelay { method, .. }
        | Fault::CallHang { method, .. }
        | Fault::CallUnanswered { method, .. } => Some(method),
        _ => None,
    }
}

fn stream_of(fault: &Fault) -> Option<(&str, &str)> {
    match fault {
        Fault::SlowStream { path, subject, .. }
        | Fault::CutStream { path, subject, .. }
        | Fault::CorruptStream { path, subject, .. }
        | Fault::StallStream { path, subject, .. }
        | Fault::TaskFails { path, subject, .. }
        | Fault::ErrorInBody { path, subject, .. } => Some((path, subject)),
        _ => None,
    }
}

/// First hit and number of hits.
fn window(fault: &Fault) -> (u64, u64) {
    match fault {
        Fault::CallError { nth, times, .. }
        | Fault::CallDelay { nth, times, .. }
        | Fault::CallHang { nth, times, .. }
        | Fault::CallUnanswered { nth, times, .. }
        | Fault::CutStream { nth, times, .. }
        | Fault::CorruptStream { nth, times, .. }
        | Fault::StallStream { nth, times, .. }
        | Fault::TaskFails { nth, times, .. }
        | Fault::ErrorInBody { nth, times, .. }
        | Fault::TransferRefused { nth, times, .. }
        | Fault::LoseEvents { nth, times, .. }
        | Fault::NbdRefused { nth, times, .. } => (*nth, *times),
        Fault::SlowStream { .. } | Fault::SrFull { .. } => (1, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_call_is_hit_so_many_times_and_no_other() {
        let faults = Faults::default();
        let id = faults.arm(Fault::CallError {
            method: "VM.snapshot".to_owned(),
            code: "SR_FULL".to_owned(),
            params: vec![],
            nth: 2,
            times: 2,
        });
        assert!(faults.call("VDI.destroy").error.is_none());
        let hits: Vec<bool> = (0..5).map(|_| faults.call("VM.snapshot").error.is_some()).collect();
        assert_eq!(hits, [false, true, true, false, false]);
        let shown = faults.list();
        assert_eq!((shown[0].seen, shown[0].hits), (5, 2));
        assert!(faults.clear(id) && !faults.clear(id));
    }

    #[test]
    fn a_stream_fault_strikes_its_subject_only() {
        let faults = Faults::default();
        let fault = Fault::CutStream {
            path: "/export_raw_vdi".to_owned(),
            subject: "a".to_owned(),
            after_bytes: 7,
            nth: 0,
            times: 1,
        };
        faults.arm(fault);
        assert_eq!(faults.stream("/export_raw_vdi", &["b".to_owned()]).cut_after, None);
        assert_eq!(faults.stream("/export", &["a".to_owned()]).cut_after, None);
        assert_eq!(faults.stream("/export_raw_vdi", &["b".to_owned(), "a".to_owned()]).cut_after, Some(7));
        assert_eq!(faults.stream("/export_raw_vdi", &["a".to_owned()]).cut_after, None);
    }
}
