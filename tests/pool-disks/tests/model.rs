//! Random lives of an SR against plain byte vectors: whatever is snapshotted, cloned, destroyed, merged or restarted,
//! every disk reads as the model, changed blocks are exactly those written, and exports miss no difference.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use pool_disks::{BLOCK, CBT_BLOCK, Error, GcOptions, NodeKind, Provisioning, SrParams};
use proptest::prelude::*;
use support::{MIB, Sr, id, noise};
use uuid::Uuid;

/// Disk picks are taken modulo the disks there are.
#[derive(Debug, Clone)]
enum Step {
    Write { disk: usize, offset: u64, len: usize },
    Zero { disk: usize, offset: u64, len: u64 },
    Snapshot { disk: usize },
    Clone { disk: usize },
    Destroy { disk: usize },
    DataDestroy { disk: usize },
    Grow { disk: usize },
    Track { disk: usize },
    Untrack { disk: usize },
    Collect { steps: usize, busy: Option<usize> },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let disk = || 0..64usize;
    let offset = 0..4 * MIB;
    let step = prop_oneof![
        10 => (disk(), offset.clone(), 1..300_000usize).prop_map(|(disk, offset, len)| Step::Write { disk, offset, len }),
        1 => (disk(), offset, 1..2 * MIB).prop_map(|(disk, offset, len)| Step::Zero { disk, offset, len }),
        5 => disk().prop_map(|disk| Step::Snapshot { disk }),
        2 => disk().prop_map(|disk| Step::Clone { disk }),
        3 => disk().prop_map(|disk| Step::Destroy { disk }),
        1 => disk().prop_map(|disk| Step::DataDestroy { disk }),
        1 => disk().prop_map(|disk| Step::Grow { disk }),
        3 => disk().prop_map(|disk| Step::Track { disk }),
        1 => disk().prop_map(|disk| Step::Untrack { disk }),
        4 => (1..6usize, prop::option::of(disk())).prop_map(|(steps, busy)| Step::Collect { steps, busy }),
        2 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

/// What happened to a live disk, in order.
#[derive(Debug, Clone)]
enum Event {
    Wrote(Range<u64>),
    /// Made to read as zeros: written where it was not a hole.
    Zeroed(Range<u64>),
    Snapshotted(Uuid),
    TrackingOn,
    TrackingOff,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Live,
    /// Of which live disk.
    Snapshot(Uuid),
}

struct World {
    sr: Sr,
    next: u128,
    disks: BTreeMap<Uuid, (Kind, Vec<u8>)>,
    /// Snapshots without data: their content lives on here only, to judge changed blocks.
    metadata: BTreeMap<Uuid, (Uuid, Vec<u8>)>,
    history: BTreeMap<Uuid, Vec<Event>>,
}

impl World {
    fn new(provisioning: Provisioning) -> Self {
        let sr = Sr::new(SrParams { provisioning, max_chain: 6, ..SrParams::default() });
        let mut world =
            Self { sr, next: 1, disks: BTreeMap::new(), metadata: BTreeMap::new(), history: BTreeMap::new() };
        let disk = world.fresh();
        world.sr.store.create_disk(disk, 4 * MIB).unwrap();
        world.disks.insert(disk, (Kind::Live, vec![0; 4 << 20]));
        world.sr.store.enable_cbt(disk).unwrap();
        world.note(disk, Event::TrackingOn);
        world
    }

    fn fresh(&mut self) -> Uuid {
        self.next += 1;
        id(self.next)
    }

    fn pick(&self, number: usize) -> Option<Uuid> {
        (!self.disks.is_empty()).then(|| *self.disks.keys().nth(number % self.disks.len()).unwrap())
    }

    fn pick_live(&self, number: usize) -> Option<Uuid> {
        let live: Vec<_> = self.disks.iter().filter(|(_, (kind, _))| *kind == Kind::Live).map(|(id, _)| *id).collect();
        (!live.is_empty()).then(|| live[number % live.len()])
    }

    fn note(&mut self, disk: Uuid, event: Event) {
        self.history.entry(disk).or_default().push(event);
    }

    fn run(&mut self, number: usize, step: &Step) {
        let store = self.sr.store.clone();
        match *step {
            Step::Write { disk, offset, len } => {
                let Some(disk) = self.pick_live(disk) else { return };
                let data = noise(number as u64 + 1, len);
                let range = self.write(disk, offset, &data);
                store.write_at(disk, offset, &data[..usize::try_from(range.end - offset).unwrap()]).unwrap();
                self.note(disk, Event::Wrote(range));
            }
            Step::Zero { disk, offset, len } => {
                let Some(disk) = self.pick_live(disk) else { return };
                let zeros = vec![0; usize::try_from(len).unwrap()];
                let range = self.write(disk, offset, &zeros);
                store.zero_at(disk, offset, range.end - offset).unwrap();
                self.note(disk, Event::Zeroed(range));
            }
            Step::Snapshot { disk } => self.fork(disk, true),
            Step::Clone { disk } => self.fork(disk, false),
            Step::Destroy { disk } => {
                let Some(disk) = self.pick(disk) else { return };
                store.destroy(disk).unwrap();
                self.disks.remove(&disk);
            }
            Step::DataDestroy { disk } => {
                let Some(disk) = self.pick(disk) else { return };
                let (kind, bytes) = self.disks[&disk].clone();
                match (kind, store.is_cbt(disk).unwrap()) {
                    (Kind::Snapshot(of), true) => {
                        store.data_destroy(disk).unwrap();
                        self.disks.remove(&disk);
                        self.metadata.insert(disk, (of, bytes));
                    }
                    (Kind::Snapshot(_), false) => {
                        assert!(matches!(store.data_destroy(disk), Err(Error::NotTracked { .. })));
                    }
                    (Kind::Live, _) => assert!(matches!(store.data_destroy(disk), Err(Error::WrongKind { .. }))),
                }
            }
            Step::Grow { disk } => {
                let Some(disk) = self.pick_live(disk) else { return };
                let old = self.disks[&disk].1.len() as u64;
                if old < 8 * MIB {
                    store.resize(disk, old + 1).unwrap();
                    self.disks.get_mut(&disk).unwrap().1.resize(usize::try_from(old + 2 * MIB).unwrap(), 0);
                    self.note(disk, Event::Wrote(old..old + 2 * MIB));
                }
            }
            Step::Track { disk } => {
                let Some(disk) = self.pick_live(disk) else { return };
                if !store.is_cbt(disk).unwrap() {
                    self.note(disk, Event::TrackingOn);
                }
                store.enable_cbt(disk).unwrap();
            }
            Step::Untrack { disk } => {
                let Some(disk) = self.pick_live(disk) else { return };
                self.note(disk, Event::TrackingOff);
                if number.is_multiple_of(2) {
                    store.disable_cbt(disk).unwrap();
                } else {
                    store.break_cbt(disk).unwrap();
                }
            }
            Step::Collect { steps, busy } => {
                let busy: Vec<Uuid> = busy.and_then(|busy| self.pick(busy)).into_iter().collect();
                let before = busy.first().map(|busy| self.chain(*busy));
                let options = GcOptions { busy: busy.clone(), ..GcOptions::default() };
                for _ in 0..steps {
                    if store.garbage_collect_step(&options).unwrap().is_none() {
                        break;
                    }
                }
                assert_eq!(before, busy.first().map(|busy| self.chain(*busy)), "a busy chain is left alone");
            }
            Step::Restart => self.sr.restart(),
        }
        self.check_content();
    }

    /// Writes what fits to the model; returns where.
    fn write(&mut self, disk: Uuid, offset: u64, data: &[u8]) -> Range<u64> {
        let bytes = &mut self.disks.get_mut(&disk).unwrap().1;
        let at = usize::try_from(offset).unwrap();
        let len = data.len().min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&data[..len]);
        offset..offset + len as u64
    }

    fn fork(&mut self, disk: usize, snapshot: bool) {
        let picked = if snapshot { self.pick_live(disk) } else { self.pick(disk) };
        let Some(source) = picked else { return };
        let (copy, base) = (self.fresh(), self.fresh());
        let store = &self.sr.store;
        let depth = store.depth(source).unwrap();
        let result = if snapshot { store.snapshot(source, copy, base) } else { store.clone_disk(source, copy, base) };
        if depth >= 6 {
            assert_eq!(result.unwrap_err().xapi().code, "SR_BACKEND_FAILURE_109");
            return;
        }
        let forked = result.unwrap();
        assert_eq!(store.nodes().iter().any(|node| node.id == base && node.hidden), forked.new_base);
        assert_eq!(store.node(source).unwrap().parent, forked.parent);
        assert_eq!(store.node(copy).unwrap().parent, forked.parent);
        assert_eq!(store.is_cbt(copy).unwrap(), snapshot && store.is_cbt(source).unwrap());
        let bytes = self.disks[&source].1.clone();
        let kind = if snapshot { Kind::Snapshot(source) } else { Kind::Live };
        if snapshot {
            self.note(source, Event::Snapshotted(copy));
        }
        self.disks.insert(copy, (kind, bytes));
    }

    fn chain(&self, disk: Uuid) -> Vec<Uuid> {
        let mut chain = vec![disk];
        while let Some(parent) = self.sr.store.node(chain[chain.len() - 1]).unwrap().parent {
            chain.push(parent);
        }
        chain
    }

    fn check_content(&self) {
        for (disk, (_, bytes)) in &self.disks {
            support::same(&self.sr.content(*disk), bytes, &format!("disk {disk}"));
        }
    }

    /// Every pair of what is left of a disk's snapshots: changed blocks are exactly those written in between.
    fn check_changed_blocks(&self) {
        let content = |id: Uuid| {
            self.disks.get(&id).map(|(_, bytes)| bytes).or_else(|| self.metadata.get(&id).map(|(_, bytes)| bytes))
        };
        for (live, events) in &self.history {
            let snapshotted = |(at, event): (usize, &Event)| match event {
                Event::Snapshotted(id) => Some((at, *id)),
                _ => None,
            };
            let mut snapshots: Vec<(usize, Uuid)> = events.iter().enumerate().filter_map(snapshotted).collect();
            if self.disks.contains_key(live) {
                snapshots.push((events.len(), *live));
            }
            for (first, from) in &snapshots {
                for (last, to) in &snapshots {
                    let (Some(before), Some(after)) = (content(*from), content(*to)) else { continue };
                    let found = self.sr.store.changed_blocks(*from, *to);
                    let tracked = tracked_at(events, *first);
                    let broken = || {
                        events[*first..*last]
                            .iter()
                            .any(|event| matches!(event, Event::TrackingOff | Event::TrackingOn))
                    };
                    if first >= last || !tracked || broken() {
                        assert_eq!(found.unwrap_err().xapi().code, "SR_BACKEND_FAILURE_460", "{from} to {to}");
                        continue;
                    }
                    let found = found.unwrap();
                    let (least, most) = bitmaps(&events[*first..*last], after.len());
                    for ((found, least), most) in found.iter().zip(&least).zip(&most) {
                        assert_eq!(found & least, *least, "a write is missing");
                        assert_eq!(found | most, *most, "nothing was written there");
                    }
                    assert_eq!(found.len(), most.len());
                    let pairs = padded(before, after.len());
                    for (bit, (old, new)) in pairs.chunks(65536).zip(after.chunks(65536)).enumerate() {
                        assert!(old == new || found[bit / 8] & (0x80 >> (bit % 8)) != 0, "a change is missing");
                    }
                }
            }
        }
    }

    /// A differential export sends every block that differs.
    fn check_differences(&self) {
        for (left, (_, before)) in &self.disks {
            for (right, (_, after)) in &self.disks {
                let sent: BTreeSet<u32> = self.sr.store.allocated(*right, Some(*left)).unwrap().into_iter().collect();
                let block = usize::try_from(BLOCK).unwrap();
                for (number, (old, new)) in
                    (0..).zip(padded(before, after.len()).chunks(block).zip(after.chunks(block)))
                {
                    assert!(old == new || sent.contains(&number), "block {number} differs from {left} to {right}");
                }
            }
        }
    }

    /// Without disks, garbage collection leaves nothing; with them, nothing that could be merged.
    fn check_collected(&self) {
        while self.sr.store.garbage_collect_step(&GcOptions::default()).unwrap().is_some() {}
        self.check_content();
        let nodes = self.sr.store.nodes();
        for node in nodes.iter().filter(|node| node.kind == NodeKind::Base) {
            let children = nodes.iter().filter(|child| child.parent == Some(node.id)).count();
            assert!(children >= 2, "hidden node {} has {children} children", node.id);
        }
        let total: u64 = nodes.iter().map(|node| node.physical).sum();
        assert_eq!(self.sr.store.usage().physical_utilisation, total);
    }
}

fn tracked_at(events: &[Event], at: usize) -> bool {
    let last = events[..at].iter().rev().find(|event| matches!(event, Event::TrackingOn | Event::TrackingOff));
    matches!(last, Some(Event::TrackingOn))
}

/// The bits that must be set, and those that may.
fn bitmaps(events: &[Event], size: usize) -> (Vec<u8>, Vec<u8>) {
    let empty = || vec![0u8; size / (64 * 1024 * 8)];
    let (mut least, mut most) = (empty(), empty());
    let set = |bitmap: &mut Vec<u8>, range: &Range<u64>| {
        for bit in range.start / CBT_BLOCK..range.end.div_ceil(CBT_BLOCK) {
            bitmap[usize::try_from(bit / 8).unwrap()] |= 0x80 >> (bit % 8);
        }
    };
    for event in events {
        match event {
            Event::Wrote(range) => {
                set(&mut least, range);
                set(&mut most, range);
            }
            Event::Zeroed(range) => set(&mut most, range),
            Event::Snapshotted(_) | Event::TrackingOn | Event::TrackingOff => {}
        }
    }
    (least, most)
}

fn padded(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(len, 0);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_disk_always_reads_as_the_model(thick in any::<bool>(), steps in steps()) {
        let mut world = World::new(if thick { Provisioning::Thick } else { Provisioning::Thin });
        for (number, step) in steps.iter().enumerate() {
            world.run(number, step);
        }
        world.check_changed_blocks();
        world.check_differences();
        world.check_collected();
        world.sr.restart();
        world.check_content();
        world.check_changed_blocks();
    }
}
