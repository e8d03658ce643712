//! The state store: one trait, its embedded implementation, one conformance suite.
