//! The SHA-256 fingerprint of a certificate: what an operator compares, what a connection is pinned to.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::endpoint::printable;

/// SHA-256 of a certificate's DER. Written as XAPI does: upper-case hex pairs separated by colons.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    #[must_use]
    pub fn of_der(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// The fingerprint of the first certificate of a PEM text.
    ///
    /// # Errors
    /// [`Error::Fingerprint`] when the text holds no certificate.
    pub fn of_pem(pem: &str) -> Result<Self, Error> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| Error::Fingerprint { given: "a PEM text without a certificate".to_owned() })?;
        Ok(Self::of_der(&certificate))
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Fingerprint { given: printable(text) };
        let digits: String = text.trim().chars().filter(|c| *c != ':').collect();
        let mut bytes = [0; 32];
        hex::decode_to_slice(&digits, &mut bytes).map_err(|_| wrong())?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fingerprint_is_accepted_with_and_without_colons_in_any_case() {
        let fingerprint = Fingerprint::of_der(b"abc");
        let text = fingerprint.to_string();
        assert!(text.starts_with("BA:78:16:BF:"));
        assert_eq!(text.len(), 95);
        for form in [text.clone(), text.to_lowercase(), text.replace(':', ""), format!(" {text}\n")] {
            assert_eq!(form.parse::<Fingerprint>().unwrap(), fingerprint);
        }
    }

    proptest! {
        #[test]
        fn no_other_text_is_a_fingerprint(text in "\\PC{0,80}") {
            let digits = text.trim().replace(':', "");
            prop_assume!(digits.len() != 64);
            prop_assert!(text.parse::<Fingerprint>().is_err());
        }
    }
}
