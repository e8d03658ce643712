//! Numbers of things, as people say them.

/// `1 disk`, `2 disks`.
#[must_use]
pub fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
