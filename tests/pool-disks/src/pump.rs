//! Moves pieces of disks between blocking storage and async streams, with one piece of read-ahead or write-behind.

/// Called now and then with the part done, 0.0 to 1.0.
pub type Progress<'a> = &'a (dyn Fn(f64) + Send + Sync);
