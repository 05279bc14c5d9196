//! A whole Debian whose cloud-init is given keys, a name, an address and something to do; and `qherd ssh`, which logs in there.
//! Three boots of it take minutes without KVM, so it is run by hand: `scripts/build-guest --debian && cargo nextest run --test
//! guests --run-ignored all guest_cloud_init::`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::support::{Daemon, guest, netns::Host};
use serde_json::json;

/// For a boot, emulated.
const LONG: Duration = Duration::from_secs(900);

struct Client<'a> {
    daemon: &'a Daemon,
    key: PathBuf,
}

impl Client<'_> {
    fn qherd(&self, args: &[&str]) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
        command.args(args).env("QHERD_STATE_DIR", self.daemon.state()).current_dir(self.daemon.dir.path());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    #[track_caller]
    fn done(&self, args: &[&str]) -> String {
        let (done, said) = self.qherd(args);
        assert!(done, "{args:?}: {said}");
        said
    }

    /// What a command in the guest prints, as soon as it prints something; the user is found by `qherd ssh` itself.
    async fn in_guest(&self, command: &str) -> String {
        let begin = Instant::now();
        let key = self.key.display().to_string();
        let options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"];
        let mut args = vec!["ssh", "web", "--", "-i", &key];
        args.extend(options.iter().flat_map(|option| ["-o", option]));
        args.push(command);
        loop {
            let (done, said) = self.qherd(&args);
            if done && !said.trim().is_empty() {
                return said.trim().to_owned();
            }
            assert!(begin.elapsed() < LONG, "{command}: {said}");
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }

    /// Until cloud-init has done its work; then the instance that it has done it for.
    async fn is_set_up(&self) -> String {
        self.in_guest("cloud-init status --wait >/dev/null; cat /var/lib/cloud/data/instance-id").await
    }
}

#[tokio::test]
#[ignore = "a whole Debian boots for minutes without KVM"]
async fn a_debian_has_the_name_the_keys_and_the_address_that_it_is_given_and_takes_what_is_new() {
    let host = Host::leave();
    let daemon = guest::daemon();
    let image = guest::image().with_file_name("debian.qcow2");
    assert!(Path::exists(&image), "{} is missing: run scripts/build-guest --debian", image.display());
    let file = |name: &str| daemon.dir.path().join(name);
    let key = file("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    std::fs::write(file("first"), "#cloud-config\nruncmd:\n- echo first >>/var/tmp/ran\n").unwrap();
    std::fs::write(file("second"), "#cloud-config\nruncmd:\n- echo second >>/var/tmp/ran\n").unwrap();
    let client = Client { daemon: &daemon, key };
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" });
    let lan = daemon.post("/switches", lan).await.expect(201)["id"].as_str().unwrap().to_owned();

    let image = image.display().to_string();
    let create = ["create", "--image", &image, "--name", "web", "--memory", "768M", "--disk", "2G"];
    let first_boot = ["--nic", "LAN,address=10.77.0.9", "--ssh-key", "key.pub", "--user-data", "first", "-q"];
    let id = client.done(&[&create[..], &first_boot[..]].concat()).trim().to_owned();
    let path = format!("/vms/{id}");
    let mac = daemon.get(&path).await.expect(200)["mac_address"].clone();
    let nic = json!({ "match": { "macaddress": mac }, "set-name": "lan0", "addresses": ["10.77.0.9/24"] });
    let network = json!({ "version": 2, "ethernets": { "lan0": nic } });
    let data = json!({ "network_config": network, "password": "sesame", "withheld": ["ssh_keys", "user_data"] });
    daemon.put(&path, json!({ "cloud_init": data })).await.expect(200);
    client.done(&["start", "web", "--wait-for", "port:22", "--wait-timeout", "900s"]);
    let instance = client.is_set_up().await;
    assert_eq!(client.in_guest("hostname; id -un").await, "web\ndebian");
    let addresses = client.in_guest("ip -br address show lan0; true").await;
    assert!(addresses.contains("10.77.0.9/24"), "{addresses}");
    let config = client
        .in_guest("cat /run/systemd/network/*lan0.network /etc/systemd/network/*lan0.network 2>/dev/null || true")
        .await;
    assert!(config.contains("Address=10.77.0.9/24") && !config.contains("DHCP=yes"), "{config}");
    assert_eq!(client.in_guest("cat /var/tmp/ran").await, "first");

    // Another start, and nothing new: what is done once is not done again.
    client.done(&["stop", "web", "--timeout", "300s"]);
    client.done(&["start", "web", "--wait-for", "port:22", "--wait-timeout", "900s"]);
    assert_eq!(client.is_set_up().await, instance);
    assert_eq!(client.in_guest("cat /var/tmp/ran").await, "first");

    // What is new is taken at the next start, and what is not named stays.
    let said = client.done(&["set", "web", "--user-data", "second", "--hostname", "web-2"]);
    assert!(said.contains("from the next start on"), "{said}");
    client.done(&["stop", "web", "--timeout", "300s"]);
    client.done(&["start", "web", "--wait-for", "port:22", "--wait-timeout", "900s"]);
    assert_ne!(client.is_set_up().await, instance);
    assert_eq!(client.in_guest("cat /var/tmp/ran; hostname").await, "first\nsecond\nweb-2");

    daemon.delete(&path).await.expect(200);
    daemon.delete(&format!("/switches/{lan}")).await.expect(200);
    drop(daemon);
    host.assert_untouched();
}
