//! The API as tools see it that nobody here wrote: schemathesis sends what both documents allow and what they do not, and a
//! client that was made of the document drives a VM. Both are on the machine by `scripts/judges-python`.

use std::{path::PathBuf, process::Command};

use crate::{
    hyperv,
    support::{Daemon, netns},
};

const TREE: &str = env!("CARGO_MANIFEST_DIR");

/// Where the judges' programs are.
fn judges() -> PathBuf {
    let made = Command::new(format!("{TREE}/scripts/judges-python")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().into()
}

/// Runs it and sees that it ends well; the runtime goes on meanwhile.
async fn run(daemon: &Daemon, program: &str, args: &[&str]) {
    let bin = judges();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = tokio::process::Command::new(bin.join(program));
    command.args(args).current_dir(daemon.dir.path()).env("HOME", daemon.dir.path()).env("PATH", path);
    let output = command.kill_on_drop(true).output().await.unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}\n{said}\n{complained}");
}

/// Everything that the document at `url` describes, with data that it allows, at its bounds and beyond them.
async fn judge(daemon: &Daemon, url: &str) {
    let config = format!("{TREE}/tests/judges/schemathesis.toml");
    let document = format!("{url}/openapi.json");
    let how =
        ["--max-examples", "6", "--seed", "1", "--request-timeout", "30", "--phases", "examples,coverage,fuzzing"];
    run(daemon, "schemathesis", &[&["--config-file", &config, "run", &document][..], &how].concat()).await;
    // Nothing that was sent has done harm.
    daemon.get("/health").await.expect(200);
    assert!(!daemon.log_text().contains("panicked"), "{}", daemon.log_text());
}

#[tokio::test]
async fn schemathesis_finds_nothing_that_the_kvm_document_does_not_say() {
    let _ = netns::Host::leave();
    let daemon = Daemon::start();
    judge(&daemon, &daemon.url).await;
}

#[tokio::test]
async fn schemathesis_finds_nothing_that_the_hyperv_document_does_not_say() {
    let _ = netns::Host::leave();
    let daemon = hyperv::started();
    judge(&daemon, &daemon.hyperv_url).await;
}

#[tokio::test]
async fn a_client_made_of_the_document_creates_changes_starts_stops_and_deletes_a_vm() {
    let daemon = Daemon::start();
    let document = daemon.dir.path().join("document");
    std::fs::create_dir(&document).unwrap();
    let text = daemon.get("/openapi.json").await.expect(200).to_string();
    std::fs::write(document.join("openapi.json"), text).unwrap();
    let (from, to) = (document.join("openapi.json"), document.join("made"));
    let paths = ["--path", from.to_str().unwrap(), "--output-path", to.to_str().unwrap()];
    run(&daemon, "openapi-python-client", &[&["generate", "--fail-on-warning", "--meta", "none"][..], &paths].concat())
        .await;
    let image = daemon.bases().join("blank.raw");
    let script = format!("{TREE}/tests/judges/client.py");
    run(&daemon, "python", &[&script, document.to_str().unwrap(), &daemon.url, image.to_str().unwrap()]).await;
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
}
