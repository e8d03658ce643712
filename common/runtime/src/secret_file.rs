//! Files that hold one secret: a password, a token.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

/// Most bytes that a secret has.
const MOST: u64 = 64 * 1024;

/// A secret could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error("cannot read the secret in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Writing failed.
    #[error("cannot write a secret to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing in it.
    #[error("{} is empty; expected a secret on its first line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// It is too long to be a secret.
    #[error("{} is longer than {MOST} bytes; expected a secret on one line", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It has several lines.
    #[error("{} has several lines; expected a secret on one line", path.display())]
    SeveralLines {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the secret in a file: its only line, without the end of the line. Warns when others than the owner may read
/// it.
///
/// # Errors
/// When the file cannot be read, is empty, has several lines or is longer than 64 KiB.
pub fn read(path: &Path) -> Result<SecretString, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o777;
    // Pipes and the like (`--password-file <(pass show …)`) have modes that say nothing.
    if metadata.is_file() && mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{mode:o}"), "others may read this secret; run chmod 600 on it");
    }
    let mut text = String::new();
    let read = file.take(MOST + 1).read_to_string(&mut text).map_err(failed)?;
    let secret = SecretString::from(text);
    if u64::try_from(read).is_ok_and(|read| read > MOST) {
        return Err(Error::TooLong { path: path.to_owned() });
    }
    let text = secret.expose_secret();
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(Error::Empty { path: path.to_owned() });
    }
    if line.contains(['\n', '\r', '\0']) {
        return Err(Error::SeveralLines { path: path.to_owned() });
    }
    Ok(SecretString::from(line))
}

/// Writes a secret to a new file that only its owner may read, durably.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn create(path: &Path, secret: &SecretString) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(secret.expose_secret().as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// Reads the secret in a file, or makes the file with a secret from `make` when there is none.
///
/// # Errors
/// As [`read`] and [`create`].
pub fn read_or_create(path: &Path, make: impl FnOnce() -> SecretString) -> Result<SecretString, Error> {
    match read(path) {
        Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let secret = make();
            create(path, &secret)?;
            Ok(secret)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_was_written_is_read_back_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        create(&path, &SecretString::from("correct horse")).unwrap();
        assert_eq!(read(&path).unwrap().expose_secret(), "correct horse");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(create(&path, &SecretString::from("other")), Err(Error::Write { .. })));
        let again = read_or_create(&path, || unreachable!("the file is there")).unwrap();
        assert_eq!(again.expose_secret(), "correct horse");
    }

    #[test]
    fn only_a_single_line_is_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let check = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path).map(|secret| secret.expose_secret().to_owned())
        };
        assert_eq!(check("plain").unwrap(), "plain");
        assert_eq!(check(" with spaces \n").unwrap(), " with spaces ");
        assert_eq!(check("dos\r\n").unwrap(), "dos");
        assert!(matches!(check(""), Err(Error::Empty { .. })));
        assert!(matches!(check("\n"), Err(Error::Empty { .. })));
        assert!(matches!(check("a\nb\n"), Err(Error::SeveralLines { .. })));
        assert!(matches!(check(&"x".repeat(70_000)), Err(Error::TooLong { .. })));
        let gone = read(&folder.path().join("gone"));
        assert!(matches!(gone, Err(Error::Read { .. })));
    }
}
