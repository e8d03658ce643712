//! The bearer token: made at the first start, kept in a file that only its owner reads, compared in constant time.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rand::Rng as _;
use tonic::service::Interceptor;
use tonic::{Request, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::Error;

/// Hexadecimal digits of a token: 256 bits.
const DIGITS: usize = 64;

/// What clients have to show.
#[derive(Clone)]
pub(crate) struct Token(Arc<str>);

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(..)")
    }
}

impl Token {
    /// Reads the token, or makes one where there is none.
    pub(crate) fn load_or_create(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Token { path: path.to_owned(), source };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let token = text.trim();
                let good = token.len() == DIGITS && token.bytes().all(|byte| byte.is_ascii_hexdigit());
                return if good { Ok(Self(token.into())) } else { Err(Error::BadToken { path: path.to_owned() }) };
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let mut secret = [0_u8; DIGITS / 2];
        rand::rng().fill_bytes(&mut secret);
        let token = hex::encode(secret);
        // Written aside first: a crash leaves no half token behind.
        let aside = path.with_extension("new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)
            .map_err(failed)?;
        file.write_all(format!("{token}\n").as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&aside, path).map_err(failed)?;
        Ok(Self(token.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn is(&self, shown: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), shown.as_bytes());
        let differences = ours.iter().zip(theirs).fold(0, |sum, (a, b)| sum | (a ^ b));
        ours.len() == theirs.len() && std::hint::black_box(differences) == 0
    }
}

impl Interceptor for Token {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let shown = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        match shown.and_then(|value| value.strip_prefix("Bearer ")) {
            Some(token) if self.is(token) => Ok(request),
            _ => {
                let mut details = ErrorDetails::new();
                details.set_error_info("TOKEN_REQUIRED", "coffer.v1", std::collections::HashMap::new());
                details.set_localized_message("en", "show the content of the controller's file `api-token`");
                Err(Status::with_error_details(
                    tonic::Code::Unauthenticated,
                    "the call has no valid `authorization: Bearer` token",
                    details,
                ))
            }
        }
    }
}
