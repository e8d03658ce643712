//! Disk content: reproducible bytes for writes, digests and sparse copies of what is there. Blocking.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use pool_disks::{BLOCK, Disk, ReadAt};
use sha2::{Digest as _, Sha256};

use crate::control::{Content, Digest, Write as GuestWrite, Written};
use crate::value::{Failure, Outcome};

/// Unit of [`GuestWrite::Percent`].
const CHUNK: u64 = 1 << 20;
/// Largest buffer.
const PIECE: u64 = 4 << 20;

/// Fills a buffer with bytes that depend on the seed and their absolute offset (a multiple of 8) only.
pub(crate) fn fill(buffer: &mut [u8], seed: u64, offset: u64) {
    for (at, word) in (offset / 8..).zip(buffer.chunks_mut(8)) {
        let bytes = mix(seed ^ mix(at)).to_le_bytes();
        word.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }
}

/// A well-mixed number (the finaliser of SplitMix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `count` of `total` things, chosen by the seed, ascending.
fn choose(seed: u64, count: u64, total: u64) -> Vec<u64> {
    let mut ranked: Vec<(u64, u64)> = (0..total).map(|n| (mix(seed ^ mix(n)), n)).collect();
    ranked.sort_unstable();
    let mut chosen: Vec<u64> =
        ranked.into_iter().take(usize::try_from(count).unwrap_or(usize::MAX)).map(|(_, n)| n).collect();
    chosen.sort_unstable();
    chosen
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of few things"
)]
fn share(total: u64, percent: f64, least: u64) -> u64 {
    ((total as f64 * percent.clamp(0.0, 100.0) / 100.0).round() as u64).clamp(least.min(total), total)
}

/// Puts the first content onto a new disk.
pub(crate) fn put(disk: &Disk, content: &Content) -> Outcome<()> {
    match content {
        Content::Empty => Ok(()),
        Content::File { path } => Ok(disk.store().import_file(disk.id(), Path::new(path))?),
        Content::Seeded { seed, percent } => {
            let size = disk.size()?;
            for block in choose(*seed, share(size.div_ceil(BLOCK), *percent, 0), size.div_ceil(BLOCK)) {
                let offset = block * BLOCK;
                random(disk, offset, BLOCK.min(size - offset), *seed)?;
            }
            Ok(())
        }
    }
}

fn random(disk: &Disk, offset: u64, length: u64, seed: u64) -> Outcome<()> {
    let mut buffer = Vec::new();
    let mut at = offset;
    while at < offset + length {
        let piece = PIECE.min(offset + length - at);
        buffer.resize(usize::try_from(piece).map_err(Failure::internal)?, 0);
        fill(&mut buffer, seed, at);
        disk.write_at(at, &buffer)?;
        at += piece;
    }
    Ok(())
}

/// Carries out a guest's write.
pub(crate) fn write(disk: &Disk, write: &GuestWrite) -> Outcome<Written> {
    use base64::Engine;
    let size = disk.size()?;
    let ranges = match write {
        GuestWrite::Bytes { offset, base64 } => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(base64).map_err(Failure::internal)?;
            disk.write_at(*offset, &bytes)?;
            vec![(*offset, bytes.len() as u64)]
        }
        GuestWrite::Random { offset, length, seed } => {
            random(disk, *offset, *length, *seed)?;
            vec![(*offset, *length)]
        }
        GuestWrite::Zeros { offset, length } => {
            disk.zero_at(*offset, *length)?;
            vec![(*offset, *length)]
        }
        GuestWrite::Percent { percent, seed } => {
            let chunks = size.div_ceil(CHUNK);
            let mut ranges = Vec::new();
            for chunk in choose(*seed, share(chunks, *percent, 1), chunks) {
                let (offset, length) = (chunk * CHUNK, CHUNK.min(size - chunk * CHUNK));
                random(disk, offset, length, *seed)?;
                ranges.push((offset, length));
            }
            ranges
        }
    };
    Ok(Written { ranges })
}

/// Reads a disk from start to end; zeros of blocks that nothing allocates are not read.
fn scan(disk: &Disk, mut each: impl FnMut(u64, &[u8], bool) -> Outcome<()>) -> Outcome<u64> {
    let size = disk.size()?;
    let mut allocated = disk.allocated(None)?.into_iter().peekable();
    let length = usize::try_from(BLOCK).map_err(Failure::internal)?;
    let (zeros, mut buffer) = (vec![0; length], vec![0; length]);
    for block in 0..size.div_ceil(BLOCK) {
        let offset = block * BLOCK;
        let length = usize::try_from(BLOCK.min(size - offset)).map_err(Failure::internal)?;
        let is_allocated = allocated.next_if(|next| u64::from(*next) == block).is_some();
        if is_allocated {
            let piece = buffer.get_mut(..length).ok_or_else(|| Failure::internal("buffer"))?;
            disk.read_at(offset, piece)?;
            each(offset, piece, true)?;
        } else {
            each(offset, zeros.get(..length).unwrap_or_default(), false)?;
        }
    }
    Ok(size)
}

/// SHA-256 of a disk.
pub(crate) fn digest(disk: &Disk) -> Outcome<Digest> {
    let mut hash = Sha256::new();
    let size = scan(disk, |_, bytes, _| {
        hash.update(bytes);
        Ok(())
    })?;
    Ok(Digest { sha256: hex::encode(hash.finalize()), size })
}

/// Copies a disk to a sparse file.
pub(crate) fn copy_to(disk: &Disk, path: &Path) -> Outcome<Digest> {
    let mut file = File::create(path).map_err(Failure::internal)?;
    let mut hash = Sha256::new();
    let size = scan(disk, |offset, bytes, is_allocated| {
        hash.update(bytes);
        if is_allocated {
            file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes)).map_err(Failure::internal)?;
        }
        Ok(())
    })?;
    file.set_len(size).map_err(Failure::internal)?;
    Ok(Digest { sha256: hex::encode(hash.finalize()), size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_depends_on_seed_and_offset_only() {
        let (mut whole, mut part) = (vec![0; 64], vec![0; 16]);
        fill(&mut whole, 7, 1024);
        fill(&mut part, 7, 1024 + 32);
        assert_eq!(whole[32..48], part[..]);
        fill(&mut part, 8, 1024 + 32);
        assert_ne!(whole[32..48], part[..]);
    }

    #[test]
    fn choices_are_reproducible_ascending_and_as_many_as_asked() {
        let chosen = choose(3, share(1000, 1.0, 1), 1000);
        assert_eq!(chosen.len(), 10);
        assert_eq!(chosen, choose(3, 10, 1000));
        assert!(chosen.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(share(10, 0.1, 1), 1);
    }
}
