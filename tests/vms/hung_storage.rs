//! Storage that hangs, as a file server that is gone: it costs the requests that need it, and no other.

use crate::hyperv;

use std::{pin::pin, time::Duration};

use crate::filesystem::Mount;
use crate::hyperv::{Client, wish};
use futures_util::future::join_all;
use qherd::{
    host::image::{Folders, Keep, QemuImg},
    model::Uids,
};
use serde_json::json;
use tokio::time::{Instant, timeout};

/// More than the daemon does of anything at once.
const MANY: usize = 20;
/// Less than anybody waits for storage; what does not hang takes a fraction of a second, and a busy machine much more.
const SOON: Duration = Duration::from_secs(25);

#[tokio::test]
async fn requests_that_need_storage_which_hangs_keep_no_other_waiting() {
    let daemon = hyperv::started();
    let image = tempfile::Builder::new().prefix("qherd-test-disk-").tempdir().unwrap();
    let mount = Mount::ext4(&hyperv::disks(&daemon).join("slow"), &image.path().join("disk.img"), 64);
    let client = Client::at(&daemon, hyperv::Mount::Root);
    let on_it = || {
        let mut wish = wish("vm");
        wish["diskPath"] = json!("D:/HyperV/slow");
        wish
    };
    let mut slow = Vec::new();
    for _ in 0..MANY {
        slow.push(client.created("/vms", on_it()).await);
    }
    let frozen = mount.freeze();
    let grow = slow.iter().map(async |id| daemon.put(&format!("/vms/{id}/disk"), json!({ "disk_size": 200 })).await);
    let create = (0..MANY).map(async |_| client.post("/vms", on_it()).await);
    let mut hung = pin!(async { (join_all(grow).await, join_all(create).await) });

    let begun = Instant::now();
    let others = async {
        for _ in 0..3 {
            let id = daemon.create(daemon.wish()).await;
            daemon.put(&format!("/vms/{id}/disk"), json!({ "disk_size": 2 })).await.expect(200);
            daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
            daemon.post(&format!("/vms/{id}/disks"), json!({ "disk_size": 1 })).await.expect(201);
            daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
            daemon.delete(&format!("/vms/{id}")).await.expect(200);
        }
    };
    tokio::select! {
        _ = &mut hung => panic!("the storage has answered"),
        () = others => assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed()),
    }
    drop(frozen);
    let (grown, created) = hung.await;
    grown.into_iter().for_each(|answer| drop(answer.expect(200)));
    // Those that were given up have left nothing.
    let made = created.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), MANY + made);
    let images =
        std::fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(images.filter(|name| name.ends_with(".qcow2")).count(), MANY + made);
}

/// Two workers carry every VM: none of them waits in the kernel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_that_cannot_be_made_now_keep_no_thread_of_the_others() {
    let dir = tempfile::Builder::new().prefix("qherd-test-disk-").tempdir().unwrap();
    let (slow, fine) = (dir.path().join("slow"), dir.path().join("fine"));
    std::fs::create_dir(&fine).unwrap();
    let mount = Mount::ext4(&slow, &dir.path().join("disk.img"), 64);
    let keep = Keep { uids: Uids::default(), mark: format!("test-{}", std::process::id()) };
    let images = QemuImg::find("qemu-img".as_ref(), Folders::default(), &keep).await.unwrap();
    let frozen = mount.freeze();
    let create = |file: std::path::PathBuf| {
        let images = images.clone();
        tokio::spawn(async move { images.create(&file, 1).await })
    };
    let hung: Vec<_> = (0..MANY).map(|at| create(slow.join(format!("{at}.qcow2")))).collect();
    for at in 0..MANY {
        timeout(SOON, create(fine.join(format!("{at}.qcow2")))).await.expect("it waits").unwrap().unwrap();
    }
    assert!(hung.iter().all(|hung| !hung.is_finished()));
    drop(frozen);
    for hung in hung {
        hung.await.unwrap().unwrap();
    }
}
