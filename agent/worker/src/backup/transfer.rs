//! Moves the disks: several at once, each in the best way that works.

use std::sync::Arc;

use coffer_disk::nbd::{ReadPlan, Rest};
use coffer_extent::{Extent, ExtentError, ExtentSink, ExtentSource, RangeSet, Validated};
use coffer_model::counted;
use coffer_repository::{BackupOptions, BackupSession, ClosedDisk, DiskWriter, FileContent};
use coffer_xapi::Ref;
use coffer_xapi::records::{Vdi, VdiRecord};
use futures::FutureExt;
use futures::stream::{StreamExt, TryStreamExt};

use super::Subject;
use super::facts;
use super::preflight::{LOST, Ready};
use super::snapshot::Shot;
use super::source::{DiskFacts, Source, choices, to_keep};
use crate::document::{Reference, device_of_position, disk_path};
use crate::halt::{Halt, Outcome, Trouble, chain};
use crate::hypervisor::{MachineDisk, Reading, Storage};
use crate::journal::Done;
use crate::progress::{DiskLabel, DiskProgress};
use crate::task::Task;

/// Disks of one VM that are read at once.
const DISKS_AT_ONCE: usize = 4;

/// Disks that have been moved into a session that is not sealed yet.
pub(crate) struct Moved {
    pub(super) session: BackupSession,
    /// In the order of [`Ready::included`].
    pub(super) disks: Vec<MovedDisk>,
}

/// A disk that has been moved.
pub(super) struct MovedDisk {
    pub(super) device: String,
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) source: &'static str,
    pub(super) reason: String,
    pub(super) reference: Option<Reference>,
    pub(super) closed: ClosedDisk,
    pub(super) read: u64,
}

/// The step. `None`: data that the backup was to be built on is lost, and it must begin anew, once.
pub(super) async fn transfer(
    task: &Task,
    subject: &Subject,
    ready: &Ready,
    shot: &Shot,
) -> Outcome<(Option<Moved>, Done)> {
    task.progress.clear();
    let options = BackupOptions { cancel: task.cancel.child_token() };
    let session = subject.remote.repository.begin_backup(options).await?;
    let work = ready.included().zip(&shot.disks).map(|(disk, snapshot)| {
        let label = label_of(disk.0, &snapshot.1);
        let progress = task.progress.disk(label);
        DiskWork { task, subject, ready, session: &session, disk, snapshot, progress }
    });
    let work: Vec<_> = work.collect();
    // Boxed: the compiler cannot see otherwise that it may move between threads.
    let moving: Vec<_> = work.iter().map(|disk| disk.carry_out().boxed()).collect();
    let moved: Outcome<Vec<MovedDisk>> = futures::stream::iter(moving).buffered(DISKS_AT_ONCE).try_collect().await;
    drop(work);
    let disks = match moved {
        Err(Halt::Failed(trouble)) if trouble.is_loss() && !ready.is_anew => {
            task.journal.warn(format_args!("data that this backup was built on is lost: {trouble}"));
            return Ok((None, format!("{LOST}: everything is read again").into()));
        }
        moved => moved?,
    };
    let read_bytes = disks.iter().map(|disk| disk.read).sum();
    let written_bytes = disks.iter().map(|disk| disk.closed.stats.stored_bytes).sum();
    let message = counted(disks.len(), "disk");
    Ok((Some(Moved { session, disks }), Done { message, read_bytes, written_bytes, ..Done::default() }))
}

fn label_of(disk: &MachineDisk, snapshot: &VdiRecord) -> DiskLabel {
    DiskLabel {
        uuid: disk.vdi.uuid.to_string(),
        device: device_of(disk),
        label: disk.vdi.name_label.clone(),
        size: snapshot.virtual_size,
    }
}

/// The device as the guest sees it; made from the position where the disk was never attached.
fn device_of(disk: &MachineDisk) -> String {
    let device = &disk.vbd.device;
    if !device.is_empty() && device.len() <= 16 && device.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        device.clone()
    } else {
        device_of_position(&disk.vbd.userdevice)
    }
}

/// Why an attempt at reading a disk ended.
enum Failed {
    /// The pool's side: another way may work.
    Source(Trouble),
    /// Our side, or cancelled: another way would not help.
    Target(Halt),
}

/// One disk to be moved.
struct DiskWork<'a> {
    task: &'a Task,
    subject: &'a Subject,
    ready: &'a Ready,
    session: &'a BackupSession,
    disk: (&'a MachineDisk, &'a Storage),
    snapshot: &'a (Ref<Vdi>, VdiRecord),
    progress: Arc<DiskProgress>,
}

impl DiskWork<'_> {
    async fn carry_out(&self) -> Outcome<MovedDisk> {
        let (snapshot, record) = self.snapshot;
        let mut facts = facts::gather(self.task, self.subject, self.ready, self.disk, (snapshot, record)).await?;
        let parent = self.parent_content(&mut facts).await;
        let device = device_of(self.disk.0);
        let label = format!("{device} ({})", self.disk.0.vdi.name_label);
        let path = disk_path(&device, self.disk.0.vdi.uuid);
        let writer = self.session.disk(&path, facts.size, parent).await?;
        let mut target = Target { writer, position: 0, read: 0, skipped: 0, progress: &self.progress };
        let mut given_up: Vec<String> = Vec::new();
        let mut last = None;
        for choice in choices(&facts) {
            let mut reasons = given_up.clone();
            if !choice.reason.is_empty() {
                reasons.insert(0, choice.reason.clone());
            }
            let reason = reasons.join("; ");
            let how = choice.source.label();
            self.progress.describe(how, &reason);
            let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            self.task.journal.info(format_args!("disk {label} is read by {how}{because}"));
            match self.attempt(&facts, &choice.source, &label, &mut target).await {
                Ok(()) => {
                    let read = target.read;
                    let closed = target.writer.close().await?;
                    self.progress.set_written(closed.stats.stored_bytes);
                    let reference = to_keep(&facts).map(|kept| Reference { vdi: record.uuid, kept });
                    let size = facts.size;
                    return Ok(MovedDisk { device, path, size, source: how, reason, reference, closed, read });
                }
                Err(Failed::Target(halt)) => return Err(halt),
                Err(Failed::Source(trouble)) => {
                    self.task.journal.warn(format_args!("disk {label} cannot be read by {how}: {trouble}"));
                    given_up.push(format!("{how} failed: {trouble}"));
                    last = Some(trouble);
                }
            }
        }
        Err(last.unwrap_or_else(|| no_way(&label, facts.size)).into())
    }

    /// Reads the disk in one way, from where the way before it broke off: the snapshot does not change.
    async fn attempt(
        &self,
        facts: &DiskFacts,
        source: &Source,
        label: &str,
        target: &mut Target<'_>,
    ) -> Result<(), Failed> {
        let work = async {
            let (reading, reads) = self.plan(facts, source, label, target.position).await?;
            let (snapshot, _) = self.snapshot;
            let opened = self.subject.pool.read(snapshot, label, reading).await;
            let source = opened.map_err(|error| Failed::Source(error.into()))?;
            pump(source, label, &reads, target).await
        };
        match self.task.cancel.run_until_cancelled(work).await {
            Some(result) => result,
            None => Err(Failed::Target(Halt::Cancelled)),
        }
    }

    /// What to read behind `position`, and what of that counts as read.
    async fn plan(
        &self,
        facts: &DiskFacts,
        source: &Source,
        label: &str,
        position: u64,
    ) -> Result<(Reading, RangeSet), Failed> {
        let (snapshot, _) = self.snapshot;
        let chunk = self.subject.remote.repository.chunk_bytes() as u64;
        let rest = RangeSet::from(position..facts.size);
        match source {
            Source::NbdChanged(from) => {
                let failed = |error: coffer_xapi::Error| Failed::Source(error.into());
                let bitmap = self.subject.pool.changed_blocks(from, snapshot).await.map_err(failed)?;
                // Whole chunks, because nothing smaller is stored.
                let changed = RangeSet::from_cbt_bitmap(&bitmap, facts.size, chunk)
                    .map_err(|error| Failed::Source(error.about("changed blocks").into()))?
                    .intersect(&rest);
                let plan = ReadPlan::ranges(facts.size, &changed, Rest::Unchanged);
                Ok((Reading::Nbd(plan), changed))
            }
            Source::Nbd => {
                let read = match self.allocated(facts).await {
                    Ok(allocated) => allocated.intersect(&rest),
                    Err(why) => {
                        self.task.journal.info(format_args!("all of disk {label} is read, also what is empty: {why}"));
                        rest
                    }
                };
                Ok((Reading::Nbd(ReadPlan::ranges(facts.size, &read, Rest::Zero)), read))
            }
            Source::VhdDelta(base) => Ok((Reading::Vhd { base: Some(base.clone()) }, RangeSet::new())),
            Source::VhdFull => Ok((Reading::Vhd { base: None }, RangeSet::new())),
        }
    }

    /// Which blocks the disk holds, or why that is not known. Not knowing costs reads and nothing else.
    async fn allocated(&self, facts: &DiskFacts) -> Result<RangeSet, String> {
        if !facts.vhd_chains {
            return Err("its storage does not tell what is allocated".to_owned());
        }
        if facts.size > coffer_disk::vhd::MAX_SIZE {
            return Err("it is too large for the VHD head that tells what is allocated".to_owned());
        }
        match self.subject.pool.allocated(&self.snapshot.0).await {
            Ok(allocated) => Ok(allocated.clamp(facts.size)),
            Err(error) => Err(format!("what is allocated cannot be read: {}", chain(&error))),
        }
    }

    /// The content that unchanged ranges refer to. A restore point that lost it is as good as none.
    async fn parent_content(&self, facts: &mut DiskFacts) -> Option<FileContent> {
        facts.parent.as_ref()?;
        let parent = self.ready.parent.as_ref()?;
        let known = parent.document.disks.iter().find(|known| known.uuid == self.disk.0.vdi.uuid)?;
        let readable = parent.point.disk(&known.path).and_then(|_| parent.point.content(&known.path));
        match readable {
            Ok(content) if self.subject.remote.repository.is_sound(&content).await => return Some(content),
            Ok(_) => {}
            Err(error) => self.task.journal.warn_error("the last restore point cannot be built on", &error),
        }
        facts.parent = None;
        facts.no_parent = "the last restore point has lost data of this disk, which is stored again".to_owned();
        None
    }
}

fn no_way(label: &str, size: u64) -> Trouble {
    Trouble::new(
        "NO_WAY_TO_READ",
        format!("disk {label} of {size} bytes is too large for VHD, and NBD is not offered"),
        "give a network of the pool the purpose nbd",
    )
}

/// Where a disk goes. It knows how far it is, so that another source can go on where one broke off.
struct Target<'a> {
    writer: DiskWriter,
    position: u64,
    read: u64,
    skipped: u64,
    progress: &'a DiskProgress,
}

impl Target<'_> {
    /// Takes an extent, but for what came before. `reads` are ranges that are read even where they turn out to be zero.
    async fn accept(&mut self, mut extent: Extent, reads: &RangeSet) -> Result<(), ExtentError> {
        if extent.end() <= self.position {
            return Ok(());
        }
        // `None`: all of it is new.
        let _ = extent.split_front(self.position.saturating_sub(extent.offset()));
        let (range, len) = (extent.offset()..extent.end(), extent.len());
        let counter = match extent {
            Extent::Data { .. } => &mut self.read,
            _ if reads.contains(&range) => &mut self.read,
            _ => &mut self.skipped,
        };
        *counter += len;
        self.writer.accept(extent).await?;
        self.position = range.end;
        self.progress.set_read(self.read);
        self.progress.set_skipped(self.skipped);
        self.progress.set_written(self.writer.stats().stored_bytes);
        Ok(())
    }
}

/// Moves the whole source. Unlike [`coffer_extent::copy`] it lets the target finish what it was given when the source
/// breaks: the next source goes on from there.
async fn pump(
    source: Box<dyn ExtentSource>,
    label: &str,
    reads: &RangeSet,
    target: &mut Target<'_>,
) -> Result<(), Failed> {
    let broken = |error: ExtentError| Failed::Source(error.into());
    let mut source = Validated::new(source, label);
    let mut next = source.next().await.map_err(broken)?;
    while let Some(extent) = next {
        let (accepted, following) = tokio::join!(target.accept(extent, reads), source.next());
        accepted.map_err(|error| Failed::Target(error.into()))?;
        next = following.map_err(broken)?;
    }
    target.writer.finish().await.map_err(|error| Failed::Target(error.into()))
}
