//! How XAPI's values are read leniently: numbers as text, null references, dates.

use serde::{Deserialize, Deserializer};

use crate::Ref;

/// A number, or its decimal text; `-1` and other negatives ("not known") become 0 in an unsigned field.
pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(u64::try_from(integer(deserializer)?).unwrap_or(0))
}

pub(super) fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Integer(i64),
        Text(String),
    }
    match Number::deserialize(deserializer)? {
        Number::Integer(number) => Ok(number),
        Number::Text(text) => text.parse().map_err(|_| serde::de::Error::custom("not a number")),
    }
}

/// A reference that may be null.
pub(super) fn nullable<'de, D: Deserializer<'de>, C>(deserializer: D) -> Result<Option<Ref<C>>, D::Error> {
    Ok(Ref::new(&String::deserialize(deserializer)?))
}

/// References, the null ones left out.
pub(super) fn references<'de, D: Deserializer<'de>, C>(deserializer: D) -> Result<Vec<Ref<C>>, D::Error> {
    Ok(Vec::<String>::deserialize(deserializer)?.iter().filter_map(|text| Ref::new(text)).collect())
}

/// A date in UTC; `None` for the epoch, which means "never", and for a form nobody knows.
pub(super) fn date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<jiff::Timestamp>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let date = parse_date(&text).filter(|date| *date != jiff::Timestamp::UNIX_EPOCH);
    Ok(date)
}

fn parse_date(text: &str) -> Option<jiff::Timestamp> {
    let civil = text.strip_suffix('Z').unwrap_or(text);
    let civil: jiff::civil::DateTime = civil.parse().ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_with_and_without_their_zone() {
        for text in ["20230305T18:18:29Z", "20230305T18:18:29", "2023-03-05T18:18:29Z"] {
            assert_eq!(parse_date(text).unwrap().as_second(), 1_678_040_309, "{text}");
        }
        assert_eq!(parse_date("soon"), None);
    }
}
