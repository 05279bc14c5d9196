//! `qherd db` and the exports that the daemon makes of itself: what is written comes back, nothing is lost on the way,
//! and a damaged store leads to words that help.

mod support;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime},
};

use serde_json::json;
use support::{Daemon, PATIENCE};

fn db(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
    command.arg("db").args(args).arg("--state-dir").arg(state).current_dir(state.parent().unwrap());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QHERD_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

/// The command succeeds; what it says on standard output.
#[track_caller]
fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout).to_owned()
}

/// The command fails with one message that holds every one of `words`.
#[track_caller]
fn refused(command: &mut Command, words: &[&str]) -> Output {
    let output = command.output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    output
}

/// The records' lines of an export.
fn records(state: &Path) -> Vec<String> {
    lines(&done(&mut db(state, &["export"])))
}

fn lines(export: &str) -> Vec<String> {
    let lines: Vec<_> = export.lines().map(str::to_owned).collect();
    assert!(lines[0].starts_with("{\"qherd_export\":1,") && lines[lines.len() - 1].starts_with("{\"records\":"));
    lines[1..lines.len() - 1].to_vec()
}

/// An export of these lines.
fn export(lines: &[String]) -> String {
    let head = r#"{"qherd_export":1,"by":"a test","at":"2026-11-22T00:00:00Z"}"#;
    format!("{head}\n{}{{\"records\":{}}}\n", lines.iter().map(|l| format!("{l}\n")).collect::<String>(), lines.len())
}

fn import(state: &Path, lines: &[String], args: &[&str]) -> Command {
    let file = state.parent().unwrap().join("import.jsonl");
    fs::write(&file, export(lines)).unwrap();
    let mut all = vec!["import", file.to_str().unwrap()];
    all.extend(args);
    db(state, &all)
}

/// Files of the state directory whose names begin so.
fn beside(state: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(state).unwrap().map(|e| e.unwrap());
    entries.filter(|e| e.file_name().to_str().unwrap().starts_with(prefix)).map(|e| e.path()).collect()
}

fn exports(daemon: &Daemon) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(daemon.state().join("exports")).unwrap().map(|e| e.unwrap().path()).collect();
    found.sort();
    found
}

/// Every file below a folder with its bytes.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            found.extend(contents(&entry));
        } else {
            found.push((entry.clone(), fs::read(&entry).unwrap()));
        }
    }
    found.sort();
    found
}

/// Records of a store beside its VMs: the last boot of the host.
const OTHERS: usize = 1;

async fn stopped_with_vms(count: usize) -> (Daemon, Vec<String>) {
    let mut daemon = Daemon::start();
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(daemon.create(daemon.wish()).await);
    }
    assert!(daemon.terminate().success());
    (daemon, ids)
}

#[tokio::test]
async fn an_export_imported_elsewhere_gives_the_same_bytes_also_of_unknown_kinds_and_newer_versions() {
    let (daemon, ids) = stopped_with_vms(2).await;
    let mut expected = records(&daemon.state());
    assert_eq!(expected.len(), 2 + OTHERS);
    expected.insert(0, r#"{"name":"future/ü","value":{"v":7,"sha":"x","body":[1.50, "\u00e4"]}}"#.into());
    expected.insert(1, r#"{"name":"future/z","value_hex":"00ff0a"}"#.into());
    expected.push(r#"{"name":"vm/newer","value":{"v":999,"data":{"b":1,"a":2}}}"#.into());
    expected.sort_by_key(|line| line.split('"').nth(3).unwrap().to_owned());
    let other = daemon.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    assert!(done(&mut import(&other, &expected, &[])).contains("6 records imported"));
    assert_eq!(records(&other), expected);
    // Through a file, and standard input, once more.
    let file = daemon.dir.path().join("again.jsonl");
    done(&mut db(&other, &["export", file.to_str().unwrap()]));
    refused(&mut db(&other, &["export", file.to_str().unwrap()]), &["again.jsonl", "File exists"]);
    let third = daemon.dir.path().join("third");
    fs::create_dir(&third).unwrap();
    done(db(&third, &["import", "-"]).stdin(fs::File::open(&file).unwrap()));
    assert_eq!(records(&third), expected);
    let output = db(&other, &["check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(said.contains("bad: record vm/newer has version 999"), "{said}");
    assert!(said.contains("future: 2 (this qherd does not know them)") && said.contains("vm: 3"), "{said}");
    assert!(done(&mut db(&daemon.state(), &["check"])).contains("vm: 2\nall records can be read"), "{ids:?}");
}

#[tokio::test]
async fn an_import_replaces_only_when_told_to_and_sets_the_store_before_aside() {
    let (mut daemon, ids) = stopped_with_vms(2).await;
    let state = daemon.state();
    let before = records(&state);
    let one: Vec<_> = before.iter().filter(|line| line.contains(&ids[0])).cloned().collect();
    refused(&mut import(&state, &one, &[]), &["is not empty", "--replace"]);
    assert_eq!(records(&state), before);
    let said = done(&mut import(&state, &one, &["--replace"]));
    let aside = beside(&state, "db.replaced-");
    assert!(aside.len() == 1 && said.contains(aside[0].to_str().unwrap()), "{said} {aside:?}");
    assert_eq!(records(&state), one);
    daemon.run();
    assert_eq!(daemon.status(&ids[0]).await, "stopped");
    daemon.get(&format!("/vms/{}", ids[1])).await.expect(404);
    assert!(daemon.terminate().success());
    // What was set aside is as it was.
    let old = daemon.dir.path().join("old");
    fs::create_dir(&old).unwrap();
    fs::rename(&aside[0], old.join("db")).unwrap();
    assert_eq!(records(&old), before);
}

#[tokio::test]
async fn a_file_that_is_no_whole_export_changes_nothing() {
    let (daemon, _) = stopped_with_vms(1).await;
    let state = daemon.state();
    let before = records(&state);
    let file = daemon.dir.path().join("bad.jsonl");
    let whole = done(&mut db(&state, &["export"]));
    let half = &whole[..whole.len() - 30];
    let bad = [("", "does not begin"), (half, "not whole"), ("[1,2]\n", "does not begin")];
    let altered = whole.replace("\"vcpus\":1", "\"vcpus\":2");
    for (text, why) in bad.into_iter().chain([(altered.as_str(), "checksum")]) {
        fs::write(&file, text).unwrap();
        refused(&mut db(&state, &["import", "--replace", file.to_str().unwrap()]), &["bad.jsonl", why]);
    }
    refused(&mut db(&state, &["import", "--replace", "/nonexistent"]), &["/nonexistent"]);
    assert_eq!(records(&state), before);
    assert_eq!(beside(&state, "db."), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_crash_in_an_import_leaves_the_old_store_or_the_new_one() {
    let (daemon, ids) = stopped_with_vms(2).await;
    let state = daemon.state();
    let both = records(&state);
    let one: Vec<_> = both.iter().filter(|line| line.contains(&ids[0])).cloned().collect();
    let (mut old, mut new, mut kills) = (both.clone(), one, 0);
    // What an import takes; the kills are spread over it.
    let began = std::time::Instant::now();
    done(&mut import(&state, &old, &["--replace"]));
    let mut whole = began.elapsed();
    for step in 0.. {
        if kills == 20 {
            break;
        }
        let began = std::time::Instant::now();
        let mut child =
            import(&state, &new, &["--replace"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * (step % 12) / 10);
        match child.try_wait().unwrap() {
            None => kills += 1,
            // Too late: the host is less busy than it was.
            Some(_) => whole = whole.min(began.elapsed()) * 9 / 10,
        }
        let _ = child.kill();
        child.wait().unwrap();
        let found = records(&state);
        assert!(found == old || found == new, "neither: {found:?}");
        if found == new {
            std::mem::swap(&mut old, &mut new);
        }
    }
    // Every store that was replaced is still there, whole.
    for aside in beside(&state, "db.replaced-") {
        let place = daemon.dir.path().join("look");
        fs::create_dir_all(&place).unwrap();
        fs::rename(aside, place.join("db")).unwrap();
        let found = records(&place);
        assert!(found == old || found == new, "neither: {found:?}");
        fs::remove_dir_all(place).unwrap();
    }
}

#[tokio::test]
async fn while_a_daemon_runs_the_commands_name_its_pid_and_what_to_do() {
    let (mut daemon, _) = stopped_with_vms(1).await;
    daemon.run();
    let newest = exports(&daemon).pop().unwrap();
    let pid = format!("(pid {})", daemon.pid());
    for args in [&["check"][..], &["export"], &["restore"], &["import", newest.to_str().unwrap()]] {
        refused(
            &mut db(&daemon.state(), args),
            &[&pid, "Stop it first", "VMs go on running", newest.to_str().unwrap()],
        );
    }
    refused(db(Path::new("/nonexistent/state"), &["check"]).current_dir("/"), &["/nonexistent/state", "--state-dir"]);
    daemon.get("/health").await.expect(200);
}

#[tokio::test]
async fn one_unreadable_record_keeps_no_other_vm_down_and_loses_nothing() {
    let (mut daemon, ids) = stopped_with_vms(2).await;
    let state = daemon.state();
    let damaged: Vec<_> = records(&state)
        .iter()
        .map(|l| if l.contains(&ids[0]) { l.replace("\"memory\":64", "\"memory\":65") } else { l.clone() })
        .collect();
    done(&mut import(&state, &damaged, &["--replace"]));
    let disks = daemon.leftovers();
    daemon.run();
    daemon.post(&format!("/vms/{}/start", ids[1]), json!({})).await.expect(200);
    assert!(daemon.log_text().contains(&format!("vm=\"{}\"", ids[0])), "{}", daemon.log_text());
    for answer in [daemon.get(&format!("/vms/{}", ids[0])).await, daemon.delete(&format!("/vms/{}", ids[0])).await] {
        let body = answer.expect(500);
        let detail = body["error"]["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("vm/{}", ids[0])) && detail.contains("checksum"), "{detail}");
    }
    assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 1);
    daemon.delete(&format!("/vms/{}", ids[1])).await.expect(200);
    assert!(daemon.terminate().success());
    let output = db(&state, &["check"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains(&format!("bad: record vm/{} cannot be read", ids[0])), "{output:?}");
    let theirs: Vec<_> = damaged.into_iter().filter(|l| l.contains(&ids[0])).collect();
    let vms: Vec<_> = records(&state).into_iter().filter(|l| l.contains("\"vm/")).collect();
    assert_eq!(vms, theirs, "kept to the letter");
    let image = disks.iter().find(|d| d.ends_with("root.qcow2") && d.display().to_string().contains(&ids[0])).unwrap();
    assert!(image.exists(), "{disks:?}");
}

#[tokio::test]
async fn a_record_of_a_newer_version_stops_the_start_before_any_vm_is_touched() {
    let (daemon, _) = stopped_with_vms(1).await;
    let state = daemon.state();
    let mut newer = records(&state);
    newer.push(r#"{"name":"vm/newer","value":{"v":999}}"#.into());
    done(&mut import(&state, &newer, &["--replace"]));
    refused(&mut daemon.command(), &["vm/newer", "version 999", "start the newer qherd again"]);
    assert_eq!(records(&state), newer);
}

#[tokio::test]
async fn a_clean_stop_exports_what_has_changed_and_the_last_seven_are_kept() {
    let mut daemon = Daemon::start();
    let mut newest = Vec::new();
    for count in 1..=9 {
        let id = daemon.create(daemon.wish()).await;
        assert!(daemon.terminate().success());
        let export = fs::read_to_string(exports(&daemon).pop().unwrap()).unwrap();
        assert!(lines(&export).len() == count + OTHERS && export.contains(&id));
        newest.push(exports(&daemon).pop().unwrap());
        daemon.run();
    }
    assert!(daemon.terminate().success());
    // Nothing had changed since.
    assert_eq!(exports(&daemon), newest[2..]);
    let named = newest.iter().map(|p| p.file_name().unwrap().to_str().unwrap());
    let numbers: Vec<u32> = named.map(|name| name.split_once('-').unwrap().0.parse().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers[8] - numbers[0] == 8, "{numbers:?}");
    assert_eq!(lines(&fs::read_to_string(&newest[8]).unwrap()), records(&daemon.state()));
}

#[tokio::test]
async fn a_running_daemon_exports_once_a_day() {
    let (mut daemon, _) = stopped_with_vms(1).await;
    let yesterday = exports(&daemon).pop().unwrap();
    let old = SystemTime::now() - Duration::from_secs(25 * 3600);
    fs::File::options().append(true).open(&yesterday).unwrap().set_modified(old).unwrap();
    daemon.run();
    let deadline = std::time::Instant::now() + PATIENCE;
    while fs::metadata(&yesterday).unwrap().modified().unwrap() == old {
        assert!(std::time::Instant::now() < deadline, "{:?}\n{}", exports(&daemon), daemon.log_text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Nothing had changed, so it is as good as new.
    let count = exports(&daemon).len();
    daemon.kill();
    fs::File::options().append(true).open(&yesterday).unwrap().set_modified(old).unwrap();
    let extra = records(&daemon.state());
    let mut more = extra.clone();
    more.push(r#"{"name":"zz/1","value":1}"#.into());
    done(&mut import(&daemon.state(), &more, &["--replace"]));
    daemon.run();
    while exports(&daemon).len() == count {
        assert!(std::time::Instant::now() < deadline, "{:?}\n{}", exports(&daemon), daemon.log_text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Alters every file of the store whose name begins so.
fn damage(state: &Path, prefix: &str) {
    let files = beside(&state.join("db"), prefix);
    assert!(!files.is_empty());
    for file in files {
        let length = fs::metadata(&file).unwrap().len();
        let mut file = fs::File::options().write(true).open(&file).unwrap();
        file.write_all(&vec![0x5a; usize::try_from(length).unwrap()]).unwrap();
    }
}

/// The daemon refuses, says how to restore, and leaves the store as it is.
#[track_caller]
fn refuses_to_start(daemon: &Daemon) {
    let state = daemon.state();
    let before = contents(&state.join("db"));
    let command = format!("qherd db restore --state-dir {}", state.display());
    refused(&mut daemon.command(), &["is damaged", &command, "machines are not affected"]);
    refused(&mut db(&state, &["check"]), &["is damaged", &command]);
    assert_eq!(contents(&state.join("db")), before, "the damaged store was touched");
}

#[tokio::test]
async fn a_store_with_damaged_snapshots_is_restored_from_itself() {
    let mut daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let qemu = daemon.qemus();
    daemon.kill();
    // sled writes a snapshot when it opens.
    let before = records(&daemon.state());
    damage(&daemon.state(), "snap.");
    refuses_to_start(&daemon);
    let damaged = contents(&daemon.state().join("db"));
    let said = done(&mut db(&daemon.state(), &["restore"]));
    assert!(said.contains("restored 2 records from the damaged store itself"), "{said}");
    let aside = beside(&daemon.state(), "db.damaged-").pop().unwrap();
    let strip = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
        files.into_iter().map(|(path, bytes)| (path.file_name().unwrap().to_owned(), bytes)).collect()
    };
    assert_eq!(strip(contents(&aside)), strip(damaged), "set aside as it was");
    assert_eq!(records(&daemon.state()), before);
    refused(&mut db(&daemon.state(), &["restore"]), &["nothing to restore", "--from"]);
    daemon.run();
    assert_eq!(daemon.status(&id).await, "running");
    assert_eq!(daemon.qemus(), qemu, "the same process throughout");
}

#[tokio::test]
async fn a_store_of_which_nothing_is_left_is_restored_from_the_newest_export() {
    let (mut daemon, ids) = stopped_with_vms(2).await;
    daemon.run();
    // Not in any export.
    let late = daemon.create(daemon.wish()).await;
    daemon.kill();
    let newest = exports(&daemon).pop().unwrap();
    for part in ["snap.", "db", "conf"] {
        damage(&daemon.state(), part);
    }
    refuses_to_start(&daemon);
    let said = done(&mut db(&daemon.state(), &["restore"]));
    assert!(said.contains(&format!("restored 3 records from the export {}", newest.display())), "{said}");
    assert!(said.contains(&format!("VM {late} has disks but no record")), "{said}");
    assert_eq!(beside(&daemon.state(), "db.damaged-").len(), 1);
    daemon.run();
    let reported = daemon.log_text();
    assert!(reported.contains("disks of VMs that are not recorded") && reported.contains(&late), "{reported}");
    for id in &ids {
        daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    }
    assert!(daemon.leftovers().iter().any(|file| file.display().to_string().contains(&late)), "never removed");
}

#[tokio::test]
async fn without_a_snapshot_and_without_an_export_nothing_is_done() {
    let (mut daemon, _) = stopped_with_vms(1).await;
    // sled writes a snapshot when it opens.
    daemon.run();
    daemon.kill();
    fs::remove_dir_all(daemon.state().join("exports")).unwrap();
    for part in ["snap.", "db", "conf"] {
        damage(&daemon.state(), part);
    }
    let before = contents(&daemon.state());
    refused(&mut db(&daemon.state(), &["restore"]), &["nothing can be saved", "no export", "--from"]);
    assert_eq!(contents(&daemon.state()).len(), before.len());
}
