//! Certificates of one authority for members and clients, and of another one that nobody trusts.

use std::path::{Path, PathBuf};

use coffer_store::{EtcdIdentity, EtcdTls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// Files in a folder.
#[derive(Debug)]
pub(crate) struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes them in a folder that exists.
    pub(crate) fn make(folder: &Path) -> Self {
        for authority in ["ours", "other"] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params.distinguished_name.push(DnType::CommonName, authority);
            let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
            std::fs::write(folder.join(format!("{authority}-ca.pem")), issuer.pem()).unwrap();
            for role in ["member", "client"] {
                let key = KeyPair::generate().unwrap();
                let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
                params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
                params.distinguished_name.push(DnType::CommonName, role);
                let certificate = params.signed_by(&key, &issuer).unwrap();
                std::fs::write(folder.join(format!("{authority}-{role}.pem")), certificate.pem()).unwrap();
                std::fs::write(folder.join(format!("{authority}-{role}.key")), key.serialize_pem()).unwrap();
            }
        }
        Self { folder: folder.to_owned() }
    }

    /// The file of this name.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What a client is given: an authority to trust, and the authority of its own certificate.
    pub(crate) fn client(&self, trusted: &str, own: Option<&str>) -> EtcdTls {
        EtcdTls {
            ca: self.file(&format!("{trusted}-ca.pem")),
            identity: own.map(|own| EtcdIdentity {
                cert: self.file(&format!("{own}-client.pem")),
                key: self.file(&format!("{own}-client.key")),
            }),
        }
    }
}
