//! Switches that somebody breaks while the daemon runs, or that cannot be made for now: what can be mended is mended, and
//! the rest is told for as long as it lasts. NICs and taps are in `switch_networks.rs`.

use std::{env, os::unix::fs::symlink, time::Duration};

use crate::support::{
    Daemon, PATIENCE,
    netns::{Host, Peer, ip, ip_json, nft},
};
use serde_json::json;

#[tokio::test]
async fn what_is_broken_of_a_switch_is_mended_or_told_until_it_is_whole_again() {
    let host = Host::leave();
    let peer = Peer::new();
    peer.connect("up0", "up1");
    let mut daemon = Daemon::start();
    let wish = json!({"name": "lan", "type": "internal", "subnet": "10.77.0.0/24"});
    let lan = daemon.post("/switches", wish).await.expect(201);
    let wan = daemon.post("/switches", json!({"name": "wan", "type": "external", "adapter": "up0"})).await.expect(201);
    let (lan_path, wan_path) =
        (format!("/switches/{}", lan["id"].as_str().unwrap()), format!("/switches/{}", wan["id"].as_str().unwrap()));
    let bridge = lan["bridge"].as_str().unwrap();
    ip(&format!("addr flush dev {bridge}"));
    let mended = async {
        while !ip(&format!("addr show dev {bridge}")).contains("10.77.0.1/24") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, mended).await.expect("the host has its address again");

    ip("link del up0");
    await_problem(&daemon, &wan_path, Some("up0")).await;
    peer.connect("up0", "up1");
    await_problem(&daemon, &wan_path, None).await;
    assert_eq!(ip_json("link show up0")[0]["master"], wan["bridge"]);

    // A host without dnsmasq; programs for the rules it needs none.
    daemon.kill();
    let programs = daemon.dir.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    let link = |name: &str| {
        let path = env::var_os("PATH").unwrap();
        let program = env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file()).unwrap();
        symlink(program, programs.join(name)).unwrap();
    };
    for name in ["qemu-system-x86_64", "qemu-img"] {
        link(name);
    }
    end_dnsmasq(&daemon);
    let mut command = daemon.command();
    command.env("PATH", &programs);
    daemon.run_as(command);
    await_problem(&daemon, &lan_path, Some("dnsmasq-base")).await;
    let wish = json!({"name": "x", "type": "internal", "subnet": "10.78.0.0/24"});
    let answer = daemon.post("/switches", wish).await;
    assert!(answer.expect(500).to_string().contains("dnsmasq-base"));
    daemon.post("/switches", json!({"name": "x", "type": "private"})).await.expect(201);
    assert!(!daemon.log_text().contains("half-made"), "{}", daemon.log_text());
    link("dnsmasq");
    await_problem(&daemon, &lan_path, None).await;
    let switches = daemon.get("/switches").await.expect(200);
    for switch in switches.as_array().unwrap().iter().filter(|switch| switch["name"] == "x") {
        daemon.delete(&format!("/switches/{}", switch["id"].as_str().unwrap())).await.expect(200);
    }
    for path in [lan_path, wan_path] {
        daemon.delete(&path).await.expect(200);
    }
    ip("link del up0");
    assert!(!nft("list ruleset").contains("qherd"), "{}", nft("list ruleset"));
    host.assert_untouched();
}

/// Ends the dnsmasq of the daemon's switches, which outlive it.
fn end_dnsmasq(daemon: &Daemon) {
    let folder = daemon.state().join("net");
    let mine = |process: &procfs::process::Process| {
        let line = process.cmdline().unwrap_or_default();
        line.iter().any(|word| word.contains(folder.to_str().unwrap()))
    };
    for process in procfs::process::all_processes().unwrap().flatten().filter(mine) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(process.pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}

/// Waits until a switch tells of a problem with this word in it, or of none.
async fn await_problem(daemon: &Daemon, path: &str, word: Option<&str>) {
    let reported = async {
        loop {
            let problem = daemon.get(path).await.expect(200)["problem"].as_str().map(str::to_owned);
            match (&problem, word) {
                (None, None) => break,
                (Some(problem), Some(word)) if problem.contains(word) => break,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, reported)
        .await
        .unwrap_or_else(|_| panic!("{path}: {word:?}\n{}", daemon.log_text()));
}
