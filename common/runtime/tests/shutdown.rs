//! The first signal asks, the second one insists. Signals belong to a process, so the program runs itself as a child.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use coffer_runtime::shutdown;
use rustix::process::{Pid, Signal, kill_process};

fn main() {
    if std::env::args().nth(1).as_deref() == Some("child") {
        child();
    } else {
        a_second_signal_ends_a_program_that_does_not_stop();
        say("test a_second_signal_ends_a_program_that_does_not_stop ... ok");
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).expect("somebody should listen");
}

/// Watches for signals, and never stops by itself.
fn child() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime should start");
    runtime.block_on(async {
        let stop = shutdown::on_signals().expect("signals can be watched");
        say("ready");
        stop.cancelled().await;
        say("stopping");
        std::future::pending::<()>().await;
    });
}

fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    lines.next().expect("the child should go on").expect("the child should be readable")
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id")).expect("a process id is not zero");
    kill_process(pid, signal).expect("the child is ours");
}

fn a_second_signal_ends_a_program_that_does_not_stop() {
    let program = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(program).arg("child").stdout(Stdio::piped()).spawn().expect("a child should start");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    assert_eq!(next(&mut lines), "ready");
    signal(&child, Signal::TERM);
    assert_eq!(next(&mut lines), "stopping");
    assert!(child.try_wait().expect("the child is ours").is_none(), "the first signal should only ask");
    signal(&child, Signal::INT);
    assert_eq!(child.wait().expect("the child is ours").code(), Some(130));
}
