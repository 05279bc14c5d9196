//! What is waited for and can never be is refused at once, with the reason; a port is one that accepts.

use std::{net::TcpListener, process::Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    screen::{done, qherd, run},
    support::{Daemon, guest, netns::Host},
};

const CREATE: [&str; 8] = ["create", "--image", "blank.raw", "--memory", "64M", "--disk", "1G", "--start"];

#[test]
fn what_can_never_be_is_refused_with_the_reason() {
    let daemon = Daemon::start();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nic = format!("user,forward={port}:22");
    done(&daemon, &[&CREATE[..], &["--name", "user", "--nic", &nic, "--wait-for", "running"]].concat());
    done(&daemon, &[&CREATE[..], &["--name", "alone", "--nic", "none"]].concat());
    let refused = run(&daemon, &["wait", "user", "--for", "port:22"]).expect(2);
    assert!(refused.err.contains("QEMU accepts connections itself"), "{}", refused.err);
    for goal in ["ip", "port:22"] {
        let refused = run(&daemon, &["wait", "alone", "--for", goal]).expect(2);
        assert!(refused.err.contains("alone has no NIC"), "{}", refused.err);
    }
    // And then nothing is made.
    for (goal, nic) in [("port:22", "user"), ("ip", "none")] {
        run(&daemon, &[&CREATE[..], &["--nic", nic, "--wait-for", goal]].concat()).expect(2);
    }
    run(&daemon, &[&CREATE[..], &["--wait-for", "port:22"]].concat()).expect(2);
    assert_eq!(done(&daemon, &["ls", "-q"]).lines().count(), 2);
    let stopped = [&CREATE[..7], &["--wait-for", "ip"]].concat();
    assert!(run(&daemon, &stopped).expect(2).err.contains("add --start"));
    let unknown = run(&daemon, &["wait", "user", "--for", "up"]).expect(2);
    assert!(unknown.err.contains("port:22"), "{}", unknown.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_vm_that_was_started_and_is_off_again() {
    let daemon = Daemon::start();
    let id = done(&daemon, &[&CREATE[..7], &["--name", "web", "-q"]].concat());
    let mut start = qherd(&daemon, &["start", "web", "--wait-for", "agent"]);
    let child = start.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    daemon.await_status(id.trim(), "running").await;
    kill(Pid::from_raw(daemon.qemus()[0]), Signal::SIGKILL).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains("web is crashed") && text.contains("there is nothing to wait for"), "{text}");
}

/// On one thread: it leaves the host's network.
#[tokio::test]
async fn a_guest_is_waited_for_until_it_has_an_address_and_accepts() {
    // Others of these tests work in the host's network meanwhile, so nothing is said of it.
    let _host = Host::leave();
    let daemon = guest::daemon();
    done(&daemon, &["switch", "create", "LAN", "--subnet", "10.77.0.0/24"]);
    done(&daemon, &["switch", "create", "Alone", "--type", "private"]);
    let image = guest::image().display().to_string();
    let create = ["create", "--image", &image, "--memory", "256M", "--disk", "1G", "-q"];
    let web =
        ["--name", "web", "--nic", "LAN,address=10.77.0.9", "--start", "--wait-for", "ip", "--wait-timeout", "5m"];
    let id = done(&daemon, &[&create[..], &web].concat());
    assert!(done(&daemon, &["ls", "-l"]).contains("10.77.0.9"));
    let late = run(&daemon, &["wait", "web", "--for", "port:22", "--timeout", "2s"]).expect(7);
    assert!(late.err.contains("nothing in it accepts on port 22"), "{}", late.err);

    done(&daemon, &["wait", "web", "--for", "agent", "--timeout", "5m"]);
    let _typed = daemon.write_line(id.trim(), "(while :; do nc -l -p 22 </dev/null; done) &");
    done(&daemon, &["wait", "web", "--for", "port:22", "--timeout", "5m"]);
    let ssh = done(&daemon, &["ssh", "root@web", "--", "-G"]);
    assert!(ssh.lines().any(|line| line == "hostname 10.77.0.9") && ssh.lines().any(|line| line == "port 22"), "{ssh}");

    done(&daemon, &[&create[..], &["--name", "hidden", "--nic", "Alone"]].concat());
    let refused = run(&daemon, &["wait", "hidden", "--for", "port:22"]).expect(2);
    assert!(refused.err.contains("the host is not on its private switch"), "{}", refused.err);
    let used = run(&daemon, &["switch", "rm", "LAN"]).expect(4);
    assert!(used.err.contains("web"), "{}", used.err);

    assert_eq!(done(&daemon, &["stop", "web"]), "web: stopped\n");
    done(&daemon, &["rm", "web", "hidden"]);
    done(&daemon, &["switch", "rm", "LAN", "Alone"]);
}
