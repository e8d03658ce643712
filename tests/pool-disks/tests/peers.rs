//! Programs nobody here wrote judge what is exported and served: `qemu-img`, `nbdinfo`, `nbdcopy`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use pool_disks::nbd::{Export, Exports, MAX_CONNECTIONS, Mode, NbdServer, tls_config};
use pool_disks::{Disk, ReadAt, Result, vhd};
use support::{MIB, Sr, content, id, quiet, same};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

const NAME: &str = "/00000000-0000-0000-0000-000000000001?session_id=OpaqueRef:1";
const NAME_IN_URI: &str = "%2F00000000-0000-0000-0000-000000000001%3Fsession_id%3DOpaqueRef%3A1";

/// Runs a program to its end; what it prints.
async fn run(program: &str, package: &str, arguments: &[&str]) -> String {
    let output = match Command::new(program).args(arguments).output().await {
        Ok(output) => output,
        Err(error) => panic!("{program} does not run ({error}): install the package {package}"),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?} ended with {}: {}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[tokio::test]
async fn qemu_img_reads_an_exported_vhd_as_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (vhd_path, raw_path) = (folder.path().join("disk.vhd"), folder.path().join("disk.raw"));
    let sr = Sr::thin();
    for (number, size) in [(1, 2 * MIB), (2, 38 * MIB), (3, 130 * MIB)] {
        let disk = sr.filled(id(number), size.max(4 * MIB), 40);
        sr.store.snapshot(id(number), id(100 + number), id(200 + number)).unwrap();
        disk.write_at(4 * MIB - 700, &[0x5A; 700]).unwrap();
        let mut file = tokio::fs::File::create(&vhd_path).await.unwrap();
        vhd::export(&disk, None, &mut file, &quiet).await.unwrap();
        file.sync_all().await.unwrap();
        // The real size stands in the footer; without being told, qemu takes the geometry's of an unknown creator.
        let image =
            format!("driver=vpc,force_size_calc=current_size,file.driver=file,file.filename={}", vhd_path.display());
        run("qemu-img", "qemu-utils", &["convert", "--image-opts", &image, "-O", "raw", raw_path.to_str().unwrap()])
            .await;
        same(&std::fs::read(&raw_path).unwrap(), &content(&disk), "what qemu-img reads");
    }
}

#[tokio::test]
async fn a_vhd_made_by_qemu_img_imports_as_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let (raw_path, vhd_path) = (folder.path().join("disk.raw"), folder.path().join("disk.vhd"));
    let sr = Sr::thin();
    let source = content(&sr.filled(id(1), 40 * MIB, 8));
    std::fs::write(&raw_path, &source).unwrap();
    let (from, to) = (raw_path.to_str().unwrap(), vhd_path.to_str().unwrap());
    run(
        "qemu-img",
        "qemu-utils",
        &["convert", "-f", "raw", "-O", "vpc", "-o", "subformat=dynamic,force_size=on", from, to],
    )
    .await;
    let target = sr.disk(id(2), 40 * MIB);
    let mut file = tokio::fs::File::open(&vhd_path).await.unwrap();
    let length = file.metadata().await.unwrap().len();
    vhd::import(&mut file, Some(length), &target, &quiet).await.unwrap();
    same(&content(&target), &source, "the target");
}

struct Host {
    disk: Disk,
}

struct Opened {
    disk: Disk,
    size: u64,
}

#[async_trait]
impl Exports for Host {
    async fn open(&self, name: &str, _peer: SocketAddr) -> Option<Arc<dyn Export>> {
        let size = self.disk.size().ok()?;
        (name == NAME).then(|| Arc::new(Opened { disk: self.disk.clone(), size }) as Arc<dyn Export>)
    }
}

impl ReadAt for Opened {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.disk.read_at(offset, buffer)
    }
}

#[async_trait]
impl Export for Opened {
    fn size(&self) -> u64 {
        self.size
    }

    async fn close(&self) {}
}

/// Serves a disk of 64 MiB and lets the two programs read it.
async fn served(mode: Mode, scheme: &str, parameters: &str, folder: &Path) {
    let sr = Sr::thin();
    let disk = sr.filled(id(1), 64 * MIB, 77);
    let server = NbdServer::new(mode, MAX_CONNECTIONS, Arc::new(Host { disk: disk.clone() }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn({
        let (server, shutdown) = (server.clone(), shutdown.clone());
        async move { server.serve(listener, shutdown).await }
    });
    let uri = format!("{scheme}://localhost:{port}/{NAME_IN_URI}{parameters}");
    assert_eq!(run("nbdinfo", "libnbd-bin", &["--size", &uri]).await.trim(), (64 * MIB).to_string());
    let info = run("nbdinfo", "libnbd-bin", &["--json", &uri]).await;
    assert!(info.contains("\"is_read_only\": true"), "{info}");
    let copy = folder.join("copy.raw");
    run("nbdcopy", "libnbd-bin", &["--request-size=2097152", "--requests=16", &uri, copy.to_str().unwrap()]).await;
    same(&std::fs::read(&copy).unwrap(), &content(&disk), "what nbdcopy reads");
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdinfo_and_nbdcopy_read_a_plain_export() {
    let folder = tempfile::tempdir().unwrap();
    served(Mode::Plain, "nbd", "", folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdinfo_and_nbdcopy_read_an_export_within_tls() {
    for tls13 in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join("ca-cert.pem"), certified.cert.pem()).unwrap();
        let key = certified.signing_key.serialize_der().try_into().unwrap();
        let tls = tls_config(vec![certified.cert.der().clone()], key, tls13).unwrap();
        let parameters = format!("?tls-certificates={}", folder.path().display());
        served(Mode::Tls(tls), "nbds", &parameters, folder.path()).await;
    }
}
