//! Disks as streams of extents: NBD, VHD, raw and qcow2.
