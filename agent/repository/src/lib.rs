//! The repository on a remote, in restic format version 2.
