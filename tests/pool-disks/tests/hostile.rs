//! Streams that somebody tampered with: an error, or a disk of the right size; never a panic.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::collections::BTreeMap;

use pool_disks::xva::{self, Compression, ExportOptions, Import};
use pool_disks::{Disk, Error, raw, vhd};
use proptest::prelude::*;
use support::{MIB, Sr, id, quiet};

/// Bytes put over a good stream, mostly where its structures are, and where it is cut.
fn damage() -> impl Strategy<Value = (Vec<(usize, u8)>, Option<usize>)> {
    let place = prop_oneof![3 => 0..4096usize, 1 => 0..4_000_000usize];
    (prop::collection::vec((place, any::<u8>()), 0..12), prop::option::of(0..4_000_000usize))
}

fn damaged(good: &[u8], (bytes, cut): &(Vec<(usize, u8)>, Option<usize>)) -> Vec<u8> {
    let mut bad = good.to_vec();
    for (at, byte) in bytes {
        let at = at % bad.len();
        bad[at] = *byte;
    }
    bad.truncate(cut.unwrap_or(bad.len()));
    bad
}

/// A disk, and its streams in all formats.
fn good() -> (Sr, Vec<Vec<u8>>) {
    let sr = Sr::thin();
    let disk = sr.disk(id(1), 4 * MIB);
    disk.write_at(MIB, b"some data").unwrap();
    let disks = BTreeMap::from([("Ref:3".to_owned(), disk.clone())]);
    let mut streams = Vec::new();
    block_on(async {
        let mut bytes = Vec::new();
        vhd::export(&disk, None, &mut bytes, &quiet).await.unwrap();
        streams.push(bytes);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut bytes = Vec::new();
            let options = ExportOptions { compression, ..ExportOptions::default() };
            xva::export(b"<value/>", &disks, options, &mut bytes, &quiet).await.unwrap();
            streams.push(bytes);
        }
    });
    (sr, streams)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

async fn import_all(bytes: &[u8], disk: &Disk) -> Vec<Result<(), Error>> {
    let disks = BTreeMap::from([("Ref:3".to_owned(), disk.clone())]);
    let xva = async {
        let mut import = Import::open(bytes).await?;
        import.read_disks(&disks, false, &quiet).await
    };
    vec![
        vhd::import(&mut &*bytes, None, disk, &quiet).await,
        vhd::import(&mut &*bytes, Some(bytes.len() as u64), disk, &quiet).await,
        xva.await,
        xva::import_vdi_tar(&mut &*bytes, disk, &quiet).await,
        raw::import_chunked(&mut &*bytes, disk).await.map(drop),
    ]
}

#[test]
fn streams_that_were_tampered_with_never_panic() {
    let (sr, streams) = good();
    let config = ProptestConfig { cases: 64, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let target = sr.disk(id(2), 4 * MIB);
    let untouched = block_on(import_all(&streams[0], &target));
    assert!(untouched[0].is_ok() && untouched[2].is_err(), "the streams are good before");
    runner
        .run(&(0..streams.len(), damage()), |(stream, damage)| {
            for result in block_on(import_all(&damaged(&streams[stream], &damage), &target)) {
                if let Err(error) = result {
                    prop_assert!(!error.xapi().code.is_empty());
                    prop_assert!(!error.to_string().is_empty());
                }
            }
            prop_assert_eq!(target.size().unwrap(), 4 * MIB);
            Ok(())
        })
        .unwrap();
}
