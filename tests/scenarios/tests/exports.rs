//! What is exported can be read by everybody: files of an agent's machine, in formats that `qemu-img` knows.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use coffer_proto::v1::export_restore_point_request::Format;
use coffer_proto::v1::{ExportRestorePointRequest, RestorePoint, RestorePointDisk, Run, run};
use coffer_scenarios::{Site, Vm};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

const MIB: u64 = 1 << 20;

/// A site whose virtual machine has two disks and was written to after its only backup.
struct Stage {
    site: Site,
    vm: Vm,
    point: RestorePoint,
}

impl Stage {
    /// Also copies the disks as they were at the backup into this folder.
    async fn set_up(truth: &str) -> Result<Self> {
        let site = Site::start().await?;
        let vm = site.create_vm("db1", &[48 * MIB, 22 * MIB]).await?;
        let truth = site.folder().join(truth);
        std::fs::create_dir(&truth)?;
        for disk in &vm.disks {
            site.hosts.copy_disk(disk, &truth.join(disk)).await?;
        }
        let job = site.create_job("nightly", &[&vm]).await?;
        site.api.back_up(&job).await?;
        let point = site.api.restore_points(&vm.uuid).await?.pop().context("a restore point")?;
        // An export that read the disks of now instead of the restore point would show.
        for disk in &vm.disks {
            site.guest_writes(disk, 30.0, 99).await?;
        }
        Ok(Self { site, vm, point })
    }

    /// An empty folder for the files.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.site.folder().join(name);
        std::fs::create_dir(&folder)?;
        Ok(folder)
    }

    async fn export(&self, format: Format, folder: &Path, disks: &[&str]) -> Result<Run> {
        let request = ExportRestorePointRequest {
            name: self.point.name.clone(),
            format: format.into(),
            folder: folder.display().to_string(),
            disks: disks.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let run = self.site.api.points.clone().export_restore_point(request).await?.into_inner();
        self.site.api.ended(&run.name).await
    }
}

/// What the API promises that a file is called.
fn file_name(disk: &RestorePointDisk, extension: &str) -> String {
    format!("{}-{}.{extension}", disk.device, disk.uuid)
}

fn names_in(folder: &Path) -> Result<Vec<OsString>> {
    let mut names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Lets `qemu-img` say whether an image has the size and the content of the raw truth.
async fn same_disk(truth: &Path, format: &str, image: &Path) -> Result<()> {
    let mut compare = Command::new("qemu-img");
    compare.args(["compare", "-f", "raw", "-F", format]).args([truth, image]);
    let output = compare.output().await.context("starting qemu-img: is it installed? see tests/run")?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Of images that differ in size alone it says the same after a warning.
    ensure!(output.status.success() && said.trim() == "Images are identical.", "{}: {said}", image.display());
    Ok(())
}

#[tokio::test]
async fn an_export_is_the_disks_of_the_restore_point_in_every_format_as_qemu_img_reads_them() -> Result<()> {
    let stage = Stage::set_up("truth").await?;
    ensure!(stage.point.disks.len() == 2, "{:?}", stage.point.disks);
    let truth = stage.site.folder().join("truth");
    for (format, extension, judged_as) in
        [(Format::Raw, "raw", "raw"), (Format::Vhd, "vhd", "vpc"), (Format::Qcow2, "qcow2", "qcow2")]
    {
        let folder = stage.folder(extension)?;
        let run = stage.export(format, &folder, &[]).await?;
        let tasks = stage.site.api.succeeded(&run).await?;
        let read = tasks[0].transfer.context("sums")?.read_bytes;
        ensure!(read > 0, "the run says that nothing was read: {:?}", tasks[0].transfer);
        let mut expected: Vec<_> =
            stage.point.disks.iter().map(|disk| OsString::from(file_name(disk, extension))).collect();
        expected.sort();
        assert_eq!(names_in(&folder)?, expected, "other files than the promised ones");
        for disk in &stage.point.disks {
            let file = folder.join(file_name(disk, extension));
            same_disk(&truth.join(&disk.uuid), judged_as, &file).await?;
            if format == Format::Raw {
                let (is, should) = (std::fs::read(&file)?, std::fs::read(truth.join(&disk.uuid))?);
                ensure!(is.len() as u64 == disk.size_bytes, "{} has {} bytes", file.display(), is.len());
                assert_eq!(hex(&is), hex(&should), "{}", file.display());
            }
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[tokio::test]
async fn an_export_overwrites_no_file_and_writes_none_beside_it() -> Result<()> {
    let stage = Stage::set_up("truth").await?;
    let by_extension = [(Format::Raw, "raw"), (Format::Vhd, "vhd"), (Format::Qcow2, "qcow2")];
    for (format, extension) in by_extension {
        let folder = stage.folder(&format!("taken-{extension}"))?;
        // Of the second disk: that the first has room must not tempt it to begin.
        let taken = folder.join(file_name(&stage.point.disks[1], extension));
        std::fs::write(&taken, "somebody's")?;

        let run = stage.export(format, &folder, &[]).await?;
        assert_eq!(run.state(), run::State::Failed, "{}", run.message);
        let problem = stage.site.api.tasks(&run.name).await?.remove(0).error.context("a failed task says why")?;
        assert_eq!(problem.reason, "FILE_EXISTS", "{problem:?}");
        assert!(problem.message.contains(&taken.display().to_string()), "the file is not named: {problem:?}");
        assert!(!problem.advice.is_empty(), "{problem:?}");
        assert_eq!(names_in(&folder)?, [taken.file_name().context("a file")?]);
        assert_eq!(std::fs::read_to_string(&taken)?, "somebody's");

        // The other disk alone is not in the way of anything.
        let run = stage.export(format, &folder, &[&stage.point.disks[0].device]).await?;
        stage.site.api.succeeded(&run).await?;
        assert!(folder.join(file_name(&stage.point.disks[0], extension)).exists());
        assert_eq!(std::fs::read_to_string(&taken)?, "somebody's");
    }
    // What was exported and refused above left the pool and its machine alone.
    let sizes: BTreeMap<_, _> = stage.point.disks.iter().map(|disk| (&disk.uuid, disk.size_bytes)).collect();
    assert_eq!(sizes, stage.vm.disks.iter().zip([48 * MIB, 22 * MIB]).collect());
    assert_eq!(stage.site.leftovers().await?, Vec::<String>::new());
    Ok(())
}
