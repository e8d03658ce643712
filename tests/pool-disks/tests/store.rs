//! The rules of an SR that a backup program depends on: the tree's shape, space, limits, changed blocks, restarts.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use pool_disks::{
    BLOCK, CBT_BLOCK, Error, Fault, GcEvent, GcOptions, NodeKind, Operation, Provisioning, SrParams, XapiFailure,
};
use support::{MIB, Sr, content, id, noise, same};

const D: u128 = 1;
const S1: u128 = 11;
const S2: u128 = 12;
const S3: u128 = 13;
const B1: u128 = 21;
const B2: u128 = 22;
const B3: u128 = 23;

/// Disk D with two snapshots and a write before each.
fn two_snapshots() -> Sr {
    let sr = Sr::thin();
    let disk = sr.disk(id(D), 8 * MIB);
    disk.write_at(0, &noise(1, 1000)).unwrap();
    sr.store.snapshot(id(D), id(S1), id(B1)).unwrap();
    disk.write_at(3 * MIB, &noise(2, 1000)).unwrap();
    sr.store.snapshot(id(D), id(S2), id(B2)).unwrap();
    sr
}

fn collect(sr: &Sr, options: &GcOptions) -> Vec<GcEvent> {
    let mut events = Vec::new();
    while let Some(event) = sr.store.garbage_collect_step(options).unwrap() {
        events.push(event);
    }
    events
}

#[test]
fn a_snapshot_hides_the_data_in_a_base_copy_that_both_share() {
    let sr = two_snapshots();
    let node = |number| sr.store.node(id(number)).unwrap();
    assert_eq!(node(D).parent, Some(id(B2)));
    assert_eq!(node(S2).parent, Some(id(B2)));
    assert_eq!(node(B2).parent, Some(id(B1)));
    assert_eq!(node(S1).parent, Some(id(B1)));
    assert_eq!((node(B1).kind, node(B1).hidden, node(B1).parent), (NodeKind::Base, true, None));
    assert_eq!(sr.store.depth(id(D)).unwrap(), 3);
}

#[test]
fn a_snapshot_without_new_data_makes_no_base_copy() {
    let sr = two_snapshots();
    let forked = sr.store.snapshot(id(D), id(S3), id(B3)).unwrap();
    assert!(!forked.new_base);
    assert_eq!(sr.store.node(id(S3)).unwrap().parent, Some(id(B2)));
    assert!(sr.store.node(id(B3)).is_err());
}

#[test]
fn a_destroyed_snapshot_gives_its_space_back_only_after_collection() {
    let sr = two_snapshots();
    let before = content(&sr.store.disk(id(D)).unwrap());
    let used = sr.store.usage().physical_utilisation;
    sr.store.destroy(id(S1)).unwrap();
    let still = sr.store.usage().physical_utilisation;
    assert!(still > used - BLOCK, "the hidden node keeps the data");
    // S2 keeps B2 from becoming one with D; B1 has one child, hidden like itself: B2 goes into it.
    let events = collect(&sr, &GcOptions::default());
    assert_eq!(events, [GcEvent::Coalesced { node: id(B2), into: id(B1) }]);
    sr.store.destroy(id(S2)).unwrap();
    let events = collect(&sr, &GcOptions::default());
    assert_eq!(events, [GcEvent::LeafCoalesced { leaf: id(D), parent: id(B1) }]);
    assert_eq!(sr.store.nodes().len(), 1);
    assert!(sr.store.usage().physical_utilisation < still);
    same(&sr.content(id(D)), &before, "the disk");
}

#[test]
fn a_hidden_node_whose_parent_has_other_children_is_not_merged() {
    let sr = two_snapshots();
    sr.store.destroy(id(S2)).unwrap();
    let options = GcOptions { leaf_coalesce: false, ..GcOptions::default() };
    assert_eq!(collect(&sr, &options), []);
}

#[test]
fn switched_off_collection_does_nothing() {
    let sr = two_snapshots();
    sr.store.destroy(id(S1)).unwrap();
    assert_eq!(collect(&sr, &GcOptions { coalesce: false, leaf_coalesce: false, busy: Vec::new() }), []);
    assert_eq!(collect(&sr, &GcOptions { busy: vec![id(S2)], ..GcOptions::default() }), [], "an export is running");
    sr.store.destroy(id(S2)).unwrap();
    sr.store.destroy(id(D)).unwrap();
    assert_eq!(collect(&sr, &GcOptions::default()).len(), 2, "nothing needs the hidden nodes");
    assert_eq!(sr.store.nodes(), []);
}

#[test]
fn large_nodes_are_merged_in_several_steps_and_read_the_same_in_between() {
    let sr = Sr::thin();
    let disk = sr.disk(id(D), 256 * MIB);
    disk.write_at(0, &noise(1, 1000)).unwrap();
    sr.store.snapshot(id(D), id(S1), id(B1)).unwrap();
    disk.write_at(MIB, &noise(2, 150 << 20)).unwrap();
    sr.store.snapshot(id(D), id(S2), id(B2)).unwrap();
    let before = content(&disk);
    sr.store.destroy(id(S1)).unwrap();
    let mut steps = 0;
    while let Some(event) = sr.store.garbage_collect_step(&GcOptions::default()).unwrap() {
        steps += 1;
        same(&content(&disk), &before, &format!("after {event:?}"));
    }
    assert_eq!(steps, 3);
}

#[test]
fn a_thin_disk_takes_space_as_it_is_written_until_the_sr_is_full() {
    let sr = Sr::new(SrParams { physical_size: 20 * MIB, ..SrParams::default() });
    let disk = sr.disk(id(D), 1024 * MIB);
    assert!(sr.store.usage().physical_utilisation < MIB);
    assert_eq!(sr.store.usage().virtual_allocation, 1024 * MIB);
    for block in 0..9 {
        disk.write_at(block * BLOCK, &[1]).unwrap();
    }
    let failure = disk.write_at(9 * BLOCK, &[1]).unwrap_err().xapi();
    assert_eq!(failure, XapiFailure::backend(44, "There is insufficient space"));
    assert_eq!(failure.params, ["", "There is insufficient space", ""]);
    disk.write_at(8 * BLOCK, &[2; 4096]).unwrap();
    assert_eq!(sr.store.usage().physical_utilisation, sr.store.node(id(D)).unwrap().physical);
    sr.store.set_physical_size(40 * MIB).unwrap();
    disk.write_at(9 * BLOCK, &[1]).unwrap();
}

#[test]
fn a_thick_snapshot_needs_room_to_inflate_the_disk_again() {
    let thick = |size| {
        let sr = Sr::new(SrParams { provisioning: Provisioning::Thick, physical_size: size, ..SrParams::default() });
        sr.disk(id(D), 64 * MIB).write_at(0, &noise(1, 30 << 20)).unwrap();
        sr
    };
    let sr = thick(100 * MIB);
    assert_eq!(sr.store.node(id(D)).unwrap().physical, 68 * MIB, "full size and its metadata, in extents");
    assert_eq!(sr.store.snapshot(id(D), id(S1), id(B1)).unwrap_err().xapi().code, "SR_BACKEND_FAILURE_44");
    assert!(sr.store.node(id(B1)).is_err() && sr.store.node(id(S1)).is_err());
    assert_eq!(sr.store.create_disk(id(2), 64 * MIB).unwrap_err().xapi().code, "SR_BACKEND_FAILURE_44");

    let sr = thick(120 * MIB);
    sr.store.snapshot(id(D), id(S1), id(B1)).unwrap();
    let physical = |number| sr.store.node(id(number)).unwrap().physical;
    assert_eq!((physical(D), physical(B1), physical(S1)), (68 * MIB, 32 * MIB, 4 * MIB));
    sr.store.destroy(id(S1)).unwrap();
    let full = sr.store.garbage_collect_step(&GcOptions::default());
    assert_eq!(full.unwrap_err().xapi().code, "SR_BACKEND_FAILURE_44", "merging needs room too");
    sr.store.set_physical_size(200 * MIB).unwrap();
    assert_eq!(collect(&sr, &GcOptions::default()).len(), 1);
    assert_eq!(sr.store.usage().physical_utilisation, 68 * MIB);
}

#[test]
fn the_thirty_first_node_of_a_chain_is_refused() {
    let sr = Sr::thin();
    let disk = sr.disk(id(D), 2 * MIB);
    for round in 0..29 {
        disk.write_at(0, &[1]).unwrap();
        sr.store.snapshot(id(D), id(100 + round), id(200 + round)).unwrap();
    }
    assert_eq!(sr.store.depth(id(D)).unwrap(), 30);
    let failure = sr.store.snapshot(id(D), id(S1), id(B1)).unwrap_err().xapi();
    assert_eq!(failure, XapiFailure::backend(109, "The snapshot chain is too long"));
    assert_eq!(sr.store.clone_disk(id(100), id(S1), id(B1)).unwrap().parent, Some(id(200)), "a short one goes on");
}

#[test]
fn snapshots_are_read_only_and_clones_are_not_tracked() {
    let sr = two_snapshots();
    sr.store.enable_cbt(id(D)).unwrap();
    sr.store.enable_cbt(id(D)).unwrap();
    assert!(sr.store.write_at(id(S1), 0, &[1]).is_err());
    assert!(sr.store.enable_cbt(id(S1)).is_err());
    sr.store.clone_disk(id(D), id(S3), id(B3)).unwrap();
    assert!(!sr.store.is_cbt(id(S3)).unwrap());
    sr.store.write_at(id(S3), 0, &[1]).unwrap();
    assert!(sr.store.is_cbt(id(D)).unwrap());
}

/// D, tracked, with snapshots S1, S2, S3; 64 KiB block 1 written before S2, block 9 before S3, block 20 after.
fn tracked() -> Sr {
    let sr = Sr::thin();
    let disk = sr.disk(id(D), 4 * MIB);
    sr.store.enable_cbt(id(D)).unwrap();
    for (snapshot, base, block) in [(S1, B1, 0), (S2, B2, 1), (S3, B3, 9)] {
        disk.write_at(block * CBT_BLOCK, &[1]).unwrap();
        sr.store.snapshot(id(D), id(snapshot), id(base)).unwrap();
    }
    disk.write_at(20 * CBT_BLOCK, &[1]).unwrap();
    sr
}

fn code(error: Error) -> String {
    error.xapi().code
}

#[test]
fn changed_blocks_are_the_logs_after_the_first_up_to_the_second() {
    let sr = tracked();
    let changed = |from, to| sr.store.changed_blocks(id(from), id(to));
    assert_eq!(changed(S1, S2).unwrap(), [0x40, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(changed(S1, S3).unwrap(), [0x40, 0x40, 0, 0, 0, 0, 0, 0]);
    assert_eq!(changed(S1, D).unwrap(), [0x40, 0x40, 0x08, 0, 0, 0, 0, 0]);
    for (from, to) in [(S1, S1), (S2, S1), (D, S1)] {
        assert_eq!(code(changed(from, to).unwrap_err()), "SR_BACKEND_FAILURE_460");
    }
}

#[test]
fn comparisons_survive_the_loss_of_a_snapshot_or_of_its_data() {
    let sr = tracked();
    sr.store.data_destroy(id(S1)).unwrap();
    assert_eq!(sr.store.node(id(S1)).unwrap().kind, NodeKind::CbtMetadata);
    assert!(matches!(sr.store.read_at(id(S1), 0, &mut [0]), Err(Error::NoData { .. })));
    sr.store.destroy(id(S2)).unwrap();
    assert_eq!(sr.store.changed_blocks(id(S1), id(S3)).unwrap(), [0x40, 0x40, 0, 0, 0, 0, 0, 0]);
    assert_eq!(code(sr.store.changed_blocks(id(S2), id(S3)).unwrap_err()), "SR_BACKEND_FAILURE_46");
    sr.store.destroy(id(S1)).unwrap();
    assert!(sr.store.nodes().iter().all(|node| node.id != id(S1)));
}

#[test]
fn a_host_crash_breaks_tracking_without_a_word() {
    let sr = tracked();
    assert!(sr.store.break_cbt(id(D)).unwrap());
    assert!(!sr.store.is_cbt(id(D)).unwrap());
    assert_eq!(sr.store.changed_blocks(id(S1), id(S3)).unwrap()[..2], [0x40, 0x40], "the past is not lost");
    sr.store.enable_cbt(id(D)).unwrap();
    sr.store.snapshot(id(D), id(14), id(24)).unwrap();
    assert_eq!(code(sr.store.changed_blocks(id(S3), id(14)).unwrap_err()), "SR_BACKEND_FAILURE_460");
}

#[test]
fn what_a_disk_grew_by_counts_as_changed_and_reads_as_zeros() {
    let sr = tracked();
    assert_eq!(sr.store.resize(id(D), 5 * MIB).unwrap(), 6 * MIB);
    assert!(matches!(sr.store.resize(id(D), MIB), Err(Error::BadSize { .. })));
    let changed = sr.store.changed_blocks(id(S3), id(D)).unwrap();
    assert_eq!(changed, [0, 0, 0x08, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]);
    assert!(sr.content(id(D))[4 << 20..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_disk_that_shares_nothing_can_be_cut_and_what_lay_behind_is_lost() {
    let sr = Sr::new(SrParams::default());
    let disk = sr.disk(id(D), 6 * MIB);
    disk.write_at(MIB, &[7; 4096]).unwrap();
    disk.write_at(5 * MIB, &[9; 4096]).unwrap();
    sr.store.enable_cbt(id(D)).unwrap();
    assert_eq!(sr.store.shrink(id(D), 3 * MIB).unwrap(), 4 * MIB);
    assert_eq!((sr.content(id(D)).len(), disk.allocated(None).unwrap()), (4 << 20, vec![0]));
    sr.store.snapshot(id(D), id(S1), id(B1)).unwrap();
    assert!(matches!(sr.store.shrink(id(D), 2 * MIB), Err(Error::BadSize { .. })), "it shares blocks");
    assert_eq!(sr.store.resize(id(D), 6 * MIB).unwrap(), 6 * MIB);
    let content = sr.content(id(D));
    assert!(content[4 << 20..].iter().all(|byte| *byte == 0) && content[1 << 20] == 7);
    assert_eq!(sr.store.changed_blocks(id(S1), id(D)).unwrap()[8..], [0xFF; 4]);
}

#[test]
fn an_sr_without_the_feature_refuses() {
    let sr = Sr::new(SrParams { cbt: false, vhd: false, ..SrParams::default() });
    let disk = sr.disk(id(D), 4 * MIB);
    disk.write_at(0, &[0; 4096]).unwrap();
    disk.write_at(BLOCK, &[1]).unwrap();
    assert_eq!(code(sr.store.enable_cbt(id(D)).unwrap_err()), "SR_OPERATION_NOT_SUPPORTED");
    assert_eq!(code(sr.store.snapshot(id(D), id(S1), id(B1)).unwrap_err()), "SR_OPERATION_NOT_SUPPORTED");
    assert_eq!(disk.allocated(None).unwrap(), [1], "plain volumes export what is not zero");
}

#[test]
fn differences_are_the_blocks_of_nodes_that_one_chain_has_alone() {
    let sr = two_snapshots();
    let disk = sr.store.disk(id(D)).unwrap();
    assert_eq!(disk.allocated(None).unwrap(), [0, 1]);
    assert_eq!(disk.allocated(Some(id(S2))).unwrap(), [] as [u32; 0]);
    assert_eq!(disk.allocated(Some(id(S1))).unwrap(), [1]);
    assert_eq!(sr.store.allocated(id(S1), Some(id(D))).unwrap(), [1], "both ways");
}

#[test]
fn bytes_outside_a_disk_are_refused() {
    let sr = two_snapshots();
    for (offset, len) in [(8 * MIB, 1), (8 * MIB - 1, 2), (u64::MAX, 2)] {
        assert!(matches!(sr.store.read_at(id(D), offset, &mut vec![0; len]), Err(Error::OutOfRange { .. })));
        assert!(matches!(sr.store.write_at(id(D), offset, &vec![0; len]), Err(Error::OutOfRange { .. })));
    }
    assert!(matches!(sr.store.create_disk(id(9), 3 << 40), Err(Error::BadSize { .. })));
    assert!(matches!(sr.store.create_disk(id(D), MIB), Err(Error::DiskExists { .. })));
}

#[test]
fn injected_failures_hit_the_call_they_are_meant_for() {
    let sr = two_snapshots();
    let failure = XapiFailure::backend(82, "Snapshot failed");
    sr.store.inject(Fault {
        operation: Operation::Snapshot,
        disk: Some(id(D)),
        after: 1,
        times: 1,
        failure: failure.clone(),
    });
    sr.store.snapshot(id(D), id(S3), id(B3)).unwrap();
    assert_eq!(sr.store.snapshot(id(D), id(14), id(24)).unwrap_err().xapi(), failure);
    sr.store.snapshot(id(D), id(14), id(24)).unwrap();
}

#[test]
fn a_kill_in_the_middle_of_a_record_loses_nothing_that_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sr");
    let store = pool_disks::SrStore::create(&path, SrParams::default()).unwrap();
    store.create_disk(id(D), 4 * MIB).unwrap();
    store.enable_cbt(id(D)).unwrap();
    store.write_at(id(D), 100, &noise(7, 10_000)).unwrap();
    drop(store);
    let journal = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
    let journal = journal.filter(|path| path.extension().is_some_and(|is| is == "journal")).last().unwrap();
    let mut bytes = std::fs::read(&journal).unwrap();
    assert_eq!(bytes.len(), 80, "one record for the bitmap, one for the sectors");
    bytes.extend_from_slice(&[2; 17]);
    std::fs::write(&journal, &bytes).unwrap();
    std::fs::write(path.join("77.img"), b"left behind by a kill").unwrap();

    let store = pool_disks::SrStore::open(&path).unwrap();
    let mut read = vec![0; 10_000];
    store.read_at(id(D), 100, &mut read).unwrap();
    same(&read, &noise(7, 10_000), "what was written");
    store.snapshot(id(D), id(S1), id(B1)).unwrap();
    assert!(!path.join("77.img").exists());
}

#[test]
fn a_damaged_state_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sr");
    let store = pool_disks::SrStore::create(&path, SrParams::default()).unwrap();
    store.create_disk(id(D), 4 * MIB).unwrap();
    drop(store);
    let state = path.join("state.json");
    let good = std::fs::read_to_string(&state).unwrap();
    for (what, with) in [("4194304", "4194305"), ("\"live\"", "\"cbt_metadata\""), ("{", "["), ("null", "\"x\"")] {
        std::fs::write(&state, good.replacen(what, with, 1)).unwrap();
        let error = pool_disks::SrStore::open(&path).unwrap_err();
        assert!(matches!(error, Error::BadState { .. }), "{what}: {error}");
        assert!(error.to_string().contains("state.json"), "{error}");
    }
    let orphan = good.replacen("\"parent\":null", &format!("\"parent\":\"{}\"", id(99)), 1);
    std::fs::write(&state, orphan).unwrap();
    assert!(matches!(pool_disks::SrStore::open(&path), Err(Error::BadState { .. })), "a parent that is not there");
    assert!(pool_disks::SrStore::create(&path, SrParams::default()).is_err(), "an SR is not overwritten");
}

#[test]
fn a_sparse_file_is_imported_without_its_holes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(64 * MIB).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(3, 5000), 33 * MIB).unwrap();
    let sr = Sr::thin();
    sr.disk(id(D), 64 * MIB);
    sr.store.import_file(id(D), &path).unwrap();
    same(&sr.content(id(D)), &std::fs::read(&path).unwrap(), "the disk");
    assert_eq!(sr.store.allocated(id(D), None).unwrap(), [16]);
}
