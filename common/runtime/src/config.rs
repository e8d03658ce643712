//! Configuration: one TOML file, overridden by `COFFER_*` variables. What is wrong is said in one line that names the
//! place, the key and what is expected; the program then ends with [`Exit::Usage`](crate::exit::Exit::Usage).

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// What a variable may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A whole number.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// Texts separated by commas.
    List,
}

/// A variable that overrides a key of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Override {
    /// Name of the variable, as `COFFER_LISTEN`.
    pub variable: &'static str,
    /// The key that it overrides, with dots between tables: `store.path`.
    pub key: &'static str,
    /// What it may hold.
    pub kind: Kind,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}:{line}: not TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A variable does not hold what it should.
    #[error("{variable}: expected {expected}, found {found:?}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
    /// A key is unknown, missing or of the wrong type.
    #[error("{origin}: {message}")]
    Key {
        /// Where values came from.
        origin: String,
        /// What is wrong, naming the key and what is expected.
        message: String,
    },
}

/// Reads the configuration: the file if one is given (it must exist), then the variables of `overrides` that are set.
/// `variable` looks a variable up: `|name| std::env::var(name).ok()` in programs.
///
/// `T` decides what is valid: let it refuse unknown fields, and put checks into the types of its fields.
///
/// # Errors
/// [`Error`], whose text is the one line to show.
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    overrides: &[Override],
    variable: impl Fn(&str) -> Option<String>,
) -> Result<T, Error> {
    let mut table = match file {
        Some(path) => read(path)?,
        None => Table::new(),
    };
    let mut origins: Vec<String> = file.iter().map(|path| path.display().to_string()).collect();
    for entry in overrides {
        let Some(text) = variable(entry.variable) else { continue };
        origins.push(entry.variable.to_owned());
        let value = parse(entry, text)?;
        set(&mut table, entry, value)?;
    }
    let origin = if origins.is_empty() { "configuration".to_owned() } else { origins.join(" + ") };
    Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| Error::Key { origin, message: one_line(&error.to_string()) })
}

fn read(path: &Path) -> Result<Table, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    text.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        Error::Syntax { path: path.to_owned(), line, message: one_line(error.message()) }
    })
}

fn parse(entry: &Override, text: String) -> Result<Value, Error> {
    let (value, expected) = match entry.kind {
        Kind::Text => return Ok(Value::String(text)),
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            return Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()));
        }
        Kind::Integer => (text.trim().parse().ok().map(Value::Integer), "a whole number"),
        Kind::Boolean => (text.trim().parse().ok().map(Value::Boolean), "true or false"),
    };
    value.ok_or(Error::Variable { variable: entry.variable, expected, found: text })
}

fn set(table: &mut Table, entry: &Override, value: Value) -> Result<(), Error> {
    let (parents, leaf) = match entry.key.rsplit_once('.') {
        Some((parents, leaf)) => (Some(parents), leaf),
        None => (None, entry.key),
    };
    let mut place = table;
    for part in parents.into_iter().flat_map(|parents| parents.split('.')) {
        let next = place.entry(part).or_insert_with(|| Value::Table(Table::new()));
        place = next.as_table_mut().ok_or_else(|| Error::Key {
            origin: entry.variable.to_owned(),
            message: format!("cannot set `{}`: `{part}` is not a table in the file", entry.key),
        })?;
    }
    place.insert(leaf.to_owned(), value);
    Ok(())
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Config {
        listen: std::net::SocketAddr,
        store: Store,
        hosts: Vec<String>,
    }

    #[derive(Debug, PartialEq, Default, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Store {
        path: String,
        megabytes: u32,
        sync: bool,
    }

    impl Default for Config {
        fn default() -> Self {
            Self { listen: ([127, 0, 0, 1], 7420).into(), store: Store::default(), hosts: Vec::new() }
        }
    }

    const OVERRIDES: &[Override] = &[
        Override { variable: "COFFER_LISTEN", key: "listen", kind: Kind::Text },
        Override { variable: "COFFER_STORE_MEGABYTES", key: "store.megabytes", kind: Kind::Integer },
        Override { variable: "COFFER_STORE_SYNC", key: "store.sync", kind: Kind::Boolean },
        Override { variable: "COFFER_HOSTS", key: "hosts", kind: Kind::List },
    ];

    /// Variables and what they hold.
    type Variables<'a> = &'a [(&'a str, &'a str)];

    fn check(file: &str, variables: Variables<'_>) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coffer.toml");
        std::fs::write(&path, file).unwrap();
        let look_up = |name: &str| variables.iter().find(|entry| entry.0 == name).map(|entry| entry.1.to_owned());
        load(Some(&path), OVERRIDES, look_up)
            .map_err(|error| error.to_string().replace(&path.display().to_string(), "coffer.toml"))
    }

    #[test]
    fn variables_override_the_file_and_the_file_overrides_defaults() {
        let config = check(
            "listen = '127.0.0.1:1'\n[store]\npath = 'a'\nmegabytes = 1\n",
            &[("COFFER_STORE_MEGABYTES", "2"), ("COFFER_STORE_SYNC", "true"), ("COFFER_HOSTS", "a, b,")],
        )
        .unwrap();
        assert_eq!(config.listen, ([127, 0, 0, 1], 1).into());
        assert_eq!(config.store, Store { path: "a".into(), megabytes: 2, sync: true });
        assert_eq!(config.hosts, ["a", "b"]);
        assert_eq!(load::<Config>(None, OVERRIDES, |_| None).unwrap(), Config::default());
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_with_place_and_key() {
        let cases: &[(&str, Variables<'_>, &[&str])] = &[
            ("listen = \n", &[], &["coffer.toml:1: not TOML"]),
            ("\n\nlisten = 'x'\nlisten = 'y'\n", &[], &["coffer.toml:4: not TOML", "duplicate key"]),
            ("listen = 'nowhere'", &[], &["coffer.toml: ", "listen", "socket address"]),
            ("[store]\nmegabytes = 'much'", &[], &["coffer.toml: ", "expected u32", "store.megabytes"]),
            (
                "[store]\ncolour = 1",
                &[],
                &["coffer.toml: ", "unknown field `colour`", "expected one of `path`", "store"],
            ),
            (
                "",
                &[("COFFER_STORE_MEGABYTES", "much")],
                &["COFFER_STORE_MEGABYTES: expected a whole number, found \"much\""],
            ),
            (
                "",
                &[("COFFER_STORE_SYNC", "perhaps")],
                &["COFFER_STORE_SYNC: expected true or false, found \"perhaps\""],
            ),
            ("store = 1", &[("COFFER_STORE_SYNC", "true")], &["COFFER_STORE_SYNC: cannot set `store.sync`"]),
            ("", &[("COFFER_LISTEN", "nowhere")], &["COFFER_LISTEN", "listen", "socket address"]),
        ];
        for (file, variables, expected) in cases {
            let error = check(file, variables).unwrap_err();
            assert!(!error.contains('\n'), "{error:?}");
            for part in *expected {
                assert!(error.contains(part), "{error:?} should contain {part:?}");
            }
        }
        let gone = load::<Config>(Some(Path::new("gone.toml")), OVERRIDES, |_| None).unwrap_err();
        assert_eq!(gone.to_string(), "gone.toml: cannot be read");
    }
}
