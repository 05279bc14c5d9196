//! A store that is damaged, in one record or as a whole: nothing more is lost, and the words help. And the exports that
//! the daemon makes of itself against that day.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::db::{
    OF_A_VM, OTHERS, beside, contents, db, done, exports, import, lines, records, refused, stopped_with_vms, text,
};
use crate::support::{Daemon, PATIENCE};
use serde_json::json;

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
    let of_vms = |l: &String| ["\"vm/", "\"run/", "\"layer/"].iter().any(|kind| l.contains(kind));
    let theirs: Vec<_> = damaged.into_iter().filter(|l| l.contains(&ids[0])).collect();
    let vms: Vec<_> = records(&state).into_iter().filter(of_vms).collect();
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
        assert!(lines(&export).len() == count * OF_A_VM + OTHERS && export.contains(&id));
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
    refused(&mut daemon.command(), &["is damaged", &command, "VMs are not affected"]);
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
    assert!(said.contains("restored 4 records from the damaged store itself"), "{said}");
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
    assert!(said.contains(&format!("restored 7 records from the export {}", newest.display())), "{said}");
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
