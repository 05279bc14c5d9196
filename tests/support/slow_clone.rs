//! A program in qemu-img's place, which copies only when it is let to: before that it says that a quarter is done.
#![allow(dead_code)] // Every test file uses its own part.

use std::{os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use serde_json::{Value, json};

use crate::support::Daemon;

pub struct SlowClone(tempfile::TempDir);

impl SlowClone {
    pub fn new() -> Self {
        let slow = Self(tempfile::Builder::new().prefix("qherd-slow-clone-").tempdir().unwrap());
        std::fs::set_permissions(slow.0.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(slow.hold(), "").unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let real = std::env::split_paths(&path).map(|folder| folder.join("qemu-img")).find(|found| found.exists());
        let script = format!(
            "#!/bin/sh\ncase \" $* \" in *\" convert \"*) printf '    (25.00/100%%)\\r'\n\
             while [ -e {} ]; do sleep 0.05; done;; esac\nexec {} \"$@\"\n",
            slow.hold().display(),
            real.unwrap().display()
        );
        std::fs::write(slow.path(), script).unwrap();
        std::fs::set_permissions(slow.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        slow
    }

    pub fn let_go(&self) {
        std::fs::remove_file(self.hold()).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("qemu-img")
    }

    /// A daemon finds it first, and the real one's words are those of a copy of this much.
    pub fn run(&self, daemon: &mut Daemon) {
        let data: Vec<u8> = (0..4 << 20).map(|at: u32| (at % 251) as u8).collect();
        std::fs::write(daemon.bases().join("data.raw"), data).unwrap();
        let mut path = vec![self.0.path().to_owned()];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let mut command: Command = daemon.command();
        command.env("PATH", std::env::join_paths(path).unwrap());
        daemon.run_as(command);
    }

    /// What is wished for, of a VM or a disk.
    pub fn wish(daemon: &Daemon) -> Value {
        let mut wish = daemon.wish();
        (wish["base_image"], wish["clone"]) = (json!("data.raw"), json!("full"));
        wish
    }

    fn hold(&self) -> PathBuf {
        self.0.path().join("hold")
    }
}

impl Drop for SlowClone {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.hold());
    }
}
