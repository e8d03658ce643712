//! One remote: its folder opened, its repository opened or made, its room and its identity looked at.
//!
//! A repository is made only where nobody knows of one: as soon as this agent or the controllers know the repository's
//! id, a folder that does not hold that very one is a disk that is not mounted, and nothing is written there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coffer_model::RemoteId;
use coffer_model::names::Named;
use coffer_proto::v1::{RemoteAccess, RemoteReport};
use coffer_remote::{LocalRemote, Remote, Space};
use coffer_repository::{DEFAULT_CHUNK_BYTES, Error, Repository, RepositoryId, RepositoryOptions};
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{BETWEEN_ATTEMPTS, Standing};
use crate::halt::Trouble;
use crate::sync::reports::Reports;
use crate::task::OpenRemote;

/// How often a remote is looked at: whether it is still the one, and how much room there is.
const LOOK: Duration = Duration::from_secs(10);
/// Temporary files of other machines that are older than this belong to nobody.
const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Keeps a remote open until `stop`.
pub(super) async fn keep(
    id: RemoteId,
    mut access: RemoteAccess,
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
        let mut said = None;
        loop {
            let trouble = match open(&id, &access).await {
                Ok((open, mut space)) => {
                    delays.reset();
                    access.repository_id = open.repository.id().to_string();
                    said = None;
                    tracing::info!(remote = %id, repository = %open.repository.id(), "remote is ready");
                    standing.send_replace(Standing::Usable(open.clone()));
                    loop {
                        report(ready(&open, space));
                        tokio::time::sleep(LOOK).await;
                        match look(&access, &open).await {
                            Ok(now) => space = now,
                            Err(trouble) => break trouble,
                        }
                    }
                }
                Err(trouble) => trouble,
            };
            // It is tried again for ever: what was said once is not said at every attempt.
            if said.as_ref() != Some(&trouble) {
                tracing::warn!(remote = %id, reason = trouble.reason(), "remote cannot be used: {trouble}");
                said = Some(trouble.clone());
            }
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
    let remote: Arc<dyn Remote> = Arc::new(local.clone());
    let space = remote.space().await?;
    let chunk_bytes = match usize::try_from(access.chunk_size_bytes) {
        Ok(bytes) if bytes > 0 => bytes,
        _ => DEFAULT_CHUNK_BYTES,
    };
    let options = RepositoryOptions { chunk_bytes, ..RepositoryOptions::default() };
    let password = SecretString::from(access.password.as_str());
    let repository = match known(access)? {
        None => Repository::open_or_init(Arc::clone(&remote), &password, options).await?,
        Some(wanted) => match Repository::open_known(Arc::clone(&remote), &password, options, wanted).await {
            Err(error @ Error::WrongPassword { .. }) => return Err(another_or_wrong_password(error)),
            opened => opened?,
        },
    };
    if let Err(error) = local.sweep_temporary(ABANDONED).await {
        tracing::warn!(remote = %id, %error, "temporary files could not be removed");
    }
    Ok((OpenRemote { id: id.clone(), remote, repository }, space))
}

/// The repository that is known to be there; `None` when nobody knows of one yet.
fn known(access: &RemoteAccess) -> Result<Option<RepositoryId>, Trouble> {
    let unreadable = |_| {
        Trouble::new(
            "BAD_REQUEST",
            format!("{:?} is not the id of a repository", access.repository_id),
            "report this as a fault of the program",
        )
    };
    if access.repository_id.is_empty() { Ok(None) } else { access.repository_id.parse().map(Some).map_err(unreadable) }
}

/// Keys of another repository are opened by another password.
fn another_or_wrong_password(error: Error) -> Trouble {
    let advice = "is the right file system mounted? if it is, give the password of this repository";
    Trouble::from(error).advising(advice).passing()
}

/// The room left, if the remote is still there and still the same.
async fn look(access: &RemoteAccess, open: &OpenRemote) -> Result<Option<Space>, Trouble> {
    there(access).await?;
    open.repository.confirm().await?;
    Ok(open.remote.space().await?)
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
            "is it mounted? mount the file system, or make the folder on the agent's machine",
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
            repository_id: String::new(),
        }
    }

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[tokio::test]
    async fn where_a_repository_is_known_none_is_made_and_no_other_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let (mount, other) = (folder.path().join("mount"), folder.path().join("other"));
        for path in [&mount, &other] {
            std::fs::create_dir(path).unwrap();
        }
        let id: RemoteId = "nas".parse().unwrap();
        let (other_open, _) = open(&id, &access(&other, "p")).await.unwrap();
        let before = files(&other);
        let known = |path: &Path, password: &str| RemoteAccess {
            repository_id: "0123456789abcdef".repeat(4),
            ..access(path, password)
        };
        for (path, password, reason) in
            [(&mount, "p", "REPOSITORY_MISSING"), (&other, "p", "REPOSITORY_OTHER"), (&other, "q", "WRONG_PASSWORD")]
        {
            let trouble = open(&id, &known(path, password)).await.unwrap_err();
            assert_eq!((trouble.reason(), trouble.is_retryable()), (reason, true));
            assert!(trouble.to_problem().advice.contains("mounted"), "{:?}", trouble.to_problem());
        }
        assert_eq!((files(&mount), files(&other)), (0, before), "something was written into the wrong folder");
        let right = RemoteAccess { repository_id: other_open.repository.id().to_string(), ..access(&other, "p") };
        let (again, _) = open(&id, &right).await.unwrap();
        look(&right, &again).await.unwrap();
        std::fs::rename(&other, folder.path().join("away")).unwrap();
        std::fs::create_dir(&other).unwrap();
        assert_eq!(look(&right, &again).await.unwrap_err().reason(), "REMOTE_REPLACED");
        assert_eq!(files(&other), 0, "looking writes nothing");
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
