//! Every `--help`, held against a file, so that a review shows what people will read. After a change on purpose:
//! `COFFER_BLESS=1 cargo test -p coffer-cli --test cli`.

use std::fmt::Write;
use std::path::Path;

use clap::{Command, CommandFactory};
use coffer_cli::Cli;

fn collect(command: &Command, path: &str, all: &mut String) {
    let words = path.split(' ').skip(1).chain(["--help"]);
    let help = Cli::command().term_width(100).try_get_matches_from(["coffer"].into_iter().chain(words));
    let help = help.expect_err("help comes as an error");
    assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp, "{path}");
    writeln!(all, "$ {path} --help\n{help}").expect("text can be added to");
    for sub in command.get_subcommands() {
        collect(sub, &format!("{path} {}", sub.get_name()), all);
    }
}

#[test]
fn every_help_is_what_was_reviewed() {
    let mut all = String::new();
    collect(&Cli::command(), "coffer", &mut all);
    let all: String = all.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help.txt");
    if std::env::var_os("COFFER_BLESS").is_some() {
        std::fs::write(&path, &all).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is there");
    for (number, (found, expected)) in all.lines().zip(golden.lines()).enumerate() {
        assert_eq!(found, expected, "line {} of {}", number + 1, path.display());
    }
    assert_eq!(all.lines().count(), golden.lines().count());
}

#[test]
fn the_command_line_contradicts_itself_nowhere() {
    Cli::command().debug_assert();
}
