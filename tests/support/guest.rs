//! The guest that `scripts/build-guest` makes: where its image is, what its heartbeat says, and commands typed at its
//! serial console.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::Daemon;

/// How long a guest may take for its boot, or for anything else: emulated, with other guests on few cores.
const PATIENCE: Duration = Duration::from_secs(400);

/// A daemon that may clone the guest's image.
pub fn daemon() -> Daemon {
    let folder = image().parent().unwrap().display().to_string();
    Daemon::start_with(&["--accel", "tcg", "--image-dir", &folder])
}

/// The image; `scripts/test` makes it and says where it is.
pub fn image() -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/guest/guest.qcow2");
    let image = PathBuf::from(std::env::var("QHERD_TEST_GUEST").unwrap_or_else(|_| default.into()));
    assert!(image.exists(), "{} is missing: run scripts/build-guest (scripts/test does it)", image.display());
    image
}

/// A wish for a small VM that boots.
pub fn wish() -> Value {
    json!({ "vcpus": 1, "memory": 256, "disk_size": 1, "base_image": image() })
}

/// A client of the serial console, until it is dropped.
pub struct Console(UnixStream);

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// One line of the guest's heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    pub beat: u64,
    /// Differs from boot to boot.
    pub boot: String,
    pub cpus: u32,
    pub mem_mib: u64,
    pub disk_mib: u64,
    pub nics: u32,
}

impl Beat {
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_once("qherd-guest: ")?.1.split_whitespace();
        let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        Some(Self {
            beat: field("beat")?.parse().ok()?,
            boot: field("boot")?,
            cpus: field("cpus")?.parse().ok()?,
            mem_mib: field("mem_mib")?.parse().ok()?,
            disk_mib: field("disk_mib")?.parse().ok()?,
            nics: field("nics")?.parse().ok()?,
        })
    }
}

impl Daemon {
    /// Whether vCPUs are taken away from this QEMU by `device_del`, or from the guest by its agent (ruling 16).
    pub async fn unplugs_vcpus(&self) -> bool {
        let host = self.get("/host").await.expect(200);
        let major = host["qemu_version"].as_str().unwrap().split('.').next().unwrap();
        host["accelerator"] == "kvm" || major.parse::<u32>().unwrap() >= 10
    }

    /// All heartbeats on the console so far.
    pub async fn beats(&self, id: &str) -> Vec<Beat> {
        self.console(id).await.lines().filter_map(Beat::parse).collect()
    }

    /// What the guest has written that no daemon has taken, from where its QEMU holds it.
    pub fn held_console(&self, id: &str) -> String {
        let of_vm = |pid: &i32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).contains(id)
        };
        let pid = self.qemus().into_iter().find(of_vm).expect("its QEMU");
        for descriptor in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let path = descriptor.path();
            if std::fs::read_link(&path).is_ok_and(|target| target.as_os_str() == "/memfd:qherd-console (deleted)") {
                let number = descriptor.file_name().into_string().unwrap();
                let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
                let written = info.lines().find_map(|line| line.strip_prefix("pos:")).unwrap().trim();
                let mut text = std::fs::read(&path).unwrap();
                text.truncate(written.parse().unwrap());
                return String::from_utf8_lossy(&text).into_owned();
            }
        }
        panic!("QEMU {pid} holds no console");
    }

    /// Waits until QEMU has all that is defined; returns the configuration. A guest may be ahead of what QEMU reports: the
    /// size of a memory device is reported once a second at most.
    pub async fn await_in_effect(&self, id: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let config = self.get(&format!("/vms/{id}/config")).await.expect(200);
            if config["pending"] == json!({}) {
                return config;
            }
            assert!(Instant::now() < deadline, "still pending: {config}\n{}", self.log_text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits for a heartbeat that fulfils `wanted`.
    pub async fn await_beat(&self, id: &str, wanted: impl Fn(&Beat) -> bool) -> Beat {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(beat) = self.beats(id).await.into_iter().rev().find(&wanted) {
                return beat;
            }
            assert!(Instant::now() < deadline, "the heartbeat never came; the console:\n{}", self.console(id).await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until a boot other than `before` is up with its agent; returns its first heartbeat seen.
    pub async fn await_boot(&self, id: &str, before: Option<&Beat>) -> Beat {
        let deadline = Instant::now() + PATIENCE;
        // The last one counts: those of all boots are on the console.
        let beat = loop {
            match self.beats(id).await.pop() {
                Some(beat) if before.is_none_or(|before| before.boot != beat.boot) => break beat,
                _ => assert!(Instant::now() < deadline, "it never booted; the console:\n{}", self.console(id).await),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let deadline = Instant::now() + PATIENCE;
        while self.get(&format!("/vms/{id}")).await.expect(200)["guest_agent"] != true {
            assert!(Instant::now() < deadline, "no guest agent; the console:\n{}", self.console(id).await);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        beat
    }

    /// Types a line at the guest's console; it arrives as long as the connection is kept.
    pub fn write_line(&self, id: &str, line: &str) -> Console {
        let mut serial = UnixStream::connect(self.run_dir(id).join("serial.sock")).unwrap();
        writeln!(serial, "{line}").unwrap();
        // QEMU sends byte by byte: some 280 unread bytes fill the socket and freeze the guest's console.
        let mut unread = serial.try_clone().unwrap();
        std::thread::spawn(move || std::io::copy(&mut unread, &mut std::io::sink()));
        Console(serial)
    }

    /// Types a line at the guest's console and waits until the guest answers `expect`.
    pub async fn type_line(&self, id: &str, line: &str, expect: &str) -> String {
        let from = self.console(id).await.len();
        // Open until the guest has answered: QEMU drops what a client sent that has hung up.
        let _serial = self.write_line(id, line);
        let end = self.await_console(id, expect, from).await;
        let log = self.console(id).await;
        let begin = log[..end].rfind('\n').map_or(0, |i| i + 1);
        log[begin..].lines().next().unwrap_or_default().to_owned()
    }
}
