//! TLS towards a server that is known by exactly its certificate.

use super::target::{NbdTarget, NbdTls};
use crate::NbdError;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};
use secrecy::ExposeSecret;
use std::sync::Arc;

/// Ready-made TLS settings for one target.
#[derive(Debug, Clone)]
pub(super) struct TlsSettings {
    pub(super) config: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
}

impl TlsSettings {
    pub(super) fn new(target: &NbdTarget, tls: &NbdTls) -> Result<TlsSettings, NbdError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pinned = certificates("server certificate", &tls.certificate_pem)?;
        let verifier = Pinned { certificates: pinned, provider: provider.clone() };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("TLS library", error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &tls.client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let chain = certificates("client certificate", &client.certificate_pem)?;
                let key = PrivateKeyDer::from_pem_slice(client.key_pem.expose_secret().as_bytes());
                let key = key.map_err(|error| bad("client key", error))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| bad("client certificate", error))?
            }
        };
        // A subject that is no DNS name (an old host's) is not sent; the certificate alone decides.
        let name = tls.server_name.as_deref().unwrap_or(&target.address);
        let server_name = ServerName::try_from(name.to_owned())
            .or_else(|_| ServerName::try_from(target.address.clone()))
            .map_err(|error| bad("server name", error))?;
        Ok(TlsSettings { config: Arc::new(config), server_name })
    }
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, NbdError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let parsed = parsed.map_err(|error| bad(what, error))?;
    if parsed.is_empty() {
        return Err(NbdError::BadCertificate { what, reason: "there is no certificate in it".to_owned() });
    }
    Ok(parsed)
}

fn bad(what: &'static str, reason: impl ToString) -> NbdError {
    NbdError::BadCertificate { what, reason: reason.to_string() }
}

/// Trusts the given certificates and no other; the server must still prove that it has the key.
#[derive(Debug)]
struct Pinned {
    certificates: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if self.certificates.iter().any(|pinned| pinned == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
