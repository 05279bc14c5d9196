//! The exit statuses, and that each error says the next step.

use std::os::unix::process::CommandExt;

use nix::sys::signal::{Signal, kill};

use crate::{
    screen::{Screen, await_one_more, bare, connections, done, qherd, ran, run},
    support::Daemon,
};

#[test]
fn without_a_daemon_it_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = bare(&["ls"]);
    command.current_dir(dir.path());
    let nobody = ran(command).expect(6);
    assert!(nobody.err.contains("state/api.sock") && nobody.err.contains("qherd serve"), "{}", nobody.err);
    let refused = ran(bare(&["ls", "--url", "http://127.0.0.1:1"])).expect(6);
    assert!(refused.err.contains("http://127.0.0.1:1"), "{}", refused.err);
    let wrong = ran(bare(&["ls", "--url", "127.0.0.1:8080"])).expect(2);
    assert!(wrong.err.contains("it begins with http://"), "{}", wrong.err);
    let port = ran(bare(&["ls", "--url", "http://127.0.0.1:99999"])).expect(2);
    assert!(port.err.contains("is no port"), "{}", port.err);
    let mut odd = bare(&["ls", "--url", "http://127.0.0.1:1"]);
    odd.env("QHERD_TOKEN", "a\nb");
    assert!(ran(odd).expect(2).err.contains("QHERD_TOKEN is no token"));
    assert!(!dir.path().join("state").exists(), "a client makes nothing");
}

#[test]
fn every_end_has_a_status_of_its_own_and_a_next_step() {
    let daemon = Daemon::start();
    let create = ["create", "--image", "blank.raw", "--memory", "64M", "--disk", "1G", "--nic", "none"];
    done(&daemon, &[&create[..], &["--name", "web"]].concat());

    // By clap, and by the daemon.
    run(&daemon, &["set", "web"]).expect(2);
    run(&daemon, &["create", "--image", "blank.raw", "--memory", "2"]).expect(2);
    let odd = run(&daemon, &[&create[..], &["--name", "a/b"]].concat()).expect(2);
    assert!(odd.err.contains("name must consist of"), "{}", odd.err);
    let image = run(&daemon, &["create", "--image", "nothing.raw"]).expect(3);
    assert!(image.err.contains("Base image not found"), "{}", image.err);
    let off = run(&daemon, &["reboot", "web"]).expect(4);
    assert!(off.err.contains("VM is not running"), "{}", off.err);
    let off = run(&daemon, &["wait", "web", "--for", "running", "--timeout", "1s"]).expect(7);
    assert!(off.err.contains("web is stopped: it does not run"), "{}", off.err);
    done(&daemon, &["start", "web"]);
    let late = run(&daemon, &["wait", "web", "--for", "agent", "--timeout", "1s"]).expect(7);
    assert!(late.err.contains("its guest agent is not there"), "{}", late.err);

    // Several: those that can be are done, and one status stands for all that failed alike.
    done(&daemon, &[&create[..], &["--name", "off"]].concat());
    let mixed = run(&daemon, &["suspend", "web", "off"]).expect(4);
    assert_eq!(mixed.out, "web: paused\n");
    assert!(mixed.err.contains("off: "), "{}", mixed.err);
    let mixed = run(&daemon, &["resume", "web", "off", "-o", "json"]).expect(4);
    let done_of_them: serde_json::Value = serde_json::from_str(&mixed.out).unwrap();
    assert_eq!((&done_of_them[0]["status"], done_of_them.as_array().unwrap().len()), (&"running".into(), 1));

    // What several are set to is one list for programs, as far as it went.
    let set = done(&daemon, &["set", "web", "off", "--description", "x", "-o", "json"]);
    let set: serde_json::Value = serde_json::from_str(&set).unwrap();
    assert_eq!(set.as_array().unwrap().iter().map(|vm| &vm["name"]).collect::<Vec<_>>(), ["web", "off"]);
    let yaml = done(&daemon, &["set", "web", "off", "--description", "y", "-o", "yaml"]);
    assert_eq!(yaml.matches("\ndescription: y").count() + yaml.matches("  description: y").count(), 2, "{yaml}");
    // Which of them is protected is said, and what lifts it; and what is gone by then.
    done(&daemon, &["switch", "create", "Yard", "--type", "private"]);
    done(&daemon, &["switch", "create", "Kept", "--type", "private", "--protected"]);
    let partly = run(&daemon, &["switch", "rm", "Yard", "Kept", "-o", "json"]).expect(4);
    let gone: serde_json::Value = serde_json::from_str(&partly.out).unwrap();
    assert_eq!((&gone[0]["status"], gone.as_array().unwrap().len()), (&"deleted".into(), 1));
    done(&daemon, &["switch", "set", "Kept", "--protected", "false"]);
    done(&daemon, &["switch", "rm", "Kept"]);
    done(&daemon, &["set", "off", "--protected", "true", "--name", "a"]);
    let kept = run(&daemon, &["rm", "a", "a"]).expect(4);
    assert!(kept.err.contains("qherd: a: VM is protected"), "{}", kept.err);
    assert!(kept.err.contains("qherd set a --protected false"), "{}", kept.err);
    // Nobody is told what nobody reads.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut unread = qherd(&daemon, &["ls"]);
    let unread =
        unread.stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((unread.status.code(), unread.stderr), (Some(141), Vec::new()));

    // Another user of the host, whom nobody has let in.
    let mut stranger = bare(&["ls", "--url", &daemon.url]);
    stranger.current_dir("/").uid(65534).gid(65534);
    let denied = ran(stranger);
    assert_eq!(denied.code, 5, "{denied:?}");
    assert!(denied.err.contains("--allow") || denied.err.contains("QHERD_TOKEN"), "{}", denied.err);

    // A signal.
    let mut follows = Screen::open(qherd(&daemon, &["events", "-f"]), 24, 80);
    std::thread::sleep(std::time::Duration::from_millis(200));
    kill(follows.pid(), Signal::SIGINT).unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&follows.end()), Some(2));
    follows.is_as_before();
}

#[test]
fn a_daemon_that_says_nothing_is_told_from_one_that_is_not_there() {
    let mut daemon = Daemon::start();
    daemon.signal(Signal::SIGSTOP);
    let before = connections(&daemon);
    let child = qherd(&daemon, &["ls", "--url", &daemon.url]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // It is being asked, and goes.
    await_one_more(&daemon, before);
    daemon.kill();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(6), "{text}");
    assert!(text.contains("broke") && text.contains("VMs go on without the daemon"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_ends_in_order_is_one_that_goes_away() {
    let mut daemon = Daemon::start();
    done(&daemon, &["create", "--image", "blank.raw", "--name", "web", "--memory", "64M", "--disk", "1G"]);
    let wait: &[&str] = &["wait", "web", "--for", "running"];
    for args in [&["events", "-f"][..], wait, &["logs", "-f", "web"]] {
        let before = connections(&daemon);
        let url = daemon.url.clone();
        let args = [args, &["--url", &url]].concat();
        let child = qherd(&daemon, &args).stderr(std::process::Stdio::piped()).spawn().unwrap();
        await_one_more(&daemon, before);
        daemon.terminate();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(6), "{args:?}: {text}");
        assert!(text.contains("go on") || text.contains("goes on"), "{args:?}: {text}");
        daemon.run();
    }
}

/// Also where nothing more comes, so that nothing more is written.
#[test]
fn who_follows_ends_with_its_reader() {
    let daemon = Daemon::start();
    done(&daemon, &["create", "--image", "blank.raw", "--name", "web", "--memory", "64M", "--disk", "1G"]);
    for args in [&["events", "-f", "--after", "0", "--vm", "web"][..], &["logs", "-f", "web"]] {
        let mut command = qherd(&daemon, args);
        let mut child =
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            (output.status.code(), String::from_utf8(output.stderr).unwrap()),
            (Some(141), String::new()),
            "{args:?}"
        );
    }
}

#[test]
fn who_stops_reading_is_told_nothing() {
    let daemon = Daemon::start();
    let mut command = qherd(&daemon, &["completion", "bash"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(!output.status.success());
}
