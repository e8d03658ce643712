//! Leases in etcd. Granting, keeping and revoking may all be repeated, as the ids are chosen here.

use std::time::Duration;

use etcd_client::{Client, LeaseGrantOptions};

use super::cluster::Cluster;
use super::failure::Answer;
use super::keys::{number, signed};
use super::refusal;
use crate::error::Error;
use crate::limits;
use crate::store::{Lease, LeaseId};

/// An id that nobody has used or will use: positive, and random in 62 bits.
pub(super) fn new_id() -> i64 {
    signed(rand::random::<u64>() >> 2).max(1)
}

/// Makes a lease. When an answer is lost, the same id is asked for again: that it exists then says that it is ours.
pub(super) async fn grant(cluster: &Cluster, ttl: Duration) -> Result<Lease, Error> {
    let (id, seconds) = (new_id(), signed(limits::granted_ttl(ttl).as_secs()));
    let deadline = cluster.deadline();
    let grant = |mut client: Client| async move {
        client.lease_grant(seconds, Some(LeaseGrantOptions::new().with_id(id))).await.map(|response| response.ttl())
    };
    let granted = match cluster.repeat(deadline, grant).await? {
        Ok(granted) => granted,
        Err(Answer::LeaseExists) => {
            let look = |mut client: Client| async move {
                client.lease_time_to_live(id, None).await.map(|response| response.granted_ttl())
            };
            cluster.repeat(deadline, look).await?.map_err(|answer| refusal(cluster, answer))?
        }
        Err(answer) => return Err(refusal(cluster, answer)),
    };
    Ok(Lease { id: LeaseId(number(id)), ttl: Duration::from_secs(number(granted)) })
}

/// Extends a lease, and returns its time to live.
pub(super) async fn keep_alive(cluster: &Cluster, lease: LeaseId) -> Result<Duration, Error> {
    let id = signed(lease.0);
    let keep = |mut client: Client| async move {
        // The library keeps the answer to the first request of a stream to itself, so the time comes with the second.
        let (mut keeper, mut answers) = client.lease_keep_alive(id).await?;
        keeper.keep_alive().await?;
        match answers.message().await? {
            Some(answer) => Ok(answer.ttl()),
            None => Err(etcd_client::Error::WatchError("the answers to keep-alives ended".to_owned())),
        }
    };
    match cluster.repeat(cluster.deadline(), keep).await? {
        Ok(ttl) if ttl > 0 => Ok(Duration::from_secs(number(ttl))),
        Ok(_) | Err(Answer::LeaseNotFound) => Err(Error::LeaseNotFound { lease }),
        Err(answer) => Err(refusal(cluster, answer)),
    }
}

/// Ends a lease. When an answer was lost and the lease is gone when asked again, it was we who ended it, or its time.
pub(super) async fn revoke(cluster: &Cluster, lease: LeaseId) -> Result<(), Error> {
    let id = signed(lease.0);
    let tries = std::sync::atomic::AtomicU32::new(0);
    let revoke = |mut client: Client| {
        tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async move { client.lease_revoke(id).await.map(drop) }
    };
    match cluster.repeat(cluster.deadline(), revoke).await? {
        Ok(()) => Ok(()),
        Err(Answer::LeaseNotFound) if tries.load(std::sync::atomic::Ordering::Relaxed) > 1 => Ok(()),
        Err(Answer::LeaseNotFound) => Err(Error::LeaseNotFound { lease }),
        Err(answer) => Err(refusal(cluster, answer)),
    }
}

/// The first of these leases that does not live.
pub(super) async fn first_dead(
    cluster: &Cluster,
    leases: impl Iterator<Item = LeaseId>,
) -> Result<Option<LeaseId>, Error> {
    for lease in leases {
        let id = signed(lease.0);
        let look =
            |mut client: Client| async move { client.lease_time_to_live(id, None).await.map(|found| found.ttl()) };
        match cluster.repeat(cluster.deadline(), look).await? {
            Ok(ttl) if ttl > 0 => {}
            Ok(_) | Err(Answer::LeaseNotFound) => return Ok(Some(lease)),
            Err(answer) => return Err(refusal(cluster, answer)),
        }
    }
    Ok(None)
}
