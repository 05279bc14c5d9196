//! What a child of each kind finds itself in, by a shell in its place.

use std::os::unix::process::ExitStatusExt;

use super::*;

/// What a shell says that is started as a child of this kind.
fn said(permit: Permit, script: &str, inherit: &[RawFd]) -> String {
    let child = Child::new(permit, Path::new("/bin/sh")).args(["-c", script]).inherit(inherit.iter().copied());
    let output = child.piped().spawn().unwrap().output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

const KINDS: [Permit; 7] = [QEMU, QEMU_PROBE, QEMU_IMG, DNSMASQ, PASST, STORE_TRIAL, UNPACK];

#[test]
fn the_environment_is_the_path_and_what_the_kind_names() {
    // SAFETY: of this test's process alone (nextest), before anything reads it.
    unsafe { std::env::set_var("AWS_SECRET_ACCESS_KEY", "hush") };
    for permit in KINDS {
        let text = said(permit, "env", &[]);
        let names: Vec<&str> = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        // The shell itself adds PWD and the like.
        let shells = ["PWD", "OLDPWD", "SHLVL", "_"];
        let known = ["PATH", "LC_ALL", "MALLOC_ARENA_MAX", "RUST_BACKTRACE"];
        assert!(names.iter().all(|name| known.contains(name) || shells.contains(name)), "{text}");
        assert!(text.contains("LC_ALL=C\n") && text.contains("PATH=/"), "{text}");
    }
}

#[test]
fn nothing_is_open_but_what_is_named() {
    let file = File::open("/dev/null").unwrap();
    // As one that the daemon was started with. Numbers that the shell itself does not come to.
    let leaked = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_DUPFD(700)).unwrap();
    let named = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(800)).unwrap();
    for permit in KINDS {
        let text = said(permit, "for f in /proc/self/fd/*; do echo ${f##*/}; done; umask", &[named]);
        let words: Vec<&str> = text.split_whitespace().collect();
        let is_open = |number: RawFd| words.contains(&number.to_string().as_str());
        assert!(is_open(named) && !is_open(leaked), "{words:?}");
        assert_eq!(words.last(), Some(&"0077"));
    }
}

#[test]
fn limits_capabilities_and_privileges_are_what_the_kind_names() {
    let status = |permit| said(permit, "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; ulimit -c; ulimit -l", &[]);
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned());
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    let kinds = [(QEMU, 0), (QEMU_PROBE, 0), (QEMU_IMG, 0), (DNSMASQ, 0x34c3), (STORE_TRIAL, 0x2), (UNPACK, 0)];
    for (permit, kept) in kinds {
        let text = status(permit);
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            assert_eq!(u64::from_str_radix(&field(&text, set), 16), Ok(kept), "{set} {text}");
        }
        assert_eq!(u64::from_str_radix(&field(&text, "CapAmb:"), 16), Ok(0));
        assert_eq!((field(&text, "NoNewPrivs:").as_str(), field(&text, "Seccomp:").as_str()), ("1", "2"), "{text}");
        assert!(text.ends_with("0\n0\n"), "{text}");
    }
    let bounds = said(QEMU_IMG.for_image(8 << 20, 30), "ulimit -v; ulimit -t; ulimit -f; ulimit -n", &[]);
    assert_eq!(bounds, "4194304\n120\n16384\n256\n");
}

#[test]
fn a_file_grows_up_to_its_bound_and_no_further() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let script = format!("dd if=/dev/zero of={} bs=1M count=1 seek=$1 2>/dev/null; echo $?", file.display());
    let write = |at: &str| {
        let child = Child::new(QEMU_IMG.for_image(8 << 20, 30), Path::new("/bin/sh")).args(["-c", &script, "sh", at]);
        child.piped().spawn().unwrap().output().unwrap().stdout
    };
    assert_eq!(write("7"), b"0\n");
    assert_ne!(write("8"), b"0\n");
    assert_eq!(std::fs::metadata(file).unwrap().len(), 8 << 20);
}

#[test]
fn a_child_that_is_to_end_with_the_daemon_ends_with_the_thread_that_started_it() {
    let started = std::thread::spawn(|| Child::new(QEMU_PROBE, Path::new("/bin/sleep")).arg("1000").spawn().unwrap());
    assert_eq!(started.join().unwrap().output().unwrap().status.signal(), Some(9));
}

/// Whoever changes its user on the daemon's memory takes from it that others of its user may look at it, for a moment.
#[test]
fn the_daemon_can_still_be_looked_at_when_a_child_has_become_another_user() {
    use rustix::process::{DumpableBehavior, dumpable_behavior};
    let user = || User::take(&"1999999970-1999999970".parse().unwrap(), 0, &[]).unwrap();
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::Dumpable);
    for program in ["/bin/true", "/there/is/none"] {
        let cell = Cell { user: Some(user()), ..Cell::default() };
        let spawned = Child::new(QEMU, Path::new(program)).within(cell).spawn();
        assert_eq!(spawned.is_ok(), program == "/bin/true");
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::Dumpable, "{program}");
        let _ = spawned.map(|child| child.output().unwrap());
    }
    User::forget(1_999_999_970).unwrap();
}

#[test]
fn a_child_that_says_without_end_is_heard_and_only_the_end_of_it_is_kept() {
    // 32 MiB of short lines on both, as a crafted image has qemu-img complain of each of its clusters.
    let script = "{ yes | head -c 33554432; echo the end; } | tee /dev/stderr";
    let child = Child::new(QEMU_PROBE, Path::new("/bin/sh")).args(["-c", script]).piped().spawn().unwrap();
    let (mut longest, mut last) = (0, Vec::new());
    let output = child.output_heard(None, |line| {
        longest = longest.max(line.len());
        last = line.to_vec();
    });
    let output = output.unwrap();
    for said in [&output.stdout, &output.stderr] {
        assert!(said.len() <= 64 << 10 && said.ends_with(b"\nthe end\n"), "{}", said.len());
    }
    assert!(longest <= 128 << 10 && last.ends_with(b"the end\n"), "{longest}");

    // Nor is a line that does not end.
    let child = Child::new(QEMU_PROBE, Path::new("/bin/sh")).args(["-c", "head -c 33554432 /dev/zero"]);
    let mut longest = 0;
    let output = child.piped().spawn().unwrap().output_heard(None, |line| longest = longest.max(line.len())).unwrap();
    assert!(output.stdout.len() <= 64 << 10 && longest <= 132 << 10, "{longest}");
}
