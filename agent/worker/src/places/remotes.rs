//! One remote: its folder opened, its repository opened or made, its room looked at.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coffer_model::RemoteId;
use coffer_model::names::Named;
use coffer_proto::v1::{RemoteAccess, RemoteReport};
use coffer_remote::{LocalRemote, Remote, Space};
use coffer_repository::{DEFAULT_CHUNK_BYTES, Repository, RepositoryOptions};
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{BETWEEN_ATTEMPTS, Standing};
use crate::halt::Trouble;
use crate::sync::reports::Reports;
use crate::task::OpenRemote;

/// How often the room on a remote is looked at.
const LOOK: Duration = Duration::from_secs(30);
/// Temporary files of other machines that are older than this belong to nobody.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Keeps a remote open until `stop`.
pub(super) async fn keep(
    id: RemoteId,
    access: RemoteAccess,
    reports: Reports,
    standing: watch::Sender<Standing<OpenRemote>>,
    stop: CancellationToken,
) {
    let report = |report: RemoteReport| {
        // Of a place that was replaced meanwhile nothing is to be told.
        if !stop.is_cancelled() {
            reports.remote(RemoteReport { remote: id.name(), ..report });
        }
    };
    let keeping = async {
        let mut delays = BETWEEN_ATTEMPTS.delays(rand::random());
        loop {
            let trouble = match open(&id, &access).await {
                Ok((open, mut space)) => {
                    delays.reset();
                    tracing::info!(remote = %id, repository = %open.repository.id(), "remote is ready");
                    standing.send_replace(Standing::Usable(open.clone()));
                    loop {
                        report(ready(&open, space));
                        tokio::time::sleep(LOOK).await;
                        match look(&access, &*open.remote).await {
                            Ok(now) => space = now,
                            Err(trouble) => break trouble,
                        }
                    }
                }
                Err(trouble) => trouble,
            };
            tracing::warn!(remote = %id, reason = trouble.reason(), "remote cannot be used: {trouble}");
            report(RemoteReport { problem: Some(trouble.to_problem()), ..RemoteReport::default() });
            standing.send_replace(Standing::Unusable(trouble));
            tokio::time::sleep(delays.next().unwrap_or(BETWEEN_ATTEMPTS.max)).await;
        }
    };
    stop.run_until_cancelled(keeping).await;
}

fn ready(open: &OpenRemote, space: Option<Space>) -> RemoteReport {
    RemoteReport {
        ready: true,
        size_bytes: space.map_or(0, |space| space.total),
        free_bytes: space.map_or(0, |space| space.available),
        repository_id: open.repository.id().to_string(),
        ..RemoteReport::default()
    }
}

async fn open(id: &RemoteId, access: &RemoteAccess) -> Result<(OpenRemote, Option<Space>), Trouble> {
    there(access).await?;
    let local = LocalRemote::open(&access.local_path).await?;
    if let Err(error) = local.sweep_temporary(ABANDONED).await {
        tracing::warn!(remote = %id, %error, "temporary files could not be removed");
    }
    let remote: Arc<dyn Remote> = Arc::new(local);
    let space = remote.space().await?;
    let chunk_bytes = match usize::try_from(access.chunk_size_bytes) {
        Ok(bytes) if bytes > 0 => bytes,
        _ => DEFAULT_CHUNK_BYTES,
    };
    let options = RepositoryOptions { chunk_bytes, ..RepositoryOptions::default() };
    let password = SecretString::from(access.password.as_str());
    let repository = Repository::open_or_init(Arc::clone(&remote), &password, options).await?;
    Ok((OpenRemote { id: id.clone(), remote, repository }, space))
}

/// The room left, if the remote is still there.
async fn look(access: &RemoteAccess, remote: &dyn Remote) -> Result<Option<Space>, Trouble> {
    there(access).await?;
    Ok(remote.space().await?)
}

/// A missing folder is more likely a disk that is not mounted than a wish for a new one.
async fn there(access: &RemoteAccess) -> Result<(), Trouble> {
    let path = Path::new(&access.local_path);
    let missing = |message: String, advice: &str| Trouble::new("REMOTE_FOLDER_MISSING", message, advice).passing();
    if !path.is_absolute() {
        return Err(Trouble::new(
            "REMOTE_MISCONFIGURED",
            format!("{} is not an absolute path", path.display()),
            "give the remote the whole path of a folder on the agent's machine",
        ));
    }
    match tokio::fs::metadata(path).await {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(missing(format!("{} is not a folder", path.display()), "give the remote the path of a folder")),
        Err(error) => Err(missing(
            format!("the folder {} cannot be used: {error}", path.display()),
            "mount the file system or make the folder on the agent's machine",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(path: &Path, password: &str) -> RemoteAccess {
        RemoteAccess {
            remote: "remotes/nas".into(),
            local_path: path.display().to_string(),
            password: password.into(),
            chunk_size_bytes: 1 << 20,
        }
    }

    #[tokio::test]
    async fn a_missing_folder_is_a_problem_and_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not-mounted");
        let id: RemoteId = "nas".parse().unwrap();
        let trouble = open(&id, &access(&path, "p")).await.unwrap_err();
        assert_eq!((trouble.reason(), trouble.is_retryable()), ("REMOTE_FOLDER_MISSING", true));
        assert!(!path.exists());
        let trouble = open(&id, &access(Path::new("relative"), "p")).await.unwrap_err();
        assert_eq!(trouble.reason(), "REMOTE_MISCONFIGURED");
    }

    #[tokio::test]
    async fn a_repository_is_made_once_and_opens_with_its_password_only() {
        let folder = tempfile::tempdir().unwrap();
        let id: RemoteId = "nas".parse().unwrap();
        let (made, space) = open(&id, &access(folder.path(), "right")).await.unwrap();
        assert!(space.is_some_and(|space| space.total > 0));
        let (again, _) = open(&id, &access(folder.path(), "right")).await.unwrap();
        assert_eq!(made.repository.id(), again.repository.id());
        let trouble = open(&id, &access(folder.path(), "wrong")).await.unwrap_err();
        assert_eq!(trouble.reason(), "WRONG_PASSWORD");
    }
}
