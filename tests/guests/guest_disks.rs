//! Disks that come and go while a guest runs, as the guest itself sees them.

use crate::support;

use crate::support::{Daemon, guest};
use serde_json::{Value, json};

/// Waits until the guest has these; a driver needs a moment.
async fn await_disks(daemon: &Daemon, id: &str, wanted: &str) {
    let deadline = std::time::Instant::now() + support::PATIENCE;
    loop {
        let disks = guest_disks(daemon, id).await;
        if disks == wanted {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "the guest has {disks:?}, not {wanted:?}");
    }
}

/// The guest's disks beside the root disk, with their sizes in MiB.
async fn guest_disks(daemon: &Daemon, id: &str) -> String {
    let line = "for d in /sys/block/vd[b-z]; do [ -e $d ] && s=\"$s ${d##*/}:$(($(cat $d/size)/2048))\"; done; echo guest''-disks$s.; s=";
    let line = daemon.type_line(id, line, "guest-disks").await;
    line.split("guest-disks").nth(1).unwrap().trim().to_owned()
}

async fn names(daemon: &Daemon, id: &str) -> Vec<String> {
    let disks = daemon.get(&format!("/vms/{id}/disks")).await.expect(200);
    disks.as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn disks_are_plugged_throttled_grown_and_unplugged_under_a_running_guest() {
    let mut daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["disks"] = json!([{ "disk_size": 2 }]);
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let disks = format!("/vms/{id}/disks");
    let first = daemon.await_boot(&id, None).await;
    assert_eq!(names(&daemon, &id).await, ["root", "disk1"]);
    await_disks(&daemon, &id, "vdb:2048.").await;

    // One more, limited from its first moment; what the guest reads of it is not above the limit.
    let body = json!({ "disk_size": 1, "io_limits": { "iops": 40 } });
    let added = daemon.post(&disks, body).await.expect(201);
    assert_eq!((&added["name"], &added["applied"]), (&json!("disk2"), &json!("live")), "{added}");
    await_disks(&daemon, &id, "vdb:2048 vdc:1024.").await;
    let line = daemon.type_line(&id, "io-test read 4 vdc", "qherd-io: op=read").await;
    let iops: f64 = line.split("iops=").nth(1).unwrap().trim().parse().unwrap();
    // A busy host may leave less.
    assert!(iops <= 46.0, "{line}");
    let grown = daemon.put(&format!("{disks}/disk2"), json!({ "disk_size": 3, "io_limits": null })).await.expect(200);
    assert_eq!((&grown["applied"], &grown["io_limits"]), (&json!("live"), &Value::Null), "{grown}");
    await_disks(&daemon, &id, "vdb:2048 vdc:3072.").await;

    // Its death changes nothing.
    daemon.kill();
    daemon.run();
    assert_eq!(names(&daemon, &id).await, ["root", "disk1", "disk2"]);

    // Out again, the one of the boot too, with their images.
    for disk in ["disk1", "disk2"] {
        let removed = daemon.delete(&format!("{disks}/{disk}")).await.expect(200);
        assert_eq!(removed["applied"], "live", "{removed}");
    }
    await_disks(&daemon, &id, ".").await;
    let images = std::fs::read_dir(daemon.state().join("images").join(&id)).unwrap().count();
    assert_eq!(images, 1, "the root disk's");
    let gone = daemon.delete(&format!("{disks}/disk1")).await;
    assert_eq!((gone.status, gone.message()), (404, "Disk not found: disk1."));
    assert_eq!(daemon.delete(&format!("{disks}/root")).await.status, 400);

    // A clone as a further disk is there with its contents; a reset does not disturb it.
    let clone = json!({ "disk_size": 1, "base_image": guest::image() });
    assert_eq!(daemon.post(&disks, clone).await.expect(201)["name"], "disk3");
    daemon.post(&format!("/vms/{id}/reboot"), json!({})).await.expect(200);
    daemon.await_boot(&id, Some(&first)).await;
    await_disks(&daemon, &id, "vdb:1024.").await;
    daemon.type_line(&id, "cmp -n 4096 /dev/vda /dev/vdb && echo same-''start", "same-start").await;

    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(daemon.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_disk_that_the_guest_lets_go_of_by_itself_comes_back() {
    let daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["disks"] = json!([{ "disk_size": 2 }]);
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    daemon.await_boot(&id, None).await;
    await_disks(&daemon, &id, "vdb:2048.").await;
    // As its owner would from inside: every occupied slot is switched off.
    let eject = "cd /sys/bus/pci/slots; for s in *; do ls ../devices/$(cat $s/address).0/virtio*/block && echo 0 >$s/power; done; cd /; echo slots''-off";
    daemon.type_line(&id, eject, "slots-off").await;
    daemon.await_log("the guest has let go of a disk").await;
    await_disks(&daemon, &id, "vdb:2048.").await;
    assert_eq!(names(&daemon, &id).await, ["root", "disk1"]);
    let config = daemon.get(&format!("/vms/{id}/config")).await.expect(200);
    assert_eq!(config["pending"], json!({}));
}

#[tokio::test]
async fn a_removal_that_is_refused_to_a_suspended_guest_does_not_come_when_it_goes_on() {
    let daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["disks"] = json!([{ "disk_size": 2 }]);
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    daemon.await_boot(&id, None).await;
    await_disks(&daemon, &id, "vdb:2048.").await;
    let disk = format!("/vms/{id}/disks/disk1");
    daemon.post(&format!("/vms/{id}/suspend"), json!({})).await.expect(200);
    let refused = daemon.delete(&disk).await;
    assert!(refused.message().contains("resume"), "{refused:?}");
    refused.expect(409);
    daemon.post(&format!("/vms/{id}/resume"), json!({})).await.expect(200);
    // A guest that was asked lets go within its five seconds, and some.
    let last = daemon.beats(&id).await.pop().unwrap();
    daemon.await_beat(&id, |beat| beat.boot == last.boot && beat.beat > last.beat + 12).await;
    assert_eq!(guest_disks(&daemon, &id).await, "vdb:2048.");
    assert!(!daemon.log_text().contains("has let go of"));
    // Now it runs, and it does.
    daemon.delete(&disk).await.expect(200);
    await_disks(&daemon, &id, ".").await;
}

#[tokio::test]
async fn a_disk_that_the_guest_lets_go_of_while_no_daemon_listens_comes_back() {
    let mut daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["disks"] = json!([{ "disk_size": 2 }]);
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    daemon.await_boot(&id, None).await;
    await_disks(&daemon, &id, "vdb:2048.").await;
    // As its owner would from inside, when the daemon is dead.
    let eject = "cd /sys/bus/pci/slots; sleep 6; for s in *; do ls ../devices/$(cat $s/address).0/virtio*/block && echo 0 >$s/power; done; cd /; echo slots''-off";
    let serial = daemon.write_line(&id, eject);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    daemon.kill();
    let begun = std::time::Instant::now();
    while !daemon.held_console(&id).contains("slots-off") {
        assert!(begun.elapsed() < support::PATIENCE, "the guest did not switch its slots off");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    drop(serial);
    daemon.run();
    daemon.await_log("the guest has let go of a disk").await;
    await_disks(&daemon, &id, "vdb:2048.").await;
    assert_eq!(names(&daemon, &id).await, ["root", "disk1"]);
    assert_eq!(daemon.get(&format!("/vms/{id}/config")).await.expect(200)["pending"], json!({}));
}

#[tokio::test]
async fn a_guest_gives_space_back_and_what_it_keeps_another_guest_finds() {
    let daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["disks"] = json!([{ "disk_size": 1 }]);
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let disks = format!("/vms/{id}/disks");
    daemon.await_boot(&id, None).await;
    await_disks(&daemon, &id, "vdb:1024.").await;
    let file = daemon.get(&disks).await.expect(200)[1]["disk_file"].as_str().unwrap().to_owned();
    let takes = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&file).unwrap()) * 512;
    let write = "dd if=/dev/urandom of=/dev/vdb bs=1M count=16 conv=fsync && echo is-''written";
    daemon.type_line(&id, write, "is-written").await;
    let before = takes();
    assert!(before >= 16 << 20, "{before}");
    // All but the first MiB of it.
    let discard = "blkdiscard -o 1048576 -l 15728640 /dev/vdb && sync && echo is-''discarded";
    daemon.type_line(&id, discard, "is-discarded").await;
    assert!(takes() <= before - (14 << 20), "{} of {before}", takes());

    let sum = "dd if=/dev/vdb bs=1M count=1 2>/dev/null | md5sum | sed 's/ .*//; s/^/sum''-/'";
    let line = daemon.type_line(&id, sum, "sum-").await;
    let written = line.split("sum-").nth(1).unwrap().trim().to_owned();
    assert_eq!(written.len(), 32, "{line}");
    let kept = daemon.delete(&format!("{disks}/disk1?keep=true&name=data")).await.expect(200);
    assert_eq!(kept["applied"], "live", "{kept}");
    await_disks(&daemon, &id, ".").await;
    daemon.delete(&format!("/vms/{id}")).await.expect(200);

    let mut wish = guest::wish();
    wish["start"] = json!(true);
    let other = daemon.create(wish).await;
    daemon.await_boot(&other, None).await;
    let attached = daemon.post(&format!("/vms/{other}/disks"), json!({ "volume": kept["volume"] })).await.expect(201);
    assert_eq!((&attached["applied"], &attached["disk_file"]), (&json!("live"), &json!(file)), "{attached}");
    await_disks(&daemon, &other, "vdb:1024.").await;
    let line = daemon.type_line(&other, sum, "sum-").await;
    assert_eq!(line.split("sum-").nth(1).unwrap().trim(), written, "what the first guest wrote");
    // A daemon that comes anew knows whose it is.
    daemon.delete(&format!("/vms/{other}")).await.expect(200);
    daemon.delete(&format!("/volumes/{}", kept["volume"].as_str().unwrap())).await.expect(200);
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}
