//! How objects in a pool are known to be ours.
//!
//! A stamp is a few keys of `other_config`. Pools copy `other_config` when somebody clones or snapshots an object, so a
//! stamp also names the object that it was put on: a copy carries a stamp of something else and is not ours. Between
//! the creation of a snapshot and its stamp, the snapshot is known by its name.

use std::collections::BTreeMap;

use coffer_model::RemoteId;
use uuid::Uuid;

use crate::hypervisor::OtherConfig;

const SITE: &str = "coffer:site";
const INTENT: &str = "coffer:intent";
const TASK: &str = "coffer:task";
const THIS: &str = "coffer:self";
const VM: &str = "coffer:vm";
const REMOTES: &str = "coffer:remotes";
const COMPLETE: &str = "coffer:complete";
/// Everything that we put into `other_config` begins with this.
const PREFIX: &str = "coffer:";

/// Every key of a stamp.
pub(crate) const KEYS: [&str; 7] = [SITE, INTENT, TASK, THIS, VM, REMOTES, COMPLETE];

/// Whose an object is, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The installation.
    pub(crate) site: String,
    /// The intent that was open when it was made.
    pub(crate) intent: String,
    /// The task that made it.
    pub(crate) task: String,
    /// Of a snapshot: the VM.
    pub(crate) vm: Option<Uuid>,
    /// Of the snapshot of a disk: remotes for whose next delta it may be kept.
    pub(crate) remotes: Vec<RemoteId>,
    /// Of a restored VM: all of it is there.
    pub(crate) complete: bool,
}

impl Stamp {
    /// The keys to be put on the object `this`; `None` for one that is about to be created and has no identity yet.
    pub(crate) fn marks(&self, this: Option<Uuid>) -> OtherConfig {
        let mut marks = BTreeMap::from([
            (SITE.to_owned(), self.site.clone()),
            (INTENT.to_owned(), self.intent.clone()),
            (TASK.to_owned(), self.task.clone()),
        ]);
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                marks.insert(key.to_owned(), value);
            }
        };
        put(THIS, this.map(|this| this.to_string()));
        put(VM, self.vm.map(|vm| vm.to_string()));
        let remotes: Vec<&str> = self.remotes.iter().map(RemoteId::as_str).collect();
        put(REMOTES, (!remotes.is_empty()).then(|| remotes.join(",")));
        put(COMPLETE, self.complete.then(|| "true".to_owned()));
        marks
    }

    /// The stamp on the object `this`; `None` when there is none, or one that was copied from another object.
    pub(crate) fn of(other_config: &OtherConfig, this: Uuid) -> Option<Self> {
        let named = other_config.get(THIS).map(|named| named.parse::<Uuid>());
        if named.is_some_and(|named| named != Ok(this)) {
            return None;
        }
        let text = |key: &str| other_config.get(key).cloned();
        Some(Self {
            site: text(SITE)?,
            intent: text(INTENT)?,
            task: text(TASK).unwrap_or_default(),
            vm: text(VM).and_then(|vm| vm.parse().ok()),
            remotes: text(REMOTES)
                .map_or_else(Vec::new, |remotes| remotes.split(',').filter_map(|remote| remote.parse().ok()).collect()),
            complete: text(COMPLETE).is_some(),
        })
    }
}

/// The name of the snapshot of a VM that an intent makes.
pub(crate) fn snapshot_name(site: &str, intent: &str) -> String {
    format!("coffer:{site}:{intent}")
}

/// The intent that a snapshot of this name belongs to.
pub(crate) fn intent_of_name<'a>(site: &str, name: &'a str) -> Option<&'a str> {
    let intent = name.strip_prefix("coffer:")?.strip_prefix(site)?.strip_prefix(':')?;
    intent.parse::<Uuid>().is_ok().then_some(intent)
}

/// What is taken off a restored VM when it is complete: from then on it is somebody's, and only says where it came
/// from.
pub(crate) const OPEN_KEYS: [&str; 1] = [INTENT];

/// Whether an object has a name or a stamp of some site, its own or a copied one.
pub(crate) fn may_be_ours(name: &str, other_config: &OtherConfig) -> bool {
    name.starts_with(PREFIX) || other_config.contains_key(INTENT) || other_config.contains_key(COMPLETE)
}

/// Whether the VM `this` was completed by a task of this site; not a copy of such a VM.
pub(crate) fn was_completed_by(other_config: &OtherConfig, this: Uuid, site: &str, task: &str) -> bool {
    let is = |key: &str, value: &str| other_config.get(key).is_some_and(|found| found == value);
    other_config.contains_key(COMPLETE) && is(SITE, site) && is(TASK, task) && is(THIS, &this.to_string())
}

/// Whether a key of `other_config` is one of ours, which no restore point keeps.
pub(crate) fn is_ours(key: &str) -> bool {
    key.starts_with(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            site: "s".into(),
            intent: "i".into(),
            task: "runs/r/tasks/t".into(),
            vm: Some(Uuid::from_u128(7)),
            remotes: vec!["a".parse().unwrap(), "b".parse().unwrap()],
            complete: false,
        }
    }

    #[test]
    fn a_stamp_is_read_back_from_the_object_it_was_put_on() {
        let this = Uuid::from_u128(1);
        let mut config = stamp().marks(Some(this));
        assert!(config.keys().all(|key| KEYS.contains(&key.as_str()) && is_ours(key)));
        config.insert("owner".into(), "somebody".into());
        assert_eq!(Stamp::of(&config, this), Some(stamp()));
    }

    #[test]
    fn a_clone_of_a_stamped_object_is_not_ours() {
        let config = stamp().marks(Some(Uuid::from_u128(1)));
        assert_eq!(Stamp::of(&config, Uuid::from_u128(2)), None);
        assert_eq!(Stamp::of(&OtherConfig::new(), Uuid::from_u128(2)), None);
    }

    #[test]
    fn an_object_stamped_at_birth_is_ours() {
        let config = stamp().marks(None);
        assert_eq!(Stamp::of(&config, Uuid::from_u128(9)), Some(stamp()));
    }

    #[test]
    fn a_completed_vm_is_recognised_without_being_ours_any_more() {
        let this = Uuid::from_u128(1);
        let mut config = Stamp { complete: true, ..stamp() }.marks(Some(this));
        assert!(Stamp::of(&config, this).is_some_and(|stamp| stamp.complete));
        config.retain(|key, _| !OPEN_KEYS.contains(&key.as_str()));
        assert_eq!(Stamp::of(&config, this), None);
        assert!(was_completed_by(&config, this, "s", "runs/r/tasks/t"));
        assert!(!was_completed_by(&config, Uuid::from_u128(2), "s", "runs/r/tasks/t"));
        assert!(!was_completed_by(&config, this, "s", "runs/r/tasks/u"));
        assert!(may_be_ours("", &config));
    }

    #[test]
    fn a_snapshot_is_known_by_its_name_before_it_is_stamped() {
        let intent = Uuid::from_u128(5).to_string();
        let name = snapshot_name("site-1", &intent);
        assert_eq!(intent_of_name("site-1", &name), Some(intent.as_str()));
        assert_eq!(intent_of_name("site-2", &name), None);
        assert_eq!(intent_of_name("site-1", "coffer:site-1:my own snapshot"), None);
    }
}
