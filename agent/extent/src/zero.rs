//! Are these bytes all zero? Asked of every byte of every disk, hence fast.

/// True when every byte is zero (also for no bytes).
///
/// Looks at both ends and the middle first: real data nearly always shows there, and only zeros are read whole.
pub fn is_zero(bytes: &[u8]) -> bool {
    let probes = [bytes.first(), bytes.get(bytes.len() / 2), bytes.last()];
    if probes.into_iter().flatten().any(|&byte| byte != 0) {
        return false;
    }
    // Whole strides are folded without a branch inside, which the compiler turns into wide vector instructions.
    let (strides, rest) = bytes.as_chunks::<256>();
    strides.iter().all(|stride| stride.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zeros_of_any_length_are_zero() {
        let zeros = [0; 1000];
        assert!((0..zeros.len()).all(|len| is_zero(&zeros[..len])));
    }

    proptest! {
        #[test]
        fn one_set_bit_anywhere_is_found(len in 1usize..3000, at: prop::sample::Index, bit in 0u32..8) {
            let mut bytes = vec![0; len];
            bytes[at.index(len)] = 1 << bit;
            prop_assert!(!is_zero(&bytes));
        }
    }
}
