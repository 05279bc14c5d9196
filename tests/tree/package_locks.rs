//! `scripts/apt-get`, which the other scripts install with: it waits for a package manager that is at work, says for
//! what, and goes on by itself. The package manager is the real one, in a folder of its own.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
};

/// As apt and dpkg lock: a record lock, which belongs to this process.
fn lock(file: &Path) -> File {
    let held = File::options().create(true).truncate(false).write(true).open(file).unwrap();
    let whole = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&held, nix::fcntl::FcntlArg::F_SETLK(&whole)).unwrap();
    held
}

/// apt-get with lists, downloads and installed packages that are its own: none.
fn apt_get(folder: &Path, command: &str) -> Command {
    for made in ["lists/partial", "archives/partial", "dpkg/updates"] {
        std::fs::create_dir_all(folder.join(made)).unwrap();
    }
    for made in ["dpkg/status", "sources.list"] {
        File::create(folder.join(made)).unwrap();
    }
    let mut apt_get = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/apt-get"));
    for (setting, value) in [
        ("Dir::State", ""),
        ("Dir::State::lists", "lists"),
        ("Dir::State::status", "dpkg/status"),
        ("Dir::Cache", ""),
        ("Dir::Cache::archives", "archives"),
        ("Dir::Etc::sourcelist", "sources.list"),
        ("Dir::Etc::sourceparts", "none"),
    ] {
        apt_get.arg("-o").arg(format!("{setting}={}", folder.join(value).display()));
    }
    apt_get.arg(command).stdout(Stdio::null()).stderr(Stdio::piped());
    apt_get
}

fn waits_for(command: &str, file: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut apt_get = apt_get(folder.path(), command);
    let file = folder.path().join(file);
    let held = lock(&file);
    let mut running = apt_get.spawn().unwrap();
    let mut reported = BufReader::new(running.stderr.take().unwrap());
    let mut line = String::new();
    reported.read_line(&mut line).unwrap();
    let expected =
        format!("waiting: Could not get lock {}. It is held by process {}", file.display(), std::process::id());
    assert!(line.contains(&expected), "{command}: {line}");
    assert_eq!(running.try_wait().unwrap(), None, "{command} waits");
    drop(held);
    let mut rest = String::new();
    reported.read_to_string(&mut rest).unwrap();
    assert!(running.wait().unwrap().success(), "{command}: {rest}");
}

#[test]
fn it_waits_for_the_lock_of_the_lists_of_the_downloads_and_of_the_installed_packages() {
    waits_for("update", "lists/lock");
    waits_for("clean", "archives/lock");
    waits_for("install", "dpkg/lock-frontend");
    waits_for("install", "dpkg/lock");
}

#[test]
fn what_is_wrong_otherwise_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let output = apt_get(folder.path(), "install").arg("no-such-package").output().unwrap();
    assert_eq!(output.status.code(), Some(100));
    let reported = String::from_utf8(output.stderr).unwrap();
    assert!(
        reported.contains("Unable to locate package no-such-package") && !reported.contains("waiting"),
        "{reported}"
    );
}
