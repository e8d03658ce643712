//! Which versions of etcd are known to break a promise that this store relies on. Pure.

/// The oldest versions without the bugs named here, one for each line that is still maintained.
const FIXED: &str = "3.5.28, 3.6.9 or any later version";

/// A bug of etcd, and the first version of each line (3.4, 3.5, 3.6) without it.
struct Bug {
    what: &'static str,
    fixed: [u64; 3],
}

/// The lines that [`Bug::fixed`] speaks of, by their minor number.
const LINES: [u64; 3] = [4, 5, 6];

const BUGS: [Bug; 3] = [
    Bug { what: "an old leader can end leases that are kept alive", fixed: [31, 13, 0] },
    Bug { what: "a lease that has ended can be reported as kept alive", fixed: [38, 23, 5] },
    Bug { what: "a member that was paused can answer with old data", fixed: [42, 28, 9] },
];

/// What an operator should know about a server of this version; `None` when nothing is known against it.
#[must_use]
pub fn warning(version: &str) -> Option<String> {
    let Some((major, minor, patch)) = parse(version) else {
        return Some(format!("its version {version:?} cannot be told, so neither can its bugs; use {FIXED}"));
    };
    if (major, minor) < (3, LINES[0]) {
        return Some(format!("etcd {version} is older than anything this was tested with; use {FIXED}"));
    }
    let line = LINES.iter().position(|line| (major, *line) == (3, minor))?;
    let bugs: Vec<&str> = BUGS.iter().filter(|bug| patch < bug.fixed[line]).map(|bug| bug.what).collect();
    if bugs.is_empty() {
        return None;
    }
    Some(format!("etcd {version} has known bugs: {}; use {FIXED}", bugs.join("; ")))
}

/// The three numbers of a version; what follows a `-` or `+` (`3.6.0-rc.1`) does not count.
fn parse(version: &str) -> Option<(u64, u64, u64)> {
    let numbers = version.split(['-', '+']).next()?;
    let mut numbers = numbers.split('.').map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Some((major, minor, patch)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_known_bug_is_named_up_to_the_version_that_fixed_it_and_no_further() {
        let (early, reported, stale) = ("an old leader", "reported as kept alive", "paused");
        for (version, named) in [
            ("3.4.23", vec![early, reported, stale]),
            ("3.4.30", vec![early, reported, stale]),
            ("3.4.31", vec![reported, stale]),
            ("3.4.38", vec![stale]),
            ("3.4.42", vec![]),
            ("3.5.0", vec![early, reported, stale]),
            ("3.5.12", vec![early, reported, stale]),
            ("3.5.13", vec![reported, stale]),
            ("3.5.23", vec![stale]),
            ("3.5.27", vec![stale]),
            ("3.5.28", vec![]),
            ("3.6.0-rc.1", vec![reported, stale]),
            ("3.6.4", vec![reported, stale]),
            ("3.6.5", vec![stale]),
            ("3.6.8+dirty", vec![stale]),
            ("3.6.9", vec![]),
            ("3.6.10", vec![]),
            ("3.7.0", vec![]),
            ("4.0.0", vec![]),
        ] {
            let said = warning(version);
            for bug in [early, reported, stale] {
                let says = said.as_deref().is_some_and(|text| text.contains(bug));
                assert_eq!(says, named.contains(&bug), "{version}: {bug}: {said:?}");
            }
            assert_eq!(said.is_some(), !named.is_empty(), "{version}: {said:?}");
        }
    }

    #[test]
    fn a_version_that_is_too_old_or_no_version_is_warned_of() {
        for version in ["3.3.27", "2.3.8", "", "3.5", "3.5.x", "3.5.1.2", "latest"] {
            let said = warning(version).unwrap_or_else(|| panic!("{version} should be warned of"));
            assert!(said.contains("use 3.5.28"), "{said}");
        }
    }
}
