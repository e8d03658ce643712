//! TLS whose trust is one fingerprint: the certificate must be the pinned one, nothing else about it matters.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connection::{connecting, open};
use crate::link::Timeouts;
use crate::{Endpoint, Error, Fingerprint};

/// Fetches the fingerprint of the certificate that a host shows, sending it nothing: for trust on first use, or to show
/// a person what changed. That the host holds the certificate's key is verified.
///
/// # Errors
/// [`Error::Connect`], [`Error::Tls`], [`Error::Timeout`].
pub async fn probe(host: &Endpoint, timeouts: Timeouts) -> Result<Fingerprint, Error> {
    let stream = connecting(host, timeouts.connect, async {
        let tcp = open(host).await?;
        handshake(host, tcp, client_config(Accept::Any)).await
    })
    .await?;
    let (_, session) = stream.get_ref();
    session.peer_certificates().and_then(<[_]>::first).map(|certificate| Fingerprint::of_der(certificate)).ok_or_else(
        || Error::Tls {
            host: host.clone(),
            source: io::Error::new(io::ErrorKind::InvalidData, "no certificate shown"),
        },
    )
}

/// The pinned fingerprints with their TLS configuration, kept so that sessions of TLS can be resumed.
#[derive(Debug, Default)]
pub(crate) struct Pins(RwLock<Vec<Pinned>>);

#[derive(Debug)]
struct Pinned {
    host: Endpoint,
    accepted: Vec<Fingerprint>,
    config: Arc<ClientConfig>,
}

impl Pins {
    /// Opens TLS to a host that must show one of these certificates. Several can be right only where several hosts
    /// share an address.
    pub(crate) async fn secure(
        &self,
        host: &Endpoint,
        tcp: TcpStream,
        accepted: &[Fingerprint],
    ) -> Result<TlsStream<TcpStream>, Error> {
        handshake(host, tcp, self.config(host, accepted)).await
    }

    fn config(&self, host: &Endpoint, accepted: &[Fingerprint]) -> Arc<ClientConfig> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(pinned) = known.iter().find(|pinned| pinned.host == *host && pinned.accepted == accepted) {
            return Arc::clone(&pinned.config);
        }
        drop(known);
        let config = client_config(Accept::Pinned(accepted.to_vec()));
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|pinned| pinned.host != *host);
        known.push(Pinned { host: host.clone(), accepted: accepted.to_vec(), config: Arc::clone(&config) });
        config
    }
}

async fn handshake(host: &Endpoint, tcp: TcpStream, config: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, Error> {
    let name = ServerName::try_from(host.host().to_owned()).map_err(|_| Error::Address {
        given: host.to_string(),
        reason: "it is neither an IP address nor a DNS name",
    })?;
    TlsConnector::from(config).connect(name, tcp).await.map_err(|source| match mismatch(&source) {
        Some(Mismatch { expected, seen }) => Error::CertificateChanged { host: host.clone(), expected, seen },
        None => Error::Tls { host: host.clone(), source },
    })
}

/// The mismatch inside of a failed handshake.
fn mismatch(error: &io::Error) -> Option<Mismatch> {
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) =
        error.get_ref()?.downcast_ref::<rustls::Error>()?
    else {
        return None;
    };
    inner.downcast_ref::<Mismatch>().copied()
}

fn client_config(accept: Accept) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(PinVerifier { accept, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
enum Accept {
    Any,
    Pinned(Vec<Fingerprint>),
}

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the certificate is {seen}, expected was {expected}")]
struct Mismatch {
    expected: Fingerprint,
    seen: Fingerprint,
}

#[derive(Debug)]
struct PinVerifier {
    accept: Accept,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = Fingerprint::of_der(end_entity);
        match &self.accept {
            Accept::Any => Ok(ServerCertVerified::assertion()),
            Accept::Pinned(pins) if pins.contains(&seen) => Ok(ServerCertVerified::assertion()),
            Accept::Pinned(pins) => Err(match pins.first() {
                Some(&expected) => CertificateError::Other(OtherError(Arc::new(Mismatch { expected, seen }))).into(),
                None => CertificateError::UnknownIssuer.into(),
            }),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
