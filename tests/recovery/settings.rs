//! How the daemon is started: its settings, where they come from, and what it says when it cannot start.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::support::{Daemon, PATIENCE};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

/// The program in `folder`, with no setting of this machine or of the harness.
fn bare(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
    command.arg("serve").current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QHERD_")) {
        command.env_remove(name);
    }
    command
}

/// Runs a command that has to end by itself, and soon.
fn ended(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    let (reported, ends) = std::sync::mpsc::channel();
    std::thread::spawn(move || reported.send(child.wait_with_output()));
    match ends.recv_timeout(PATIENCE) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            kill(pid, Signal::SIGKILL).unwrap();
            panic!("it goes on running");
        }
    }
}

/// The command ends with status 1 and one message for people that holds every one of `words`.
#[track_caller]
fn refuses(command: &mut Command, words: &[&str]) {
    let output = ended(command);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(output.stdout, b"", "no ready line");
    let message = text.lines().find(|l| l.starts_with("qherd: ")).unwrap_or_else(|| panic!("no message:\n{text}"));
    for word in words {
        assert!(text.contains(word), "no {word:?} in: {text}");
    }
    assert!(!text.contains("panicked") && message.len() < 500, "{text}");
}

async fn running_vm(daemon: &Daemon) -> String {
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    daemon.create(wish).await
}

#[tokio::test]
async fn port_0_takes_a_free_port_and_the_ready_line_tells_it() {
    let daemon = Daemon::start();
    let port = daemon.url.strip_prefix("http://127.0.0.1:").unwrap().parse::<u16>().unwrap();
    assert!(port > 0);
    let health = daemon.get("/health").await.expect(200);
    assert_eq!((&health["status"], &health["accelerator"]), (&json!("ok"), &json!("tcg")));
    assert!(health["qemu_version"].as_str().unwrap().contains('.'), "{health}");
}

#[test]
fn a_port_in_use_is_told_before_anything_is_touched() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    refuses(
        bare(folder.path()).args(["--listen", &address]),
        &["cannot listen on", &address, "Address already in use"],
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_second_daemon_on_the_same_state_directory_is_refused_with_the_pid_of_the_first() {
    let daemon = Daemon::start();
    let id = running_vm(&daemon).await;
    let pid = daemon.pid().to_string();
    let state = daemon.state().display().to_string();
    refuses(&mut daemon.command(), &[&format!("(pid {pid})"), &state, "--state-dir"]);
    assert_eq!(daemon.status(&id).await, "running");
}

#[test]
fn directories_that_hold_what_is_qherds_own_or_that_others_can_change_are_refused() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let daemon = Daemon::prepare(&[]);
    let own = daemon.dir.path().join("state");
    std::fs::create_dir_all(own.join("db")).unwrap();
    std::os::unix::fs::symlink(daemon.dir.path(), daemon.dir.path().join("alias")).unwrap();
    for (flag, kind) in [("--image-dir", "image"), ("--storage-dir", "storage")] {
        for (dir, why) in [
            (daemon.dir.path().to_owned(), "contains the state directory"),
            (daemon.dir.path().join("alias"), "contains the state directory"),
            ("/".into(), "contains the state directory"),
            (own.clone(), "contains the state directory"),
            (own.join("db"), "lies in the state directory"),
        ] {
            let words = format!("the {kind} directory {} {why}", dir.display());
            refuses(daemon.command().arg(flag).arg(&dir), &[&words, flag]);
        }
        let open = daemon.dir.path().join(format!("open-{kind}"));
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        refuses(daemon.command().arg(flag).arg(&open), &["can be changed by everybody", "chmod go-w"]);
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
        chown(&open, Some(1000), None).unwrap();
        refuses(daemon.command().arg(flag).arg(&open), &["can be changed by its owner, uid 1000", "chown"]);
    }
}

#[test]
fn missing_programs_are_told_with_the_package_that_has_them() {
    let daemon = Daemon::prepare(&[]);
    let package = "apt-get install qemu-system-x86";
    refuses(daemon.command().args(["--qemu", "/nonexistent"]), &["/nonexistent is not installed", package]);
    refuses(daemon.command().args(["--qemu", "/"]), &["/ is not installed", package]);
    let empty = daemon.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    refuses(daemon.command().env("PATH", &empty), &["qemu-img cannot be run", "apt-get install qemu-utils"]);
    let path = std::env::var_os("PATH").unwrap();
    let qemu_img = std::env::split_paths(&path).map(|dir| dir.join("qemu-img")).find(|p| p.exists()).unwrap();
    std::os::unix::fs::symlink(qemu_img, empty.join("qemu-img")).unwrap();
    refuses(daemon.command().env("PATH", &empty), &["qemu-system-x86_64 is not installed", package]);
    refuses(daemon.command().args(["--qemu", "/bin/true"]), &["/bin/true does not answer"]);
}

#[tokio::test]
async fn kvm_is_used_where_it_works_and_refused_in_words_where_it_does_not() {
    let mut auto = Daemon::start_with(&[]);
    let health = auto.get("/health").await.expect(200);
    let reason = health["accelerator_reason"].as_str().unwrap().to_owned();
    let works = health["accelerator"] == "kvm";
    let id = running_vm(&auto).await;
    assert_eq!(auto.get(&format!("/vms/{id}")).await.expect(200)["accelerator"], health["accelerator"]);
    auto.delete(&format!("/vms/{id}")).await.expect(200);
    if !works {
        let fault = reason.strip_prefix("KVM does not work: ").unwrap_or_else(|| panic!("{reason}"));
        assert!(auto.log_text().contains("guests are emulated (TCG)"), "no warning");
        auto.terminate();
        // With what was found out before, and without.
        for _ in 0..2 {
            refuses(auto.command().args(["--accel", "kvm"]), &["KVM does not work on this host", fault, "--accel tcg"]);
            let _ = std::fs::remove_file(auto.state().join("accelerator.json"));
        }
        return;
    }
    auto.terminate();
    auto.add_args(&["--accel", "kvm"]);
    auto.run();
    assert_eq!(auto.get("/health").await.expect(200)["accelerator"], "kvm");
    running_vm(&auto).await;
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let mut daemon = Daemon::prepare(&[]);
    let folder = daemon.dir.path().to_owned();
    // Different addresses of this host, each with a port of its own.
    std::fs::write(folder.join("qherd.toml"), "listen = \"127.0.0.2:0\"\naccel = \"tcg\"\n").unwrap();
    std::fs::write(folder.join("other.toml"), "listen = \"127.0.0.5:0\"\naccel = \"tcg\"\n").unwrap();
    let mut listens = |args: &[&str], variables: &[(&str, &str)], wanted: &str| {
        let mut command = bare(&folder);
        command.args(args).envs(variables.iter().copied());
        daemon.run_as(command);
        assert!(daemon.url.starts_with(&format!("http://{wanted}:")), "{args:?} {variables:?}: {}", daemon.url);
        assert!(daemon.terminate().success());
    };
    let variable = ("QHERD_LISTEN", "127.0.0.3:0");
    listens(&[], &[], "127.0.0.2");
    listens(&[], &[variable], "127.0.0.3");
    listens(&["--listen", "127.0.0.4:0"], &[variable], "127.0.0.4");
    listens(&["--config", "other.toml"], &[], "127.0.0.5");
    listens(&[], &[("QHERD_CONFIG", "other.toml")], "127.0.0.5");
    assert!(folder.join("state/lock").is_file(), "the default state directory");
}

#[tokio::test]
async fn lists_of_settings_come_from_the_file_and_from_variables_too() {
    let mut daemon = Daemon::prepare(&[]);
    let folder = daemon.dir.path().to_owned();
    for name in ["one", "two"] {
        std::fs::create_dir(folder.join(name)).unwrap();
        std::fs::copy(daemon.bases().join("blank.raw"), folder.join(name).join(format!("{name}.raw"))).unwrap();
    }
    std::fs::write(
        folder.join("qherd.toml"),
        "listen = \"127.0.0.1:0\"\naccel = \"tcg\"\nimage-dirs = [\"one\"]\npath-maps = [\"D:/Images=/nonexistent\"]\n\
         stop-timeout = 1\n",
    )
    .unwrap();
    daemon.run_as(bare(&folder));
    let wish = |base: &str| json!({"vcpus": 1, "memory": 64, "disk_size": 1, "base_image": base});
    let id = daemon.create(wish("one.raw")).await;
    assert_eq!(daemon.post("/vms", wish("two.raw")).await.status, 404);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let stopped = daemon.post(&format!("/vms/{id}/stop"), json!({})).await.expect(200);
    assert_eq!(stopped["forced"], true, "after the one second of the file");
    daemon.terminate();
    let mut command = bare(&folder);
    command.env("QHERD_IMAGE_DIR", format!("{}/one:{}/two", folder.display(), folder.display()));
    command.env("QHERD_PATH_MAP", format!("D:/Images={}/two", folder.display()));
    daemon.run_as(command);
    for base in ["one.raw", "two.raw", "D:/Images/two.raw"] {
        daemon.create(wish(base)).await;
    }
}

#[test]
fn settings_that_do_not_exist_or_have_a_wrong_value_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("qherd.toml");
    for (text, words) in [
        ("listne = \"127.0.0.1:0\"\n", ["qherd.toml", "listne"]),
        ("accel = \"fast\"\n", ["qherd.toml", "fast"]),
        ("stop-timeout = -1\n", ["qherd.toml", "stop-timeout"]),
        ("path-maps = [\"D:/HyperV\"]\n", ["qherd.toml", "FROM=TO"]),
        ("listen = 8080\n", ["qherd.toml", "listen"]),
        ("listen", ["qherd.toml", "line 1"]),
    ] {
        std::fs::write(&file, text).unwrap();
        refuses(&mut bare(folder.path()), &words);
    }
    std::fs::remove_file(&file).unwrap();
    refuses(bare(folder.path()).args(["--config", "missing.toml"]), &["cannot read the configuration missing.toml"]);
    for (args, variable, word) in [
        (&["--listne", "127.0.0.1:0"][..], None, "--listne"),
        (&["--accel", "fast"], None, "auto, kvm, tcg"),
        (&["--path-map", "D:/HyperV"], None, "FROM=TO"),
        (&[], Some(("QHERD_ACCEL", "fast")), "auto, kvm, tcg"),
        (&[], Some(("QHERD_LISTEN", "8080")), "--listen"),
    ] {
        let output = ended(bare(folder.path()).args(args).envs(variable));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(word), "{args:?} {variable:?}: {text}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_state_directory_whose_path_is_not_utf_8_is_refused_before_anything_is_made() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join(std::ffi::OsStr::from_bytes(b"st\xff"));
    refuses(
        bare(dir.path()).args(["--listen", "127.0.0.1:0", "--state-dir"]).arg(&state),
        &["not UTF-8", "choose another with --state-dir"],
    );
    assert!(!state.exists());
}
