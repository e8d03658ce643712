//! Guests write, snapshots are taken and destroyed, garbage is collected and streams are cut, all at once.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use pool_disks::{CBT_BLOCK, Error, GcOptions, ReadAt, vhd};
use support::{MIB, Sr, content, id, quiet, same};
use tokio::io::{AsyncReadExt, duplex};
use uuid::Uuid;

const SIZE: u64 = 8 * MIB;
const SLOT: usize = 64 * 1024;

/// Whether every slot holds one value throughout: no write is seen in part.
fn whole_slots(bytes: &[u8]) -> bool {
    bytes.chunks(SLOT).all(|slot| slot.iter().all(|byte| *byte == slot[0]))
}

#[test]
fn snapshots_hold_still_while_guests_write_and_garbage_is_collected() {
    let sr = Sr::thin();
    let guests = [id(1), id(2)];
    for guest in guests {
        sr.disk(guest, SIZE);
        sr.store.enable_cbt(guest).unwrap();
    }
    let over = AtomicBool::new(false);
    let written = AtomicU8::new(1);
    std::thread::scope(|scope| {
        for guest in guests {
            let (store, over, written) = (&sr.store, &over, &written);
            scope.spawn(move || {
                let mut slot = 0;
                while !over.load(Ordering::Relaxed) {
                    let value = written.fetch_add(1, Ordering::Relaxed);
                    store.write_at(guest, slot * CBT_BLOCK, &[value; SLOT]).unwrap();
                    slot = (slot + 37) % (SIZE / CBT_BLOCK);
                }
            });
        }
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                sr.store.garbage_collect_step(&GcOptions::default()).unwrap();
            }
        });
        let mut kept: Vec<(Uuid, Uuid, Vec<u8>)> = Vec::new();
        for round in 0..24 {
            let guest = guests[round % 2];
            let snapshot = Uuid::new_v4();
            match sr.store.snapshot(guest, snapshot, Uuid::new_v4()) {
                Ok(_) => kept.push((guest, snapshot, sr.content(snapshot))),
                Err(Error::ChainTooLong { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            for (guest, snapshot, bytes) in &kept {
                assert!(whole_slots(bytes));
                same(&sr.content(*snapshot), bytes, "a snapshot");
                assert!(!sr.store.changed_blocks(*snapshot, *guest).unwrap().is_empty());
            }
            if kept.len() > 3 {
                let (_, snapshot, _) = kept.remove(round % 3);
                sr.store.destroy(snapshot).unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    while sr.store.garbage_collect_step(&GcOptions::default()).unwrap().is_some() {}
    for guest in guests {
        assert!(whole_slots(&sr.content(guest)));
    }
}

#[tokio::test]
async fn an_export_that_the_client_cuts_harms_nothing() {
    let sr = Sr::thin();
    let disk = sr.filled(id(1), 16 * MIB, 3);
    let (mut ours, mut theirs) = duplex(4096);
    let reads = async {
        let mut head = vec![0; 4096];
        theirs.read_exact(&mut head).await.unwrap();
        drop(theirs);
        head
    };
    let (sent, head) = tokio::join!(vhd::export(&disk, None, &mut ours, &quiet), reads);
    assert!(head.starts_with(b"conectix"));
    assert!(matches!(sent, Err(Error::Stream { .. })), "{sent:?}");

    let (mut ours, _stalled) = duplex(4096);
    let stalled = tokio::time::timeout(Duration::from_millis(50), vhd::export(&disk, None, &mut ours, &quiet)).await;
    assert!(stalled.is_err(), "a client that does not read holds the export, until it is dropped");

    sr.store.snapshot(id(1), id(2), id(3)).unwrap();
    let copy = sr.disk(id(4), 16 * MIB);
    let (source, target) = (disk.clone(), copy.clone());
    tokio::task::spawn_blocking(move || source.copy_to(&target)).await.unwrap().unwrap();
    same(&content(&copy), &content(&disk), "a copy");
    let mut byte = [0];
    assert!(disk.read_at(16 * MIB, &mut byte).is_err());
}
