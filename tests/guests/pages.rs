//! What the documentation shows is run, and what it says that comes of it comes of it: `scripts/examples`, page by page.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::support::guest;

const TREE: &str = env!("CARGO_MANIFEST_DIR");

/// The pages with examples; each has its test below.
const PAGES: [&str; 10] = [
    "README.md",
    "docs/access.md",
    "docs/api.md",
    "docs/cloud-init.md",
    "docs/hyperv.md",
    "docs/images.md",
    "docs/import.md",
    "docs/install.md",
    "docs/networks.md",
    "docs/operations.md",
];
/// Blocks that are shown and not run: what builds and installs, and what a person types at a console.
const MOST_NOT_RUN: usize = 6;

#[track_caller]
fn examples_run(page: &str) {
    assert!(PAGES.contains(&page));
    let mut command = Command::new(Path::new(TREE).join("scripts/examples"));
    command
        .arg(page)
        .current_dir(TREE)
        .env("QHERD", env!("CARGO_BIN_EXE_qherd"))
        .env("QHERD_TEST_GUEST", guest::image());
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_examples_of_the_readme_run() {
    examples_run("README.md");
}

#[test]
fn the_examples_of_who_may_ask_and_what_qemu_may_run() {
    examples_run("docs/access.md");
}

#[test]
fn the_examples_of_the_api_run() {
    examples_run("docs/api.md");
}

#[test]
fn the_examples_of_cloud_init_run() {
    examples_run("docs/cloud-init.md");
}

#[test]
fn the_examples_of_the_hyperv_dialect_run() {
    examples_run("docs/hyperv.md");
}

#[test]
fn the_examples_of_images_run() {
    examples_run("docs/images.md");
}

#[test]
fn the_examples_of_the_installation_run() {
    examples_run("docs/install.md");
}

#[test]
fn the_examples_of_networks_run() {
    examples_run("docs/networks.md");
}

#[test]
fn the_examples_of_operation_run() {
    examples_run("docs/operations.md");
}

/// The README and what it leads to; what is made of the code is not among them, nor are the decisions.
fn pages() -> Vec<PathBuf> {
    let docs = Path::new(TREE).join("docs").read_dir().unwrap().map(|entry| entry.unwrap().path());
    docs.filter(|path| path.is_file()).chain([Path::new(TREE).join("README.md")]).collect()
}

#[test]
fn the_examples_of_taking_vms_over_run() {
    examples_run("docs/import.md");
}

#[test]
fn every_page_with_examples_is_run_and_few_examples_are_not() {
    let mut run = BTreeSet::new();
    let mut not_run = 0;
    for path in pages().into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "md")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let page = path.strip_prefix(TREE).unwrap().to_str().unwrap().to_owned();
        let mut open = false;
        for mark in text.lines().filter_map(|line| line.strip_prefix("```")) {
            open = !open;
            match mark {
                "sh" => drop(run.insert(page.clone())),
                "console" => not_run += 1,
                // What was written, and what is neither typed nor written.
                "" | "json" | "text" => {}
                other => panic!("{page}: nobody runs blocks marked {other}"),
            }
        }
        assert!(!open, "{page}: a block has no end");
    }
    assert_eq!(run.iter().map(String::as_str).collect::<Vec<_>>(), PAGES);
    assert!(not_run <= MOST_NOT_RUN, "{not_run}");
}

#[test]
fn an_example_that_fails_and_one_that_writes_something_else_are_told_with_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.md");
    let complaint = |text: &str| {
        std::fs::write(&page, text).unwrap();
        let mut command = Command::new(Path::new(TREE).join("scripts/examples"));
        command.arg(&page).env("QHERD", env!("CARGO_BIN_EXE_qherd")).env("QHERD_TEST_GUEST", guest::image());
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let serve = "```sh\nqherd serve\n```\n";
    let other = complaint(&format!("{serve}```sh\nqherd ls\necho 7 a\n```\n```\nNAME  STATUS  ID\n8 b\n```\n"));
    assert!(other.contains("page.md:9: it shows"), "{other}");
    let failed = complaint(&format!("{serve}```sh\nqherd show nobody\n```\n"));
    assert!(failed.contains("page.md: an example failed") && failed.contains("no VM"), "{failed}");
}
