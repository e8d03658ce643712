//! Patience with objects that somebody else is using: a disk is "in use" for seconds after a transfer of it has ended.

use std::time::Duration;

use coffer_runtime::CancellationToken;
use coffer_runtime::retry::{Policy, retry};
use serde_json::json;

use crate::link::Repeat;
use crate::records::{Vbd, Vdi};
use crate::{Client, Error, FailureClass, Ref};

/// How long a busy object is waited for. Most are free again within a second or two, some after half a minute.
pub const BUSY: Policy = Policy {
    initial: Duration::from_millis(500),
    max: Duration::from_secs(5),
    jitter: 0.0,
    give_up_after: Some(Duration::from_secs(45)),
    attempts: None,
};

/// How long a disk of ours may stay attached to a control domain once nobody of ours reads or writes it: a host that is
/// alive detaches it within seconds. After that the attachment counts as leaked.
const LEAKED_AFTER: Duration = Duration::from_secs(10);

/// Repeats what fails because an object is busy or the server is full of requests. Nothing else is repeated.
///
/// # Errors
/// The last error, or [`Error::Cancelled`].
pub async fn when_free<T, F>(
    what: &str,
    policy: Policy,
    cancel: &CancellationToken,
    operation: impl FnMut() -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let busy = |error: &Error| error.class() == Some(FailureClass::Busy);
    retry(policy, cancel, busy, operation)
        .await
        .map_err(|stopped| stopped.into_error(|| Error::Cancelled { what: what.to_owned() }))
}

impl Client {
    /// Destroys a disk of ours as soon as nobody uses it, see [`Client::when_disk_is_free`]. That it is gone already is
    /// no error.
    ///
    /// # Errors
    /// As any operation; [`Error::Cancelled`].
    pub async fn vdi_destroy_when_free(
        &self,
        vdi: &Ref<Vdi>,
        policy: Policy,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        self.when_disk_is_free("removing a disk", vdi, policy, cancel, || self.vdi_destroy(vdi)).await
    }

    /// Does something to a disk of ours as soon as nobody uses it. Attachments of it to control domains, leaked by a
    /// transfer that broke or a toolstack that restarted, are taken away after a while: nothing else ever ends them.
    ///
    /// # Errors
    /// As the operation; [`Error::Cancelled`].
    pub async fn when_disk_is_free<T, F>(
        &self,
        what: &str,
        vdi: &Ref<Vdi>,
        policy: Policy,
        cancel: &CancellationToken,
        mut operation: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let first = policy.give_up_after.map_or(LEAKED_AFTER, |limit| limit.min(LEAKED_AFTER));
        match when_free(what, policy.giving_up_after(first), cancel, &mut operation).await {
            Err(error) if error.is("VDI_IN_USE") => {
                // Attempts that are counted have been made.
                if self.release_leaked_attachments(vdi).await? == 0 && policy.attempts.is_some() {
                    return Err(error);
                }
                when_free(what, policy, cancel, operation).await
            }
            outcome => outcome,
        }
    }

    /// Takes away the attachments of a disk to control domains; returns how many. Only for disks that we made.
    ///
    /// # Errors
    /// As any call.
    pub async fn release_leaked_attachments(&self, vdi: &Ref<Vdi>) -> Result<usize, Error> {
        let disk = match self.record::<Vdi>(vdi).await {
            Err(error) if error.is("HANDLE_INVALID") => return Ok(0),
            disk => disk?,
        };
        let mut released = 0;
        for vbd in &disk.vbds {
            if self.is_of_control_domain(vbd).await? {
                tracing::info!(%vdi, %vbd, "a leaked attachment of a disk to a control domain is removed");
                self.release(vbd).await?;
                released += 1;
            }
        }
        Ok(released)
    }

    async fn is_of_control_domain(&self, vbd: &Ref<Vbd>) -> Result<bool, Error> {
        let vm = match self.record::<Vbd>(vbd).await {
            Err(error) if error.is("HANDLE_INVALID") => return Ok(false),
            record => record?.vm.clone(),
        };
        match vm {
            Some(vm) => self.call_as("VM.get_is_control_domain", vec![json!(vm)], Repeat::Safe).await,
            None => Ok(false),
        }
    }

    async fn release(&self, vbd: &Ref<Vbd>) -> Result<(), Error> {
        match self.vbd_unplug(vbd).await {
            Err(error) if error.is("DEVICE_ALREADY_DETACHED") || error.is("HANDLE_INVALID") => {}
            outcome => outcome?,
        }
        self.vbd_destroy(vbd).await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::Failure;

    async fn attempts_at(code: &'static str, policy: Policy) -> (u32, Error) {
        let attempts = Cell::new(0);
        let error = when_free("x", policy, &CancellationToken::new(), || {
            attempts.set(attempts.get() + 1);
            async { Err::<(), _>(Failure::new("VDI.destroy", code, Vec::new()).into()) }
        })
        .await
        .unwrap_err();
        (attempts.get(), error)
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_object_is_tried_again_soon_then_more_seldom_and_given_up_within_a_minute() {
        let begin = tokio::time::Instant::now();
        let (attempts, error) = attempts_at("VDI_IN_USE", BUSY).await;
        assert!((10..20).contains(&attempts), "{attempts} attempts");
        assert!(begin.elapsed() <= Duration::from_secs(45), "{:?}", begin.elapsed());
        assert!(error.is("VDI_IN_USE"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_busy_is_not_waited_for() {
        assert_eq!(attempts_at("SR_BACKEND_FAILURE_44", BUSY).await.0, 1);
    }
}
