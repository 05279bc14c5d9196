//! Where a command finds the daemon: flags before the command, and an address that is the other dialect's.

use serde_json::json;

use crate::{
    screen::{bare, ran},
    support::Daemon,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_address_may_stand_before_the_command() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["name"] = json!("web");
    let id = daemon.create(wish).await;
    for args in [
        &["--url", &daemon.url, "ls", "-q"][..],
        &["-q", "--url", &daemon.url, "ls"],
        &["ls", "-q", "--url", &daemon.url],
    ] {
        assert_eq!(ran(bare(args)).expect(0).out.trim(), id, "{args:?}");
    }
    let disks = ran(bare(&["--url", &daemon.url, "-o", "json", "disk", "ls", "web"])).expect(0).out;
    assert!(disks.contains("\"root\""), "{disks}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_at_the_other_dialect_is_told_so() {
    let daemon = Daemon::start_with(&["--accel", "tcg", "--hyperv-listen", "127.0.0.1:0"]);
    let mut wish = daemon.wish();
    wish["name"] = json!("web");
    daemon.create(wish).await;
    for args in [&["ls"][..], &["show", "web"], &["create", "--image", "blank.raw"]] {
        let mut command = bare(args);
        command.env("QHERD_URL", &daemon.hyperv_url);
        let said = ran(command).expect(2).err;
        assert!(said.contains("speaks the Hyper-V dialect") && said.contains("--hyperv-listen"), "{args:?}: {said}");
    }
    let said = ran(bare(&["ls", "--url", &format!("{}/hyperv", daemon.url)])).expect(2).err;
    assert!(said.contains("leave out /hyperv"), "{said}");
}
