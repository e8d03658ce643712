//! A disk as a stream of extents: the types and traits that every source and sink of the data plane shares.
