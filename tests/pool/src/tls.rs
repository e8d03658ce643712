//! A host's certificate: made, kept in the state folder, replaced on demand.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// A certificate with its key, and what is derived from them.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) pem: String,
    /// Upper-case hex pairs separated by colons.
    pub(crate) fingerprint: String,
    pub(crate) server: Arc<ServerConfig>,
}

impl Identity {
    /// The host's identity in a folder; made when it is not there.
    pub(crate) fn load_or_make(folder: &Path, host: usize, address: &str) -> Result<Self, Error> {
        let (certificate, key) = paths(folder, host);
        if certificate.exists() && key.exists() {
            let read = |path: &Path| std::fs::read_to_string(path).map_err(|e| Error::state("reading", path, e));
            return Self::from_pem(read(&certificate)?, &read(&key)?);
        }
        Self::make(folder, host, address)
    }

    /// Makes a new one and keeps it: self-signed, RSA 2048, SHA-256, ten years, the address in the name and SAN.
    pub(crate) fn make(folder: &Path, host: usize, address: &str) -> Result<Self, Error> {
        let broken = |source: rcgen::Error| Error::Certificate { host, source };
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).map_err(broken)?;
        let names = vec![address.to_owned(), "127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).map_err(broken)?;
        params.distinguished_name.push(DnType::CommonName, address);
        let today = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
        let day = |year: i16| (i32::from(year), u8::try_from(today.month()).unwrap_or(1));
        let ((from, month), (to, _)) = (day(today.year() - 1), day(today.year() + 9));
        params.not_before = rcgen::date_time_ymd(from, month, 1);
        params.not_after = rcgen::date_time_ymd(to, month, 1);
        let certificate = params.self_signed(&key).map_err(broken)?;
        let (certificate_path, key_path) = paths(folder, host);
        let write = |path: &Path, text: &str| std::fs::write(path, text).map_err(|e| Error::state("writing", path, e));
        write(&certificate_path, &certificate.pem())?;
        write(&key_path, &key.serialize_pem())?;
        Self::from_pem(certificate.pem(), &key.serialize_pem())
    }

    fn from_pem(pem: String, key: &str) -> Result<Self, Error> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| Error::BadCertificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| Error::BadCertificate)?;
        let fingerprint = colons(&Sha256::digest(&certificate));
        let server = pool_disks::nbd::tls_config(vec![certificate], key, false).map_err(|_| Error::BadCertificate)?;
        Ok(Self { pem, fingerprint, server })
    }
}

fn paths(folder: &Path, host: usize) -> (PathBuf, PathBuf) {
    (folder.join(format!("host-{host}.crt")), folder.join(format!("host-{host}.key")))
}

fn colons(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
