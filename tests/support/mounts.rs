//! File systems of a test's own, small enough to be filled: taken away when dropped, whatever still uses them.
#![allow(dead_code)] // Every test file uses its own part.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

pub struct Mount(PathBuf);

#[track_caller]
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Mount {
    /// In memory, with room for so many MiB.
    pub fn tmpfs(at: &Path, mib: u64) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "qherd-test", at.to_str().unwrap()]);
        Self(at.to_owned())
    }

    /// ext4 on a loop device over `image`, which is made.
    pub fn ext4(at: &Path, image: &Path, mib: u64) -> Self {
        std::fs::create_dir_all(at).unwrap();
        std::fs::File::create(image).unwrap().set_len(mib << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]);
        run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
        Self(at.to_owned())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Every write to it hangs, in the kernel, until the result is dropped.
    pub fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", &["--freeze", self.0.to_str().unwrap()]);
        Frozen(self)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a QEMU may still have a file open there, and ends with its daemon.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

pub struct Frozen<'a>(&'a Mount);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0.0).status();
    }
}
