//! Seals passwords with a key that is not in the store, so that the store, a dump or a copy of it gives none away.
//!
//! The key lies in a file: one key a line, 64 hexadecimal digits each. The first seals, all of them open: so a key is
//! changed by putting a new one in front, on every controller, and starting them again. All controllers of a store need
//! the same file.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rand::Rng as _;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::Error;

/// Bytes of a key.
const KEY: usize = 32;
/// Hexadecimal digits of a key's name.
const NAME: usize = 16;

/// Seals and opens. Shows no key.
pub(crate) struct Sealer {
    /// Each with its name; the first seals.
    keys: Vec<(String, RandomizedNonceKey)>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.keys.iter().map(|(name, _)| name)).finish()
    }
}

/// A sealed text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sealed {
    /// Name of the key.
    pub(crate) key: String,
    /// Nonce and ciphertext, hexadecimal.
    content: String,
}

/// A text that no key opens: the key is missing, or it was moved or changed.
#[derive(Debug, thiserror::Error)]
#[error("it does not open with the keys in the sealing key file")]
pub(crate) struct Unopened;

impl Sealer {
    /// Reads a key file; `None` when there is none.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, Error> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::SealingKey { path: path.to_owned(), source }),
        };
        let keys = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(key_of);
        let keys: Option<Vec<_>> = keys.collect();
        let keys =
            keys.filter(|keys| !keys.is_empty()).ok_or_else(|| Error::BadSealingKey { path: path.to_owned() })?;
        Ok(Some(Self { keys }))
    }

    /// Makes a key file, which must not exist.
    pub(crate) fn create(path: &Path) -> Result<(), Error> {
        let mut key = [0; KEY];
        rand::rng().fill_bytes(&mut key);
        let line = Zeroizing::new(format!("{}\n", hex::encode(key)));
        key.zeroize();
        // Written aside first: a crash leaves no half key behind.
        let aside = PathBuf::from(format!("{}.new", path.display()));
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&aside);
        file.and_then(|mut file| file.write_all(line.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::hard_link(&aside, path))
            .and_then(|()| std::fs::remove_file(&aside))
            .map_err(|source| Error::SealingKey { path: path.to_owned(), source })
    }

    /// Name of the key that seals.
    pub(crate) fn name(&self) -> &str {
        &self.keys[0].0
    }

    /// Whether a key is among those that open.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.keys.iter().any(|(known, _)| known == name)
    }

    /// Seals a text. It opens only as `subject`, so that nobody can exchange two.
    pub(crate) fn seal(&self, subject: &str, text: &SecretString) -> Sealed {
        let (name, key) = &self.keys[0];
        let mut content = text.expose_secret().as_bytes().to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(subject.as_bytes()), &mut content)
            .expect("a password is far shorter than what can be sealed at once");
        Sealed { key: name.clone(), content: hex::encode([nonce.as_ref().as_slice(), &content].concat()) }
    }

    /// Opens what was sealed as `subject`.
    pub(crate) fn open(&self, subject: &str, sealed: &Sealed) -> Result<SecretString, Unopened> {
        let (_, key) = self.keys.iter().find(|(name, _)| *name == sealed.key).ok_or(Unopened)?;
        let mut content = hex::decode(&sealed.content).map_err(|_| Unopened)?;
        let (nonce, text) = content.split_at_mut_checked(NONCE_LEN).ok_or(Unopened)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unopened)?;
        let opened = key.open_in_place(nonce, Aad::from(subject.as_bytes()), text).map_err(|_| Unopened)?;
        let secret = std::str::from_utf8(opened).map(SecretString::from).map_err(|_| Unopened);
        content.zeroize();
        secret
    }
}

/// A line of a key file: the key and its name.
fn key_of(line: &str) -> Option<(String, RandomizedNonceKey)> {
    let mut key = Zeroizing::new([0; KEY]);
    hex::decode_to_slice(line, key.as_mut_slice()).ok()?;
    let mut name = hex::encode(Sha256::new_with_prefix("coffer sealing key").chain_update(key.as_slice()).finalize());
    name.truncate(NAME);
    Some((name, RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(lines: &[&str]) -> Sealer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, lines.join("\n")).unwrap();
        Sealer::load(&path).unwrap().unwrap()
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_as_its_subject_and_not_otherwise() {
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        let text = SecretString::from("correct horse ü");
        let sealed = sealer(&[&one]).seal("a", &text);
        assert_ne!(sealed, sealer(&[&one]).seal("a", &text), "equal passwords must not look equal");
        assert!(!serde_json::to_string(&sealed).unwrap().contains("horse"));
        for (keys, subject, opens) in [
            (vec![&*one], "a", true),
            (vec![&*two, &*one], "a", true),
            (vec![&*two], "a", false),
            (vec![&*one], "b", false),
        ] {
            let opened = sealer(&keys).open(subject, &sealed);
            assert_eq!(opened.is_ok_and(|opened| opened.expose_secret() == text.expose_secret()), opens, "{keys:?}");
        }
        for broken in ["", "zz", "00", &"00".repeat(60)] {
            let broken = Sealed { content: broken.to_owned(), ..sealed.clone() };
            assert!(sealer(&[&one]).open("a", &broken).is_err());
        }
    }

    #[test]
    fn a_key_file_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sealing-key");
        assert!(Sealer::load(&path).unwrap().is_none());
        Sealer::create(&path).unwrap();
        let made = Sealer::load(&path).unwrap().unwrap();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions()) & 0o777,
            0o600
        );
        assert!(Sealer::create(&path).is_err(), "a key that is there is never replaced");
        assert!(made.knows(made.name()));
        for wrong in ["", "12", "not hexadecimal"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(matches!(Sealer::load(&path), Err(Error::BadSealingKey { .. })), "{wrong:?}");
        }
    }
}
