//! Answers and streams that are not what the protocols promise.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use coffer_proto::v1::{Pool, pool};
use coffer_scenarios::{Process, Site, SiteOptions, until};
use rustls::pki_types::PrivateKeyDer;
use sha2::{Digest, Sha256};
use simpool::control::Fault;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{MIB, next_run_succeeds_and_nothing_is_left, pool_ends_up, problem_of};

/// A server that proves its certificate and then answers whatever it is asked with an HTTP answer that never ends.
struct EndlessHost {
    address: String,
    fingerprint: String,
    sent: Arc<AtomicU64>,
}

impl EndlessHost {
    async fn start() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
        let digest = Sha256::digest(made.cert.der());
        let fingerprint = digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                    let mut request = [0; 4096];
                    let Ok(1..) = stream.read(&mut request).await else { return };
                    let head =
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"jsonrpc\":\"2.0\",\"result\":\"";
                    let filler = vec![b'x'; 256 * 1024];
                    let mut part = &head[..];
                    while stream.write_all(part).await.is_ok() {
                        counted.fetch_add(part.len() as u64, Ordering::Relaxed);
                        part = &filler;
                    }
                });
            }
        });
        Ok(Self { address, fingerprint, sent })
    }
}

/// Most memory that a process ever had, bytes.
fn peak_memory(process: &Process) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel tells the peak")?;
    let kilobytes = line.split_whitespace().next().context("a number")?;
    Ok(kilobytes.parse::<u64>()? * 1024)
}

#[tokio::test]
async fn a_host_that_answers_without_end_is_cut_off_and_costs_no_more_memory_than_one_answer() -> Result<()> {
    let site = Site::start_with(SiteOptions { registered: false, ..Default::default() }).await?;
    let host = EndlessHost::start().await?;
    let pool = Pool {
        hosts: vec![host.address.clone()],
        username: "root".into(),
        password: "x".into(),
        fingerprint: host.fingerprint.clone(),
        ..Default::default()
    };
    let seen = pool_ends_up(&site, pool, pool::State::Unreachable).await?;
    assert!(seen.state_message.contains(&host.address), "{}", seen.state_message);
    assert!(seen.state_message.contains("longer than"), "{}", seen.state_message);

    // It is tried again and again: what one attempt took must not stay.
    until("several attempts", async || Ok((host.sent.load(Ordering::Relaxed) > 300 * MIB).then_some(()))).await?;
    let peak = peak_memory(site.agent().context("the agent runs")?)?;
    ensure!(peak < 256 * MIB, "the agent had {peak} bytes");
    Ok(())
}

#[tokio::test]
async fn an_address_where_something_else_listens_is_said_to_be_no_host() -> Result<()> {
    let site = Site::start_with(SiteOptions { registered: false, ..Default::default() }).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = tcp.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").await;
                let mut rest = Vec::new();
                let _ = tcp.read_to_end(&mut rest).await;
            });
        }
    });
    let pool =
        Pool { hosts: vec![address.clone()], username: "root".into(), password: "x".into(), ..Default::default() };
    let seen = pool_ends_up(&site, pool, pool::State::Unreachable).await?;
    assert!(seen.state_message.contains(&address) && seen.state_message.contains("TLS"), "{}", seen.state_message);
    Ok(())
}

#[tokio::test]
async fn a_garbled_stream_is_an_error_and_never_a_restore_point() -> Result<()> {
    let site = Site::start_with(SiteOptions { nbd: "off", ..Default::default() }).await?;
    let vm = site.create_vm("db1", &[20 * MIB]).await?;
    let job = site.create_job("nightly", &[&vm]).await?;
    let path = || "/export_raw_vdi".to_owned();
    let garbled = [
        // The head of the VHD, its table of blocks, the map of the first block.
        Fault::CorruptStream { path: path(), subject: String::new(), at_byte: 3, nth: 0, times: 0 },
        Fault::CorruptStream { path: path(), subject: String::new(), at_byte: 520, nth: 0, times: 0 },
        // An HTTP error in the middle of the data, and data that ends too early.
        Fault::ErrorInBody { path: path(), subject: String::new(), after_bytes: 3 * MIB, nth: 0, times: 0 },
        Fault::CutStream { path: path(), subject: String::new(), after_bytes: 3 * MIB, nth: 0, times: 0 },
    ];
    for fault in garbled {
        let shown = format!("{fault:?}");
        let fault = site.hosts.fault(fault).await?;
        let problem = problem_of(&site, &job).await.context(shown.clone())?;
        assert!(site.api.restore_points(&vm.uuid).await?.is_empty(), "{shown}: {problem:?}");
        site.hosts.clear_fault(fault).await?;
    }
    next_run_succeeds_and_nothing_is_left(&site, &job, &vm).await
}
