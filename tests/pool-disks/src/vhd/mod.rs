//! VHD streams as `export_raw_vdi` sends and `import_raw_vdi` takes them: dynamic and differencing, blocks in order.

mod export;
mod format;
mod import;

pub use self::export::{export, export_len};
pub use self::format::VhdFault;
pub use self::import::import;
