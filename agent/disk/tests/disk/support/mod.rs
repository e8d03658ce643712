//! What the tests of this crate share: disks with known content, and the programs nobody here wrote.

pub(crate) mod host;
pub(crate) mod servers;

use coffer_extent::{BufferPool, ExtentSink, ExtentSource, MemorySink, Progress, copy};
use std::path::Path;
use std::process::Command;
use tokio_util::sync::CancellationToken;

pub(crate) const KIB: u64 = 1024;
pub(crate) const MIB: u64 = 1024 * KIB;

/// Bytes that look random and depend on nothing but the seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// A disk with noise in the given ranges (in KiB) and zeros elsewhere.
pub(crate) fn disk(size: u64, data: &[(u64, u64)]) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(size).unwrap()];
    for (seed, &(start, end)) in (1..).zip(data) {
        let range = usize::try_from(start * KIB).unwrap()..usize::try_from(end * KIB).unwrap();
        let len = range.len();
        content[range].copy_from_slice(&noise(seed, len));
    }
    content
}

/// 24 MiB: data, zeros, scattered small pieces.
pub(crate) fn mixed_disk() -> Vec<u8> {
    disk(24 * MIB, &[(0, 3000), (4096, 4100), (6000, 6001), (8192, 12288), (13000, 13064), (20000, 24576)])
}

pub(crate) fn pool() -> BufferPool {
    BufferPool::new(32 << 20, 1 << 20)
}

/// Pumps a source into a sink.
pub(crate) async fn pump(
    source: &mut dyn ExtentSource,
    sink: &mut dyn ExtentSink,
) -> Result<(), coffer_extent::ExtentError> {
    copy("test disk", source, sink, &Progress::new(), &CancellationToken::new()).await.map(drop)
}

/// Reads a source to its end; unchanged ranges come out as `previous` has them.
pub(crate) async fn collect(
    source: &mut dyn ExtentSource,
    previous: Vec<u8>,
) -> Result<Vec<u8>, coffer_extent::ExtentError> {
    let mut sink = MemorySink::new(previous);
    pump(source, &mut sink).await?;
    assert!(sink.is_finished());
    Ok(sink.content().to_vec())
}

/// A future that needs a runtime, from a test that has none.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// Runs a program to its end and returns what it prints; a missing program fails the test and names its package.
pub(crate) fn program(package: &str, name: &str, args: &[&str]) -> String {
    let output = Command::new(name).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {name} (Debian package {package}): {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {args:?}: {text}");
    text
}

pub(crate) fn qemu_img(args: &[&str]) -> String {
    program("qemu-utils", "qemu-img", args)
}

/// Lets qemu-img compare an image with the raw truth: same content, same size.
pub(crate) fn same_disk(truth: &Path, format: &str, image: &Path) {
    let verdict = qemu_img(&["compare", "-f", "raw", "-F", format, text(truth), text(image)]);
    assert_eq!(verdict.trim(), "Images are identical.");
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The innermost reason of an error, with all that lead to it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
