//! The lock of stock programs, as far as we need it: nothing is deleted while one of them works, and none begins while
//! we delete.
//!
//! Our own backups and restores take none: what makes them safe is said in [`crate::prune`].

use std::sync::Arc;
use std::time::Duration;

use coffer_remote::ObjectName;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::Error;
use crate::format::{Fault, MAX_SMALL, decode_unpacked, encode_unpacked};
use crate::id::LockId;
use crate::index::describe;
use crate::objects::{Objects, ids, name};

/// How often a lock is made anew, as stock programs do.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// A lock of this age that cannot be made anew is given up, before others may count it as left behind.
const OLD: Duration = Duration::from_secs(20 * 60);
/// A lock of this age counts as left behind, also for stock programs.
const STALE: SignedDuration = SignedDuration::from_mins(30);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LockFile {
    time: Timestamp,
    #[serde(default)]
    exclusive: bool,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    pid: u32,
}

/// The right to delete. Left behind by a crash, it counts for nothing after half an hour.
#[derive(Debug)]
struct ExclusiveLock {
    objects: Arc<Objects>,
    /// Its file, and older ones that could not be removed yet.
    names: Vec<ObjectName>,
    made: Instant,
}

/// Works with the lock, which is kept fresh meanwhile; does nothing and returns `None` when somebody else has one.
///
/// # Errors
/// Those of `work`; [`Error::Remote`] when the lock cannot be taken, kept fresh or given back: then `work` is broken
/// off.
pub(crate) async fn while_locked<T>(
    objects: &Arc<Objects>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<Option<T>, Error> {
    let Some(mut lock) = ExclusiveLock::take(objects).await? else { return Ok(None) };
    let mut work = std::pin::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            () = tokio::time::sleep(FRESH) => {}
        }
        match lock.refresh().await {
            Ok(()) => {}
            Err(error) if lock.made.elapsed() < OLD => {
                tracing::warn!(error = describe(&error), "the lock of the repository could not be made anew yet");
            }
            Err(error) => break Err(error),
        }
    };
    match (done, lock.release().await) {
        (Ok(done), Ok(())) => Ok(Some(done)),
        (Ok(_), Err(error)) => Err(error),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => {
            tracing::warn!(error = describe(&left), "the lock of the repository is left behind for half an hour");
            Err(error)
        }
    }
}

impl ExclusiveLock {
    /// Takes the lock; `None` when somebody else has one.
    async fn take(objects: &Arc<Objects>) -> Result<Option<Self>, Error> {
        if is_held(objects, None).await? {
            return Ok(None);
        }
        let lock = Self { objects: objects.clone(), names: vec![publish(objects).await?], made: Instant::now() };
        // Of two that came at one time, both see the other, and both step back.
        match is_held(objects, lock.names.first()).await {
            Ok(false) => Ok(Some(lock)),
            Ok(true) => {
                lock.release().await?;
                Ok(None)
            }
            Err(error) => {
                // One that stays behind would keep everybody from deleting for half an hour.
                if let Err(left) = lock.release().await {
                    tracing::warn!(error = describe(&left), "a lock is left behind");
                }
                Err(error)
            }
        }
    }

    /// Makes it young again. At no instant there is none.
    async fn refresh(&mut self) -> Result<(), Error> {
        self.names.insert(0, publish(&self.objects).await?);
        self.made = Instant::now();
        while let Some(old) = self.names.get(1) {
            self.objects.remote.delete(old).await?;
            self.names.remove(1);
        }
        Ok(())
    }

    /// Gives the lock back.
    async fn release(self) -> Result<(), Error> {
        for name in &self.names {
            self.objects.remote.delete(name).await?;
        }
        Ok(())
    }
}

async fn publish(objects: &Arc<Objects>) -> Result<ObjectName, Error> {
    let file = LockFile {
        time: Timestamp::now(),
        exclusive: true,
        hostname: "coffer".to_owned(),
        username: "coffer".to_owned(),
        pid: std::process::id(),
    };
    let json = serde_json::to_vec(&file).map_err(|error| Error::damaged("a new lock", error))?;
    let plain = encode_unpacked(&json).map_err(|error| Error::damaged("a new lock", Fault::Compression(error)))?;
    let (id, sealed) = objects.seal_unpacked(&plain);
    let name = name(&format!("locks/{}", hex::encode(id)));
    objects.publish_hashed(&name, sealed).await?;
    Ok(name)
}

/// Reads the plain bytes of a lock.
pub(crate) fn parse(plain: &[u8]) -> Result<LockFile, Fault> {
    decode_unpacked(plain, MAX_SMALL, |reader| Ok(serde_json::from_reader(std::io::BufReader::new(reader))?))
}

async fn is_held(objects: &Arc<Objects>, ours: Option<&ObjectName>) -> Result<bool, Error> {
    let listed = objects.remote.list(&name("locks")).await?;
    for (id, info) in ids::<LockId>(&listed).filter(|(_, info)| Some(&info.name) != ours) {
        match objects.read_unpacked(&info.name, *id.as_bytes(), parse).await {
            Ok(file) if Timestamp::now().duration_since(file.time) > STALE => {
                tracing::info!(lock = %info.name, host = file.hostname, "an old lock is ignored");
            }
            Ok(file) => {
                tracing::info!(lock = %info.name, host = file.hostname, "somebody else works on the repository");
                return Ok(true);
            }
            Err(Error::Remote(coffer_remote::Error::NotFound { .. })) => {}
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(lock = %info.name, error = describe(&error), "a lock that cannot be read is heeded");
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use coffer_remote::{FailingRemote, Fault as Failing, MemoryRemote, Remote};

    use super::*;
    use crate::Compression;
    use crate::format::MasterKey;

    async fn locks(remote: &MemoryRemote) -> BTreeSet<ObjectName> {
        remote.list(&name("locks")).await.unwrap().into_iter().map(|info| info.name).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn work_goes_on_while_the_remote_is_away_for_minutes_and_stops_before_the_lock_is_old() {
        let remote = Arc::new(FailingRemote::new(MemoryRemote::new()));
        let objects = Arc::new(Objects::new(remote.clone(), MasterKey::random(), Compression::Fast));
        for (minutes, survives) in [(12, true), (40, false)] {
            let work = async {
                remote.inject(Some(Failing::From { at: 0 }));
                tokio::time::sleep(Duration::from_secs(minutes * 60)).await;
                remote.inject(None);
                tokio::time::sleep(FRESH * 2).await;
                Ok(())
            };
            let done = while_locked(&objects, work).await;
            assert_eq!(done.is_ok(), survives, "{minutes} minutes: {done:?}");
            remote.inject(None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_is_kept_fresh_for_as_long_as_the_work_takes_and_is_then_gone() {
        let remote = Arc::new(MemoryRemote::new());
        let objects = Arc::new(Objects::new(remote.clone(), MasterKey::random(), Compression::Fast));
        let work = async {
            let mut seen = BTreeSet::new();
            for _ in 0..10 {
                let now = locks(&remote).await;
                assert_eq!(now.len(), 1, "never none, and never an old one beside the new one");
                seen.extend(now);
                assert!(while_locked(&objects, async { Ok(()) }).await.unwrap().is_none(), "it keeps others out");
                tokio::time::sleep(FRESH + Duration::from_secs(1)).await;
            }
            Ok(seen.len())
        };
        let seen = while_locked(&objects, work).await.unwrap();
        assert_eq!(seen, Some(10));
        assert!(locks(&remote).await.is_empty());
        let failed = while_locked(&objects, async { Err::<(), _>(Error::Cancelled) }).await;
        assert!(matches!(failed, Err(Error::Cancelled)) && locks(&remote).await.is_empty());
    }
}
