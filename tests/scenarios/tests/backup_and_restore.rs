//! The main job: back up, let the guest write, back up again, restore any point, bit for bit.

use std::collections::BTreeMap;

use anyhow::Result;
use coffer_scenarios::Site;

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn any_restore_point_becomes_a_vm_with_the_bytes_of_its_instant() -> Result<()> {
    let site = Site::start().await?;
    let vm = site.create_vm("db1", &[64 * MIB, 32 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;

    let mut expected = BTreeMap::new();
    for round in 0..3 {
        if round > 0 {
            site.guest_writes(&vm.disks[0], 5.0, round).await?;
        }
        let digests = site.digests(&vm.uuid).await?;
        let run = site.api.run_job(&job).await?;
        site.api.succeeded(&run).await?;
        expected.insert(run.name, digests);
    }

    let points = site.api.restore_points(&vm.uuid).await?;
    assert_eq!(points.len(), 3);
    let sr = site.sr("Shared NFS").await?;
    for point in points {
        let restored = site.api.restore(&point.name, &sr).await?;
        assert_eq!(Some(&site.digests(&restored).await?), expected.get(&point.run), "{}", point.name);
    }
    assert_eq!(site.leftovers().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn stock_restic_and_rustic_judge_the_repository_sound_and_read_the_same_disk() -> Result<()> {
    let site = Site::start().await?;
    let vm = site.create_vm("web", &[48 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    for round in 1..5 {
        site.guest_writes(&vm.disks[0], 10.0, round).await?;
        site.api.back_up(&job).await?;
    }

    site.restic(&["check", "--read-data"]).await?;
    site.rustic(&["check"]).await?;
    let newest = &site.api.restore_points(&vm.uuid).await?[0];
    let path = format!("/{}", newest.disks[0].path);
    let listed = String::from_utf8(site.restic(&["ls", &newest.snapshot_id]).await?)?;
    assert!(listed.lines().any(|line| line == path), "{path} is not in {listed}");

    let raw = site.folder().join("disk.raw");
    site.hosts.copy_disk(&vm.disks[0], &raw).await?;
    let disk = std::fs::read(raw)?;
    assert!(site.restic(&["dump", &newest.snapshot_id, &path]).await? == disk, "restic dumps other bytes");
    let spec = format!("{}:{path}", newest.snapshot_id);
    assert!(site.rustic(&["dump", &spec]).await? == disk, "rustic dumps other bytes");
    Ok(())
}
