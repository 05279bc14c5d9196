//! Guests on images of the store.

use crate::support::{Daemon, guest};
use serde_json::json;

#[tokio::test]
async fn a_guest_boots_on_a_clone_of_a_compressed_image_and_its_sister_does_not_see_what_it_wrote() {
    let daemon = guest::daemon();
    let base = guest::wish()["base_image"].as_str().unwrap().to_owned();
    let packed = daemon.bases().join("guest.qcow2.gz");
    let done =
        std::process::Command::new("sh").args(["-ec", "gzip -1 -c \"$0\" > \"$1\"", &base]).arg(&packed).status();
    assert!(done.unwrap().success());
    let body = json!({ "name": "guest:1", "path": "guest.qcow2.gz" });
    let image = daemon.post("/images", body).await.expect(201);
    assert_eq!(image["compression"], "gzip");
    let sum = |daemon: &Daemon| {
        let file = daemon.state().join("layers").join(format!("{}.qcow2", image["layer"]["sha256"].as_str().unwrap()));
        String::from_utf8(std::process::Command::new("sha256sum").arg(file).output().unwrap().stdout).unwrap()
    };
    let before = sum(&daemon);
    let mut wish = guest::wish();
    wish["base_image"] = json!("guest:1");
    wish["start"] = json!(true);
    let one = daemon.create(wish.clone()).await;
    daemon.await_boot(&one, None).await;
    wish["clone"] = json!("full");
    let other = daemon.create(wish).await;
    daemon.await_boot(&other, None).await;
    assert!(daemon.delete("/images/guest:1").await.status == 409);
    for id in [&one, &other] {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    assert_eq!(sum(&daemon), before, "nothing ever writes there");
    daemon.delete("/images/guest:1").await.expect(200);
}
