//! Writes disks of a restore point to files on this machine.

use std::path::{Path, PathBuf};

use coffer_disk::file::{Qcow2FileSink, RawFileSink, VhdFileSink};
use coffer_extent::ExtentSink;
use coffer_model::names::Named;
use coffer_model::{RemoteId, counted};
use coffer_proto::v1::export_restore_point_request::Format;
use coffer_proto::v1::{ExportSpec, TaskSuccess};

use super::{moving, open, snapshot_id};
use crate::backup::bad_request;
use crate::document::DocumentDisk;
use crate::halt::{Outcome, Trouble, chain};
use crate::journal::Done;
use crate::task::Task;

/// The task.
pub(crate) async fn export(task: &Task, spec: &ExportSpec) -> Outcome<TaskSuccess> {
    let point = spec.point.clone().unwrap_or_default();
    let remote = task.places.remote(&RemoteId::from_name(&point.remote).map_err(bad_request)?)?;
    let point = open(&remote, snapshot_id(&point.snapshot_id)?).await?;
    let format = Format::try_from(spec.format).unwrap_or(Format::Raw);
    let work = async {
        let files = plan(&point.document.disks, format, &spec.folder, &spec.disks)?;
        for (_, path) in &files {
            if tokio::fs::try_exists(path).await.unwrap_or(true) {
                return Err(exists(path).into());
            }
        }
        task.progress.clear();
        let mut done = Done::default();
        for (disk, path) in &files {
            let progress = moving::progress(task, disk, "repository");
            let source = point.point.extents(&disk.path)?;
            let mut sink = create(path, format, disk.size).await?;
            done.read_bytes += moving::move_disk(task, &disk.label, source, &mut *sink, &progress).await?;
            task.journal.info(format_args!("disk {} ({}) is in {}", disk.device, disk.label, path.display()));
        }
        done.written_bytes = done.read_bytes;
        done.message = format!("{} in {}", counted(files.len(), "file"), spec.folder);
        Ok(((), done))
    };
    task.step("export", Vec::new(), work).await?;
    Ok(TaskSuccess::default())
}

/// Which disk goes into which file. Pure but for looking whether the folder is there.
fn plan<'a>(
    disks: &'a [DocumentDisk],
    format: Format,
    folder: &str,
    wanted: &[String],
) -> Result<Vec<(&'a DocumentDisk, PathBuf)>, Trouble> {
    let folder = Path::new(folder);
    if !folder.is_absolute() || !folder.is_dir() {
        return Err(Trouble::new(
            "FOLDER_MISSING",
            format!("{} is not a folder on the agent's machine", folder.display()),
            "make the folder, and give its absolute path",
        ));
    }
    let is_wanted = |disk: &DocumentDisk, name: &String| *name == disk.device || *name == disk.uuid.to_string();
    for name in wanted {
        if !disks.iter().any(|disk| is_wanted(disk, name)) {
            let known: Vec<_> = disks.iter().map(|disk| format!("{} ({})", disk.device, disk.uuid)).collect();
            return Err(Trouble::new(
                "DISK_UNKNOWN",
                format!("the restore point has no disk {name:?}"),
                format!("choose from: {}", known.join(", ")),
            ));
        }
    }
    let extension = match format {
        Format::Vhd => "vhd",
        Format::Qcow2 => "qcow2",
        Format::Raw | Format::Unspecified => "raw",
    };
    // Devices come from a document: nothing in them may lead out of the folder.
    let safe = |device: &str| device.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    Ok(disks
        .iter()
        .filter(|disk| wanted.is_empty() || wanted.iter().any(|name| is_wanted(disk, name)))
        .map(|disk| (disk, folder.join(format!("{}-{}.{extension}", safe(&disk.device), disk.uuid))))
        .collect())
}

async fn create(path: &Path, format: Format, size: u64) -> Result<Box<dyn ExtentSink>, Trouble> {
    let created: Result<Box<dyn ExtentSink>, coffer_disk::Error> = match format {
        Format::Vhd => VhdFileSink::create(path, size).await.map(|sink| Box::new(sink) as Box<dyn ExtentSink>),
        Format::Qcow2 => Qcow2FileSink::create(path, size).await.map(|sink| Box::new(sink) as Box<dyn ExtentSink>),
        Format::Raw | Format::Unspecified => {
            RawFileSink::create(path, size).await.map(|sink| Box::new(sink) as Box<dyn ExtentSink>)
        }
    };
    created.map_err(|error| {
        Trouble::new(
            "FILE_NOT_WRITTEN",
            chain(&error),
            "look at the permissions and the free space of the folder, or choose another format",
        )
    })
}

fn exists(path: &Path) -> Trouble {
    Trouble::new(
        "FILE_EXISTS",
        format!("{} exists, and nothing is overwritten", path.display()),
        "move it away, or choose another folder",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::tests::sample;

    #[test]
    fn files_are_named_by_device_and_disk_and_stay_in_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().to_str().unwrap();
        let mut disks = sample().disks;
        let planned = plan(&disks, Format::Qcow2, text, &["xvda".to_owned()]).unwrap();
        assert_eq!(planned[0].1, folder.path().join(format!("xvda-{}.qcow2", disks[0].uuid)));
        disks[0].device = "../../etc/x".into();
        let planned = plan(&disks, Format::Raw, text, &[]).unwrap();
        assert_eq!(planned[0].1.parent(), Some(folder.path()));
        let unknown = plan(&disks, Format::Raw, text, &["xvdz".to_owned()]).unwrap_err();
        assert_eq!(unknown.reason(), "DISK_UNKNOWN");
        for nowhere in ["relative", "/does/not/exist"] {
            assert_eq!(plan(&disks, Format::Raw, nowhere, &[]).unwrap_err().reason(), "FOLDER_MISSING");
        }
    }
}
