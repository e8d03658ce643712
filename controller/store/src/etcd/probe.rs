//! Why an endpoint with TLS cuts the connection.
//!
//! In TLS 1.3 a server refuses a client's certificate only after the client believes itself connected. The libraries
//! above TLS then often report no more than that the connection was closed. So, when an endpoint does not answer, a
//! connection is made that nothing is sent on, to hear what the server says.

use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::failure::{Failure, of_connection};
use super::options::{EtcdIdentity, EtcdOptions, EtcdTls, read};

/// What an endpoint says against the certificates, if it does.
pub(super) async fn refusal(options: &EtcdOptions, endpoint: &str) -> Option<Failure> {
    let tls = options.tls.as_ref()?;
    let address = endpoint.strip_prefix("https://")?;
    let config = config(tls)?;
    let heard = timeout(options.timeouts.request, hear(config, address)).await.ok()?;
    let error = heard.err()?;
    match of_connection(&error, error.to_string()) {
        failure @ Failure::Refused(_) => Some(failure),
        _ => None,
    }
}

/// Connects, and waits for the first word of the server.
async fn hear(config: ClientConfig, address: &str) -> io::Result<()> {
    let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.read(&mut [0]).await.map(drop)
}

/// The same certificates as the connections in use have; what is wrong with the files was said before.
fn config(tls: &EtcdTls) -> Option<ClientConfig> {
    let certificates = |path| -> Option<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_slice_iter(&read(path).ok()?).collect::<Result<_, _>>().ok()
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(&tls.ca)?);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(EtcdIdentity { cert, key }) => {
            let key = PrivateKeyDer::from_pem_slice(&read(key).ok()?).ok()?;
            builder.with_client_auth_cert(certificates(cert)?, key).ok()?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Some(config)
}
