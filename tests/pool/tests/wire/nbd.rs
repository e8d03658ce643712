//! NBD as the pool offers it: purposes, sessions, busy disks, drops. The protocol is proven where it is implemented.

use serde_json::{Value as Json, json};
use simpool::control::Fault;
use simpool::{Builder, NbdMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Api, MIB, eventually, pool, text, vm};

/// Opens an export in plain text; `None` when the host hangs up.
async fn open(info: &Json, name: &str) -> Option<TcpStream> {
    let port = u16::try_from(info["port"].as_u64().unwrap()).unwrap();
    let mut stream = TcpStream::connect((info["address"].as_str().unwrap(), port)).await.ok()?;
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).await.ok()?;
    let mut hello = 1_u32.to_be_bytes().to_vec();
    hello.extend(b"IHAVEOPT");
    hello.extend(1_u32.to_be_bytes());
    hello.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    hello.extend(name.as_bytes());
    stream.write_all(&hello).await.ok()?;
    let mut answer = [0; 134];
    stream.read_exact(&mut answer).await.ok()?;
    Some(stream)
}

/// Reads; `None` when the host hangs up or answers an error.
async fn read(stream: &mut TcpStream, offset: u64, length: u32) -> Option<Vec<u8>> {
    let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
    request.extend([0, 0, 0, 0]);
    request.extend(7_u64.to_be_bytes());
    request.extend(offset.to_be_bytes());
    request.extend(length.to_be_bytes());
    stream.write_all(&request).await.ok()?;
    let mut head = [0; 16];
    stream.read_exact(&mut head).await.ok()?;
    if head[4..8] != [0; 4] {
        return None;
    }
    let mut data = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut data).await.ok()?;
    Some(data)
}

#[tokio::test]
async fn a_connected_disk_is_busy_and_a_dropped_connection_frees_it() {
    let pool = Builder::new().nbd(NbdMode::Plain).start().await.unwrap();
    let (api, control) = (Api::login(&pool).await, pool.control());
    let made = vm(control, "", 0).await;
    let (snapshot, vdis) = api.snapshot(&made.vm.reference).await;
    api.call("VM.destroy", &[json!(snapshot)]).await.unwrap();
    let info = api.call("VDI.get_nbd_info", &[json!(vdis[0])]).await.unwrap()[0].clone();
    let name = text(&info["exportname"]);
    assert!(open(&info, &name.replace("OpaqueRef:", "OpaqueRef:0")).await.is_none(), "an unknown session");
    let mut stream = open(&info, &name).await.unwrap();
    let vdi = json!(vdis[0]);
    assert_eq!(api.call("VDI.destroy", std::slice::from_ref(&vdi)).await.unwrap_err()[0], "VDI_IN_USE");
    let bytes = read(&mut stream, 0, 65536).await.unwrap();
    let (raw, _) = api.transfer("GET", "/export_raw_vdi/", &format!("format=raw&vdi={}", vdis[0]), b"").await;
    assert_eq!(bytes, raw.body[..65536]);
    control.drop_nbd(0).await.unwrap();
    assert!(read(&mut stream, 0, 512).await.is_none());
    eventually(|| async { api.call("VDI.destroy", std::slice::from_ref(&vdi)).await.is_ok().then_some(()) }).await;
    let counters = control.counters().await.unwrap();
    assert_eq!(counters.nbd_read.values().sum::<u64>(), 65536);
    assert_eq!(counters.nbd_connections.values().sum::<u64>(), 1);
}

#[tokio::test]
async fn a_cut_hangs_up_after_so_many_bytes_and_a_flip_changes_one_bit() {
    let pool = Builder::new().nbd(NbdMode::Plain).start().await.unwrap();
    let (api, control) = (Api::login(&pool).await, pool.control());
    let made = vm(control, "", 0).await;
    let (_, vdis) = api.snapshot(&made.vm.reference).await;
    let info = api.call("VDI.get_nbd_info", &[json!(vdis[0])]).await.unwrap()[0].clone();
    let name = text(&info["exportname"]);
    let (path, subject) = ("nbd".to_owned(), String::new());
    let cut = Fault::CutStream { path: path.clone(), subject: subject.clone(), after_bytes: MIB, nth: 0, times: 1 };
    control.fault(cut).await.unwrap();
    let mut stream = open(&info, &name).await.unwrap();
    assert!(read(&mut stream, 0, 1 << 20).await.is_some());
    assert!(read(&mut stream, 0, 512).await.is_none());
    let mut again = open(&info, &name).await.unwrap();
    let right = read(&mut again, 0, 4096).await.unwrap();
    control.fault(Fault::CorruptStream { path, subject, at_byte: 100, nth: 0, times: 1 }).await.unwrap();
    let wrong = read(&mut open(&info, &name).await.unwrap(), 0, 4096).await.unwrap();
    let differing: Vec<usize> = (0..4096).filter(|at| right[*at] != wrong[*at]).collect();
    assert_eq!(differing, [100]);
    control.fault(Fault::NbdRefused { subject: String::new(), nth: 0, times: 1 }).await.unwrap();
    assert!(open(&info, &name).await.is_none());
}

#[tokio::test]
async fn without_a_purpose_there_is_no_address_and_the_two_purposes_exclude_each_other() {
    let pool = pool(1).await;
    let api = Api::login(&pool).await;
    let made = vm(pool.control(), "", 0).await;
    let vdi = json!(made.disks[0].vdi.reference);
    let info = api.call("VDI.get_nbd_info", std::slice::from_ref(&vdi)).await.unwrap();
    assert!(text(&info[0]["cert"]).starts_with("-----BEGIN CERTIFICATE-----"));
    let network = text(&api.call("network.get_all", &[]).await.unwrap()[0]);
    let both = api.call("network.add_purpose", &[json!(network), json!("insecure_nbd")]).await.unwrap_err();
    assert_eq!(both, ["NETWORK_INCOMPATIBLE_PURPOSES", "insecure_nbd", "nbd"]);
    api.call("network.remove_purpose", &[json!(network), json!("nbd")]).await.unwrap();
    assert_eq!(api.call("VDI.get_nbd_info", std::slice::from_ref(&vdi)).await.unwrap(), json!([]));
    assert!(open(&info[0], &text(&info[0]["exportname"])).await.is_none());
}
