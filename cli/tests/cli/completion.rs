//! Completions are programs in the languages of shells: the shell itself judges what is printed.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::support::coffer;

#[tokio::test]
async fn the_completions_for_bash_are_what_bash_reads_and_complete_commands() {
    let done = coffer(&["completion", "bash"], "").await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    // Asks as `complete` would after `coffer `, `coffer schedule ` and `coffer backup l`.
    let ask = r#"
for words in "coffer  1" "coffer schedule  2" "coffer backup l 2"; do
    IFS=' ' read -r -a COMP_WORDS <<< "${words% *}"
    COMP_CWORD=${words##* }
    COMPREPLY=()
    _coffer coffer "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
    echo "${COMPREPLY[*]}"
done
complete -p coffer
"#;
    for arguments in [&["-n"][..], &["--norc", "--noprofile", "-s"]] {
        let mut bash = Command::new("bash");
        bash.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut bash = bash.spawn().expect("bash is there");
        let mut input = bash.stdin.take().expect("standard input is piped");
        input.write_all(format!("{}\n{ask}", done.out).as_bytes()).expect("bash reads it all");
        drop(input);
        let output = bash.wait_with_output().expect("bash ends");
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && complained.is_empty(), "bash {arguments:?}: {complained}");
        if arguments == ["-n"] {
            continue;
        }
        let lines: Vec<_> = said.lines().collect();
        let has = |line: &str, words: &[&str]| words.iter().all(|word| line.split(' ').any(|found| found == *word));
        assert_eq!(lines.len(), 4, "{said}");
        assert!(has(lines[0], &["pool", "job", "restore", "completion"]), "{said}");
        assert!(has(lines[1], &["add", "list"]), "{said}");
        assert_eq!(lines[2], "list", "{said}");
        assert!(lines[3].contains("_coffer"), "{said}");
    }
}
