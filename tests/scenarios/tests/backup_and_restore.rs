//! The main job: back up, let the guest write, back up again, restore any point, bit for bit.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use coffer_proto::v1::{DeleteRestorePointsRequest, PruneRemoteRequest, RestorePoint};
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

/// Deletes restore points through the API.
async fn delete(site: &Site, points: &[RestorePoint]) -> Result<()> {
    let names = points.iter().map(|point| point.name.clone()).collect();
    let request = DeleteRestorePointsRequest { names, ..Default::default() };
    let run = site.api.points.clone().delete_restore_points(request).await?.into_inner();
    site.api.succeeded(&site.api.ended(&run.name).await?).await?;
    Ok(())
}

async fn prune(site: &Site) -> Result<()> {
    let request = PruneRemoteRequest { name: Site::REMOTE.into(), ..Default::default() };
    let run = site.api.remotes.clone().prune_remote(request).await?.into_inner();
    site.api.succeeded(&site.api.ended(&run.name).await?).await?;
    Ok(())
}

#[tokio::test]
async fn after_many_backups_and_deletions_stock_restic_and_rustic_find_the_repository_sound_and_read_the_same_disks()
-> Result<()> {
    let site = Site::start().await?;
    let vm = site.create_vm("web", &[24 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    let mut expected = BTreeMap::new();
    for round in 1..8 {
        site.guest_writes(&vm.disks[0], 15.0, round).await?;
        let raw = site.folder().join(format!("{round}.raw"));
        site.hosts.copy_disk(&vm.disks[0], &raw).await?;
        let run = site.api.run_job(&job).await?;
        site.api.succeeded(&run).await?;
        expected.insert(run.name, std::fs::read(raw)?);
    }
    let points = site.api.restore_points(&vm.uuid).await?;
    assert_eq!(points.len(), 7);
    let (gone, kept): (Vec<_>, Vec<_>) = points.into_iter().enumerate().partition(|(age, _)| [1, 2, 6].contains(age));
    delete(&site, &gone.into_iter().map(|(_, point)| point).collect::<Vec<_>>()).await?;
    prune(&site).await?;

    site.restic(&["check", "--read-data"]).await?;
    site.rustic(&["check"]).await?;
    let listed = String::from_utf8(site.restic(&["snapshots", "--json"]).await?)?;
    assert_eq!(listed.matches("\"short_id\"").count(), kept.len(), "{listed}");
    for (_, point) in kept {
        let path = format!("/{}", point.disks[0].path);
        let files = String::from_utf8(site.restic(&["ls", &point.snapshot_id]).await?)?;
        assert!(files.lines().any(|line| line == path), "{path} is not in {files}");
        let disk = expected.get(&point.run).context("a run of this test")?;
        assert!(site.restic(&["dump", &point.snapshot_id, &path]).await? == *disk, "restic dumps other bytes");
        let spec = format!("{}:{path}", point.snapshot_id);
        assert!(site.rustic(&["dump", &spec]).await? == *disk, "rustic dumps other bytes");
    }
    Ok(())
}
