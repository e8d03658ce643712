//! Disks as hosts send them: VHD streams, NBD, bitmaps of changed blocks.

use std::io::Cursor;
use std::rc::Rc;

use anyhow::Result;
use coffer_disk::nbd::{ExportName, negotiate, read_replies};
use coffer_disk::vhd::{VhdHead, VhdKind, VhdPlan, VhdSink, VhdSource};
use coffer_extent::{BufferPool, Extent, ExtentSink, ExtentSource, RangeSet};
use tokio::runtime::Runtime;

use super::Target;
use super::peer::Peer;

/// Bytes of a VHD's footer, and of the header behind it.
const FOOTER: usize = 512;
const HEADER: usize = 1024;

/// Buffers for one input: few and small, as memory must not follow what the input claims.
fn buffers() -> BufferPool {
    BufferPool::new(64 << 10, 16 << 10)
}

pub(super) fn targets(runtime: &Rc<Runtime>) -> Result<Vec<Target>> {
    let vhd = vec![runtime.block_on(vhd(VhdKind::Dynamic))?, runtime.block_on(vhd(VhdKind::Differencing))?];
    // Footer, header and block table; a short input makes more inputs a second.
    let heads: Vec<Vec<u8>> = vhd.iter().map(|vhd| vhd.iter().take(4096).copied().collect()).collect();
    let on = |feed: fn(&Runtime, &[u8]) -> bool| {
        let runtime = Rc::clone(runtime);
        move |input: &[u8]| feed(&runtime, input)
    };
    let (head, stream) = (on(vhd_head), on(vhd_stream));
    Ok(vec![
        Target::new("vhd-head", heads.clone(), on(vhd_head)),
        Target::new("vhd-head-summed", heads, move |input| head(&summed(input))),
        Target::new("vhd-stream", vhd.clone(), on(vhd_stream)),
        Target::new("vhd-stream-summed", vhd, move |input| stream(&summed(input))),
        Target::new("nbd-negotiation", vec![greeting_of_a_host(), greeting_of_a_modern_server()], on(negotiation)),
        Target::new("nbd-simple-replies", vec![simple_replies()], on(|runtime, input| replies(runtime, input, false))),
        Target::new(
            "nbd-structured-replies",
            vec![structured_replies()],
            on(|runtime, input| replies(runtime, input, true)),
        ),
        Target::new("changed-block-bitmap", vec![vec![0xff; 100], vec![0x80, 0x01]], |input| {
            let size = input.len() as u64 * 8 * 65536;
            // As long as the disk needs, or not; a bitmap of one length comes with any size.
            let claimed = input.first_chunk::<8>().map_or(size, |first| u64::from_be_bytes(*first));
            let _ = RangeSet::from_cbt_bitmap(input, claimed, 65536);
            RangeSet::from_cbt_bitmap(input, size, 1 << 20).is_ok()
        }),
    ])
}

fn vhd_head(runtime: &Runtime, input: &[u8]) -> bool {
    let head = runtime.block_on(VhdHead::read(Cursor::new(input.to_vec()), "fuzz"));
    head.is_ok_and(|head| head.allocated().total() <= head.size() && head.stream_bytes() > 0)
}

fn vhd_stream(runtime: &Runtime, input: &[u8]) -> bool {
    runtime.block_on(async {
        let opened = VhdSource::open(Cursor::new(input.to_vec()), "fuzz", buffers()).await;
        let Ok(mut source) = opened else { return false };
        while let Ok(Some(_)) = source.next().await {}
        true
    })
}

fn negotiation(runtime: &Runtime, input: &[u8]) -> bool {
    runtime.block_on(negotiate(&mut Peer::new(input), &ExportName::new("fuzz".to_owned()))).is_ok()
}

fn replies(runtime: &Runtime, input: &[u8], is_structured: bool) -> bool {
    let reads = [(0, 4096), (1 << 20, 512), (4096, 8192)];
    runtime.block_on(read_replies(Peer::new(input), is_structured, &reads, &buffers())).is_ok()
}

/// The input with the checksums of footer and header made right again: else hardly anything would get behind them.
fn summed(input: &[u8]) -> Vec<u8> {
    let mut vhd = input.to_vec();
    let mut sum = |range: std::ops::Range<usize>, at: usize| {
        let Some(part) = vhd.get_mut(range) else { return };
        part[at..at + 4].fill(0);
        let sum = part.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        part[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
    };
    sum(0..FOOTER, 64);
    sum(FOOTER..FOOTER + HEADER, 36);
    vhd
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

/// The beginning of what a server says: a greeting in the new style.
const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\x00\x01";

/// A reply to an option.
fn reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let numbers = [option, kind, length].map(u32::to_be_bytes).concat();
    [&0x0003_e889_0455_65a9_u64.to_be_bytes()[..], &numbers, payload].concat()
}

/// What a real host sends until an export is open: a greeting, no to the modern options, the old answer.
fn greeting_of_a_host() -> Vec<u8> {
    let no = 0x8000_0001;
    let old = [&(1u64 << 30).to_be_bytes()[..], &3u16.to_be_bytes(), &[0; 124]].concat();
    [GREETING, &reply(8, no, &[]), &reply(7, no, &[]), &old].concat()
}

/// Structured replies, a context, an export with its block sizes.
fn greeting_of_a_modern_server() -> Vec<u8> {
    let context = [&1u32.to_be_bytes()[..], b"base:allocation"].concat();
    let export = [&0u16.to_be_bytes()[..], &(1u64 << 30).to_be_bytes(), &3u16.to_be_bytes()].concat();
    let blocks = [&3u16.to_be_bytes()[..], &[1u32, 4096, 1 << 25].map(u32::to_be_bytes).concat()].concat();
    let replies = [(8, 1, vec![]), (10, 4, context), (10, 1, vec![]), (7, 3, export), (7, 3, blocks), (7, 1, vec![])];
    let replies: Vec<u8> = replies.iter().flat_map(|(option, kind, payload)| reply(*option, *kind, payload)).collect();
    [GREETING, &replies].concat()
}

fn simple_replies() -> Vec<u8> {
    let mut bytes = Vec::new();
    for (handle, len) in [(1u64, 4096), (2, 512), (3, 8192)] {
        bytes.extend(0x6744_6698_u32.to_be_bytes());
        bytes.extend(0u32.to_be_bytes());
        bytes.extend(handle.to_be_bytes());
        bytes.extend(vec![9; len]);
    }
    // No to the question for the block status.
    bytes.extend([&0x6744_6698_u32.to_be_bytes()[..], &22u32.to_be_bytes(), &4u64.to_be_bytes()].concat());
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
