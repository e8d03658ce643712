//! nbdkit and qemu-nbd as child processes behind a door on a port of the system's choice.

use super::{pool, text};
use coffer_disk::nbd::{ClientCertificate, ExportName, NbdDisk, NbdOptions, NbdTarget, NbdTls, Retry};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixStream};
use tokio::process::{Child, Command};

/// A server, its folder, and its TCP address. Ends with the value.
pub(crate) struct Server {
    pub(crate) folder: TempDir,
    pub(crate) port: u16,
    _child: Child,
}

/// Starts `name` with a Unix socket (which it must create at the path that `{socket}` is replaced by) and opens a TCP
/// port that leads to it. `{image}` and `{pki}` are replaced too.
pub(crate) async fn start(package: &str, name: &str, args: &[&str], image: &[u8], pki: Option<&Pki>) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let (socket, path) = (folder.path().join("socket"), folder.path().join("disk.img"));
    write_sparse(&path, image);
    if let Some(pki) = pki {
        pki.store(folder.path());
    }
    let fill = |arg: &&str| {
        arg.replace("{socket}", text(&socket)).replace("{image}", text(&path)).replace("{pki}", text(folder.path()))
    };
    let child = Command::new(name)
        .args(args.iter().map(fill))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("cannot run {name} (Debian package {package}): {error}"));
    let ready = async {
        while UnixStream::connect(&socket).await.is_err() {
            assert!(child.try_wait().unwrap().is_none(), "{name} {args:?} has ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ready).await.expect("the server opens its socket");
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = door.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut outside, _)) = door.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                let mut inside = UnixStream::connect(&socket).await?;
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    Server { folder, port, _child: child }
}

/// nbdkit serving an image file.
pub(crate) async fn nbdkit(options: &[&str], parameters: &[&str], image: &[u8], pki: Option<&Pki>) -> Server {
    let args = [&["-f", "-r", "-U", "{socket}"], options, &["file", "{image}"], parameters].concat();
    start("nbdkit", "nbdkit", &args, image, pki).await
}

/// qemu-nbd serving an image file as `disk0`.
pub(crate) async fn qemu_nbd(image: &[u8]) -> Server {
    let args = ["-t", "-r", "-f", "raw", "-e", "8", "-k", "{socket}", "-x", "disk0", "{image}"];
    start("qemu-utils", "qemu-nbd", &args, image, None).await
}

impl Server {
    pub(crate) fn target(&self, export: &str, tls: Option<NbdTls>) -> NbdTarget {
        target(self.port, export, tls)
    }

    pub(crate) async fn disk(&self, export: &str, tls: Option<NbdTls>) -> Result<NbdDisk, coffer_disk::Error> {
        NbdDisk::connect(vec![self.target(export, tls)], quick(), pool()).await
    }
}

pub(crate) fn target(port: u16, export: &str, tls: Option<NbdTls>) -> NbdTarget {
    NbdTarget { address: "127.0.0.1".into(), port, export: ExportName::new(export), tls }
}

/// Options that do not wait long before they try again.
pub(crate) fn quick() -> NbdOptions {
    let retry = Retry { attempts: 12, first: Duration::from_millis(1), longest: Duration::from_millis(20) };
    NbdOptions { retry, ..NbdOptions::default() }
}

/// Zeros of the image become holes of the file.
pub(crate) fn write_sparse(path: &Path, image: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(image.len() as u64).unwrap();
    for (offset, piece) in (0u64..).step_by(4096).zip(image.chunks(4096)) {
        if !coffer_extent::is_zero(piece) {
            file.write_all_at(piece, offset).unwrap();
        }
    }
}

/// An authority with a server and a client certificate.
pub(crate) struct Pki {
    authority: String,
    pub(crate) server: (String, String),
    client: (String, String),
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let leaf = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        let (server, client) = (leaf("host.test"), leaf("agent.test"));
        Pki { authority, server, client }
    }

    fn store(&self, folder: &Path) {
        let (server, client) = (&self.server, &self.client);
        let files = [
            ("ca-cert.pem", &self.authority),
            ("server-cert.pem", &server.0),
            ("server-key.pem", &server.1),
            ("client-cert.pem", &client.0),
            ("client-key.pem", &client.1),
        ];
        files.iter().for_each(|(name, content)| std::fs::write(folder.join(name), content).unwrap());
    }

    pub(crate) fn tls(&self) -> NbdTls {
        let certificate_pem = self.server.0.clone();
        NbdTls { certificate_pem, server_name: Some("host.test".into()), client: None }
    }

    pub(crate) fn tls_with_client(&self) -> NbdTls {
        let (certificate_pem, key_pem) = (self.client.0.clone(), self.client.1.clone().into());
        NbdTls { client: Some(ClientCertificate { certificate_pem, key_pem }), ..self.tls() }
    }
}
