//! Remotes: where backups live, and how something is published there once.
