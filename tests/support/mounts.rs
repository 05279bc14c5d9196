//! A state directory on a file system of its own, in a mount namespace of its own: the test starts itself again in there,
//! and everything that was mounted vanishes with its last process.
#![allow(dead_code)] // Every test file uses its own part.

use std::{
    fs::File,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

const INSIDE: &str = "QHERD_TEST_IN_MOUNTS";

/// Runs `body` as root in a mount namespace, by running the test `name` of `module` (`module_path!()`) once more. Fails
/// where that is impossible.
pub fn in_private_mounts<F: Future<Output = ()>>(module: &str, name: &str, body: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        return tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(body());
    }
    assert!(rustix::process::geteuid().is_root(), "{name} needs root and mount namespaces");
    // The harness leaves out the name of the binary.
    let name = module.split_once("::").map_or(name.to_owned(), |(_, module)| format!("{module}::{name}"));
    let outer = tempfile::Builder::new().prefix("qherd-mounts-").tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(INSIDE, "1")
        .env("TMPDIR", outer.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "in its own mount namespace:\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
}

/// Makes `at` an ext4 of its own of so many MiB; returns the file that holds it. Nothing in it is kept back for root.
pub fn ext4(at: &Path, mebibytes: u64) -> PathBuf {
    let image = at.with_extension("img");
    File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", "-m", "0", image.to_str().unwrap()]);
    std::fs::create_dir_all(at).unwrap();
    mount(&image, at, "loop,errors=remount-ro");
    image
}

pub fn mount(image: &Path, at: &Path, options: &str) {
    run("mount", &["-o", options, image.to_str().unwrap(), at.to_str().unwrap()]);
}

/// A file that takes all the space there is, to the last block.
pub struct Filler {
    path: PathBuf,
    file: File,
    end: u64,
}

impl Filler {
    pub fn new(folder: &Path) -> Self {
        let path = folder.join("filler");
        let file = File::create(&path).unwrap();
        Self { path, file, end: 0 }
    }

    pub fn fill(&mut self) {
        let block = vec![0xa5; 1 << 20];
        for size in [1 << 20, 1 << 16, 1 << 12, 1] {
            loop {
                match self.file.write_at(&block[..size], self.end) {
                    Ok(written) => self.end += written as u64,
                    Err(e) if e.kind() == std::io::ErrorKind::StorageFull => break,
                    Err(e) => panic!("{e}"),
                }
            }
        }
        let _ = self.file.flush();
    }

    /// Leaves so much more space.
    pub fn yield_bytes(&mut self, bytes: u64) {
        self.end = self.end.saturating_sub(bytes);
        self.file.set_len(self.end).unwrap();
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
