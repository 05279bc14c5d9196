//! The lists of who is on a switch, which dnsmasq reads while it runs: a NIC that comes or goes does not end it, whoever dies in
//! between; where it does not get at lists it is started anew and knows all the same.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use crate::lab::{Lab, await_that, nic_on};
use crate::support::{
    Daemon, dnsmasqs_below,
    netns::{self, Guest, udp},
    network_mark,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use qherd::{
    model::{Nic, Switch},
    net::{Host, Network},
};
use serde_json::json;

fn host(nic: &Nic, label: &str) -> Host {
    Host { label: Some(label.into()), ..Host::of(nic).unwrap() }
}

/// Where dnsmasq finds a switch's lists.
fn public(state_dir: &Path, switch: &Switch) -> PathBuf {
    Path::new("/run/qherd").join(network_mark(state_dir)).join(switch.id.short())
}

/// What the guest is offered when it asks, once it is offered anything.
async fn offered(guest: &Guest) -> [u8; 4] {
    let fixed = [&[1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0][..], &[0; 16], &guest.mac, &[0; 10 + 192]].concat();
    let data = [&fixed[..], &[99, 130, 83, 99, 53, 1, 1, 255]].concat();
    let frame = udp([0xff; 6], guest.mac, ([0; 4], [255; 4]), (68, 67), &data);
    loop {
        guest.send(&frame);
        let offer = guest.until(|frame| frame.len() > 280 && frame[12..14] == [8, 0] && frame[36..38] == [0, 68]);
        if let Ok(seen) = tokio::time::timeout(std::time::Duration::from_millis(200), offer).await {
            return seen.last().unwrap()[14 + 28 + 16..14 + 28 + 20].try_into().unwrap();
        }
    }
}

#[tokio::test]
async fn dnsmasq_goes_on_whoever_comes_and_goes_and_whichever_daemon_tells_it() {
    let lab = Lab::new().await;
    let lan = lab.internal("10.77.0.0/24", true).await;
    lab.await_problem(&lan, &[]).await;
    let first = dnsmasqs_below(lab.dir.path());
    assert_eq!(first.len(), 1);
    let [web, db, late] = [2, 3, 4].map(|last| nic_on(&lan, Some([10, 77, 0, last].into())));
    lab.net.put_hosts(lan.id, vec![host(&web, "web")]);
    let a = lab.guest(&web).await;
    assert_eq!(offered(&a).await, [10, 77, 0, 2]);
    lab.net.put_hosts(lan.id, vec![host(&web, "web"), host(&db, "db")]);
    let b = lab.guest(&db).await;
    assert_eq!(offered(&b).await, [10, 77, 0, 3]);
    let names = public(lab.dir.path(), &lan).join("names");
    assert_eq!(fs::read_to_string(&names).unwrap(), "10.77.0.2 web.lan web\n10.77.0.3 db.lan db\n");
    lab.net.put_hosts(lan.id, vec![host(&db, "db")]);
    lab.net.unplug(&web).await.unwrap();
    await_that("it is known no more", || fs::read_to_string(&names).unwrap() == "10.77.0.3 db.lan db\n").await;
    assert_eq!(dnsmasqs_below(lab.dir.path()), first);
    // Its user gets at the lists, and nobody gets a list of what is beside them.
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    let folder = names.parent().unwrap();
    assert_eq!((mode(&names), mode(folder), mode(folder.parent().unwrap())), (0o644, 0o711, 0o711));

    // A daemon that died after it had written the lists and before it said so: as if it had not, to the next one.
    let Lab { host: left, dir, net } = lab;
    drop(net);
    let hosts = public(dir.path(), &lan).join("hosts");
    for file in [hosts.clone(), dir.path().join("net").join(lan.id.short()).join("hosts")] {
        let more = format!("{}{},id:*,10.77.0.4,late\n", fs::read_to_string(&file).unwrap(), late.mac);
        fs::write(file, more).unwrap();
    }
    let net = Network::open(dir.path()).await;
    let lab = Lab { host: left, dir, net };
    lab.net.put_switch(&lan, None).await.unwrap();
    lab.net.sweep(&[lan.id], std::slice::from_ref(&db)).await.unwrap();
    lab.net.put_hosts(lan.id, vec![host(&db, "db"), host(&late, "late")]);
    let c = lab.guest(&late).await;
    assert_eq!(offered(&c).await, [10, 77, 0, 4]);
    assert_eq!(dnsmasqs_below(lab.dir.path()), first);
    // The same of one that died before, with the host started anew since: nothing is in /run.
    let lab = {
        let Lab { host, dir, net } = lab;
        drop(net);
        fs::remove_dir_all(hosts.parent().unwrap().parent().unwrap()).unwrap();
        kill(Pid::from_raw(first[0]), Signal::SIGKILL).unwrap();
        let net = Network::open(dir.path()).await;
        Lab { host, dir, net }
    };
    lab.net.put_switch(&lan, None).await.unwrap();
    assert_eq!(lab.net.hosts_left(lan.id), [host(&db, "db"), host(&late, "late")]);
    lab.net.sweep(&[lan.id], &[db.clone(), late.clone()]).await.unwrap();
    assert_eq!(offered(&c).await, [10, 77, 0, 4]);
    for nic in [&db, &late] {
        lab.net.unplug(nic).await.unwrap();
    }
    lab.close(&[&lan]).await;
    assert!(!hosts.parent().unwrap().parent().unwrap().exists());
}

/// A daemon that is started by a line of shell ahead of it, with a switch and a VM on it.
async fn serves_without_lists(before: &str, programs: Option<&Path>) {
    let left = netns::Host::leave();
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let own = daemon.command();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &format!("{before} && exec \"$@\""), "sh"]);
    command.arg(own.get_program()).args(own.get_args()).current_dir(daemon.dir.path());
    if let Some(programs) = programs {
        command.env("PATH", format!("{}:{}", programs.display(), std::env::var("PATH").unwrap()));
        // Their root shows what they are to close, and lets nobody close it.
        command.env("QHERD_TEST_WITHOUT_LAYERS", "mounts");
    }
    daemon.run_as(command);
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let lan = daemon.post("/switches", lan).await.expect(201)["id"].as_str().unwrap().to_owned();
    let mut wish = daemon.wish();
    (wish["name"], wish["networks"]) = (json!("web"), json!([{ "switch": lan }]));
    let vm = daemon.create(wish).await;
    let folder = daemon.state().join("net").join(&lan.replace('-', "")[..12]);
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    // It has begun with all in the one file.
    await_that("dnsmasq knows who is on the switch", || {
        let (config, log) = (read("dnsmasq.conf"), read("dnsmasq.log"));
        config.contains(",id:*,10.77.0.2,web\nhost-record=web.lan,web,10.77.0.2\n")
            && log.contains(" started, version ")
            && !log.contains("read /run")
    })
    .await;
    assert_eq!(daemon.get(&format!("/switches/{lan}")).await.expect(200)["problem"], json!(null));
    assert_eq!(dnsmasqs_below(daemon.dir.path()).len(), 1);
    daemon.delete(&format!("/vms/{vm}")).await.expect(200);
    await_that("it knows of no one", || !read("dnsmasq.conf").contains("dhcp-host=")).await;
    daemon.delete(&format!("/switches/{lan}")).await.expect(200);
    assert!(!folder.exists());
    drop(daemon);
    left.assert_untouched();
}

#[tokio::test]
async fn a_dnsmasq_that_is_kept_out_of_its_lists_has_all_in_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("dnsmasq");
    let path = std::env::var_os("PATH").unwrap();
    let real = std::env::split_paths(&path).map(|folder| folder.join("dnsmasq")).find(|file| file.is_file()).unwrap();
    // Somebody's policy: here a folder that is closed before it begins. By its name: it may not look for it.
    let close = "chmod 700 \"$(sed -n 's,^.*=\\(/run/qherd/[^/]*\\)/.*,\\1,p' dnsmasq.conf | head -n 1)\"";
    fs::write(&program, format!("#!/bin/sh\n{close}\nexec {} \"$@\"\n", real.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    serves_without_lists("mount -t tmpfs none /run", Some(dir.path())).await;
}

#[tokio::test]
async fn where_nobody_may_write_to_run_all_is_in_the_configuration() {
    serves_without_lists("mount -t tmpfs -o ro none /run", None).await;
}
