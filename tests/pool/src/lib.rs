//! A simulated pool of XCP-ng hosts, over the true wire protocols.
