//! AES-256 in counter mode with Poly1305-AES: `IV ‖ ciphertext ‖ MAC`.
//!
//! The counter is the whole 16-byte IV, big-endian, as every other program of this format counts.

use aes::Aes128;
use aes::cipher::{BlockEncrypt, KeyInit};
use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use poly1305::Poly1305;
use poly1305::universal_hash::UniversalHash;
use zeroize::Zeroize;

use super::Fault;

/// Bytes of the initialisation vector in front.
pub(crate) const IV_BYTES: usize = 16;
const MAC_BYTES: usize = 16;
/// What sealing adds.
pub(crate) const OVERHEAD: usize = IV_BYTES + MAC_BYTES;
/// Encrypted and authenticated in steps of this size, so that the second reads what the first left in the cache.
const STEP: usize = 16 << 10;

/// AES-256 in counter mode, from one place on.
struct Counter {
    key: EncryptingKey,
    next: u128,
}

impl Counter {
    fn new(key: &[u8; 32], iv: [u8; IV_BYTES]) -> Self {
        let key = UnboundCipherKey::new(&AES_256, key).and_then(EncryptingKey::ctr);
        Self { key: key.expect("32 bytes are a key of AES-256"), next: u128::from_be_bytes(iv) }
    }

    /// Encrypts, or decrypts, what comes next. All but the last piece are whole blocks.
    fn apply(&mut self, text: &mut [u8]) {
        let place = EncryptionContext::Iv128(FixedLength::from(self.next.to_be_bytes()));
        self.key.less_safe_encrypt(text, place).expect("counter mode takes any number of bytes");
        self.next = self.next.wrapping_add(text.len().div_ceil(IV_BYTES) as u128);
    }
}

/// The keys of a repository, or those derived from a password.
#[derive(Clone)]
pub(crate) struct MasterKey {
    pub(crate) encrypt: [u8; 32],
    pub(crate) mac_k: [u8; 16],
    pub(crate) mac_r: [u8; 16],
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.encrypt.zeroize();
        self.mac_k.zeroize();
        self.mac_r.zeroize();
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

impl MasterKey {
    pub(crate) fn random() -> Self {
        let mut key = Self { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        rand::fill(&mut key.encrypt);
        rand::fill(&mut key.mac_k);
        rand::fill(&mut key.mac_r);
        key
    }

    /// From the 64 bytes that a password is derived to.
    pub(crate) fn from_derived(bytes: &[u8; 64]) -> Self {
        let mut key = Self { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        key.encrypt.copy_from_slice(&bytes[..32]);
        key.mac_k.copy_from_slice(&bytes[32..48]);
        key.mac_r.copy_from_slice(&bytes[48..]);
        key
    }

    /// Seals in place: `sealed` is room for the IV, the plain bytes, and room for the MAC.
    pub(crate) fn seal_in_place(&self, sealed: &mut [u8]) {
        let (front, rest) = sealed.split_at_mut(IV_BYTES);
        let (text, mac) = rest.split_at_mut(rest.len() - MAC_BYTES);
        let mut iv = [0; IV_BYTES];
        rand::fill(&mut iv);
        front.copy_from_slice(&iv);
        let (mut counter, mut poly) = self.begin(iv);
        let whole = text.len() - text.len() % STEP;
        let (steps, tail) = text.split_at_mut(whole);
        for step in steps.chunks_exact_mut(STEP) {
            counter.apply(step);
            poly.update_padded(step);
        }
        counter.apply(tail);
        mac.copy_from_slice(&poly.compute_unpadded(tail));
    }

    pub(crate) fn seal(&self, plain: &[u8]) -> Vec<u8> {
        let mut sealed = vec![0; plain.len() + OVERHEAD];
        sealed[IV_BYTES..IV_BYTES + plain.len()].copy_from_slice(plain);
        self.seal_in_place(&mut sealed);
        sealed
    }

    /// Opens in place and returns the plain bytes, a part of `sealed`. On failure `sealed` is of no use.
    pub(crate) fn open_in_place<'sealed>(&self, sealed: &'sealed mut [u8]) -> Result<&'sealed mut [u8], Fault> {
        let (iv, rest) = sealed.split_first_chunk_mut().ok_or(Fault::Cut)?;
        let (text, mac) = rest.split_last_chunk_mut().ok_or(Fault::Cut)?;
        self.open_text(*iv, text, mac, |_, _| {})?;
        Ok(text)
    }

    /// Opens into `room`, which has exactly the length of the plain bytes. On failure what is in `room` is of no use.
    pub(crate) fn open_into(&self, sealed: &[u8], room: &mut [u8]) -> Result<(), Fault> {
        let (iv, rest) = sealed.split_first_chunk().ok_or(Fault::Cut)?;
        let (text, mac) = rest.split_last_chunk().ok_or(Fault::Cut)?;
        if text.len() != room.len() {
            return Err(Fault::Size { found: text.len() as u64, expected: room.len() as u64 });
        }
        self.open_text(*iv, room, mac, |at, step| step.copy_from_slice(&text[at..at + step.len()]))
    }

    /// Fetches, authenticates and decrypts `text` step by step: one pass through the cache.
    fn open_text(
        &self,
        iv: [u8; IV_BYTES],
        text: &mut [u8],
        mac: &[u8; MAC_BYTES],
        fetch: impl Fn(usize, &mut [u8]),
    ) -> Result<(), Fault> {
        let (mut counter, mut poly) = self.begin(iv);
        let whole = text.len() - text.len() % STEP;
        let (steps, tail) = text.split_at_mut(whole);
        for (number, step) in steps.chunks_exact_mut(STEP).enumerate() {
            fetch(number * STEP, step);
            poly.update_padded(step);
            counter.apply(step);
        }
        fetch(whole, tail);
        let expected = poly.compute_unpadded(tail);
        // No early exit: the time taken says nothing about the code.
        if expected.iter().zip(mac).fold(0, |differs, (left, right)| differs | (left ^ right)) != 0 {
            return Err(Fault::Authentication);
        }
        counter.apply(tail);
        Ok(())
    }

    fn begin(&self, iv: [u8; IV_BYTES]) -> (Counter, Poly1305) {
        let mut key = poly1305::Key::default();
        key[..16].copy_from_slice(&self.mac_r);
        let mut pad = aes::Block::from(iv);
        Aes128::new(&self.mac_k.into()).encrypt_block(&mut pad);
        key[16..].copy_from_slice(&pad);
        let poly = Poly1305::new(&key);
        key.as_mut_slice().zeroize();
        (Counter::new(&self.encrypt, iv), poly)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_one_flipped_bit_does_not(
            plain in proptest::collection::vec(any::<u8>(), 0..200),
            repeat in 1_usize..200,
            flip in any::<prop::sample::Index>(),
        ) {
            let (key, plain) = (MasterKey::random(), plain.repeat(repeat));
            let sealed = key.seal(&plain);
            prop_assert_eq!(sealed.len(), plain.len() + OVERHEAD);
            let mut opened = sealed.clone();
            prop_assert_eq!(&*key.open_in_place(&mut opened).unwrap(), &plain[..]);
            let mut room = vec![0; plain.len()];
            key.open_into(&sealed, &mut room).unwrap();
            prop_assert_eq!(&room, &plain);
            prop_assert!(key.open_into(&sealed, &mut vec![0; plain.len() + 1]).is_err());
            let mut damaged = sealed.clone();
            let bit = flip.index(sealed.len() * 8);
            damaged[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(key.open_into(&damaged, &mut room).is_err());
            prop_assert!(key.open_in_place(&mut damaged).is_err());
            prop_assert!(MasterKey::random().open_in_place(&mut sealed.clone()).is_err());
        }

        #[test]
        fn any_bytes_are_opened_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(MasterKey::random().open_in_place(&mut bytes).is_err());
        }
    }

    #[test]
    fn the_counter_carries_through_all_its_bytes() {
        let key = [7_u8; 32];
        let aes = aes::Aes256::new(&key.into());
        for carry in [32, 64, 96, 128] {
            // Two blocks around the carry, by hand and in one go.
            let start = u128::MAX >> (128 - carry);
            let mut by_hand = Vec::new();
            for counter in [start, start.wrapping_add(1)] {
                let mut block = aes::Block::from(counter.to_be_bytes());
                aes.encrypt_block(&mut block);
                by_hand.extend_from_slice(&block);
            }
            for steps in [16, 32] {
                let mut text = [0_u8; 32];
                let mut counter = Counter::new(&key, start.to_be_bytes());
                text.chunks_mut(steps).for_each(|step| counter.apply(step));
                assert_eq!(text.to_vec(), by_hand, "carry out of bit {carry}");
            }
        }
    }
}
