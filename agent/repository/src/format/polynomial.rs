//! The polynomial by which other programs cut files into chunks: irreducible over GF(2), of degree 53.
//!
//! We cut at fixed places and never use it; a repository must have one all the same, so that they can work with it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Degree that the format asks for.
const DEGREE: u32 = 53;
/// Random tries: one in 53 polynomials is irreducible, so this many do not all fail.
const TRIES: usize = 100_000;

/// A polynomial over GF(2); bit `n` is the coefficient of `x^n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Polynomial(u64);

impl Polynomial {
    /// A random irreducible one.
    pub(super) fn random() -> Self {
        let candidates = (0..TRIES).map(|_| Self((rand::random::<u64>() & ((1 << DEGREE) - 1)) | (1 << DEGREE) | 1));
        let mut irreducible = candidates.filter(Polynomial::is_irreducible);
        irreducible.next().expect("the chance that none of 100000 is irreducible is below 10^-800")
    }

    /// Rabin's test: `x^(2^53) = x` modulo the polynomial, and (53 being prime) no factor of degree one.
    pub(super) fn is_irreducible(&self) -> bool {
        if self.0 >> DEGREE != 1 || self.0 & 1 == 0 || self.0.count_ones().is_multiple_of(2) {
            return false;
        }
        let x = 2;
        (0..DEGREE).fold(x, |power, _| self.times(power, power)) == x
    }

    fn times(&self, mut left: u64, mut right: u64) -> u64 {
        let mut product = 0;
        while right != 0 {
            if right & 1 == 1 {
                product ^= left;
            }
            right >>= 1;
            left <<= 1;
            if left >> DEGREE == 1 {
                left ^= self.0;
            }
        }
        product
    }
}

impl Serialize for Polynomial {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Polynomial {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        u64::from_str_radix(&digits, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_polynomial_of_the_formats_manual_is_irreducible_and_its_neighbours_are_not() {
        assert!(Polynomial(0x0025_b468_838d_cb75).is_irreducible());
        for reducible in [0x0025_b468_838d_cb74, 0x0025_b468_838d_cb77, 1 << 53, (1 << 53) | 1, 3] {
            assert!(!Polynomial(reducible).is_irreducible(), "{reducible:x}");
        }
    }

    #[test]
    fn a_product_of_two_polynomials_is_not_irreducible() {
        // (x^26 + x + 1)(x^27 + x^2 + 1), multiplied by hand.
        let product = (1 << 53) | (1 << 27) | (1 << 26) | (1 << 3) | (1 << 2) | (1 << 1) | 1;
        assert!(!Polynomial(product).is_irreducible());
        assert!(Polynomial::random().is_irreducible());
    }
}
