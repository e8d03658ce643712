//! How a disk is read: every way that is possible, best first, each with why no better one is. Pure.
//!
//! The order: changed blocks over NBD; everything over NBD, where only chunks that the remote does not know are sent;
//! the difference to a snapshot that was kept, as VHD; everything as VHD.

use coffer_xapi::Ref;
use coffer_xapi::records::Vdi;
use uuid::Uuid;

use super::leftovers::Keep;

/// The largest disk that a VHD can hold, in bytes.
const MAX_VHD: u64 = coffer_disk::vhd::MAX_SIZE;

/// A way to read a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Over NBD, blocks that changed since this snapshot.
    NbdChanged(Ref<Vdi>),
    /// Over NBD, all that is allocated.
    Nbd,
    /// As VHD, what differs from this snapshot.
    VhdDelta(Ref<Vdi>),
    /// As VHD, all that is allocated.
    VhdFull,
}

impl Source {
    /// As shown to people.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::NbdChanged(_) => "nbd+cbt",
            Self::Nbd => "nbd",
            Self::VhdDelta(_) => "vhd-delta",
            Self::VhdFull => "vhd-full",
        }
    }
}

/// A way to read a disk, and why it is not read in a better way; empty for the best one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) source: Source,
    pub(crate) reason: String,
}

/// What the newest restore point says about a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParentDisk {
    /// Its size then, bytes.
    pub(crate) size: u64,
    /// The snapshot that it was read from, and what was kept of that.
    pub(crate) reference: Option<(Uuid, Keep)>,
}

/// A reference as the pool has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundReference {
    pub(crate) vdi: Ref<Vdi>,
    /// Only its bitmap is left.
    pub(crate) bitmap_only: bool,
    /// Changed blocks are tracked from it on.
    pub(crate) tracked: bool,
    /// It is a snapshot that this site made of this very disk.
    pub(crate) is_ours: bool,
}

/// What is known of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskFacts {
    /// Size now, bytes.
    pub(crate) size: u64,
    /// Why it is not offered over NBD; `None` when it is.
    pub(crate) no_nbd: Option<String>,
    /// Why its changes are not tracked; `None` when they are.
    pub(crate) no_tracking: Option<String>,
    /// Its storage holds VHD chains, so that differences can be exported.
    pub(crate) vhd_chains: bool,
    /// This disk in the newest restore point; `None` when there is no restore point or it has no such disk.
    pub(crate) parent: Option<ParentDisk>,
    /// Why there is no restore point to compare with, when there is none.
    pub(crate) no_parent: String,
    /// The reference of `parent` in the pool; `None` when it is gone.
    pub(crate) found: Option<FoundReference>,
}

/// The ways to read a disk, best first; empty when there is none.
pub(crate) fn choices(facts: &DiskFacts) -> Vec<Choice> {
    let usable = usable_reference(facts);
    let fits_vhd = facts.size <= MAX_VHD;
    let mut choices = Vec::with_capacity(4);
    let mut why_not: Vec<String> = Vec::new();
    let changed = match (&facts.no_nbd, &facts.no_tracking, &usable) {
        (Some(why), _, _) => Err(why.clone()),
        (None, _, Err(why)) => Err(why.clone()),
        (None, Some(why), Ok(_)) => Err(why.clone()),
        (None, None, Ok(found)) if !found.tracked => {
            Err("the snapshot of the last restore point does not track changes".to_owned())
        }
        (None, None, Ok(found)) => Ok(Source::NbdChanged(found.vdi.clone())),
    };
    let nbd = if facts.no_nbd.is_none() { Ok(Source::Nbd) } else { Err(String::new()) };
    let delta = match &usable {
        Ok(found) if found.bitmap_only => Err("only the bitmap of the last snapshot was kept".to_owned()),
        Ok(_) if !facts.vhd_chains => Err("the storage has no VHD chains to compare".to_owned()),
        Ok(found) if fits_vhd => Ok(Source::VhdDelta(found.vdi.clone())),
        Ok(_) => Err(String::new()),
        Err(why) => Err(why.clone()),
    };
    let full = if fits_vhd { Ok(Source::VhdFull) } else { Err(String::new()) };
    for way in [changed, nbd, delta, full] {
        match way {
            Ok(source) => choices.push(Choice { source, reason: why_not.join("; ") }),
            Err(why) if why.is_empty() || why_not.contains(&why) => {}
            Err(why) => why_not.push(why),
        }
    }
    choices
}

/// The reference in the pool, when what lies between it and now is a difference to the restore point.
fn usable_reference(facts: &DiskFacts) -> Result<&FoundReference, String> {
    let parent = facts.parent.as_ref().ok_or_else(|| facts.no_parent.clone())?;
    if parent.size != facts.size {
        let how = if parent.size < facts.size { "grown" } else { "shrunk" };
        return Err(format!(
            "the disk was {how} from {} to {} bytes since the last restore point",
            parent.size, facts.size
        ));
    }
    if parent.reference.is_none() {
        return Err("the last restore point kept no snapshot to compare with".to_owned());
    }
    let found = facts.found.as_ref().ok_or("the snapshot of the last restore point is gone from the pool")?;
    if !found.is_ours {
        return Err("the snapshot that the last restore point names is not one of ours of this disk".to_owned());
    }
    Ok(found)
}

/// What to keep of a disk's snapshot, so that the next backup is a delta. Data is kept only where nothing else gives
/// one: it costs space on the storage for as long as it is kept.
pub(crate) fn to_keep(facts: &DiskFacts) -> Option<Keep> {
    if facts.no_nbd.is_none() {
        facts.no_tracking.is_none().then_some(Keep::Bitmap)
    } else {
        (facts.vhd_chains && facts.size <= MAX_VHD).then_some(Keep::Data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn vdi() -> Ref<Vdi> {
        Ref::new("OpaqueRef:reference").unwrap()
    }

    fn best() -> DiskFacts {
        DiskFacts {
            size: GIB,
            no_nbd: None,
            no_tracking: None,
            vhd_chains: true,
            parent: Some(ParentDisk { size: GIB, reference: Some((Uuid::from_u128(1), Keep::Bitmap)) }),
            no_parent: String::new(),
            found: Some(FoundReference { vdi: vdi(), bitmap_only: true, tracked: true, is_ours: true }),
        }
    }

    fn check(change: impl FnOnce(&mut DiskFacts), expected: &[&str], reason: &str) {
        let mut facts = best();
        change(&mut facts);
        let choices = choices(&facts);
        let labels: Vec<_> = choices.iter().map(|choice| choice.source.label()).collect();
        assert_eq!(labels, expected, "{facts:?}");
        let first = choices.first().map_or("", |choice| choice.reason.as_str());
        assert!(first.contains(reason) && (reason.is_empty() == first.is_empty()), "{first:?} against {reason:?}");
    }

    #[test]
    fn each_case_is_read_in_the_best_way_with_the_right_reason() {
        check(|_| {}, &["nbd+cbt", "nbd", "vhd-full"], "");
        let first = |facts: &mut DiskFacts| {
            facts.parent = None;
            facts.no_parent = "first restore point on remotes/nas".into();
        };
        check(first, &["nbd", "vhd-full"], "first restore point on remotes/nas");
        check(|facts| facts.size = 2 * GIB, &["nbd", "vhd-full"], "grown from 1073741824 to 2147483648 bytes");
        check(|facts| facts.size = GIB / 2, &["nbd", "vhd-full"], "shrunk");
        check(|facts| facts.found = None, &["nbd", "vhd-full"], "gone from the pool");
        check(|facts| facts.no_tracking = Some("tracking broke".into()), &["nbd", "vhd-full"], "tracking broke");
        let foreign = |facts: &mut DiskFacts| facts.found.as_mut().unwrap().is_ours = false;
        check(foreign, &["nbd", "vhd-full"], "not one of ours");
        let untracked = |facts: &mut DiskFacts| facts.found.as_mut().unwrap().tracked = false;
        check(untracked, &["nbd", "vhd-full"], "does not track changes");
    }

    #[test]
    fn without_nbd_the_snapshot_that_was_kept_gives_the_difference() {
        let kept = |facts: &mut DiskFacts| {
            facts.no_nbd = Some("no network for NBD".into());
            facts.found.as_mut().unwrap().bitmap_only = false;
        };
        check(kept, &["vhd-delta", "vhd-full"], "no network for NBD");
        let bitmap = |facts: &mut DiskFacts| facts.no_nbd = Some("no network for NBD".into());
        check(bitmap, &["vhd-full"], "no network for NBD; only the bitmap");
        let other_storage = |facts: &mut DiskFacts| {
            kept(facts);
            facts.vhd_chains = false;
        };
        check(other_storage, &["vhd-full"], "no VHD chains");
    }

    #[test]
    fn a_disk_too_large_for_vhd_is_read_over_nbd_or_not_at_all() {
        let large = |facts: &mut DiskFacts| {
            facts.size = MAX_VHD + 512;
            facts.parent.as_mut().unwrap().size = facts.size;
        };
        check(large, &["nbd+cbt", "nbd"], "");
        let without_nbd = |facts: &mut DiskFacts| {
            large(facts);
            facts.no_nbd = Some("no network for NBD".into());
        };
        check(without_nbd, &[], "");
    }

    #[test]
    fn data_is_kept_only_where_a_bitmap_does_not_help() {
        assert_eq!(to_keep(&best()), Some(Keep::Bitmap));
        assert_eq!(to_keep(&DiskFacts { no_tracking: Some("x".into()), ..best() }), None);
        assert_eq!(to_keep(&DiskFacts { no_nbd: Some("x".into()), ..best() }), Some(Keep::Data));
        assert_eq!(to_keep(&DiskFacts { no_nbd: Some("x".into()), vhd_chains: false, ..best() }), None);
    }

    fn any_facts() -> impl Strategy<Value = DiskFacts> {
        let found = (any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(bitmap_only, tracked, is_ours)| FoundReference { vdi: vdi(), bitmap_only, tracked, is_ours });
        let parent = (1..3u64, prop::option::of(Just((Uuid::from_u128(1), Keep::Bitmap))))
            .prop_map(|(size, reference)| ParentDisk { size: size * GIB, reference });
        (
            prop_oneof![Just(GIB), Just(2 * GIB), Just(MAX_VHD + 512)],
            prop::option::of(Just("no nbd".to_owned())),
            prop::option::of(Just("no tracking".to_owned())),
            any::<bool>(),
            prop::option::of(parent),
            prop::option::of(found),
        )
            .prop_map(|(size, no_nbd, no_tracking, vhd_chains, parent, found)| DiskFacts {
                size,
                no_nbd,
                no_tracking,
                vhd_chains,
                parent,
                no_parent: "first".into(),
                found,
            })
    }

    proptest! {
        #[test]
        fn a_delta_is_never_read_against_anything_but_a_reference_of_the_same_size(facts in any_facts()) {
            for choice in choices(&facts) {
                if matches!(choice.source, Source::NbdChanged(_) | Source::VhdDelta(_)) {
                    let parent = facts.parent.as_ref().unwrap();
                    prop_assert!(parent.size == facts.size && parent.reference.is_some());
                    prop_assert!(facts.found.as_ref().unwrap().is_ours);
                }
                if matches!(choice.source, Source::NbdChanged(_) | Source::Nbd) {
                    prop_assert!(facts.no_nbd.is_none());
                }
            }
        }

        #[test]
        fn there_is_always_a_full_way_and_a_reason_for_it(facts in any_facts()) {
            let choices = choices(&facts);
            prop_assert_eq!(choices.is_empty(), facts.no_nbd.is_some() && facts.size > MAX_VHD);
            if let Some(first) = choices.first() {
                prop_assert_eq!(first.reason.is_empty(), matches!(first.source, Source::NbdChanged(_)));
            }
        }
    }
}
