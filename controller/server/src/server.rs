//! Puts a controller together and takes it apart again.

use std::net::SocketAddr;

use crate::{Error, ServeOptions};

/// Name of the file in the state folder with the token that clients show as `authorization: Bearer …`; mode 0600.
pub const API_TOKEN_FILE: &str = "api-token";

/// A controller.
#[derive(Debug)]
pub struct Controller;

impl Controller {
    /// Starts serving and returns once the address is listened on.
    ///
    /// # Errors
    /// When the address is not loopback or taken, the store does not answer, or the token cannot be made.
    pub async fn serve(options: ServeOptions) -> Result<Handle, Error> {
        todo!("{options:?}")
    }
}

/// A controller that is serving.
#[derive(Debug)]
pub struct Handle {
    local_addr: SocketAddr,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What clients show: `authorization: Bearer {token}`.
    #[must_use]
    pub fn api_token(&self) -> &str {
        todo!()
    }

    /// Drains and stops: held calls are answered, streams end, nothing is half done. Runs go on when a controller is
    /// started on the same store again.
    ///
    /// # Errors
    /// When a part of it had failed.
    pub async fn shutdown(self) -> Result<(), Error> {
        todo!()
    }

    /// Returns when the controller stops by itself, which it does only when the store is lost.
    pub async fn stopped(&mut self) -> Error {
        todo!()
    }
}
