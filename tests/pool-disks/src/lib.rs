//! The simulated pool's storage: copy-on-write disks, VHD trees, changed blocks, the streams and NBD.
