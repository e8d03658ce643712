//! The token that controllers know the agent by: shown with every call, and read anew when a controller refuses it, so
//! that whoever corrects the file or the controller need not restart the agent.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use coffer_runtime::secret_file;
use secrecy::{ExposeSecret, SecretString};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::Error;

/// Puts the token on every call. Clones share it.
#[derive(Clone)]
pub(super) struct Bearer(Arc<Inner>);

struct Inner {
    header: RwLock<MetadataValue<Ascii>>,
    file: Option<PathBuf>,
}

impl Bearer {
    /// A token, and the file that it came from.
    pub(super) fn new(token: &SecretString, file: Option<PathBuf>) -> Result<Self, Error> {
        Ok(Self(Arc::new(Inner { header: RwLock::new(header(token)?), file })))
    }

    /// The file that the token is read from.
    pub(super) fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// Reads the file again; whether another token is shown from now on. A file that cannot be read changes nothing:
    /// it may be in the middle of being written.
    pub(super) fn read_anew(&self) -> bool {
        let read = self.0.file.as_deref().and_then(|file| secret_file::read(file).ok());
        let Some(new) = read.and_then(|token| header(&token).ok()) else { return false };
        let mut shown = self.0.header.write().unwrap_or_else(PoisonError::into_inner);
        let differs = *shown != new;
        *shown = new;
        differs
    }
}

fn header(token: &SecretString) -> Result<MetadataValue<Ascii>, Error> {
    let mut header = MetadataValue::try_from(format!("Bearer {}", token.expose_secret())).map_err(|_| Error::Token)?;
    header.set_sensitive(true);
    Ok(header)
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = self.0.header.read().unwrap_or_else(PoisonError::into_inner).clone();
        request.metadata_mut().insert("authorization", header);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bearer: &Bearer) -> String {
        let request = bearer.clone().call(Request::new(())).unwrap();
        request.metadata().get("authorization").unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn a_corrected_file_is_shown_at_the_next_call_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let bearer = Bearer::new(&"old".into(), Some(file.clone())).unwrap();
        let clone = bearer.clone();
        assert!(!bearer.read_anew(), "there is no file yet");
        for (written, is_news, now) in
            [("new\n", true, "Bearer new"), ("", false, "Bearer new"), ("new", false, "Bearer new")]
        {
            std::fs::write(&file, written).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            assert_eq!((bearer.read_anew(), shown(&clone).as_str()), (is_news, now), "{written:?}");
        }
    }

    #[test]
    fn without_a_file_the_token_stays() {
        let bearer = Bearer::new(&"given".into(), None).unwrap();
        assert!(!bearer.read_anew());
        assert_eq!(shown(&bearer), "Bearer given");
    }
}
