//! The daemon dies right before and right after every commit of an import, of a clone and of a deletion of images, and at every
//! commit of the recovery that follows: an image is there with its data, or nothing of it is.

use std::path::PathBuf;

use crate::support::{Answer, Daemon, crash::Side};
use reqwest::Method;
use serde_json::{Value, json};

/// The files of the store.
fn files(daemon: &Daemon) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["layers", "layers/unfinished"] {
        let entries = std::fs::read_dir(daemon.state().join(folder)).unwrap().flatten();
        found.extend(entries.map(|entry| entry.path()).filter(|path| path.is_file()));
    }
    found
}

/// That the images that there are have their data, and nothing else is there.
async fn check(daemon: &Daemon) -> Vec<Value> {
    let images = daemon.get("/images").await.expect(200);
    let images = images.as_array().unwrap().clone();
    let mut wanted: Vec<PathBuf> = images.iter().map(|image| image["layer"]["file"].as_str().unwrap().into()).collect();
    wanted.sort();
    wanted.dedup();
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    loop {
        let mut found = files(daemon);
        found.sort();
        if found == wanted {
            return images;
        }
        assert!(std::time::Instant::now() < deadline, "{found:?}, not {wanted:?}\n{}", daemon.log_text());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Asks for the same on a daemon that dies at its first commit, at its second, and so on until it lives.
async fn dies_at_every_commit_of(
    most: u64,
    prepare: impl AsyncFn(&Daemon),
    (method, path, body): (Method, &str, Value),
    look: impl AsyncFn(&Daemon, Option<Answer>, &[Value]),
) {
    let mut daemon = Daemon::start();
    std::fs::write(daemon.bases().join("disk.raw"), vec![7; 1 << 20]).unwrap();
    for commit in 1.. {
        for side in Side::BOTH {
            prepare(&daemon).await;
            daemon.kill();
            let command = daemon.dying_at(commit, side);
            daemon.run_as(command);
            let request = daemon.http().request(method.clone(), daemon.at(path)).json(&body);
            let answer = daemon.try_send(request).await;
            let lives = answer.is_some() && daemon.try_get("/images").await.is_some();
            if lives {
                assert!(answer.as_ref().unwrap().status < 300, "{answer:?}");
                daemon.kill();
                daemon.run();
            } else {
                assert!(commit <= most, "it makes {commit} commits");
                if !daemon.has_died() {
                    daemon.wait();
                }
                daemon.recover_dying().await;
            }
            let images = check(&daemon).await;
            look(&daemon, answer, &images).await;
            for vm in daemon.get("/vms").await.expect(200).as_array().unwrap() {
                daemon.delete(&format!("/vms/{}", vm["id"].as_str().unwrap())).await.expect(200);
            }
            for image in check(&daemon).await {
                daemon.delete(&format!("/images/{}", image["id"].as_str().unwrap())).await.expect(200);
            }
            assert!(check(&daemon).await.is_empty());
            if lives && side == Side::Before {
                assert!(commit > 1, "it makes no commit");
                return;
            }
        }
    }
}

async fn import(daemon: &Daemon, name: &str) {
    daemon.post("/images", json!({ "name": name, "path": "disk.raw" })).await.expect(201);
}

#[tokio::test]
async fn an_import_is_there_whole_or_not_at_all() {
    let wish = (Method::POST, "/images", json!({ "name": "disk:1", "path": "disk.raw" }));
    dies_at_every_commit_of(
        2,
        async |_| {},
        wish,
        async |daemon, answer, images| {
            assert!(images.len() == 1 || answer.is_none_or(|answer| answer.status >= 300), "it was acknowledged");
            if images.is_empty() {
                import(daemon, "disk:1").await;
            }
        },
    )
    .await;
}

#[tokio::test]
async fn an_import_of_what_is_there_already_is_there_or_not() {
    let wish = (Method::POST, "/images", json!({ "name": "disk:2", "path": "disk.raw" }));
    dies_at_every_commit_of(
        1,
        async |daemon| import(daemon, "disk:1").await,
        wish,
        async |_, answer, images| {
            assert!(images.len() == 2 || (images.len() == 1 && answer.is_none()), "{images:?}");
        },
    )
    .await;
}

#[tokio::test]
async fn a_deletion_leaves_all_or_nothing() {
    let wish = (Method::DELETE, "/images/disk:1", json!({}));
    dies_at_every_commit_of(
        2,
        async |daemon| import(daemon, "disk:1").await,
        wish,
        async |_, answer, images| {
            assert!(images.is_empty() || answer.is_none(), "it was acknowledged");
        },
    )
    .await;
}

#[tokio::test]
async fn a_deletion_of_one_of_two_leaves_the_data_of_the_other() {
    let prepare = async |daemon: &Daemon| {
        import(daemon, "disk:1").await;
        import(daemon, "disk:2").await;
    };
    let wish = (Method::DELETE, "/images/disk:1", json!({}));
    dies_at_every_commit_of(1, prepare, wish, async |daemon, answer, images| {
        assert!(images.len() == 1 || answer.is_none(), "it was acknowledged");
        daemon.get("/images/disk:2").await.expect(200);
    })
    .await;
}

#[tokio::test]
async fn a_clone_of_an_image_is_finished_or_unwound_and_keeps_it() {
    let wish = json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "disk:1" });
    let wish = (Method::POST, "/vms", wish);
    dies_at_every_commit_of(
        5,
        async |daemon| import(daemon, "disk:1").await,
        wish,
        async |daemon, _, _| {
            let vms = daemon.get("/vms").await.expect(200);
            let refused = daemon.delete("/images/disk:1").await;
            match vms.as_array().unwrap().as_slice() {
                [] => import_again(daemon, refused).await,
                [vm] => {
                    assert_eq!(refused.status, 409, "{refused:?}");
                    let id = vm["id"].as_str().unwrap();
                    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
                }
                several => panic!("{several:?}"),
            }
        },
    )
    .await;
}

#[tokio::test]
async fn images_and_their_clones_are_found_where_the_state_directory_is_today() {
    let mut daemon = Daemon::start();
    std::fs::write(daemon.bases().join("disk.raw"), vec![7; 1 << 20]).unwrap();
    import(&daemon, "disk:1").await;
    let wish = json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "disk:1" });
    let id = daemon.create(wish.clone()).await;
    daemon.kill();
    let moved = daemon.dir.path().join("moved");
    std::fs::rename(daemon.state(), &moved).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_qherd"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--accel", "tcg", "--state-dir"]).arg(&moved);
    command.arg("--image-dir").arg(daemon.bases()).current_dir(daemon.dir.path());
    daemon.run_as(command);
    let image = daemon.get("/images/disk:1").await.expect(200);
    let file = PathBuf::from(image["layer"]["file"].as_str().unwrap());
    assert!(file.starts_with(&moved) && file.exists(), "{file:?}");
    assert_eq!(image["vms"][0]["id"], json!(id));
    assert_eq!(daemon.delete("/images/disk:1").await.status, 409);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    daemon.create(wish).await;
}

async fn import_again(daemon: &Daemon, deleted: Answer) {
    deleted.expect(200);
    import(daemon, "disk:1").await;
}
