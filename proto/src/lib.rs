//! The public contract: `coffer.v1`, compiled.
