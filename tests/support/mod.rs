//! A real daemon in a state directory of its own, and a client for it. Dropping it ends the daemon and every QEMU of
//! that directory, also when a test fails.
#![allow(unsafe_code)]
#![allow(dead_code, unused_imports)] // Every test file uses its own part.

mod below;
pub mod crash;
pub mod guest;
pub mod netns;
pub mod outside;
pub mod parts;
pub mod yard;

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use below::walk;
pub use below::{dnsmasqs_below, end_groups_below, end_networks_below, kill_all, network_mark, qemus_below};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything that has to happen may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Daemon {
    pub dir: TempDir,
    pub url: String,
    /// Of the Hyper-V dialect's own listener, where there is one.
    pub hyperv_url: String,
    args: Vec<String>,
    child: Option<Child>,
    http: reqwest::Client,
}

/// Status and JSON body of a reply; a body that is no JSON is a JSON string.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The KVM dialect's error message.
    pub fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

impl Daemon {
    /// Under TCG, with a folder of base images that holds `blank.raw` (64 MiB of nothing).
    pub fn start() -> Self {
        Self::start_with(&["--accel", "tcg"])
    }

    pub fn start_with(args: &[&str]) -> Self {
        let mut daemon = Self::prepare(args);
        daemon.run();
        daemon
    }

    /// Under TCG, with a log as it is in use: every message is a write, which a measurement would see.
    pub fn start_logging(level: &str) -> Self {
        let mut daemon = Self::prepare(&["--accel", "tcg"]);
        let mut command = daemon.command();
        command.env("QHERD_LOG", level);
        daemon.run_as(command);
        daemon
    }

    /// Everything but the program itself.
    pub fn prepare(args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("qherd-test-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bases")).unwrap();
        let blank = std::fs::File::create(dir.path().join("bases/blank.raw")).unwrap();
        blank.set_len(64 << 20).unwrap();
        let args = args.iter().map(|a| (*a).to_owned()).collect();
        let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
        Self { dir, url: String::new(), hyperv_url: String::new(), args, child: None, http }
    }

    /// For every start from now on.
    pub fn add_args(&mut self, args: &[&str]) {
        self.args.extend(args.iter().map(|a| (*a).to_owned()));
    }

    /// Starts the program (again) and waits for its ready line.
    pub fn run(&mut self) {
        self.run_as(self.command());
    }

    /// As `run`, by a command of the test's own.
    pub fn run_as(&mut self, command: Command) {
        assert!(self.try_run_as(command), "not ready:\n{}", self.log_text());
    }

    /// As `run_as`, of a program that may end before it is ready: whether it is.
    pub fn try_run_as(&mut self, mut command: Command) -> bool {
        let mut child = command.stdout(Stdio::piped()).stderr(self.log()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        self.child = Some(child);
        let url = address(&mut stdout);
        let ready = url.is_some();
        self.url = url.unwrap_or_default();
        if ready && self.args.iter().any(|arg| arg == "--hyperv-listen") {
            self.hyperv_url = address(&mut stdout).unwrap();
        }
        ready
    }

    /// The command that starts the daemon on this state directory.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--state-dir"]).arg(self.state());
        command.arg("--image-dir").arg(self.bases()).args(&self.args).stdin(Stdio::null());
        // Nothing of the machine that the tests run on.
        command.current_dir(self.dir.path()).env("QHERD_LOG", "qherd=debug");
        command
    }

    fn log(&self) -> std::fs::File {
        std::fs::File::options().create(true).append(true).open(self.dir.path().join("daemon.log")).unwrap()
    }

    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("daemon.log")).unwrap_or_default()
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn bases(&self) -> PathBuf {
        self.dir.path().join("bases")
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id() as i32
    }

    /// SIGTERM; returns the exit status.
    pub fn terminate(&mut self) -> std::process::ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.wait()
    }

    /// Waits for the daemon's end; returns the exit status.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.child.take().unwrap().wait().unwrap()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.http.get(self.at(path))).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.http.post(self.at(path)).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(self.http.put(self.at(path)).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.http.delete(self.at(path))).await
    }

    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap_or_else(|e| panic!("{e:?}\n{}", self.log_text()));
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    }

    /// A wish for a small VM on the blank disk: QEMU and firmware run, nothing boots.
    pub fn wish(&self) -> Value {
        json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": self.bases().join("blank.raw") })
    }

    /// Creates a VM and returns its id.
    pub async fn create(&self, wish: Value) -> String {
        let body = self.post("/vms", wish).await.expect(201);
        body["id"].as_str().unwrap().to_owned()
    }

    pub async fn status(&self, id: &str) -> String {
        let body = self.get(&format!("/vms/{id}/status")).await.expect(200);
        body["status"].as_str().unwrap().to_owned()
    }

    /// Waits until the VM has the status.
    pub async fn await_status(&self, id: &str, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(id).await;
            if status == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "still {status}, not {wanted}\n{}", self.log_text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the daemon has logged `text`.
    pub async fn await_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log_text().contains(text) {
            assert!(Instant::now() < deadline, "never logged {text:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the console log holds `text`, at or after byte `from`; returns where it ends.
    pub async fn await_console(&self, id: &str, text: &str, from: usize) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.console(id).await;
            if let Some(at) = log.get(from..).and_then(|log| log.find(text)) {
                return from + at + text.len();
            }
            assert!(Instant::now() < deadline, "no {text:?} on the console:\n{log}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn console(&self, id: &str) -> String {
        let response = self.http.get(self.at(&format!("/vms/{id}/console/log?tail=1000000"))).send().await.unwrap();
        response.text().await.unwrap()
    }

    /// `state/run/<short id>`.
    pub fn run_dir(&self, id: &str) -> PathBuf {
        self.state().join("run").join(&id.replace('-', "")[..12])
    }

    /// Every file and folder of the state directory but the store's and the daemon's own.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for part in ["images", "run", "cloud-init"] {
            walk(&self.state().join(part), &mut found);
        }
        found
    }

    /// QEMUs of this state directory.
    pub fn qemus(&self) -> Vec<i32> {
        qemus_below(&self.state())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // A dnsmasq outlives its daemon too; a test that fails leaves its switches, or a state directory of another name.
        kill_all(&qemus_below(self.dir.path()));
        end_groups_below(self.dir.path());
        end_networks_below(self.dir.path());
        if std::thread::panicking() {
            eprintln!("--- daemon ---\n{}", self.log_text());
        }
    }
}

/// Keeps a process from ending, as storage that hangs does: a SIGKILL takes effect when this is dropped. A tracer holds
/// its tracee at the last step of its end (PTRACE_O_TRACEEXIT), and lets go of it by ending itself.
pub struct Hold {
    release: Option<std::sync::mpsc::Sender<()>>,
    tracer: Option<std::thread::JoinHandle<()>>,
}

impl Hold {
    pub fn on(pid: i32) -> Self {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (seized, seizing) = std::sync::mpsc::channel();
        let tracer = std::thread::spawn(move || {
            // SAFETY: a system call with numbers only.
            let result = unsafe {
                nix::libc::ptrace(
                    nix::libc::PTRACE_SEIZE,
                    pid,
                    std::ptr::null_mut::<u8>(),
                    nix::libc::PTRACE_O_TRACEEXIT,
                )
            };
            seized.send((result, std::io::Error::last_os_error())).unwrap();
            let _ = released.recv();
        });
        let (result, error) = seizing.recv().unwrap();
        assert_eq!(result, 0, "ptrace({pid}): {error}");
        Self { release: Some(release), tracer: Some(tracer) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        drop(self.release.take());
        let _ = self.tracer.take().unwrap().join();
    }
}

/// Host cores that a thread may run on, from /proc/TID/status.
pub fn affinity(thread: i32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap();
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse::<u32>().unwrap()..=last.parse().unwrap()
    };
    list.split(',').flat_map(range).collect()
}

/// Thread ids of a QEMU's vCPUs, in their order, by the names that `debug-threads=on` gives them.
pub fn vcpu_threads(pid: i32) -> Vec<i32> {
    let mut threads: Vec<(u32, i32)> = std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten()
        .filter_map(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
            let index = name.trim().strip_prefix("CPU ")?.split('/').next()?.parse().ok()?;
            Some((index, task.file_name().to_str()?.parse().ok()?))
        })
        .collect();
    threads.sort_unstable();
    threads.into_iter().map(|(_, thread)| thread).collect()
}

/// The address in a ready line.
fn address(stdout: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    line.strip_prefix("listening on ").and_then(|rest| rest.split_whitespace().next()).map(str::to_owned)
}
