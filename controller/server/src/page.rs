//! Pages of lists: a token is the place of the last entry, so that changes between pages neither repeat nor lose
//! others.

use crate::fault::Fault;

const DEFAULT_SIZE: usize = 100;
const LARGEST_SIZE: usize = 1000;

/// In which order the places come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Rising,
    Falling,
}

/// A page out of `entries`, which are sorted by their place here; the token of the next page is empty on the last.
pub(crate) fn page<T>(
    mut entries: Vec<(String, T)>,
    order: Order,
    size: u32,
    token: &str,
) -> Result<(Vec<T>, String), Fault> {
    let size = match usize::try_from(size).unwrap_or(LARGEST_SIZE) {
        0 => DEFAULT_SIZE,
        asked => asked.min(LARGEST_SIZE),
    };
    let after = match token {
        "" => None,
        token => Some(
            hex::decode(token)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| Fault::invalid("page_token", "must be the `next_page_token` of the previous answer"))?,
        ),
    };
    entries.sort_by(|(a, _), (b, _)| match order {
        Order::Rising => a.cmp(b),
        Order::Falling => b.cmp(a),
    });
    let mut rest = entries.into_iter().filter(|(place, _)| match (&after, order) {
        (None, _) => true,
        (Some(after), Order::Rising) => place > after,
        (Some(after), Order::Falling) => place < after,
    });
    let mut shown = Vec::new();
    let mut last = String::new();
    for (place, entry) in rest.by_ref().take(size) {
        last = place;
        shown.push(entry);
    }
    let next = if rest.next().is_some() { hex::encode(last) } else { String::new() };
    Ok((shown, next))
}

/// A place that sorts by time, then by id.
pub(crate) fn by_time(time: jiff::Timestamp, id: &str) -> String {
    // Shifted, so that times before 1970 sort too.
    format!("{:040} {id}", time.as_nanosecond() + i128::from(i64::MAX) * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_show_every_entry_once_though_others_come_and_go_between_them() {
        let entries = |ids: &[u32]| ids.iter().map(|id| (format!("{id:03}"), *id)).collect::<Vec<_>>();
        let (first, token) = page(entries(&[3, 1, 2, 5, 4]), Order::Rising, 2, "").unwrap();
        assert_eq!(first, [1, 2]);
        let (second, token) = page(entries(&[1, 3, 4, 5, 0]), Order::Rising, 2, &token).unwrap();
        assert_eq!(second, [3, 4]);
        let (third, token) = page(entries(&[5]), Order::Rising, 2, &token).unwrap();
        assert_eq!((third, token.as_str()), (vec![5], ""));
        let (newest, token) = page(entries(&[1, 2, 3]), Order::Falling, 2, "").unwrap();
        assert_eq!(newest, [3, 2]);
        assert_eq!(page(entries(&[1, 2, 3, 4]), Order::Falling, 2, &token).unwrap().0, [1]);
    }

    #[test]
    fn a_page_token_that_was_never_given_is_refused() {
        assert!(
            matches!(page::<()>(vec![], Order::Rising, 0, "zz"), Err(Fault::Invalid { field, .. }) if field == "page_token")
        );
    }
}
