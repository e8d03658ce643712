//! The control plane's decisions as pure functions of state and time.
