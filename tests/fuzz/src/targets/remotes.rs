//! What lies on remotes: files and blobs of the repository, on each side of the compression, and our own beside it.
//!
//! What is compressed is spoilt twice: as it lies in its seal, which is mostly the decompressor's to refuse, and before
//! it is compressed, so that the parser behind gets to see it.

use coffer_repository::format::{self, Fault, PackedBlob, Tree};
use coffer_repository::fuzz::{self, Sealed};

use super::Target;

/// Bytes of the blobs of these targets.
const BLOB: u32 = 4096;

pub(super) fn targets() -> Vec<Target> {
    let id = "3b".repeat(32);
    let index = format!(
        r#"{{"supersedes":["{id}"],"packs":[{{"id":"{id}","blobs":[{{"id":"{id}","type":"data","offset":0,
        "length":38,"uncompressed_length":4096}}]}}]}}"#
    );
    let tree = format!(
        r#"{{"nodes":[{{"name":"disks","type":"dir","mode":2147484141,"subtree":"{id}"}},
        {{"name":"vm\\u00e9.json","type":"file","mode":420,"size":1048577,"content":["{id}","{id}"]}}]}}"#
    );
    let snapshot =
        format!(r#"{{"time":"2026-11-23T09:00:00.5Z","tree":"{id}","paths":["/"],"hostname":"h","tags":["coffer"]}}"#);
    let lock =
        r#"{"time":"2026-11-23T09:00:00Z","exclusive":true,"hostname":"h","username":"u","pid":7,"uid":0,"gid":0}"#;
    let config = format!(r#"{{"version":2,"id":"{id}","chunker_polynomial":"25b468838dcb75"}}"#);
    let key = r#"{"created":"2026-11-23T09:00:00Z","username":"u","hostname":"h","kdf":"scrypt","N":32768,"r":8,"p":1,
        "salt":"c2FsdA==","data":"ZGF0YQ=="}"#;
    let keys = format!(
        r#"{{"mac":{{"k":"{half}","r":"{half}"}},"encrypt":"{whole}"}}"#,
        half = "AAAAAAAAAAAAAAAAAAAAAA==",
        whole = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    );
    let marks = format!(
        r#"{{"version":1,"created":"2026-11-23T09:00:00Z","delete_after":"2026-11-24T09:00:00Z","packs":["{id}"]}}"#
    );
    let header: Vec<u8> =
        [&[0u8][..], &38u32.to_le_bytes(), &[1; 32], &[2], &38u32.to_le_bytes(), &4096u32.to_le_bytes(), &[2; 32]]
            .concat();
    let mut targets = vec![
        Target::text("restic-config", &[&config], |json| format::Config::parse(json.as_bytes()).is_ok()),
        Target::text("restic-key", &[key], |json| format::KeyFile::parse(json.as_bytes()).is_ok()),
        Target::text("restic-master-key", &[&keys], |json| fuzz::master_key(json.as_bytes()).is_ok()),
        Target::text("prune-marks", &[&marks], |json| fuzz::marks(json.as_bytes()).is_ok()),
        Target::new("restic-pack-header", vec![header], |header| {
            format::parse_pack_header(header).is_ok_and(|blobs: Vec<PackedBlob>| blobs.len() <= header.len())
        }),
    ];
    targets.extend(unpacked("restic-index", "restic-index-packed", &index, |plain| {
        format::IndexFile::parse(plain).map(drop)
    }));
    targets.extend(unpacked("restic-snapshot", "restic-snapshot-packed", &snapshot, |plain| {
        format::Snapshot::parse(plain).map(drop)
    }));
    targets.extend(unpacked("restic-lock", "restic-lock-packed", lock, fuzz::lock));
    targets.push(bombs(&index));
    targets.extend(trees(&tree));
    targets.extend(blobs());
    targets
}

/// A kind of file that is compressed in its seal, or not: two targets, one for each side of the compression.
fn unpacked(
    inside: &'static str,
    before: &'static str,
    json: &str,
    parse: fn(&[u8]) -> Result<(), Fault>,
) -> [Target; 2] {
    let good = vec![json.as_bytes().to_vec(), fuzz::packed(json.as_bytes())];
    [
        Target::new(inside, good, move |plain| parse(plain).is_ok()),
        Target::new(before, vec![json.as_bytes().to_vec()], move |json| parse(&fuzz::packed(json)).is_ok()),
    ]
}

/// A few KiB that say they are many MiB: of nothing, and of what grows further when it is read.
fn bombs(json: &str) -> Target {
    let spaces = fuzz::packed(&[json.as_bytes(), &vec![b' '; 64 << 20]].concat());
    let texts = fuzz::packed(format!(r#"{{"paths":[""{}]}}"#, r#","""#.repeat(20 << 20)).as_bytes());
    Target::new("restic-bombs", vec![fuzz::packed(json.as_bytes())], |plain| {
        let index = format::IndexFile::parse(plain).is_ok();
        let snapshot = format::Snapshot::parse(plain).is_ok();
        index | snapshot | fuzz::lock(plain).is_ok()
    })
    .and_odd(vec![spaces, texts])
}

fn trees(json: &str) -> [Target; 3] {
    let named = |tree: &Tree| fuzz::file_names(tree).iter().flatten().all(|name| !name.contains('/'));
    let plain_bytes = u32::try_from(json.len()).unwrap_or(u32::MAX);
    // As in an index file, without the byte that tells how it is encoded.
    let packed = |json: &[u8]| fuzz::packed(json).split_off(1);
    let good = json.as_bytes().to_vec();
    [
        Target::new("restic-tree", vec![good.clone()], move |json| Tree::parse(json).is_ok_and(|tree| named(&tree))),
        Target::new("restic-tree-inside", vec![packed(&good)], move |inside| {
            fuzz::packed_tree(inside, plain_bytes).is_ok_and(|tree| named(&tree))
        }),
        Target::new("restic-tree-packed", vec![good], move |json| {
            let plain_bytes = u32::try_from(json.len()).unwrap_or(u32::MAX);
            fuzz::packed_tree(&packed(json), plain_bytes).is_ok_and(|tree| named(&tree))
        }),
    ]
}

fn blobs() -> [Target; 3] {
    let (sealed, plain, packed) = (Sealed::default(), Sealed::default(), Sealed::default());
    let text: Vec<u8> = b"all work and no play ".iter().copied().cycle().take(BLOB as usize).collect();
    let compressed = packed.compressed(&text).unwrap_or_default();
    let genuine = sealed.seal(&text);
    let same = text.clone();
    // Whatever is changed must be noticed, hence what is opened is what was there.
    [
        Target::new("restic-seal", vec![genuine.clone()], move |input| match sealed.open(input) {
            Ok(_) => {
                assert!(input == genuine, "a changed seal was opened");
                true
            }
            Err(_) => false,
        }),
        Target::new("restic-blob", vec![text.clone()], move |inside| match plain.open_blob(&same, inside, None) {
            Ok(opened) => opened == inside && opened == same,
            Err(_) => false,
        }),
        Target::new("restic-blob-compressed", vec![compressed], move |inside| {
            // The size that an index claims may be wrong as well.
            let claim = inside.last_chunk::<4>().map_or(BLOB, |claim| u32::from_le_bytes(*claim));
            let opened = [BLOB, claim].map(|size| packed.open_blob(&text, inside, Some(size)));
            assert!(opened.iter().flatten().all(|opened| *opened == text), "another blob was opened");
            opened.iter().any(Result::is_ok)
        }),
    ]
}
