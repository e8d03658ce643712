//! What XAPI says when it refuses or fails: code and parameters, and what a backup program makes of them.

use std::fmt;

use crate::Fingerprint;
use crate::endpoint::printable;

/// An error answered by XAPI, to a call or by a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The call that failed, or the label of the task.
    pub method: String,
    /// XAPI's code, `VDI_IN_USE`.
    pub code: String,
    /// Its parameters, as given. A session's reference is never among them.
    pub params: Vec<String>,
    /// What the host that answered said of the coordinator's certificate, if it was asked and knows.
    pub coordinator: Option<Fingerprint>,
}

/// What a failure means for what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// Somebody else is using the object or the server is full of requests: wait, then repeat.
    Busy,
    /// The object does not exist (any more).
    Gone,
    /// The session is unknown: log in again.
    Session,
    /// Asked a supporter: its coordinator must be asked.
    NotCoordinator,
    /// The host or its toolstack is starting, or in emergency mode.
    Starting,
    /// A host needed for this cannot be reached.
    HostDown,
    /// No room on the storage repository.
    Space,
    /// Too many snapshots in one chain: garbage collection must catch up.
    ChainTooLong,
    /// Changed-block tracking cannot answer for this pair of disks.
    ChangedBlocks,
    /// The user is unknown or may not do this.
    Permission,
    /// This version or edition cannot do this.
    Unsupported,
    /// The task was cancelled.
    Cancelled,
    /// Reading or writing the disk failed.
    InputOutput,
    /// The operation was blocked by an administrator or a state that only a person changes.
    Refused,
    /// None of the above.
    Other,
}

impl Failure {
    /// A failure from code and parameters; references to sessions are left out.
    #[must_use]
    pub fn new(method: &str, code: &str, params: Vec<String>) -> Self {
        let of_session = code == "SESSION_INVALID" || params.first().is_some_and(|class| class == "session");
        let params = if of_session { Vec::new() } else { params };
        Self { method: method.to_owned(), code: code.to_owned(), params, coordinator: None }
    }

    /// Removes every occurrence of a secret from the parameters.
    pub(crate) fn without(mut self, secret: &str) -> Self {
        if !secret.is_empty() {
            for text in self.params.iter_mut().chain([&mut self.code]) {
                if text.contains(secret) {
                    *text = text.replace(secret, "(session)");
                }
            }
        }
        self
    }

    /// Whether the code is this one.
    #[must_use]
    pub fn is(&self, code: &str) -> bool {
        self.code == code
    }

    /// What it means for what to do next.
    #[must_use]
    pub fn class(&self) -> FailureClass {
        use FailureClass as C;
        match self.code.as_str() {
            "OTHER_OPERATION_IN_PROGRESS"
            | "VDI_IN_USE"
            | "TOO_MANY_PENDING_TASKS"
            | "TOO_MANY_STORAGE_MIGRATES"
            | "DEVICE_DETACH_TIMEOUT"
            | "SR_BACKEND_FAILURE_24" => C::Busy,
            "HANDLE_INVALID" | "UUID_INVALID" | "VDI_MISSING" | "SR_BACKEND_FAILURE_144" => C::Gone,
            "SESSION_INVALID" => C::Session,
            "HOST_IS_SLAVE" => C::NotCoordinator,
            "HOST_STILL_BOOTING"
            | "HOST_HAS_NO_MANAGEMENT_IP"
            | "HOST_UNKNOWN_TO_MASTER"
            | "HOST_MASTER_CANNOT_TALK_BACK"
            | "HOST_IN_EMERGENCY_MODE" => C::Starting,
            "CANNOT_CONTACT_HOST" | "HOST_OFFLINE" | "HOST_NOT_LIVE" | "HOST_DISABLED" | "NO_HOSTS_AVAILABLE" => {
                C::HostDown
            }
            "SR_BACKEND_FAILURE_44" | "SR_FULL" => C::Space,
            "SR_BACKEND_FAILURE_109" => C::ChainTooLong,
            "SR_BACKEND_FAILURE_457"
            | "SR_BACKEND_FAILURE_458"
            | "SR_BACKEND_FAILURE_459"
            | "SR_BACKEND_FAILURE_460"
            | "VDI_NO_CBT_METADATA"
            | "VDI_CBT_ENABLED" => C::ChangedBlocks,
            "SESSION_AUTHENTICATION_FAILED" | "SESSION_AUTHORIZATION_FAILED" | "RBAC_PERMISSION_DENIED" => {
                C::Permission
            }
            "MESSAGE_METHOD_UNKNOWN"
            | "MESSAGE_REMOVED"
            | "MESSAGE_PARAMETER_COUNT_MISMATCH"
            | "SR_OPERATION_NOT_SUPPORTED"
            | "LICENCE_RESTRICTION"
            | "FEATURE_RESTRICTED"
            | "SR_BACKEND_FAILURE_38"
            | "UNIMPLEMENTED_IN_SM_BACKEND" => C::Unsupported,
            "TASK_CANCELLED" => C::Cancelled,
            "VDI_IO_ERROR" | "VDI_COPY_FAILED" | "SR_BACKEND_FAILURE_200" | "SR_BACKEND_FAILURE_453" => C::InputOutput,
            "OPERATION_BLOCKED"
            | "OPERATION_NOT_ALLOWED"
            | "VM_BAD_POWER_STATE"
            | "VM_HAS_PCI_ATTACHED"
            | "VM_HAS_VGPU"
            | "VM_HAS_VUSBS"
            | "VM_IS_IMMOBILE"
            | "NOT_SUPPORTED_DURING_UPGRADE" => C::Refused,
            _ => C::Other,
        }
    }

    /// Whether the same call may succeed later without anybody doing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        use FailureClass as C;
        matches!(self.class(), C::Busy | C::Session | C::NotCoordinator | C::Starting | C::HostDown | C::InputOutput)
    }

    /// What to do about it, in plain words; `None` when only the code can be repeated.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self.code.as_str() {
            "OTHER_OPERATION_IN_PROGRESS" => {
                "another operation works on this object: wait for it, or look at the pool's running tasks"
            }
            "VDI_IN_USE" => {
                "the disk is attached or being read: a transfer may still be closing; if it stays, look for a disk attached to the control domain"
            }
            "TOO_MANY_PENDING_TASKS" => "the pool has too many operations waiting: lower the concurrency of jobs",
            "DEVICE_DETACH_REJECTED" | "DEVICE_DETACH_TIMEOUT" => {
                "the guest does not let go of the device: shut the VM down or look inside the guest"
            }
            "HANDLE_INVALID" | "UUID_INVALID" => {
                "the object was deleted meanwhile: look whether the VM, the disk or the snapshot still exists"
            }
            "VDI_MISSING" | "SR_BACKEND_FAILURE_144" => {
                "the storage no longer holds this disk: scan the storage repository and look at its health"
            }
            "SESSION_INVALID" => "the session expired or the toolstack restarted: it is opened anew by itself",
            "HOST_IS_SLAVE" => "this host is not the pool's coordinator: give the coordinator's address",
            "HOST_STILL_BOOTING" => "the host is starting: try again in a minute",
            "HOST_HAS_NO_MANAGEMENT_IP"
            | "HOST_UNKNOWN_TO_MASTER"
            | "HOST_MASTER_CANNOT_TALK_BACK"
            | "HOST_IN_EMERGENCY_MODE" => {
                "the host is in emergency mode and not part of a working pool: repair the pool first"
            }
            "CANNOT_CONTACT_HOST" | "HOST_OFFLINE" | "HOST_NOT_LIVE" => {
                "a host of the pool does not answer: look whether it is up"
            }
            "HOST_DISABLED" => "the host is in maintenance mode: enable it",
            "NO_HOSTS_AVAILABLE" | "HOST_NOT_ENOUGH_FREE_MEMORY" => {
                "no host can start this VM: free memory or enable a host"
            }
            "VM_REQUIRES_SR" => "no single host sees all storage of this VM: attach the storage repository to a host",
            "VM_REQUIRES_NETWORK" => "no host has a network of this VM: choose another network",
            "SR_BACKEND_FAILURE_44" | "SR_FULL" => {
                "the storage repository is full: free space (removed snapshots give theirs back only after garbage collection) or choose another one"
            }
            "SR_BACKEND_FAILURE_109" => {
                "the chain of snapshots is too long: remove snapshots and let the storage coalesce before the next backup"
            }
            "SR_BACKEND_FAILURE_457"
            | "SR_BACKEND_FAILURE_458"
            | "SR_BACKEND_FAILURE_459"
            | "SR_BACKEND_FAILURE_460"
            | "VDI_NO_CBT_METADATA" => {
                "changed-block tracking cannot compare these two disks: the next backup reads the whole disk and tracking starts anew"
            }
            "VDI_CBT_ENABLED" => "changed-block tracking forbids this operation: disable it on the disk first",
            "SESSION_AUTHENTICATION_FAILED" => "the user or the password is wrong: correct the pool's credentials",
            "SESSION_AUTHORIZATION_FAILED" | "RBAC_PERMISSION_DENIED" => {
                "this user may not do that: give it the role vm-power-admin or pool-admin"
            }
            "MESSAGE_METHOD_UNKNOWN" | "MESSAGE_REMOVED" | "MESSAGE_PARAMETER_COUNT_MISMATCH" => {
                "this version of the hypervisor does not know that call: update the pool"
            }
            "SR_OPERATION_NOT_SUPPORTED" | "SR_BACKEND_FAILURE_38" | "UNIMPLEMENTED_IN_SM_BACKEND" => {
                "this type of storage repository cannot do that: choose another one"
            }
            "LICENCE_RESTRICTION" | "FEATURE_RESTRICTED" => "the pool's licence does not include this feature",
            "TASK_CANCELLED" => "somebody cancelled the task on the pool: start it again",
            "VDI_IO_ERROR" => {
                "reading or writing the disk failed on the host, or the connection broke: try again; if it stays, look at the storage's log"
            }
            "SR_HAS_NO_PBDS" | "SR_NOT_ATTACHED" | "SR_BACKEND_FAILURE_47" => {
                "the storage repository is not attached to any host: repair its connections"
            }
            "SR_BACKEND_FAILURE_46" => "the disk is not available on its storage: it may be locked by another host",
            "SR_BACKEND_FAILURE_73" | "SR_BACKEND_FAILURE_108" | "SR_BACKEND_FAILURE_111" => {
                "the network share of this storage repository cannot be mounted: look at the file server"
            }
            "OPERATION_BLOCKED" => "an administrator blocked this operation on the VM: clear its blocked_operations",
            "VM_BAD_POWER_STATE" => "the VM is not in the power state that this needs",
            "VM_IS_TEMPLATE" | "VM_IS_SNAPSHOT" => "this is a template or a snapshot: choose a VM",
            "VM_HAS_PCI_ATTACHED" | "VM_HAS_VGPU" | "VM_HAS_VUSBS" | "VM_IS_IMMOBILE" => {
                "a device passed through to the VM forbids this: detach it, or leave the VM's memory out of the backup"
            }
            "VM_MISSING_PV_DRIVERS" | "VM_LACKS_FEATURE" => "the VM's guest tools are missing or old: install them",
            "VM_NO_SUSPEND_SR" => "no storage repository is set for suspend images: set one on the pool or the VM",
            "VM_CHECKPOINT_SUSPEND_FAILED" | "VM_CHECKPOINT_RESUME_FAILED" => {
                "the guest did not suspend or resume: look at the VM; a backup without memory does not need this"
            }
            "DUPLICATE_VM" | "DUPLICATE_MAC_SEED" => "a VM with this identity exists: restore under a new identity",
            "DEFAULT_SR_NOT_FOUND" => "the pool has no default storage repository: name the target",
            "NOT_SUPPORTED_DURING_UPGRADE" => {
                "the pool is being upgraded: try again when every host runs the same version"
            }
            "IMPORT_ERROR_PREMATURE_EOF" => "the data ended too early: the connection broke or the backup is cut",
            "IMPORT_ERROR_SOME_CHECKSUMS_FAILED" => {
                "the data was damaged on its way or in the backup: verify the restore point"
            }
            "VDI_TOO_SMALL" | "VDI_TOO_LARGE" => {
                "the size does not fit this storage or this format: choose another storage repository or another format"
            }
            "VDI_READONLY" | "VDI_NOT_MANAGED" => "this disk cannot be written",
            "XAPI_HOOK_FAILED" => {
                "a script that an administrator installed on the host refused the operation: look at the host's log"
            }
            "INTERNAL_ERROR" => "the toolstack failed inside: look at the host's log around this time",
            _ => return None,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", printable(&self.method), printable(&self.code))?;
        let params: Vec<String> = self.params.iter().filter(|text| !text.is_empty()).map(|p| printable(p)).collect();
        if params.is_empty() { Ok(()) } else { write!(f, " ({})", params.join(", ")) }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: &str) -> Failure {
        Failure::new("VDI.destroy", code, vec!["OpaqueRef:1".to_owned()])
    }

    #[test]
    fn codes_fall_into_the_class_that_says_what_to_do() {
        for (code, class, retryable) in [
            ("VDI_IN_USE", FailureClass::Busy, true),
            ("OTHER_OPERATION_IN_PROGRESS", FailureClass::Busy, true),
            ("HANDLE_INVALID", FailureClass::Gone, false),
            ("SR_BACKEND_FAILURE_44", FailureClass::Space, false),
            ("SR_BACKEND_FAILURE_109", FailureClass::ChainTooLong, false),
            ("SR_BACKEND_FAILURE_460", FailureClass::ChangedBlocks, false),
            ("HOST_STILL_BOOTING", FailureClass::Starting, true),
            ("SESSION_AUTHENTICATION_FAILED", FailureClass::Permission, false),
            ("SOMETHING_NEW", FailureClass::Other, false),
        ] {
            assert_eq!(failure(code).class(), class, "{code}");
            assert_eq!(failure(code).is_retryable(), retryable, "{code}");
            assert_eq!(failure(code).advice().is_some(), code != "SOMETHING_NEW", "{code}");
        }
    }

    #[test]
    fn a_session_never_shows_in_a_failure() {
        let secret = "OpaqueRef:5e55";
        let invalid = Failure::new("VM.get_all", "SESSION_INVALID", vec![secret.to_owned()]);
        let handle = Failure::new("x", "HANDLE_INVALID", vec!["session".to_owned(), secret.to_owned()]);
        let inside = Failure::new("x", "INTERNAL_ERROR", vec![format!("Db_exn({secret})")]).without(secret);
        for failure in [invalid, handle, inside] {
            assert!(!format!("{failure} {failure:?}").contains(secret), "{failure:?}");
        }
    }
}
