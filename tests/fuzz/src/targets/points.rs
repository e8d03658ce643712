//! Restore points: their commit records, their `vm.json`, the marks of ours in pools, and a whole repository with one
//! spoilt object.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use coffer_extent::{Extent, ExtentSink, ExtentSource};
use coffer_remote::{MemoryRemote, ObjectName, Remote};
use coffer_repository::{
    BackupOptions, CheckLevel, Error, KeyCost, PruneOptions, Repository, RepositoryOptions, SnapshotMeta,
};
use secrecy::SecretString;
use tokio::runtime::Runtime;

use super::Target;

const CHUNK: usize = 64 << 10;
const COMMIT: &str = r#"{"version":1,"verdict":"commit","vm":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3e",
    "task":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","incarnation":1,"epoch":3,
    "nonce":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3f",
    "snapshot":"3b","digest":"3b","decided_at":"2026-11-23T09:00:00Z"}"#;
const DOCUMENT: &str = r#"{"format":"coffer-vm","version":1,"site":"s","pool":"pools/lab",
    "pool_uuid":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","job":"jobs/nightly","schedule":"","run":"runs/r",
    "task":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","vm_uuid":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","vm_label":"db",
    "time":"2026-11-23T09:00:00Z","vm":{"name_label":"db","other_config":{"k":"v"},"generation_id":"1:2",
    "VCPUs_max":"2"},
    "disks":[{"uuid":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","device":"xvda","position":"0","label":"system",
    "size":18446744073709551615,"path":"disks/xvda.raw","vbd":{"bootable":true,"mode":"RW"},"vdi":{"tags":["a"]},
    "reference":{"vdi":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","kept":"bitmap"},"source":"nbd","reason":""},
    {"uuid":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3e","device":"xvdb","position":"1","label":"data",
    "size":18446744073709551615,"path":"disks/xvdb.raw","vbd":{},"vdi":{}}],
    "excluded":[{"uuid":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","position":"2","label":"[NOBAK] x"}],
    "drives":[{"userdevice":"3"}],"interfaces":[{"vif":{"device":"0","MTU":"1500"},"network":
    {"uuid":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","label":"eth0","bridge":"xenbr0"}}],
    "tpms":[{"record":{},"contents":"c2VjcmV0"}],"added_bytes":1}"#;
const STAMP: &str = r#"{"coffer:site":"s","coffer:intent":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","coffer:task":"t",
    "coffer:self":"00000000-0000-0000-0000-000000000000","coffer:vm":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d",
    "coffer:remotes":"nas,offsite","coffer:complete":"true"}"#;

pub(super) fn targets(runtime: &Rc<Runtime>) -> Result<Vec<Target>> {
    Ok(vec![
        Target::text("commit-record", &[COMMIT], |json| coffer_remote::commit::parse(json.as_bytes()).is_ok()),
        Target::text("vm-json", &[DOCUMENT], |json| {
            if let Some(again) = coffer_agent::fuzz::document_again(json.as_bytes()) {
                assert!(coffer_agent::fuzz::document_again(&again) == Some(again), "it is not read as it was written");
            }
            coffer_agent::fuzz::document(json.as_bytes()).is_ok()
        }),
        Target::json("stamp", &[STAMP], |value| {
            let marks: BTreeMap<String, String> = serde_json::from_value(value).unwrap_or_default();
            marks.values().any(|name| coffer_agent::fuzz::stamp(name, &marks))
        }),
        spoilt_repository(runtime)?,
    ])
}

/// A repository in which one object is replaced by the input: the first byte chooses which.
fn spoilt_repository(runtime: &Rc<Runtime>) -> Result<Target> {
    let remote = Arc::new(MemoryRemote::new());
    let objects = runtime.block_on(filled(&remote))?;
    let good = objects.iter().enumerate().map(|(number, (_, bytes))| {
        let number = u8::try_from(number).context("too many objects")?;
        Ok([&[number], &bytes[..]].concat())
    });
    let good = good.collect::<Result<_>>()?;
    let runtime = Rc::clone(runtime);
    Ok(Target::new("repository-spoilt", good, move |input| {
        let Some((number, spoilt)) = input.split_first() else { return false };
        let (name, bytes) = &objects[usize::from(*number) % objects.len()];
        remote.overwrite(name, Bytes::copy_from_slice(spoilt));
        let read = runtime.block_on(everything(remote.clone()));
        remote.overwrite(name, Bytes::clone(bytes));
        runtime.block_on(nothing_lost(&remote, &objects));
        match read {
            Ok(is_clean) => is_clean,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                false
            }
        }
    }))
}

fn options() -> RepositoryOptions {
    RepositoryOptions {
        chunk_bytes: CHUNK,
        key_cost: KeyCost::Worthless,
        workers: 1,
        packs_in_memory: 1,
        cached_chunks: 2,
        readahead_bytes: 4 * CHUNK,
        ..RepositoryOptions::default()
    }
}

fn password() -> SecretString {
    SecretString::from("correct horse")
}

/// Makes a repository with one point, a mark of prune, and returns its objects.
async fn filled(remote: &Arc<MemoryRemote>) -> Result<Vec<(ObjectName, Bytes)>> {
    let repository = Repository::init(remote.clone(), &password(), options()).await?;
    let session = repository.begin_backup(BackupOptions::default()).await?;
    let mut disk = session.disk("disks/xvda.raw", 3 * CHUNK as u64, None).await?;
    for (number, byte) in [7_u8, 0, 9].into_iter().enumerate() {
        disk.accept(Extent::Data { offset: (number * CHUNK) as u64, bytes: vec![byte; CHUNK].into() }).await?;
    }
    disk.close().await?;
    session.file("vm.json", Bytes::from_static(b"{}")).await?;
    let meta = SnapshotMeta {
        time: jiff::Timestamp::UNIX_EPOCH,
        vm: "0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d".parse()?,
        vm_name: "web".to_owned(),
        tags: Vec::new(),
        parent: None,
    };
    session.seal(meta).await?.publish().await?;
    let marks = r#"{"version":1,"created":"2026-11-23T09:00:00Z","delete_after":"9999-11-24T09:00:00Z","packs":[]}"#;
    let name = ObjectName::new("coffer/prune/marks/m.json")?;
    remote.create(&name, vec![Bytes::from_static(marks.as_bytes())]).await?;
    let mut objects = Vec::new();
    for folder in ["repository", "coffer"] {
        for info in remote.list(&ObjectName::new(folder)?).await? {
            objects.push((info.name.clone(), remote.read(&info.name).await?));
        }
    }
    Ok(objects)
}

/// Reads all that can be read, and prunes what need not be kept; true when all is well.
async fn everything(remote: Arc<MemoryRemote>) -> Result<bool, Error> {
    let repository = Repository::open(remote, &password(), options()).await?;
    for info in repository.points().await? {
        let point = repository.point(info.id).await?;
        let mut source = point.extents("disks/xvda.raw")?;
        while let Ok(Some(_)) = source.next().await {}
        point.read_file("vm.json", 1 << 20).await?;
    }
    let report = repository.check(CheckLevel::ReadData).await?;
    // It changes nothing that is needed, whatever was lost.
    if let Ok(plan) = repository.plan_prune(PruneOptions::default()).await {
        let _ = repository.prune(plan).await;
    }
    Ok(report.is_clean())
}

/// Every object is there with its bytes; what was noted about damage is taken back.
async fn nothing_lost(remote: &MemoryRemote, objects: &[(ObjectName, Bytes)]) {
    for (name, bytes) in objects {
        assert!(remote.read(name).await.is_ok_and(|found| found == *bytes), "{name} was lost or changed");
    }
    for folder in ["repository", "coffer"] {
        let folder = ObjectName::new(folder).expect("a constant that is a name");
        for info in remote.list(&folder).await.unwrap_or_default() {
            if !objects.iter().any(|(name, _)| *name == info.name) {
                remote.delete(&info.name).await.expect("memory forgets");
            }
        }
    }
}
