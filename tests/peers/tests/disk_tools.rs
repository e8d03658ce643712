//! Disk tools that others wrote read what the simulated pool exports: NBD with TLS, VHD.

use anyhow::{Context, Result};
use coffer_peers::{NbdUri, Stage, snapshot_over_nbd, succeed};
use tokio::process::Command;

async fn first_disk(stage: &Stage) -> Result<NbdUri> {
    snapshot_over_nbd(&stage.info, &stage.vm.vm.uuid, &stage.folder.path().join("pki")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdinfo_sees_the_size_of_the_disk_over_tls() -> Result<()> {
    let stage = Stage::start().await?;
    let export = first_disk(&stage).await?;
    let output = succeed(Command::new("nbdinfo").args(["--size", &export.uri])).await?;
    let size: u64 = String::from_utf8(output.stdout)?.trim().parse()?;
    assert_eq!(size, stage.vm.disks[0].size);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdcopy_reads_the_bytes_of_the_disk() -> Result<()> {
    let stage = Stage::start().await?;
    let export = first_disk(&stage).await?;
    let (copied, expected) = (stage.folder.path().join("copied.raw"), stage.folder.path().join("expected.raw"));
    succeed(Command::new("nbdcopy").arg(&export.uri).arg(&copied)).await?;
    stage.control.copy_disk(&export.disk, &expected).await?;
    assert!(std::fs::read(copied)? == std::fs::read(expected)?, "the copy differs from the disk");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_img_reads_an_exported_vhd_as_the_same_disk() -> Result<()> {
    let stage = Stage::start().await?;
    let (vhd, raw) = (stage.folder.path().join("disk.vhd"), stage.folder.path().join("disk.raw"));
    let snapshot = stage.python("export_vhd.py", &[vhd.to_str().context("a plain path")?]).await?;
    stage.control.copy_disk(snapshot.trim(), &raw).await?;
    let image = format!(
        "json:{{\"driver\":\"vpc\",\"force_size_calc\":\"current_size\",\"file.filename\":{:?}}}",
        vhd.to_string_lossy()
    );
    let converted = stage.folder.path().join("converted.raw");
    succeed(Command::new("qemu-img").args(["convert", "-O", "raw", &image]).arg(&converted)).await?;
    assert!(std::fs::read(converted)? == std::fs::read(raw)?, "the exported VHD holds another disk");
    Ok(())
}
