//! A machine with a real systemd as its pid 1, in namespaces of its own: see `systemd.sh`. It shares the network of the
//! thread that makes it, so that its services can be asked over HTTP.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use tempfile::TempDir;

use crate::support::PATIENCE;

pub struct Container {
    folder: TempDir,
    maker: Child,
    /// systemd itself, as its maker sees it.
    init: i32,
}

impl Container {
    /// Boots with these units, by name.
    pub fn boot(units: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("qherd-systemd-").tempdir().unwrap();
        let etc = folder.path().join("etc/systemd/system");
        fs::create_dir_all(&etc).unwrap();
        // What every service leans on by default.
        let targets = ["sysinit.target", "basic.target", "shutdown.target"].map(|name| (name, "[Unit]\n"));
        for (name, text) in targets.iter().chain(units) {
            fs::create_dir_all(etc.join(name).parent().unwrap()).unwrap();
            fs::write(etc.join(name), text).unwrap();
        }
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut maker = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/systemd.sh"))
            .arg(folder.path())
            .arg(env!("CARGO_BIN_EXE_qherd"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(maker.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut container = Self { folder, maker, init: 0 };
        let unshare: i32 = line.trim().parse().unwrap_or_else(|_| panic!("{}", container.log()));
        // The child of unshare, once systemd is what it runs.
        container.init = container.until("systemd runs", || {
            let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).ok()?;
            let child = children.trim().parse().ok()?;
            (fs::read_to_string(format!("/proc/{child}/comm")).ok()?.trim() == "systemd").then_some(child)
        });
        container.until("systemd answers", || container.try_systemctl(&["list-units"]).status.success().then_some(()));
        container
    }

    /// A path of the machine's, as its maker sees it.
    pub fn at(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    pub fn try_systemctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init)).args(["--pid", "--mount", "--root", "--wd", "systemctl"]);
        command.args(args).output().unwrap()
    }

    /// `systemctl` inside; what it says.
    pub fn systemctl(&self, args: &[&str]) -> String {
        let output = self.try_systemctl(args);
        assert!(output.status.success(), "systemctl {args:?}: {output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A property of the service, as systemd has it.
    pub fn property(&self, service: &str, name: &str) -> String {
        self.systemctl(&["show", "--value", "--property", name, service])
    }

    /// Processes whose program has this name: their pid in there, and when they were started, which together are
    /// nobody else's.
    pub fn processes(&self, name: &str) -> Vec<(i32, u64)> {
        let processes = fs::read_dir(self.at("/proc")).unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let process = |pid: i32| {
            let stat = fs::read_to_string(self.at(&format!("/proc/{pid}/stat"))).ok()?;
            let (before, after) = stat.rsplit_once(')')?;
            let (comm, fields) = (before.split_once('(')?.1, after.split_whitespace());
            // A process that has ended is a Z until its parent has looked.
            let fields: Vec<&str> = fields.collect();
            (name.starts_with(comm) && fields[0] != "Z").then(|| (pid, fields[19].parse().unwrap()))
        };
        pids.filter_map(process).collect()
    }

    pub fn log(&self) -> String {
        let of = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        format!("{}\n{}", of(&self.folder.path().join("log")), of(&self.at("/run/qherd.log")))
    }

    /// Waits for something.
    pub fn until<T>(&self, what: &str, mut done: impl FnMut() -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            if let Some(done) = done() {
                return done;
            }
            assert!(begun.elapsed() < PATIENCE, "never: {what}\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- machine ---\n{}", self.log());
        }
        drop(self.maker.stdin.take());
        let _ = self.maker.wait();
    }
}
