//! `qherd db check` over a state directory whose files somebody has been at: what is missing, what is another, and what nobody
//! knows of is named, and all of it stays.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::PathBuf,
};

use serde_json::{Value, json};

use crate::{
    db::{db, text},
    support::Daemon,
};

fn check(daemon: &Daemon, more: &[&str]) -> (Option<i32>, String) {
    let output = db(&daemon.state(), &[&["check"], more].concat()).output().unwrap();
    (output.status.code(), text(&output.stdout).to_owned())
}

async fn vm(daemon: &Daemon, base: &str) -> PathBuf {
    let wish = json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": base, "name": base.replace(':', "-") });
    let made = daemon.post("/vms", wish).await.expect(201);
    let disks: Value = daemon.get(&format!("/vms/{}/disks", made["id"].as_str().unwrap())).await.expect(200);
    disks[0]["disk_file"].as_str().unwrap().into()
}

#[tokio::test]
async fn files_that_are_not_as_recorded_are_named_and_left_alone() {
    let mut daemon = Daemon::start();
    let base = daemon.bases().join("base.raw");
    fs::write(&base, vec![7; 1 << 20]).unwrap();
    let import = json!({ "name": "disk:1", "path": "base.raw" });
    let image = daemon.post("/images", import).await.expect(201);
    let data: PathBuf = image["layer"]["file"].as_str().unwrap().into();
    let on_image = vm(&daemon, "disk:1").await;
    let on_path = vm(&daemon, "base.raw").await;
    assert!(daemon.terminate().success());
    for more in [&[][..], &["--sums"]] {
        let (status, said) = check(&daemon, more);
        assert!(status == Some(0) && said.ends_with("all records can be read\n"), "{said}");
    }

    // What no record tells of is told, and is nothing wrong.
    let foreign = data.with_file_name("notes.qcow2");
    fs::write(&foreign, "somebody's").unwrap();
    let (status, said) = check(&daemon, &[]);
    assert!(status == Some(0) && said.contains(&format!("foreign: {}", foreign.display())), "{said}");

    // A bit in the middle of an image, which only its sum tells.
    let mode = |mode| fs::set_permissions(&data, fs::Permissions::from_mode(mode)).unwrap();
    let bytes = fs::read(&data).unwrap();
    mode(0o600);
    let file = fs::File::options().write(true).open(&data).unwrap();
    file.write_all_at(b"?", bytes.len() as u64 / 2).unwrap();
    let (status, said) = check(&daemon, &[]);
    assert!(status == Some(1) && said.contains("made it writable; it belongs to the image disk:1"), "{said}");
    mode(0o400);
    assert_eq!(check(&daemon, &[]).0, Some(0));
    let (status, said) = check(&daemon, &["--sums"]);
    assert!(status == Some(1) && said.contains("its SHA-256 sum is"), "{said}");
    file.set_len(100).unwrap();
    let (_, said) = check(&daemon, &[]);
    assert!(said.contains("it has 100 bytes, and was stored with"), "{said}");

    fs::write(&on_path, "no image any more").unwrap();
    fs::remove_file(&on_image).unwrap();
    fs::write(&base, vec![8; 1 << 20]).unwrap();
    let (status, said) = check(&daemon, &[]);
    assert_eq!(status, Some(1));
    for word in [
        format!("missing: {}: it is not there; it belongs to the VM disk-1", on_image.display()),
        format!("changed: {}: it must be", on_path.display()),
        format!("changed: {}: it had 1048576 bytes of", base.display()),
        "4 files are not as recorded".to_owned(),
    ] {
        assert!(said.contains(&word), "{word}: {said}");
    }
    assert!(foreign.exists() && on_path.exists());
}
