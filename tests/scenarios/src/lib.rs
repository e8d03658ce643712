//! End-to-end scenarios over the real programs.
