//! Reading: points, their files, and disks as block devices or as streams of extents. What is read is always checked
//! against its hash.

mod extents;
mod file;
mod point;

pub(crate) use extents::DiskExtents;
pub(crate) use file::{Cache, FileReader};
pub use point::Point;
