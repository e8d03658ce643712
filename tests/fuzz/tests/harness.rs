//! The harness sees a panic, a hang and memory without bound, and keeps what caused them: else it would prove nothing.

use std::path::Path;
use std::process::{Command, Output};

fn coffer_fuzz(folder: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_coffer-fuzz");
    Command::new(program).args(["--patience", "1"]).args(arguments).current_dir(folder).output().expect("it starts")
}

/// Runs a fake; it must fail, and the input that is kept must fail again.
fn caught(fake: &str, how: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let run = coffer_fuzz(folder.path(), &["--target", fake, "--seconds", "20", "--seed", "7"]);
    let told = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success(), "{fake} was not noticed: {told}");
    assert!(told.contains(&format!("{fake} {how}; seed 7; replay with --target {fake} --replay ")), "{told}");
    let file = told.split("--replay ").nth(1).and_then(|rest| rest.lines().next()).expect("the file is named");
    assert!(Path::new(file).is_file(), "{file} is not there");
    let again = coffer_fuzz(folder.path(), &["--target", fake, "--replay", file]);
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && told.contains(&format!("{fake} {how}; seed none")), "{told}");
}

#[test]
fn a_panic_is_caught_and_its_input_kept() {
    caught("fake-panic", "panicked");
}

#[test]
fn a_hang_is_caught_and_its_input_kept() {
    caught("fake-hang", "hangs");
}

#[test]
fn memory_that_grows_without_bound_is_caught_and_its_input_kept() {
    caught("fake-hoard", "takes more memory than its input can justify");
}

#[test]
fn one_claim_of_more_memory_than_there_is_is_caught_and_its_input_kept() {
    caught("fake-claim", "takes more memory than its input can justify");
}

#[test]
fn a_target_that_refuses_good_input_is_called_blind() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = coffer_fuzz(folder.path(), &["--target", "fake-blind", "--seconds", "0"]);
    assert!(!run.status.success());
    assert!(String::from_utf8_lossy(&run.stderr).contains("good input 0 is refused"));
}

#[test]
fn a_parser_that_behaves_passes_and_no_fake_is_among_the_targets() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(coffer_fuzz(folder.path(), &["--target", "fake-well", "--seconds", "1"]).status.success());
    let listed = coffer_fuzz(folder.path(), &["--list"]);
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("fake"));
}
