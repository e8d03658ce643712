//! Checks against programs that nobody here wrote.
