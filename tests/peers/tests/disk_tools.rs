//! Disk tools that others wrote read what the simulated pool exports: NBD with TLS, VHD.

use anyhow::{Context, Result};
use coffer_peers::{Stage, succeed};
use tokio::process::Command;

/// URI of a snapshot of the first disk on a host's NBD server, as `get_nbd_info` names it, and the snapshot's UUID.
async fn nbd_uri(stage: &Stage) -> Result<(String, String)> {
    let pki = stage.folder.path().join("pki");
    std::fs::create_dir_all(&pki)?;
    let answer = stage.python("nbd_info.py", &[pki.to_str().context("a plain path")?]).await?;
    let mut lines = answer.lines().map(str::to_owned);
    Ok((lines.next().context("a URI")?, lines.next().context("a UUID")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdinfo_sees_the_size_of_the_disk_over_tls() -> Result<()> {
    let stage = Stage::start().await?;
    let (uri, _) = nbd_uri(&stage).await?;
    let output = succeed(Command::new("nbdinfo").args(["--size", &uri])).await?;
    let size: u64 = String::from_utf8(output.stdout)?.trim().parse()?;
    assert_eq!(size, stage.vm.disks[0].size);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdcopy_reads_the_bytes_of_the_disk() -> Result<()> {
    let stage = Stage::start().await?;
    let (uri, snapshot) = nbd_uri(&stage).await?;
    let (copied, expected) = (stage.folder.path().join("copied.raw"), stage.folder.path().join("expected.raw"));
    succeed(Command::new("nbdcopy").arg(&uri).arg(&copied)).await?;
    stage.control.copy_disk(&snapshot, &expected).await?;
    assert!(std::fs::read(copied)? == std::fs::read(expected)?, "the copy differs from the disk");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_img_reads_an_exported_vhd_as_the_same_disk() -> Result<()> {
    let stage = Stage::start().await?;
    let (vhd, raw) = (stage.folder.path().join("disk.vhd"), stage.folder.path().join("disk.raw"));
    let snapshot = stage.python("export_vhd.py", &[vhd.to_str().context("a plain path")?]).await?;
    stage.control.copy_disk(snapshot.trim(), &raw).await?;
    let force_size =
        format!("json:{{\"driver\":\"vpc\",\"force-size\":true,\"file.filename\":{:?}}}", vhd.to_string_lossy());
    let converted = stage.folder.path().join("converted.raw");
    succeed(Command::new("qemu-img").args(["convert", "-O", "raw", &force_size]).arg(&converted)).await?;
    assert!(std::fs::read(converted)? == std::fs::read(raw)?, "the exported VHD holds another disk");
    Ok(())
}
