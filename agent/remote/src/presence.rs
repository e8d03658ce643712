//! Absence as an answer instead of an error.

use bytes::Bytes;

use crate::{Error, ObjectName, Remote};

/// Reads a whole object, or `None` when there is none of that name.
///
/// # Errors
/// As [`Remote::read`], save [`Error::NotFound`].
pub async fn read_if_present(remote: &dyn Remote, name: &ObjectName) -> Result<Option<Bytes>, Error> {
    match remote.read(name).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
