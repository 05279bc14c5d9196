//! The daemon dies at every commit of what needs the guest's help: it is finished once the daemon is back, and the
//! guest, which goes on all the while, is asked again where that is needed.

use crate::support::{crash::Side, guest};
use serde_json::json;

#[tokio::test]
async fn a_disk_whose_removal_was_cut_short_is_there_or_gone_with_its_image() {
    let mut daemon = guest::daemon();
    let id = daemon.create(guest::wish()).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let boot = daemon.await_boot(&id, None).await.boot;
    let disks = format!("/vms/{id}/disks");
    // That it is defined no more, and that the guest has let go of it.
    for commit in [1, 2] {
        for side in Side::BOTH {
            let added = daemon.post(&disks, json!({ "disk_size": 1 })).await.expect(201);
            assert_eq!(added["applied"], "live", "{added}");
            let name = added["name"].as_str().unwrap();
            daemon.kill();
            let command = daemon.dying_at(commit, side);
            daemon.run_as(command);
            let request = daemon.http().delete(daemon.at(&format!("{disks}/{name}")));
            assert!(daemon.try_send(request).await.is_none(), "it lives");
            daemon.wait();
            daemon.recover_dying().await;
            assert_eq!(daemon.comes_to_have_all(&id).await, json!({}));
            let there = daemon.get(&disks).await.expect(200).as_array().unwrap().len() == 2;
            assert_eq!(there, (commit, side) == (1, Side::Before), "{side:?} commit {commit}");
            if there {
                daemon.delete(&format!("{disks}/{name}")).await.expect(200);
            }
            // The image goes right after the disk.
            daemon.assert_in_order().await;
        }
    }
    let last = daemon.beats(&id).await.last().unwrap().clone();
    assert_eq!(last.boot, boot, "the same boot goes on");
}

#[tokio::test]
async fn vcpus_whose_removal_was_cut_short_are_taken_away_or_stay() {
    let mut daemon = guest::daemon();
    let mut wish = guest::wish();
    (wish["max_vcpus"], wish["start"]) = (json!(4), json!(true));
    let id = daemon.create(wish).await;
    let boot = daemon.await_boot(&id, None).await.boot;
    daemon.await_beat(&id, |beat| beat.beat > 4).await;
    let cpu = format!("/vms/{id}/cpu");
    // That it is defined, and that the guest has let go of one.
    for commit in [1, 2] {
        for side in Side::BOTH {
            let added = daemon.put(&cpu, json!({ "vcpus": 2 })).await.expect(200);
            assert_eq!((&added["applied"], &added["pending"]), (&json!("live"), &json!({})), "{added}");
            daemon.kill();
            let command = daemon.dying_at(commit, side);
            daemon.run_as(command);
            let request = daemon.http().put(daemon.at(&cpu)).json(&json!({ "vcpus": 1 }));
            assert!(daemon.try_send(request).await.is_none(), "it lives");
            daemon.wait();
            daemon.recover_dying().await;
            assert_eq!(daemon.comes_to_have_all(&id).await, json!({}));
            let left = if (commit, side) == (1, Side::Before) { 2 } else { 1 };
            assert_eq!(daemon.get(&format!("/vms/{id}/config")).await.expect(200)["vcpus"], left, "{side:?} {commit}");
            let last = daemon.beats(&id).await.last().unwrap().beat;
            let beat = daemon.await_beat(&id, |beat| beat.beat > last + 1).await;
            assert_eq!((&beat.boot, beat.cpus), (&boot, left), "{side:?} {commit}");
        }
    }
}
