//! Prune: gives back the room of what no snapshot needs.
//!
//! In two phases, so that no global lock is needed. Packs that nothing needs are *marked* ([`marks`]); packs that are
//! mostly garbage are written anew without it, then marked. After the grace, a later run looks again and removes marked
//! packs that are still not needed: first from the index, then from the remote. Interrupted anywhere, a later run goes
//! on; at every instant each listed point is readable, by stock programs too.
//!
//! | beside a prune | what makes it safe |
//! | --- | --- |
//! | a backup that began after the mark | it counts blobs of marked packs as unknown |
//! | a backup that began before | it rescues the packs it needs when it is sealed, or fails when that is too late |
//! | a restore | nothing that a listed point needs is removed |
//! | another prune | both look before they delete; deleting twice is harmless |
//! | a stock program | it holds its lock; deleting waits for another day ([`crate::lock`]) |

mod execute;
mod marks;
mod plan;

pub use execute::PruneReport;
pub(crate) use marks::{Marks, parse as parse_marks, rescue};
pub use plan::PrunePlan;
