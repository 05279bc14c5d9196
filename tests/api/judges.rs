//! The API as tools see it that nobody here wrote: schemathesis sends what both documents allow and what they do not, and a
//! client that was made of the document drives a VM. Both are on the machine by `scripts/judges-python`. Those that run in Node are in
//! `judges_node`.

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
    // By the interpreter that is there: each of them names one of where it was installed, which may have been moved.
    let mut command = tokio::process::Command::new(bin.join("python"));
    command.args((program != "python").then(|| bin.join(program)));
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

/// Makes a client of the document, and drives a VM with it through `url`.
pub async fn drive_with_a_made_client(daemon: &Daemon, url: &str) {
    let document = daemon.dir.path().join("document");
    std::fs::create_dir(&document).unwrap();
    let text = daemon.get("/openapi.json").await.expect(200).to_string();
    std::fs::write(document.join("openapi.json"), text).unwrap();
    let (from, to) = (document.join("openapi.json"), document.join("made"));
    let config = format!("{TREE}/tests/judges/openapi-python-client.yml");
    let paths = ["--config", &config, "--path", from.to_str().unwrap(), "--output-path", to.to_str().unwrap()];
    run(daemon, "openapi-python-client", &[&["generate", "--fail-on-warning", "--meta", "none"][..], &paths].concat())
        .await;
    let image = daemon.bases().join("blank.raw");
    let script = format!("{TREE}/tests/judges/client.py");
    run(daemon, "python", &[&script, document.to_str().unwrap(), url, image.to_str().unwrap()]).await;
    assert_eq!(daemon.leftovers(), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn a_client_made_of_the_document_creates_changes_starts_stops_and_deletes_a_vm() {
    let daemon = Daemon::start();
    drive_with_a_made_client(&daemon, &daemon.url).await;
}

/// Reads both notations of a document, and compares what they say.
const SAME: &str =
    "import json, sys, yaml\na, b = open(sys.argv[1]), open(sys.argv[2])\nassert json.load(a) == yaml.safe_load(b)";

#[tokio::test]
async fn the_yaml_of_both_documents_says_what_their_json_says_and_others_read_it_so() {
    let daemon = Daemon::start_with(&["--accel", "tcg", "--hyperv-listen", "127.0.0.1:0"]);
    for base in [&daemon.url, &format!("{}/hyperv", daemon.url), &daemon.hyperv_url] {
        let files = ["json", "yaml"].map(|notation| daemon.dir.path().join(format!("openapi.{notation}")));
        for (file, media_type) in files.iter().zip(["application/json", "application/yaml"]) {
            let url = format!("{base}/{}", file.file_name().unwrap().to_str().unwrap());
            let head = daemon.http().head(&url).send().await.unwrap();
            assert_eq!((head.status().as_u16(), &head.headers()["content-type"]), (200, &media_type.parse().unwrap()));
            let text = daemon.http().get(&url).send().await.unwrap().text().await.unwrap();
            std::fs::write(file, text).unwrap();
        }
        // In block style, one thing to a line.
        let yaml = std::fs::read_to_string(&files[1]).unwrap();
        assert!(yaml.lines().any(|line| line == "openapi: 3.1.0") && !yaml.starts_with("---"), "{yaml}");
        run(&daemon, "python", &["-c", SAME, files[0].to_str().unwrap(), files[1].to_str().unwrap()]).await;
    }
}
