//! `qherd db`: what is exported comes back by an import, and nothing is lost on the way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::db::{OF_A_VM, OTHERS, beside, db, done, exports, import, records, refused, stopped_with_vms, text};
use qherd::{
    model::Ending,
    store::{Batch, Store},
    vm::{
        core::{DiskNo, Run, RunRecord},
        records,
    },
};
use serde_json::json;

#[tokio::test]
async fn an_export_imported_elsewhere_gives_the_same_bytes_also_of_unknown_kinds_and_newer_versions() {
    let (daemon, ids) = stopped_with_vms(2).await;
    let mut expected = records(&daemon.state());
    assert_eq!(expected.len(), 2 * OF_A_VM + OTHERS);
    expected.insert(0, r#"{"name":"future/ü","value":{"v":7,"sha":"x","body":[1.50, "\u00e4"]}}"#.into());
    expected.insert(1, r#"{"name":"future/z","value_hex":"00ff0a"}"#.into());
    expected.push(r#"{"name":"vm/newer","value":{"v":999,"data":{"b":1,"a":2}}}"#.into());
    expected.sort_by_key(|line| line.split('"').nth(3).unwrap().to_owned());
    let other = daemon.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    assert!(done(&mut import(&other, &expected, &[])).contains("10 records imported"));
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
async fn what_was_being_made_when_an_export_was_written_is_kept_by_an_import() {
    let (mut daemon, ids) = stopped_with_vms(3).await;
    let [created, started, grown] = &ids[..] else { panic!() };
    daemon.run();
    daemon.post(&format!("/vms/{grown}/disks"), json!({ "disk_size": 1 })).await.expect(201);
    assert!(daemon.terminate().success());
    let disks = daemon.leftovers();
    // As an export tells of it that was written in between.
    let state = daemon.state();
    {
        let store = Store::open(&state.join("db")).unwrap();
        let change = async |id: &str, change: &dyn Fn(&mut RunRecord)| {
            let mut vm = records::get(&store, id).unwrap().unwrap();
            change(&mut vm.record.run);
            records::commit_all(&store, Batch::new(), &mut [&mut vm]).await.unwrap();
        };
        change(created, &|run| run.state = Run::Making { start: false }).await;
        let last = Ending::Clean;
        change(started, &|run| run.state = Run::Starting { process: None, new: true, last: last.clone() }).await;
        change(grown, &|run| run.unmade.extend([DiskNo(1)])).await;
    }
    let then = records(&state);
    done(&mut import(&state, &then, &["--replace"]));
    daemon.run();
    assert_eq!(daemon.leftovers(), disks);
    for id in [created, started] {
        let status = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
        assert_eq!(status["status"], "crashed", "{status}");
        assert!(status["reason"].as_str().unwrap().contains("being made when the export was written"), "{status}");
    }
    assert_eq!(daemon.get(&format!("/vms/{grown}/disks")).await.expect(200).as_array().unwrap().len(), 2);
    for id in &ids {
        daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    }
}
