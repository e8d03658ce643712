//! The one cryptographic provider of the process.

/// Makes aws-lc-rs the provider of rustls for the whole process. To be called first in `main`, and by tests; calling it
/// again does nothing.
pub fn install_provider() {
    // The error only says that a provider is installed already, which is what we want.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}
