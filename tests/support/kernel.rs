//! A test in a kernel of its own, booted by QEMU with nothing but the test's program: for what the kernel of this machine
//! may lack. The program is the first process there, and the test that it runs is one of its own that is ignored here.
#![allow(unsafe_code)]
#![allow(dead_code)] // Every test file uses its own part.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::libc;

/// Under emulation, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Boots the kernel that `scripts/kernel` has fetched and runs the ignored `test` of this program there, with these
/// programs of this machine beside it. Returns what was said, after seeing that the test has passed.
pub fn run_inside(test: &str, programs: &[&str]) -> String {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/kernel/unpacked");
    let kernel = PathBuf::from(std::env::var("QHERD_TEST_KERNEL").unwrap_or_else(|_| default.into()));
    let image = kernel.join("vmlinuz");
    assert!(image.exists(), "{} is missing: run scripts/kernel (scripts/test does it)", image.display());
    let dir = tempfile::Builder::new().prefix("qherd-test-").tempdir().unwrap();
    let initrd = dir.path().join("initrd");
    fs::write(&initrd, archive(&kernel, programs, dir.path())).unwrap();
    let line = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable cryptomgr.notests=1 no_timer_check rdinit=/init \
         PATH=/bin RUST_BACKTRACE=1 -- --ignored --exact {test} --nocapture --test-threads 1"
    );
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", "1024", "-nodefaults", "-no-reboot"]);
    qemu.args(["-display", "none", "-serial", "stdio", "-append", &line]).arg("-kernel").arg(image);
    let reported = dir.path().join("told");
    qemu.arg("-initrd").arg(initrd).stdin(Stdio::null()).stdout(fs::File::create(&reported).unwrap());
    let mut qemu = qemu.spawn().unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let ended = loop {
        match qemu.try_wait().unwrap() {
            None if std::time::Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            ended => break ended,
        }
    };
    if ended.is_none() {
        qemu.kill().unwrap();
        qemu.wait().unwrap();
    }
    let reported = String::from_utf8_lossy(&fs::read(reported).unwrap()).into_owned();
    assert!(ended.is_some() && reported.contains("test result: ok. 1 passed"), "{reported}");
    reported
}

/// What the test itself does first, in there.
pub fn enter() {
    assert_eq!(std::process::id(), 1, "this is a test for a kernel of its own");
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")] {
        let [kind, at] = [kind, at].map(|text| CString::new(text).unwrap());
        // SAFETY: all strings live until the call returns.
        let mounted = unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
        assert_eq!(mounted, 0, "mount {at:?}: {}", std::io::Error::last_os_error());
    }
    let mut modules: Vec<PathBuf> = fs::read_dir("/modules").unwrap().map(|entry| entry.unwrap().path()).collect();
    modules.sort();
    for module in modules {
        let bytes = fs::read(&module).unwrap();
        // SAFETY: the bytes and the empty string of parameters live until the call returns.
        let loaded = unsafe { libc::syscall(libc::SYS_init_module, bytes.as_ptr(), bytes.len(), c"".as_ptr()) };
        assert_eq!(loaded, 0, "{}: {}", module.display(), std::io::Error::last_os_error());
    }
    assert!(Path::new("/proc/sys/net/ipv6").exists());
}

/// The program of this test as `/init`, the others, the libraries of all, the kernel's modules.
fn archive(kernel: &Path, programs: &[&str], scratch: &Path) -> Vec<u8> {
    let own = scratch.join("init");
    let whole = std::env::current_exe().unwrap();
    assert!(Command::new("strip").args(["--strip-debug", "-o"]).arg(&own).arg(whole).status().unwrap().success());
    let mut files = BTreeMap::from([("init".to_owned(), own.clone())]);
    let mut all = vec![own];
    for program in programs {
        let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(|folder| Path::new(folder).join(program));
        let found = found.into_iter().find(|path| path.exists());
        let found = found.unwrap_or_else(|| panic!("{program} is not on this machine"));
        files.insert(format!("bin/{program}"), found.clone());
        all.push(found);
    }
    for program in all {
        let reported = Command::new("ldd").arg(&program).output().unwrap().stdout;
        for line in String::from_utf8(reported).unwrap().lines() {
            // `NAME => PATH (…)`, or the path of the loader alone.
            let path = line.split_whitespace().find(|word| word.starts_with('/'));
            if let Some(path) = path {
                files.insert(path.trim_start_matches('/').to_owned(), path.into());
            }
        }
    }
    for module in fs::read_dir(kernel.join("modules")).unwrap() {
        let module = module.unwrap();
        files.insert(format!("modules/{}", module.file_name().to_str().unwrap()), module.path());
    }
    let mut folders: BTreeSet<String> = ["proc", "sys", "dev", "tmp"].map(str::to_owned).into();
    for name in files.keys() {
        folders.extend(Path::new(name).ancestors().skip(1).map(|path| path.to_str().unwrap().to_owned()));
    }
    let mut archive = Vec::new();
    folders.iter().filter(|folder| !folder.is_empty()).for_each(|folder| entry(&mut archive, folder, 0o040_755, &[]));
    for (name, path) in files {
        let bytes = fs::read(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        entry(&mut archive, &name, 0o100_000 | mode, &bytes);
    }
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

/// An entry of a cpio archive, of the form that the kernel unpacks.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, bytes: &[u8]) {
    let pad = |archive: &mut Vec<u8>| archive.resize(archive.len().next_multiple_of(4), 0);
    let number = archive.len() as u32;
    let fields = [number, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    archive.extend_from_slice(b"070701");
    fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08x}").as_bytes()));
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(bytes);
    pad(archive);
}
