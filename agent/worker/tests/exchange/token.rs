//! An agent whose token a controller does not know.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use crate::controller::{Stage, TOKEN};

/// What is logged on this thread, on which everything of such a test runs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Every test here has to listen, though it does not look: a line that is first reached on a thread on which nobody
    /// listens counts as wanted by nobody, and is then lost to the others too.
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

#[tokio::test]
async fn a_wrong_token_is_told_once_however_often_it_is_tried_and_a_corrected_file_is_read() {
    let log = Log::default();
    let _listening = log.listen();
    let mut stage = Stage::without_agent().await;
    stage.configure(&["vault"]);
    let file = stage.folder.path().join("token");
    stage.enter("wr0ng", Some(file.clone()), &[]);
    let controller = stage.controller.clone();
    controller.until("several attempts", |script| script.refused >= 3).await;
    let said = log.text();
    assert_eq!(said.matches("does not know the token").count(), 1, "{said}");
    assert!(said.contains("api-token") && said.contains(&file.display().to_string()), "{said}");

    std::fs::write(&file, TOKEN).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    controller.until("the agent to be known", |script| script.registrations() == 1).await;
    // Looked at after every exchange; what is said may come a moment after what was asked.
    controller.until("it to say so", |_| log.text().contains("knows the token now")).await;
    let said = log.text();
    assert_eq!(said.matches("does not know the token").count(), 1, "{said}");
    assert!(!said.contains("wr0ng"), "{said}");
}

#[tokio::test]
async fn a_controller_that_gets_another_token_does_not_cost_a_task() {
    let _listening = Log::default().listen();
    let mut stage = Stage::without_agent().await;
    stage.configure(&["vault"]);
    let file = stage.folder.path().join("token");
    stage.enter(TOKEN, Some(file.clone()), &[]);
    let controller = stage.controller.clone();
    controller.until("the remote to be ready", |script| script.remotes.iter().any(|remote| remote.ready)).await;
    controller.let_records_pass(false);
    let task = controller.assign(1, 1);
    controller.until("the task to work", |script| script.waiting == 1).await;

    controller.script().token = "another".into();
    controller.until("the agent to be refused", |script| script.refused >= 2).await;
    controller.let_records_pass(true);
    std::fs::write(&file, "another").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    controller.until("the end of the task", |script| script.completed(&task) == [1]).await;
    assert_eq!(controller.script().begun(&task, 1), 1);
}
