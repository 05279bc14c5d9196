//! Terraform as a client of the Hyper-V dialect: five VMs on a switch, applied at once, without drift, changed in place,
//! put right after somebody meddled, and destroyed. Real terraform, a small provider (tests/terraform/provider.py), a
//! real daemon in a network of its own.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::support::{Daemon, netns};
use serde_json::{Value, json};

const TREE: &str = env!("CARGO_MANIFEST_DIR");
const VMS: usize = 5;

/// The names of all interfaces of this thread's network.
fn interfaces() -> BTreeSet<String> {
    netns::ip_json("link").as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
}

/// A working directory of terraform with the provider, apart from everything that a person has set up.
struct Terraform {
    dir: PathBuf,
    fixed: Vec<String>,
}

/// How the VMs are to be.
#[derive(Clone, Copy)]
struct Wanted {
    memory_mb: u32,
    vcpu: u32,
    notes: &'static str,
}

impl Terraform {
    fn new(dir: &Path, url: &str, disk_path: &Path) -> Self {
        let python = Command::new(format!("{TREE}/scripts/terraform-python")).output().unwrap();
        assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
        let python = String::from_utf8(python.stdout).unwrap();
        let version = Command::new("terraform").args(["version", "-json"]).env("CHECKPOINT_DISABLE", "1").output();
        let version: Value = serde_json::from_slice(&version.unwrap().stdout).unwrap();
        let platform = version["platform"].as_str().unwrap();

        // Where terraform looks for providers: here and nowhere else.
        let mirror = dir.join("mirror");
        let place = mirror.join("qherd.test/qherd/qherd/0.1.0").join(platform);
        std::fs::create_dir_all(&place).unwrap();
        let program = place.join("terraform-provider-qherd_v0.1.0");
        let text = format!("#!/bin/sh\nexec '{}' '{TREE}/tests/terraform/provider.py' \"$@\"\n", python.trim());
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let settings = format!(
            "disable_checkpoint = true\nprovider_installation {{\n  filesystem_mirror {{ path = {:?} }}\n}}\n",
            mirror.display().to_string()
        );
        std::fs::write(dir.join("terraformrc"), settings).unwrap();
        std::fs::copy(format!("{TREE}/tests/terraform/main.tf"), dir.join("main.tf")).unwrap();
        let fixed = vec![format!("-var=url={url}"), format!("-var=disk_path={}", disk_path.display())];
        Self { dir: dir.to_owned(), fixed }
    }

    /// The runtime goes on meanwhile, so that the test's own idle connections end when the daemon closes them.
    async fn run(&self, args: &[&str]) -> Output {
        let mut command = tokio::process::Command::new("terraform");
        command
            .args(args)
            .current_dir(&self.dir)
            .env_remove("TF_LOG")
            .env("TF_INPUT", "0")
            .env("TF_IN_AUTOMATION", "1");
        command.env("TF_CLI_CONFIG_FILE", self.dir.join("terraformrc"));
        // The provider's framework keeps a certificate below the home, its socket among the temporary files.
        command.env("HOME", &self.dir).env("TMPDIR", &self.dir).output().await.unwrap()
    }

    async fn with(&self, args: &[&str], wanted: Wanted) -> Output {
        let Wanted { memory_mb, vcpu, notes } = wanted;
        let variables = [
            format!("-var=memory_mb={memory_mb}"),
            format!("-var=vcpu={vcpu}"),
            format!("-var=notes={notes}"),
            "-no-color".to_owned(),
        ];
        let args: Vec<&str> =
            args.iter().copied().chain(self.fixed.iter().chain(&variables).map(String::as_str)).collect();
        self.run(&args).await
    }

    /// Applies, and sees to it that as much was added, changed and destroyed as was `expected`.
    async fn apply(&self, wanted: Wanted, expected: &str) {
        let output = self.with(&["apply", "-auto-approve"], wanted).await;
        let text = text(&output);
        assert!(output.status.success(), "{text}");
        assert!(text.contains(&format!("Apply complete! Resources: {expected}.")), "{text}");
    }

    /// Whether the world differs from what is wanted, as `plan` tells by its status.
    async fn differs(&self, wanted: Wanted) -> bool {
        let output = self.with(&["plan", "-detailed-exitcode"], wanted).await;
        match output.status.code() {
            Some(0) => false,
            Some(2) => true,
            _ => panic!("{}", text(&output)),
        }
    }

    async fn output(&self, name: &str) -> Value {
        let output = self.run(&["output", "-json", name]).await;
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)))
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

async fn list(daemon: &Daemon, path: &str) -> Vec<Value> {
    daemon.get(path).await.expect(200).as_array().unwrap().clone()
}

#[tokio::test]
async fn terraform_applies_changes_and_destroys_five_vms_on_a_switch() {
    let _ = netns::Host::leave();
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let (disks, work) = (daemon.dir.path().join("disks"), daemon.dir.path().join("terraform"));
    std::fs::create_dir(&disks).unwrap();
    std::fs::create_dir(&work).unwrap();
    daemon.add_args(&["--storage-dir", disks.to_str().unwrap()]);
    daemon.run();
    let empty = interfaces();
    let terraform = Terraform::new(&work, &daemon.at("/hyperv"), &disks);
    let init = terraform.run(&["init", "-no-color"]).await;
    assert!(init.status.success(), "{}", text(&init));

    let first = Wanted { memory_mb: 64, vcpu: 1, notes: "made by terraform" };
    assert!(terraform.differs(first).await, "there is nothing yet");
    terraform.apply(first, &format!("{} added, 0 changed, 0 destroyed", 1 + 2 * VMS)).await;
    let vms = terraform.output("vms").await;
    let vms: Vec<&str> = vms.as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    let there = list(&daemon, "/hyperv/vms").await;
    assert_eq!(there.len(), VMS);
    for vm in &there {
        assert!(vms.contains(&vm["Id"].as_str().unwrap()) && vm["State"] == "Running", "{vm}");
        let adapters = list(&daemon, &format!("/hyperv/vms/{}/network-adapters", vm["Id"].as_str().unwrap())).await;
        assert_eq!(adapters.len(), 2);
        assert!(adapters.iter().all(|adapter| adapter["SwitchName"] == "LAN"), "{adapters:?}");
    }
    let switches = list(&daemon, "/hyperv/switches").await;
    assert_eq!(switches.len(), 1);
    assert_eq!(switches[0]["Notes"], "made by terraform");
    assert_eq!(terraform.output("found").await, json!([terraform.output("switch").await]));
    let macs = terraform.output("macs").await;
    let macs: BTreeSet<&str> = macs.as_array().unwrap().iter().map(|mac| mac.as_str().unwrap()).collect();
    assert_eq!(macs.len(), VMS, "{macs:?}");
    // A bridge, and a tap for each adapter.
    assert_eq!(interfaces().len() - empty.len(), 1 + 2 * VMS, "{:?}", interfaces());
    assert!(!terraform.differs(first).await, "drift after the first apply");

    // Somebody stops one and deletes another.
    daemon.post(&format!("/hyperv/vms/{}/stop", vms[0]), json!({"force": true})).await.expect(200);
    assert!(terraform.differs(first).await, "it was stopped");
    terraform.apply(first, "0 added, 1 changed, 0 destroyed").await;
    daemon.delete(&format!("/hyperv/vms/{}", vms[1])).await.expect(200);
    terraform.apply(first, "2 added, 0 changed, 0 destroyed").await;
    assert!(!terraform.differs(first).await, "drift after it was put right");
    let kept = terraform.output("vms").await;
    assert_eq!((&kept[0], &kept[4]), (&json!(vms[0]), &json!(vms[4])));
    assert_ne!(kept[1], json!(vms[1]));

    let second = Wanted { memory_mb: 96, vcpu: 2, notes: "changed by terraform" };
    terraform.apply(second, &format!("0 added, {} changed, 0 destroyed", 1 + VMS)).await;
    assert_eq!(terraform.output("vms").await, kept, "in place");
    for id in kept.as_array().unwrap() {
        let config = daemon.get(&format!("/vms/{}/config", id.as_str().unwrap())).await.expect(200);
        assert_eq!((&config["memory"], &config["vcpus"]), (&json!(96), &json!(2)), "{config}");
        assert_eq!(config["pending"], json!({}), "{config}");
    }
    assert_eq!(list(&daemon, "/hyperv/switches").await[0]["Notes"], "changed by terraform");
    assert!(!terraform.differs(second).await, "drift after the update");

    let destroyed = terraform.with(&["destroy", "-auto-approve"], second).await;
    assert!(destroyed.status.success(), "{}", text(&destroyed));
    let expected = format!("Destroy complete! Resources: {} destroyed.", 1 + 2 * VMS);
    assert!(text(&destroyed).contains(&expected), "{}", text(&destroyed));
    assert_eq!(terraform.run(&["state", "list"]).await.stdout, b"");
    assert!(list(&daemon, "/hyperv/vms").await.is_empty() && list(&daemon, "/hyperv/switches").await.is_empty());
    assert_eq!(interfaces(), empty);
    assert_eq!((daemon.qemus(), daemon.leftovers()), (vec![], vec![]));
    let left: Vec<_> = std::fs::read_dir(&disks).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".qherd-storage"], "disks are left");
}
