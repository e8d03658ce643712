//! The targets: each parser of what comes from hosts, remotes or the network, with good input to spoil.

use std::io::Cursor;
use std::rc::Rc;

use anyhow::Result;
use coffer_disk::nbd::{ExportName, negotiate, read_replies};
use coffer_disk::vhd::{VhdHead, VhdKind, VhdPlan, VhdSink, VhdSource};
use coffer_extent::{BufferPool, Extent, ExtentSink, ExtentSource, RangeSet};
use coffer_repository::format;
use coffer_xapi::{Fingerprint, records, wire};
use tokio::runtime::Runtime;

/// A parser and what it usually reads.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) good: Vec<Vec<u8>>,
    pub(crate) feed: Box<dyn Fn(&[u8])>,
}

impl Target {
    fn new(name: &'static str, good: Vec<Vec<u8>>, feed: impl Fn(&[u8]) + 'static) -> Self {
        Self { name, good, feed: Box::new(feed) }
    }
}

/// Every target.
pub(crate) fn all() -> Result<Vec<Target>> {
    let runtime = Rc::new(tokio::runtime::Builder::new_current_thread().enable_all().build()?);
    let mut targets = disks(&runtime)?;
    targets.extend(xapi());
    targets.extend(repository());
    Ok(targets)
}

/// Buffers for one input: few and small, as memory must not follow what the input claims.
fn buffers() -> BufferPool {
    BufferPool::new(64 << 10, 16 << 10)
}

fn disks(runtime: &Rc<Runtime>) -> Result<Vec<Target>> {
    let vhd = vec![runtime.block_on(vhd(VhdKind::Dynamic))?, runtime.block_on(vhd(VhdKind::Differencing))?];
    let (head, stream, greeting, simple, structured) =
        (Rc::clone(runtime), Rc::clone(runtime), Rc::clone(runtime), Rc::clone(runtime), Rc::clone(runtime));
    let replies = move |runtime: &Runtime, input: &[u8], is_structured: bool| {
        let reads = [(0, 4096), (1 << 20, 512), (4096, 8192)];
        // Refusing is fine; what counts is that it comes back.
        let _ = runtime.block_on(read_replies(Peer::new(input), is_structured, &reads, &buffers()));
    };
    Ok(vec![
        Target::new("vhd-head", vhd.clone(), move |input| {
            let _ = head.block_on(VhdHead::read(Cursor::new(input.to_vec()), "fuzz"));
        }),
        Target::new("vhd-stream", vhd, move |input| {
            stream.block_on(async {
                if let Ok(mut source) = VhdSource::open(Cursor::new(input.to_vec()), "fuzz", buffers()).await {
                    while let Ok(Some(_)) = source.next().await {}
                }
            });
        }),
        Target::new("nbd-negotiation", vec![greeting_of_a_host()], move |input| {
            let name = ExportName::new("fuzz".to_owned());
            let _ = greeting.block_on(negotiate(&mut Peer::new(input), &name));
        }),
        Target::new("nbd-simple-replies", vec![simple_replies()], move |input| replies(&simple, input, false)),
        Target::new("nbd-structured-replies", vec![structured_replies()], move |input| {
            replies(&structured, input, true);
        }),
        Target::new("changed-block-bitmap", vec![vec![0xff; 100]], |input| {
            let _ = RangeSet::from_cbt_bitmap(input, input.len() as u64 * 8 * 65536, 65536);
        }),
    ])
}

/// A small VHD stream as a host exports it.
async fn vhd(kind: VhdKind) -> Result<Vec<u8>> {
    const BLOCK: u64 = 2 << 20;
    let mut content = RangeSet::new();
    content.insert(BLOCK..BLOCK + 4096);
    let plan = VhdPlan::from_ranges(3 * BLOCK, &content, kind)?;
    let mut sink = VhdSink::new(Vec::new(), plan, "seed");
    let empty = |offset, len| match kind {
        VhdKind::Differencing => Extent::Unchanged { offset, len },
        _ => Extent::Zero { offset, len },
    };
    sink.accept(empty(0, BLOCK)).await?;
    sink.accept(Extent::Data { offset: BLOCK, bytes: vec![7; 4096].into() }).await?;
    sink.accept(empty(BLOCK + 4096, 2 * BLOCK - 4096)).await?;
    sink.finish().await?;
    let mut stream = sink.into_inner();
    // The head and the tail are what a parser can trip over; a short middle makes more inputs a second.
    stream.truncate(1 << 20);
    Ok(stream)
}

/// What a real host sends until an export is open: a greeting, no to the first modern option, the old answer.
fn greeting_of_a_host() -> Vec<u8> {
    let mut bytes = b"NBDMAGICIHAVEOPT\x00\x01".to_vec();
    for option in [8u32, 6, 7] {
        bytes.extend(0x0003_e889_0455_65a9_u64.to_be_bytes());
        bytes.extend(option.to_be_bytes());
        bytes.extend(0x8000_0001_u32.to_be_bytes());
        bytes.extend(0u32.to_be_bytes());
    }
    bytes.extend((1u64 << 30).to_be_bytes());
    bytes.extend(3u16.to_be_bytes());
    bytes.extend([0; 124]);
    bytes
}

fn simple_replies() -> Vec<u8> {
    let mut bytes = Vec::new();
    for (handle, len) in [(1u64, 4096), (2, 512), (3, 8192)] {
        bytes.extend(0x6744_6698_u32.to_be_bytes());
        bytes.extend(0u32.to_be_bytes());
        bytes.extend(handle.to_be_bytes());
        bytes.extend(vec![9; len]);
    }
    bytes
}

fn structured_replies() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunk = |flags: u16, kind: u16, handle: u64, payload: &[u8]| {
        bytes.extend(0x668e_33ef_u32.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(handle.to_be_bytes());
        bytes.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(payload);
    };
    chunk(0, 1, 1, &[&0u64.to_be_bytes()[..], &[5; 4096]].concat());
    chunk(1, 0, 1, &[]);
    chunk(1, 2, 2, &[&(1u64 << 20).to_be_bytes()[..], &512u32.to_be_bytes()].concat());
    chunk(1, 5, 4, &[&1u32.to_be_bytes()[..], &65536u32.to_be_bytes(), &0u32.to_be_bytes()].concat());
    chunk(1, 0x8001, 3, &[&5u32.to_be_bytes()[..], &2u16.to_be_bytes(), b"no"].concat());
    bytes
}

/// The other end of a connection: says what it was given and swallows what it is told.
struct Peer(Cursor<Vec<u8>>);

impl Peer {
    fn new(says: &[u8]) -> Self {
        Self(Cursor::new(says.to_vec()))
    }
}

impl tokio::io::AsyncRead for Peer {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Peer {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

fn xapi() -> Vec<Target> {
    let vm = br#"{"uuid":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","name_label":"web","power_state":"Running","tags":["a"],
        "VBDs":["OpaqueRef:1"],"memory_static_max":1073741824,"other_config":{"k":"v"},"snapshot_time":"19700101T00:00:00Z"}"#;
    let events = br#"{"events":[{"id":"1","timestamp":"0.0","class":"vm","operation":"mod","ref":"OpaqueRef:1",
        "snapshot":{"uuid":"x"}},{"class":"vdi","operation":"del","ref":"OpaqueRef:2"}],"valid_ref_counts":{"vm":1},
        "token":"00000000000000000001,00000000000000000000"}"#;
    vec![
        Target::new(
            "xapi-answer",
            vec![
                br#"{"jsonrpc":"2.0","result":"OpaqueRef:1","id":7}"#.to_vec(),
                br#"{"jsonrpc":"2.0","error":{"code":1,"message":"SR_FULL","data":["1","2"]},"id":7}"#.to_vec(),
            ],
            |input| {
                let _ = wire::decode_answer(input, Some(7));
            },
        ),
        Target::new("xapi-events", vec![events.to_vec()], |input| {
            if let Ok(value) = serde_json::from_slice(input) {
                let _ = wire::decode_batch(value);
            }
        }),
        Target::new("xapi-vm-record", vec![vm.to_vec()], |input| {
            if let Ok(value) = serde_json::from_slice::<serde_json::Value>(input) {
                let _ = records::decode_record::<records::Vm>(value.clone());
                let _ = records::decode_record::<records::Vdi>(value.clone());
                let _ = records::decode_record::<records::Task>(value);
            }
        }),
        Target::new(
            "xapi-task-result",
            vec![b"<value><array><data><value>OpaqueRef:1</value></data></array></value>".to_vec()],
            |input| {
                let _ = wire::parse_result(&String::from_utf8_lossy(input));
            },
        ),
        Target::new("fingerprint", vec![[b"AB:".repeat(31), b"CD".to_vec()].concat()], |input| {
            let _ = String::from_utf8_lossy(input).parse::<Fingerprint>();
        }),
    ]
}

fn repository() -> Vec<Target> {
    let id = "3b".repeat(32);
    let index = format!(
        r#"{{"packs":[{{"id":"{id}","blobs":[{{"id":"{id}","type":"data","offset":0,"length":38,"uncompressed_length":4096}}]}}]}}"#
    );
    let tree = format!(
        r#"{{"nodes":[{{"name":"disks","type":"dir","mode":2147484141,"subtree":"{id}"}},
        {{"name":"vm.json","type":"file","mode":420,"size":1048577,"content":["{id}","{id}"]}}]}}"#
    );
    let snapshot =
        format!(r#"{{"time":"2026-11-23T09:00:00.5Z","tree":"{id}","paths":["/"],"hostname":"h","tags":["coffer"]}}"#);
    let config = format!(r#"{{"version":2,"id":"{id}","chunker_polynomial":"3DA3358B4DC173"}}"#);
    let key = r#"{"created":"2026-11-23T09:00:00Z","username":"u","hostname":"h","kdf":"scrypt","N":32768,"r":8,"p":1,
        "salt":"c2FsdA==","data":"ZGF0YQ=="}"#;
    let commit = r#"{"version":1,"verdict":"commit","task":"0b0c7a2e-92b1-4e2d-8f3f-0d9f5a1c2b3d","epoch":3}"#;
    let header: Vec<u8> =
        [&[0u8][..], &38u32.to_le_bytes(), &[1; 32], &[2], &38u32.to_le_bytes(), &4096u32.to_le_bytes(), &[2; 32]]
            .concat();
    vec![
        Target::new("restic-config", vec![config.into_bytes()], |input| {
            let _ = format::Config::parse(input);
        }),
        Target::new("restic-key", vec![key.as_bytes().to_vec()], |input| {
            let _ = format::KeyFile::parse(input);
        }),
        Target::new("restic-index", vec![index.into_bytes()], |input| {
            let _ = format::IndexFile::parse(input);
        }),
        Target::new("restic-pack-header", vec![header], |input| {
            let _ = format::parse_pack_header(input);
        }),
        Target::new("restic-tree", vec![tree.into_bytes()], |input| {
            let _ = format::Tree::parse(input);
        }),
        Target::new("restic-snapshot", vec![snapshot.into_bytes()], |input| {
            let _ = format::Snapshot::parse(input);
        }),
        Target::new("commit-record", vec![commit.as_bytes().to_vec()], |input| {
            let _ = coffer_remote::commit::parse(input);
        }),
    ]
}
