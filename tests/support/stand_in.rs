//! A program in QEMU's place: a shell script that misbehaves when a VM is to be started, and is QEMU for every question
//! that the daemon asks beside that.
#![allow(dead_code)] // Every test file uses its own part.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

pub struct StandIn(tempfile::TempDir);

impl StandIn {
    /// `deed` are shell lines that run in place of a VM, which follows them if they let it. While the file
    /// `$hold` is there, a `deed` may wait for it to go.
    pub fn new(deed: &str) -> Self {
        let stand_in = Self(tempfile::Builder::new().prefix("qherd-stand-in-").tempdir().unwrap());
        // VMs run as users of their own.
        std::fs::set_permissions(stand_in.0.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let hold = stand_in.hold().display().to_string();
        let script = format!(
            "#!/bin/sh\nhold={hold}\ncase \" $* \" in *\" -uuid \"*)\n{deed}\n;; esac\nexec qemu-system-x86_64 \"$@\"\n"
        );
        let path = stand_in.path();
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        stand_in
    }

    /// Every start waits until [`Self::let_go`].
    pub fn holding() -> Self {
        let stand_in = Self::new("while [ -e \"$hold\" ]; do sleep 0.05; done");
        std::fs::write(stand_in.hold(), "").unwrap();
        stand_in
    }

    pub fn let_go(&self) {
        std::fs::remove_file(self.hold()).unwrap();
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("qemu")
    }

    pub fn as_arg(&self) -> String {
        self.path().display().to_string()
    }

    fn hold(&self) -> PathBuf {
        Path::new(self.0.path()).join("hold")
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // A script that still waits goes on and finds its daemon gone.
        let _ = std::fs::remove_file(self.hold());
    }
}
