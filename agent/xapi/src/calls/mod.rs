//! XAPI's methods that a backup program needs, with types. One file per subject.

mod object;
mod pool;
mod vdi;
mod vm;
mod vm_parts;

pub(crate) use vdi::bitmap_of;
pub use vdi::{NbdExport, NewVdi};
pub use vm::PowerOn;
pub use vm_parts::{NewVbd, NewVif};
