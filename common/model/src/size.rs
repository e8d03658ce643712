//! Numbers of bytes, for people.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes. Shown in binary units: `1.5 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u32); 6] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("PiB", 50), ("EiB", 60)];

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((unit, shift)) = UNITS.into_iter().rev().find(|(_, shift)| self.0 >> shift > 0) else {
            return formatter.pad(&format!("{} B", self.0));
        };
        let whole = self.0 >> shift;
        let rest = u128::from(self.0 - (whole << shift));
        let decimals = if whole < 10 { 2 } else { usize::from(whole < 100) };
        // Cut off, never rounded up: 1023.99 MiB is not a GiB.
        let fraction = (rest * 10_u128.pow(u32::try_from(decimals).unwrap_or(0))) >> shift;
        if decimals == 0 {
            formatter.pad(&format!("{whole} {unit}"))
        } else {
            formatter.pad(&format!("{whole}.{fraction:0decimals$} {unit}"))
        }
    }
}

/// A text is not a number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a size; expected a whole number with or without a unit, as 512 MiB, 1MiB, 4G or 1048576")]
pub struct SizeError {
    text: String,
}

impl FromStr for ByteSize {
    type Err = SizeError;

    /// Reads `1048576`, `1 MiB`, `1MiB`, `1M`; units are powers of 1024, in either case.
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError { text: text.to_owned() };
        let trimmed = text.trim();
        let split = trimmed.find(|character: char| !character.is_ascii_digit()).unwrap_or(trimmed.len());
        let (digits, unit) = trimmed.split_at(split);
        let number: u64 = digits.parse().map_err(|_| error())?;
        let unit = unit.trim().to_ascii_lowercase();
        let shift = match unit.as_str() {
            "" | "b" => 0,
            unit => {
                let same = |name: &str| {
                    let name = name.to_ascii_lowercase();
                    unit == name || name.strip_suffix("ib") == Some(unit)
                };
                UNITS.into_iter().find(|(name, _)| same(name)).ok_or_else(error)?.1
            }
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_with_three_figures_and_never_rounded_up() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536 << 20, "1.50 GiB"),
            ((1 << 30) - 1, "1023 MiB"),
            (10 << 30, "10.0 GiB"),
            (123_456_789, "117 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), shown);
        }
        assert_eq!(format!("{:>9}|", ByteSize(1024)), " 1.00 KiB|");
    }

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in
            [("0", 0), ("1048576", 1 << 20), ("1 MiB", 1 << 20), ("4G", 4 << 30), ("64kib", 65536), (" 7 B ", 7)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "1.5 GiB", "-1", "1 MB", "1 parsec", "16 EiB", "99999999999999999999"] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert!(error.to_string().contains("expected"), "{error}");
        }
    }
}
