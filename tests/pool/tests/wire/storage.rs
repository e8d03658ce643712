//! SRs as clients see them: base copies, garbage collection, changed blocks, space.

use base64::Engine;
use serde_json::json;
use simpool::control::{DiskSpec, Fault, SrKind, SrSpec, VmSpec, Write};

use crate::support::{Api, MIB, eventually, pool, text, vm};

#[tokio::test]
async fn base_copies_appear_with_a_snapshot_and_go_slowly_after_it() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let info = vm(control, "", 0).await;
    let disk = &info.disks[0].vdi;
    let before = control.digest(&disk.uuid).await.unwrap();
    let (snapshot, vdis) = api.snapshot(&info.vm.reference).await;
    let record = api.call("VDI.get_record", &[json!(vdis[0])]).await.unwrap();
    assert_eq!((&record["is_a_snapshot"], &record["snapshot_of"]), (&json!(true), &json!(disk.reference)));
    let parent = text(&record["sm_config"]["vhd-parent"]);
    let base = api.call("VDI.get_by_uuid", &[json!(parent)]).await.unwrap();
    let base = api.call("VDI.get_record", &[base]).await.unwrap();
    assert_eq!(
        (&base["managed"], &base["name_label"], &base["read_only"]),
        (&json!(false), &json!("base copy"), &json!(true))
    );
    api.call("VM.destroy", &[json!(snapshot)]).await.unwrap();
    assert_eq!(
        api.call("VDI.get_is_a_snapshot", &[json!(vdis[0])]).await.unwrap(),
        json!(true),
        "disks outlive the VM"
    );
    api.call("VDI.destroy", &[json!(vdis[0])]).await.unwrap();
    assert!(api.call("VDI.get_by_uuid", &[json!(parent)]).await.is_ok(), "space comes back later");
    eventually(|| async { api.call("VDI.get_by_uuid", &[json!(parent)]).await.is_err().then_some(()) }).await;
    assert_eq!(control.digest(&disk.uuid).await.unwrap(), before);
}

#[tokio::test]
async fn changed_blocks_are_exactly_those_that_the_guest_wrote() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let info = vm(control, "", 0).await;
    let disk = &info.disks[0].vdi;
    api.call("VDI.enable_cbt", &[json!(disk.reference)]).await.unwrap();
    let (first_vm, first) = api.snapshot(&info.vm.reference).await;
    let written = control.write(&disk.uuid, Write::Percent { percent: 10.0, seed: 4 }).await.unwrap();
    let (_, second) = api.snapshot(&info.vm.reference).await;
    let bitmap = async |from: &str, to: &str| {
        let text = text(&api.call("VDI.list_changed_blocks", &[json!(from), json!(to)]).await.unwrap());
        base64::engine::general_purpose::STANDARD.decode(text).unwrap()
    };
    let bits = bitmap(&first[0], &second[0]).await;
    assert_eq!(bits.len(), 32, "one bit for 64 KiB of 16 MiB");
    for block in 0..256_u64 {
        let is_set = bits[usize::try_from(block / 8).unwrap()] & (0x80 >> (block % 8)) != 0;
        let offset = block * 65536;
        let was_written = written.ranges.iter().any(|(start, length)| (*start..start + length).contains(&offset));
        assert_eq!(is_set, was_written, "block {block}");
    }
    api.call("VM.destroy", &[json!(first_vm)]).await.unwrap();
    api.call("VDI.data_destroy", &[json!(first[0])]).await.unwrap();
    assert_eq!(api.get("VDI.get_type", &first[0]).await, "cbt_metadata");
    assert_eq!(bitmap(&first[0], &second[0]).await, bits, "the log outlives the data");
    let clone = text(&api.call("VDI.clone", &[json!(second[0])]).await.unwrap());
    assert_eq!(api.call("VDI.get_cbt_enabled", &[json!(clone)]).await.unwrap(), json!(false));
    control.break_cbt(&disk.uuid).await.unwrap();
    assert_eq!(api.call("VDI.get_cbt_enabled", &[json!(disk.reference)]).await.unwrap(), json!(false));
    let messages = api.call("message.get_all_records", &[]).await.unwrap();
    assert!(messages.as_object().unwrap().values().any(|m| m["name"] == "VDI_CBT_METADATA_INCONSISTENT"));
}

#[tokio::test]
async fn a_chain_has_its_limit_and_a_failed_snapshot_undoes_the_disks_done() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let disk = || DiskSpec { size: 4 * MIB, ..DiskSpec::default() };
    let spec = VmSpec { name: "two".to_owned(), disks: vec![disk(), disk()], ..VmSpec::default() };
    let info = control.create_vm(&spec).await.unwrap();
    let sr = api.get("VDI.get_SR", &info.disks[0].vdi.reference).await;
    api.call("SR.add_to_other_config", &[json!(sr), json!("gc"), json!("false")]).await.unwrap();
    let mut failure = None;
    for seed in 0..40 {
        control.write(&info.disks[1].vdi.uuid, Write::Random { offset: 0, length: 4096, seed }).await.unwrap();
        let before = control.object_counts().await.unwrap();
        if let Err(error) = api.call("VM.snapshot", &[json!(info.vm.reference), json!("s")]).await {
            let after = control.object_counts().await.unwrap();
            assert_eq!((before["VM"], before["VBD"]), (after["VM"], after["VBD"]));
            let managed = control.records("VDI").await.unwrap();
            let snapshots = managed.values().filter(|v| v["is_a_snapshot"] == json!(true)).count();
            assert_eq!(u64::try_from(snapshots).unwrap(), 2 * seed, "of the failed one nothing is left");
            failure = Some(error);
            break;
        }
    }
    assert_eq!(failure.unwrap()[0], "SR_BACKEND_FAILURE_109");
}

#[tokio::test]
async fn a_thick_sr_needs_room_for_a_snapshot() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let thick = SrSpec { name: "thick".to_owned(), kind: SrKind::Lvm, size: 40 * MIB, host: 0 };
    control.create_sr(&thick).await.unwrap();
    let info = vm(control, "thick", 0).await;
    let first = api.call("VM.snapshot", &[json!(info.vm.reference), json!("s")]).await;
    control.write(&info.disks[0].vdi.uuid, Write::Percent { percent: 100.0, seed: 1 }).await.unwrap();
    let second = api.call("VM.snapshot", &[json!(info.vm.reference), json!("s")]).await;
    assert_eq!((first.is_ok(), second.unwrap_err()[0].as_str()), (true, "SR_BACKEND_FAILURE_44"));
    control.fault(Fault::SrFull { sr: "Shared NFS".to_owned() }).await.unwrap();
    let sr = text(&api.call("SR.get_by_name_label", &[json!("Shared NFS")]).await.unwrap()[0]);
    let record = json!({"SR": sr, "virtual_size": 4 * MIB, "type": "user", "sharable": false, "read_only": false, "other_config": {}});
    assert_eq!(api.call("VDI.create", &[record]).await.unwrap_err()[0], "SR_BACKEND_FAILURE_44");
}

#[tokio::test]
async fn drivers_without_tracking_say_so() {
    let pool = pool(1).await;
    let (api, control) = (Api::login(&pool).await, pool.control());
    let linstor = SrSpec { name: "xostor".to_owned(), kind: SrKind::Linstor, ..SrSpec::default() };
    control.create_sr(&linstor).await.unwrap();
    let info = vm(control, "xostor", 0).await;
    let refused = api.call("VDI.enable_cbt", &[json!(info.disks[0].vdi.reference)]).await.unwrap_err();
    assert_eq!(refused[0], "SR_OPERATION_NOT_SUPPORTED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_call_did_to_a_disk_is_not_undone_by_one_about_another_disk_of_its_sr() {
    let pool = pool(1).await;
    let control = pool.control();
    let mut disks = Vec::new();
    for _ in 0..6 {
        disks.push(vm(control, "", 0).await.disks[0].vdi.reference.clone());
    }
    let first = disks[0].clone();
    let switching = disks.into_iter().map(|disk| {
        let pool = &pool;
        async move {
            let api = Api::login(pool).await;
            for round in 0..30 {
                let (call, is_on) = if round % 2 == 0 { ("VDI.enable_cbt", true) } else { ("VDI.disable_cbt", false) };
                api.call(call, &[json!(disk)]).await.unwrap();
                assert_eq!(api.call("VDI.get_cbt_enabled", &[json!(disk)]).await.unwrap(), json!(is_on), "{round}");
            }
        }
    });
    let sr = text(&Api::login(&pool).await.call("VDI.get_SR", &[json!(first)]).await.unwrap());
    let scanning = (0..4).map(|_| async {
        let api = Api::login(&pool).await;
        loop {
            api.call("SR.scan", &[json!(sr)]).await.unwrap();
        }
    });
    tokio::select! {
        _ = futures::future::join_all(switching) => {}
        () = async { drop(futures::future::join_all(scanning).await) } => {}
    }
}
