//! zstd as the format uses it: blobs in one piece, JSON files behind a version byte.

use std::io::{self, Read};

use zstd::bulk::{Compressor, Decompressor};

use super::Fault;
use crate::options::Compression;

/// First byte of a compressed JSON file.
const ENCODING: u8 = 2;
/// Largest window that is allocated for reading: 128 MiB, what zstd itself allows by default.
const WINDOW_LOG_MAX: u32 = 27;
/// A JSON file decompresses to so many times its size at most: ids do not shrink below half, so honest ones stay far
/// below; a few bytes that say they are a gigabyte are refused before the gigabyte is taken.
const MAX_RATIO: u64 = 64;
/// But so much is always allowed: small files that repeat themselves.
const MIN_UNPACKED: u64 = 1 << 20;
/// An index decompresses to no more than this: millions of blobs.
pub(crate) const MAX_INDEX: u64 = 1 << 30;
/// Any other JSON file decompresses to no more than this.
pub(crate) const MAX_SMALL: u64 = 32 << 20;
/// A chunk is sampled in so many places...
const SAMPLES: usize = 8;
/// ... of so many bytes each.
const SAMPLE_BYTES: usize = 2 << 10;

/// Compresses and decompresses blobs; reused, since a context is large and costly to make.
pub(crate) struct Codec {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
    sample: Vec<u8>,
    compression: Compression,
}

impl Codec {
    pub(crate) fn new(compression: Compression) -> io::Result<Self> {
        let level = match compression {
            Compression::Fast => 1,
            Compression::Better => 3,
        };
        Ok(Self {
            compressor: Compressor::new(level)?,
            decompressor: Decompressor::new()?,
            sample: Vec::new(),
            compression,
        })
    }

    /// Compresses `plain` into `room`, which is as long; `None` when it does not shrink enough to be worth it.
    pub(crate) fn compress(&mut self, plain: &[u8], room: &mut [u8]) -> Option<usize> {
        let worth = plain.len() - plain.len() / 32;
        if plain.len() < 64 || (self.compression == Compression::Fast && !self.shrinks(plain, room)) {
            return None;
        }
        // Fails when the result would be longer than the room.
        self.compressor.compress_to_buffer(plain, room.get_mut(..worth)?).ok()
    }

    /// Whether a sample of `plain` shrinks by a sixteenth. Encrypted and compressed data is thus told at a tenth of the
    /// cost.
    fn shrinks(&mut self, plain: &[u8], room: &mut [u8]) -> bool {
        if plain.len() < 4 * SAMPLES * SAMPLE_BYTES {
            return true;
        }
        self.sample.clear();
        for place in plain.chunks(plain.len() / SAMPLES).take(SAMPLES) {
            let begin = place.len().saturating_sub(SAMPLE_BYTES) / 2;
            self.sample
                .extend_from_slice(place.get(begin..).unwrap_or_default().get(..SAMPLE_BYTES).unwrap_or_default());
        }
        let limit = self.sample.len() - self.sample.len() / 16;
        room.get_mut(..limit).is_some_and(|room| self.compressor.compress_to_buffer(&self.sample, room).is_ok())
    }

    /// Decompresses into exactly `room`.
    pub(crate) fn decompress(&mut self, packed: &[u8], room: &mut [u8]) -> Result<(), Fault> {
        let expected = room.len() as u64;
        let found = self.decompressor.decompress_to_buffer(packed, room).map_err(Fault::Compression)? as u64;
        if found == expected { Ok(()) } else { Err(Fault::Size { found, expected }) }
    }
}

/// The plain bytes of a JSON file.
pub(crate) fn encode_unpacked(json: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoded = vec![ENCODING];
    encoded.extend_from_slice(&zstd::bulk::compress(json, 3)?);
    Ok(encoded)
}

/// Reads the JSON out of the plain bytes of a file; the reader gives `max` bytes at most.
pub(crate) fn decode_unpacked<T>(
    plain: &[u8],
    max: u64,
    read: impl FnOnce(&mut dyn Read) -> Result<T, Fault>,
) -> Result<T, Fault> {
    match plain.split_first() {
        Some((b'{' | b'[', _)) => read(&mut &*plain),
        Some((&ENCODING, packed)) => {
            let honest = (packed.len() as u64).saturating_mul(MAX_RATIO).max(MIN_UNPACKED);
            read(&mut decoder(packed, honest.min(max))?)
        }
        Some(_) => Err(Fault::Malformed("it begins with an encoding that is not known")),
        None => Err(Fault::Cut),
    }
}

/// A reader of at most `max` decompressed bytes.
pub(crate) fn decoder(packed: &[u8], max: u64) -> Result<impl Read + '_, Fault> {
    let mut decoder = zstd::stream::Decoder::with_buffer(packed).map_err(Fault::Compression)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(Fault::Compression)?;
    Ok(decoder.take(max))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn random(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        rand::fill(&mut noise[..]);
        noise
    }

    #[test]
    fn noise_is_left_alone_and_text_shrinks() {
        for compression in [Compression::Fast, Compression::Better] {
            let mut codec = Codec::new(compression).unwrap();
            let mut room = vec![0; 1 << 20];
            assert_eq!(codec.compress(&random(1 << 20), &mut room), None);
            let text = b"all work and no play ".repeat(50_000);
            let packed = codec.compress(&text[..1 << 20], &mut room).unwrap();
            assert!(packed < 1 << 14);
            let mut back = vec![0; 1 << 20];
            codec.decompress(&room[..packed], &mut back).unwrap();
            assert!(back == text[..1 << 20]);
            assert!(codec.decompress(&room[..packed], &mut back[1..]).is_err());
        }
    }

    #[test]
    fn a_few_bytes_that_say_they_are_a_gigabyte_are_not_believed() {
        let bomb = encode_unpacked(&[&b"{"[..], &vec![b' '; 64 << 20]].concat()).unwrap();
        assert!(bomb.len() < 64 << 10, "{}", bomb.len());
        let count = |reader: &mut dyn Read| io::copy(reader, &mut io::sink()).map_err(Fault::Compression);
        assert_eq!(decode_unpacked(&bomb, MAX_INDEX, count).unwrap(), MIN_UNPACKED);
    }

    #[test]
    fn a_window_larger_than_any_honest_one_is_refused() {
        // A frame header that asks for 2 GiB: magic, descriptor, window of exponent 21, then an empty last block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
        let mut reader = decoder(&frame, MAX_SMALL).unwrap();
        assert!(io::copy(&mut reader, &mut io::sink()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let read = |reader: &mut dyn Read| {
                io::copy(reader, &mut io::sink()).map_err(Fault::Compression)
            };
            let _ = decode_unpacked(&bytes, MAX_SMALL, read);
            bytes.insert(0, ENCODING);
            let _ = decode_unpacked(&bytes, MAX_SMALL, read);
            let _ = Codec::new(Compression::Fast).unwrap().decompress(&bytes, &mut [0; 64]);
        }

        #[test]
        fn json_comes_back(json in "\\{[a-z]{0,200}\\}") {
            let encoded = encode_unpacked(json.as_bytes()).unwrap();
            let decoded = decode_unpacked(&encoded, MAX_SMALL, |reader| {
                let mut text = String::new();
                reader.read_to_string(&mut text).map_err(Fault::Compression)?;
                Ok(text)
            });
            prop_assert_eq!(decoded.unwrap(), json);
        }
    }
}
