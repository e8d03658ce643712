//! A whole life at the command line, against a controller in this process and an agent that plays.

use std::path::PathBuf;
use std::sync::Arc;

use coffer_controller::{Controller, Handle, ServeOptions, Timings};
use coffer_store::MemoryStore;
use tempfile::TempDir;

use crate::agent::{self, FINGERPRINT, NEW_VM, SR, VMS};
use crate::support::{Done, coffer};

/// A controller, and an agent if wanted.
struct Site {
    controller: Handle,
    folder: TempDir,
}

impl Site {
    async fn start(with_agent: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder should be made");
        let options = ServeOptions {
            timings: Timings::short(),
            ..ServeOptions::new(Arc::new(MemoryStore::new()), folder.path())
        };
        let controller = Controller::serve(options).await.expect("a controller should start");
        if with_agent {
            tokio::spawn(agent::play(controller.local_addr().to_string(), controller.api_token().to_owned()));
        }
        Self { controller, folder }
    }

    async fn coffer(&self, arguments: &[&str]) -> Done {
        let server = self.controller.local_addr().to_string();
        let token: PathBuf = self.folder.path().join("api-token");
        let mut all = vec!["--server", &server, "--token-file", token.to_str().expect("the path is text")];
        all.extend(arguments);
        // What is read from the standard input is always a password.
        coffer(&all, "correct horse\n").await
    }

    /// A site with a pool and a remote.
    async fn ready() -> Self {
        let site = Self::start(true).await;
        let pool = ["pool", "add", "lab", "--host", "192.0.2.10", "--password-file", "-", "--accept-certificate"];
        assert!(site.coffer(&pool).await.ok().contains("connected"));
        let remote = ["remote", "add", "nas", "--path", "/backups", "--password-file", "-"];
        assert!(site.coffer(&remote).await.ok().contains("ready"));
        site
    }
}

fn columns(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[tokio::test]
async fn a_pool_is_trusted_only_when_its_certificate_was_confirmed() {
    let site = Site::start(true).await;
    let add = ["pool", "add", "lab", "--host", "192.0.2.10", "--password-file", "-"];
    let done = site.coffer(&add).await;
    assert_eq!(done.code, 65, "{}{}", done.out, done.err);
    assert!(done.err.contains("no password was sent"), "{}", done.err);
    assert!(
        done.err.contains(&format!("advice: confirm it with `coffer pool update lab --fingerprint {FINGERPRINT}`")),
        "{}",
        done.err
    );
    let update = ["-o", "json", "pool", "update", "lab", "--fingerprint", FINGERPRINT];
    assert_eq!(site.coffer(&update).await.json()["fingerprint"], FINGERPRINT);
    let shown = site.coffer(&["pool", "show", "pools/lab"]).await;
    assert!(!shown.out.contains("correct horse") && !shown.err.contains("correct horse"));
    assert!(shown.ok().contains(FINGERPRINT));
}

#[tokio::test]
async fn machines_are_backed_up_listed_verified_restored_and_deleted() {
    let site = Site::ready().await;
    let vms = site.coffer(&["pool", "vms", "lab"]).await.ok();
    assert_eq!(columns(vms.lines().nth(1).unwrap()), ["db", "Running", "1", "8.00 GiB", "prod", VMS[1].1]);
    let srs = site.coffer(&["pool", "srs", "lab"]).await.ok();
    assert_eq!(columns(srs.lines().nth(1).unwrap()), ["Local storage", "ext", "no", "500 GiB", "400 GiB", SR]);

    let create = ["job", "create", "nightly", "--pool", "lab", "--tag", "prod", "--remote", "nas"];
    assert!(site.coffer(&create).await.ok().contains("pool lab, with tag prod"));
    let done = site.coffer(&["job", "run", "nightly", "--follow"]).await;
    assert!(done.out.contains("web: SUCCEEDED"), "{}{}", done.out, done.err);
    assert!(done.ok().contains("SUCCEEDED: "));
    let tree = site.coffer(&["run", "show", "nightly@latest"]).await.ok();
    assert!(tree.contains("2 tasks") && tree.contains("─ transfer"), "{tree}");
    let runs = site.coffer(&["-o", "json", "run", "list", "--job", "nightly"]).await.json();
    assert_eq!((runs[0]["state"].as_str(), runs[0]["kind"].as_str()), (Some("SUCCEEDED"), Some("BACKUP")));

    let points = site.coffer(&["-o", "json", "backup", "list", "--vm", "web"]).await.json();
    assert_eq!((points.as_array().unwrap().len(), points[0]["vm_uuid"].as_str()), (1, Some(VMS[0].1)));
    let id = points[0]["name"].as_str().unwrap().trim_start_matches("restorePoints/").to_owned();
    assert!(site.coffer(&["backup", "show", &id]).await.ok().contains("nightly by hand"));
    site.coffer(&["backup", "verify", "web@latest"]).await.ok();
    let verified = site.coffer(&["-o", "json", "backup", "show", "web@latest"]).await.json();
    assert!(verified["verified_time"].is_string(), "{verified}");
    site.coffer(&["backup", "export", "web@latest", "--format", "qcow2", "--folder", "/var/tmp"]).await.ok();

    let restored = site.coffer(&["restore", "web@latest", "--sr", "local storage", "--name", "web2"]).await.ok();
    assert!(restored.contains(NEW_VM), "{restored}");
    let missing = site.coffer(&["restore", "web@latest", "--sr", "nowhere"]).await;
    assert_eq!((missing.code, missing.err.lines().count()), (65, 2), "{}", missing.err);

    let unasked = site.coffer(&["backup", "delete", "db@latest"]).await;
    assert_eq!(unasked.code, 65);
    let last = site.coffer(&["backup", "delete", "db@latest", "--yes"]).await;
    assert_eq!(last.code, 65, "{}", last.err);
    site.coffer(&["backup", "delete", "db@latest", "--yes", "--allow-last"]).await.ok();
    let left = site.coffer(&["-o", "json", "backup", "list"]).await.json();
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");

    site.coffer(&["remote", "scan", "nas", "--detach"]).await.ok();
    site.coffer(&["remote", "prune", "nas", "--dry-run"]).await.ok();
    let agents = site.coffer(&["agent", "list"]).await.ok();
    assert_eq!(columns(agents.lines().nth(1).unwrap())[..2], ["rack-1", "online"]);
}

#[tokio::test]
async fn a_run_is_cancelled_and_its_exit_code_says_so_to_whoever_followed() {
    let site = Site::ready().await;
    site.coffer(&["job", "create", "slow", "--vm", "web", "--remote", "nas"]).await.ok();
    let started = site.coffer(&["-o", "json", "job", "run", "slow"]).await.json();
    let run = started["name"].as_str().unwrap().trim_start_matches("runs/").to_owned();
    let (follow, cancel) = (["run", "follow", &run], ["run", "cancel", &run]);
    let (followed, cancelled) = tokio::join!(site.coffer(&follow), site.coffer(&cancel));
    assert_eq!((followed.code, cancelled.code), (1, 0), "{}{}", followed.out, cancelled.err);
    assert!(followed.out.contains("CANCELLED"), "{}", followed.out);
    let active = site.coffer(&["-o", "json", "run", "list", "--active"]).await.json();
    assert_eq!(active.as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn jobs_and_schedules_are_changed_paused_and_removed() {
    let site = Site::ready().await;
    let nothing = site.coffer(&["job", "create", "empty", "--remote", "nas"]).await;
    assert_eq!(nothing.code, 64, "{}", nothing.err);
    site.coffer(&["job", "create", "nightly", "--vm", "lab/web", "--remote", "nas", "--concurrency", "1"]).await.ok();
    let edit = ["-o", "json", "job", "edit", "nightly", "--pool", "lab", "--clear", "vms", "--exclude-tag", "scratch"];
    let job = site.coffer(&edit).await.json();
    assert_eq!(job["selection"]["pools"], serde_json::json!(["pools/lab"]));
    assert_eq!((job["selection"]["vms"].as_array().map(Vec::len), job["concurrency"].as_u64()), (Some(0), Some(1)));

    let add = [
        "schedule",
        "add",
        "nightly",
        "daily",
        "--cron",
        "0 3 * * *",
        "--time-zone",
        "Europe/Paris",
        "--retention",
        "14",
    ];
    let shown = site.coffer(&add).await.ok();
    assert_eq!(columns(shown.lines().nth(1).unwrap())[..5], ["nightly", "daily", "0 3 * * *", "Europe/Paris", "14"]);
    let wrong = site.coffer(&["schedule", "add", "nightly", "odd", "--cron", "0 3 * *"]).await;
    assert_eq!(wrong.code, 64, "{}", wrong.err);
    assert!(wrong.err.contains("4 fields"), "{}", wrong.err);
    let edited = ["-o", "json", "schedule", "edit", "nightly", "daily", "--paused", "true", "--catch-up", "30m"];
    let edited = site.coffer(&edited).await.json();
    assert_eq!((edited["paused"].as_bool(), edited["catch_up_window"].as_u64()), (Some(true), Some(1800)));
    assert!(site.coffer(&["schedule", "list"]).await.ok().contains("paused"));

    site.coffer(&["job", "pause", "nightly"]).await.ok();
    assert!(site.coffer(&["job", "list"]).await.ok().contains("paused"));
    site.coffer(&["job", "resume", "nightly"]).await.ok();
    let busy = site.coffer(&["pool", "remove", "lab"]).await;
    assert_eq!(
        (busy.code, busy.err.lines().next().is_some_and(|line| line.contains("nightly"))),
        (65, true),
        "{}",
        busy.err
    );
    site.coffer(&["schedule", "remove", "nightly", "daily"]).await.ok();
    site.coffer(&["job", "delete", "nightly"]).await.ok();
    site.coffer(&["pool", "remove", "lab"]).await.ok();
    site.coffer(&["remote", "remove", "nas"]).await.ok();
    assert!(site.coffer(&["job", "list"]).await.ok().starts_with("No jobs yet"));
}

#[tokio::test]
async fn a_wrong_token_is_told_and_nothing_else() {
    let site = Site::start(false).await;
    let wrong = site.folder.path().join("wrong");
    std::fs::write(&wrong, "0000\n").expect("a file should be written");
    let server = site.controller.local_addr().to_string();
    let arguments = ["--server", &server, "--token-file", wrong.to_str().expect("the path is text"), "job", "list"];
    let done = coffer(&arguments, "").await;
    assert_eq!(done.code, 77, "{}", done.err);
    assert!(done.err.contains("advice: name the token file of this controller"), "{}", done.err);
}

#[tokio::test]
async fn a_name_that_does_not_exist_brings_to_mind_the_one_that_was_meant() {
    let site = Site::ready().await;
    site.coffer(&["job", "create", "nightly", "--vm", "web", "--remote", "nas"]).await.ok();
    site.coffer(&["schedule", "add", "nightly", "daily", "--cron", "0 3 * * *"]).await.ok();
    let cases: [(&[&str], &str, u8); 6] = [
        (&["job", "run", "nigthly"], "\"nightly\"? `coffer job list`", 65),
        (&["pool", "show", "lap"], "\"lab\"? `coffer pool list`", 65),
        (&["schedule", "edit", "nightly", "dayly", "--paused", "true"], "\"daily\"? `coffer schedule list`", 65),
        (&["job", "create", "more", "--vm", "webb", "--remote", "nas"], "\"web\"? `coffer pool vms POOL`", 65),
        (&["job", "create", "more", "--vm", "web", "--remote", "nass"], "\"nas\"? `coffer remote list`", 65),
        (&["remote", "scan", "elsewhere"], "advice: `coffer remote list` shows all", 65),
    ];
    for (arguments, meant, code) in cases {
        let done = site.coffer(arguments).await;
        assert_eq!((done.code, done.err.contains(meant)), (code, true), "{arguments:?}: {}", done.err);
    }
}

impl Done {
    /// The standard output of a command that must have succeeded.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// The standard output, as JSON, of a command that must have succeeded.
    pub(crate) fn json(self) -> serde_json::Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }
}
