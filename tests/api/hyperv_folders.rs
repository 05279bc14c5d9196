//! The folders that come into being for a `diskPath`: they go with the last disk in them, whatever comes in between.

use crate::hyperv;

use crate::hyperv::{Client, Mount, wish};
use crate::support::{PATIENCE, crash::Side};
use serde_json::json;

#[tokio::test]
async fn folders_made_for_a_disk_go_with_the_last_disk_in_them_and_no_others_do() {
    let mut daemon = hyperv::started();
    let disks = hyperv::disks(&daemon);
    std::fs::create_dir(disks.join("theirs")).unwrap();
    let client = Client::at(&daemon, Mount::Root);
    let made = async |client: &Client<'_>, folder: &str| {
        let mut wish = wish("vm");
        wish["diskPath"] = json!(format!("D:/HyperV/{folder}"));
        client.created("/vms", wish).await
    };
    let (one, two, three) =
        (made(&client, "theirs/a/b").await, made(&client, "theirs/a").await, made(&client, "theirs/a/b").await);
    let gone = async |client: &Client<'_>, id: &str| drop(client.delete(&format!("/vms/{id}")).await.expect(200));
    gone(&client, &one).await;
    assert!(disks.join("theirs/a/b").exists(), "another disk is in it");
    daemon.kill();
    daemon.run();
    let client = Client::at(&daemon, Mount::Root);
    gone(&client, &three).await;
    assert!(!disks.join("theirs/a/b").exists() && disks.join("theirs/a").exists());
    gone(&client, &two).await;
    assert!(!disks.join("theirs/a").exists() && disks.join("theirs").exists(), "that one was there before");

    // Something else is in it; somebody put another in its place; a create that fails.
    let vm = made(&client, "b").await;
    std::fs::write(disks.join("b/notes"), "x").unwrap();
    gone(&client, &vm).await;
    assert!(disks.join("b/notes").exists());
    let vm = made(&client, "c").await;
    std::fs::rename(disks.join("c"), disks.join("d")).unwrap();
    std::fs::create_dir(disks.join("c")).unwrap();
    gone(&client, &vm).await;
    assert!(disks.join("c").exists(), "it is not the one that was made");
    let mut wish = wish("vm");
    wish["diskPath"] = json!("D:/HyperV/e/f");
    wish["isoPath"] = json!("D:/ISOs/missing.iso");
    assert_eq!(client.post("/vms", wish).await.status, 400);
    assert!(!disks.join("e").exists());
}

/// It is killed around each of its commits: what it made for a VM that nobody was told of goes.
#[tokio::test]
async fn a_create_that_a_crash_cuts_short_leaves_no_folder() {
    let mut daemon = hyperv::started();
    let mut body = wish("vm");
    body["diskPath"] = json!("D:/HyperV/new/deep");
    for (commit, side) in (1..=4).flat_map(|commit| Side::BOTH.map(|side| (commit, side))) {
        daemon.kill();
        let command = daemon.dying_at(commit, side);
        daemon.run_as(command);
        let post = daemon.http().post(daemon.at("/hyperv/vms")).json(&body);
        assert!(daemon.try_send(post).await.is_none(), "{side:?} commit {commit}");
        daemon.wait();
        daemon.run();
        // The last one was made: nobody was told, and it is there.
        for vm in daemon.get("/vms").await.expect(200).as_array().unwrap() {
            assert_eq!((commit, side), (4, Side::After));
            daemon.delete(&format!("/vms/{}", vm["id"].as_str().unwrap())).await.expect(200);
        }
        assert_eq!(hyperv::in_disks(&daemon), [] as [String; 0], "{side:?} commit {commit}");
        assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
    }
}

/// The folder goes with the last disk in it while the next one is made there.
#[tokio::test]
async fn a_folder_is_there_for_who_needs_it_while_others_remove_it() {
    let daemon = hyperv::started();
    let client = Client::at(&daemon, Mount::Root);
    let one_after_the_other = async |folder: &str| {
        let mut wish = wish("vm");
        wish["diskPath"] = json!(format!("D:/HyperV/{folder}"));
        for _ in 0..25 {
            let vm = client.created("/vms", wish.clone()).await;
            client.delete(&format!("/vms/{vm}")).await.expect(200);
        }
    };
    let folders = ["shared", "shared", "shared/deeper", "shared/deeper", "shared/deeper/still", "shared"];
    let all = futures_util::future::join_all(folders.map(one_after_the_other));
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    assert_eq!(hyperv::in_disks(&daemon), [] as [String; 0]);
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}
