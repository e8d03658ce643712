//! Makes bad input out of good: flips, cuts, repeats, inserts, and numbers that parsers trip over.

use rand::rngs::SmallRng;
use rand::{Rng, RngExt};

/// Values at the edges of the fields of binary formats.
const EDGES: [u64; 10] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, 0xffff_ffff_ffff_ffff];

/// Changes `input` in one to eight places; it grows to `limit` bytes at most.
pub(crate) fn mutate(input: &mut Vec<u8>, limit: usize, random: &mut SmallRng) {
    for _ in 0..random.random_range(1..=8) {
        if input.is_empty() {
            input.push(random.random());
        }
        let at = random.random_range(0..input.len());
        match random.random_range(0..8) {
            0 => input[at] ^= 1 << random.random_range(0..8),
            1 => input[at] = random.random(),
            2 => input.truncate(at),
            3 => put_edge(&mut input[at..], random),
            4 => {
                let end = random.random_range(at..=input.len().min(at + 512));
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            5 => {
                let end = random.random_range(at..=input.len());
                input.drain(at..end);
            }
            6 => {
                let mut piece = vec![0; random.random_range(1..64)];
                random.fill_bytes(&mut piece);
                input.splice(at..at, piece);
            }
            _ => {
                let end = random.random_range(at..=input.len());
                let byte = *[0x00, 0xff, b'"', b'0', b'{'].get(random.random_range(0..5)).unwrap_or(&0);
                input[at..end].fill(byte);
            }
        }
        input.truncate(limit);
    }
}

/// Overwrites a field of 1, 2, 4 or 8 bytes with an edge value, in either byte order.
fn put_edge(field: &mut [u8], random: &mut SmallRng) {
    let width = (1usize << random.random_range(0..4)).min(field.len());
    let value = EDGES[random.random_range(0..EDGES.len())];
    let bytes = if random.random() { value.to_be_bytes() } else { value.to_le_bytes() };
    let bytes = if random.random() { &bytes[8 - width..] } else { &bytes[..width] };
    field[..width].copy_from_slice(bytes);
}
