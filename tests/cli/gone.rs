//! A daemon that goes away in the middle of each command, at each of its requests. Which commands there are is told by the program
//! itself; which requests one makes, by making them.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use clap::CommandFactory;
use qherd::cli::Cli;

use crate::{
    screen::{Screen, bare, run},
    support::Daemon,
};

/// What each is tried with, on a VM that is there and off. Those that know no daemon are in `WITHOUT`.
const TRIED: &[(&str, &[&str])] = &[
    (
        "create",
        &[
            "--image",
            "blank.raw",
            "--memory",
            "64M",
            "--disk",
            "1G",
            "--name",
            "more",
            "--start",
            "--wait-for",
            "running",
        ],
    ),
    ("import libvirt", &[concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/libvirt/cdrom-install.xml")]),
    ("ls", &["-l"]),
    ("show", &["web"]),
    ("start", &["web", "--wait-for", "running"]),
    ("stop", &["web", "--force"]),
    ("reboot", &["web"]),
    ("suspend", &["web"]),
    ("resume", &["web"]),
    ("rm", &["web"]),
    ("set", &["web", "--cpus", "2", "--memory", "128M", "--iops", "100", "--restart-policy", "always"]),
    ("console", &["web"]),
    ("exec", &["web", "--", "true"]),
    ("cp", &["/etc/hostname", "web:/tmp/name"]),
    ("agent", &["web"]),
    ("ssh", &["web", "--", "-G"]),
    ("logs", &["web", "-f"]),
    ("events", &["-f", "--vm", "web"]),
    ("wait", &["web", "--for", "stopped"]),
    ("top", &["--interval", "1s"]),
    ("disk ls", &["web"]),
    ("disk add", &["web", "--size", "1G"]),
    ("disk accept-base", &["web", "root"]),
    ("disk rm", &["web", "disk1"]),
    ("nic ls", &["web"]),
    ("nic add", &["web", "user"]),
    ("nic rm", &["web", "net1"]),
    ("switch ls", &[]),
    ("switch create", &["LAN", "--type", "private"]),
    ("switch show", &["LAN"]),
    ("switch set", &["LAN", "--label", "env=prod"]),
    ("switch rm", &["LAN"]),
    ("image ls", &[]),
    ("image pull", &["http://127.0.0.1:9/odd.qcow2"]),
    ("image save", &["web", "--name", "odd"]),
    ("image import", &["/etc/passwd", "--name", "odd"]),
    ("image show", &["odd"]),
    ("image rm", &["odd"]),
    ("image set", &["odd", "--label", "os=odd"]),
    ("image tag", &["odd", "even"]),
    ("volume ls", &[]),
    ("volume create", &["odd", "--size", "1G"]),
    ("volume attach", &["web", "data"]),
    ("volume detach", &["web", "disk1"]),
    ("volume export", &["data", "/dev/null/none"]),
    ("volume rm", &["data"]),
    ("op ls", &["--vm", "web"]),
    ("op show", &["8b2c3d4e-5f60-4b7c-9d8e-9fa0b1c2d3e4"]),
    ("op cancel", &["8b2c3d4e-5f60-4b7c-9d8e-9fa0b1c2d3e4"]),
    ("host", &[]),
];
const WITHOUT: &[&str] = &[
    "serve",
    "completion",
    "token create",
    "token ls",
    "token rm",
    "db check",
    "db export",
    "db import",
    "db restore",
];
/// Of commands without end.
const ENDLESS: &[&str] = &["console", "logs", "events", "top"];
/// The most requests that one makes here.
const MOST: usize = 20;

#[test]
fn every_command_is_tried() {
    let mut command = Cli::command();
    command.build();
    let mut known: Vec<&str> = TRIED.iter().map(|(name, _)| *name).chain(WITHOUT.iter().copied()).collect();
    let mut all = leaves(&command, "");
    known.sort_unstable();
    all.sort_unstable();
    assert_eq!(all, known, "a command that is new here is to be tried as well");
}

fn leaves(command: &clap::Command, path: &str) -> Vec<String> {
    let below = command.get_subcommands().filter(|command| command.get_name() != "help" && !command.is_hide_set());
    let name = |command: &clap::Command| format!("{path} {}", command.get_name()).trim().to_owned();
    let found: Vec<String> = below.flat_map(|command| leaves(command, &name(command))).collect();
    if found.is_empty() { vec![path.to_owned()] } else { found }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_may_go_at_any_request_of_any_command() {
    let daemon = Daemon::start();
    for (name, args) in TRIED {
        let mut cut_at = Vec::new();
        for after in 0..MOST {
            have_what_is_named(&daemon);
            let relay = Relay::open(&daemon.state().join("api.sock"), after);
            let socket = format!("unix://{}", relay.path.display());
            let words: Vec<&str> = name.split(' ').chain(["--url", &socket]).chain(args.iter().copied()).collect();
            let mut screen = Screen::open(bare(&words), 30, 120);
            let is_endless = ENDLESS.contains(name);
            // What goes on for ever without another request is left in the middle of its answer.
            while is_endless && !relay.has_cut() && screen.is_there() {
                if relay.is_idle() {
                    relay.cut();
                }
            }
            let status = screen.end();
            screen.is_as_before();
            let text = screen.text();
            if !relay.has_cut() {
                break;
            }
            assert_eq!(status.code(), Some(6), "{name}, request {after}:\n{text}");
            assert!(text.contains("qherd: ") && !text.contains("panicked"), "{name}, request {after}:\n{text}");
            cut_at.push(after);
            if is_endless && after == 5 {
                break;
            }
        }
        assert!(!cut_at.is_empty() && cut_at.len() < MOST, "{name}: {cut_at:?}");
    }
}

/// A VM that is off, and a switch.
fn have_what_is_named(daemon: &Daemon) {
    if run(daemon, &["show", "web", "-q"]).code != 0 {
        run(daemon, &["create", "--image", "blank.raw", "--memory", "64M", "--disk", "1G", "--name", "web"]).expect(0);
    }
    run(daemon, &["stop", "web", "--force"]).expect(0);
    for id in run(daemon, &["ls", "-q"]).expect(0).out.lines().skip(1) {
        run(daemon, &["rm", id]).expect(0);
    }
}

/// Stands before the daemon, passes so many requests, and goes away in the middle of the next one.
struct Relay {
    path: PathBuf,
    _dir: tempfile::TempDir,
    seen: Arc<Seen>,
}

struct Seen {
    own: PathBuf,
    after: usize,
    requests: AtomicUsize,
    cut: AtomicBool,
    open: Mutex<Vec<UnixStream>>,
    last: Mutex<Instant>,
}

impl Relay {
    fn open(to: &Path, after: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let seen = Arc::new(Seen {
            own: path.clone(),
            after,
            requests: AtomicUsize::new(0),
            cut: AtomicBool::new(false),
            open: Mutex::default(),
            last: Mutex::new(Instant::now()),
        });
        let (to, all) = (to.to_owned(), Arc::clone(&seen));
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if all.cut.load(Ordering::SeqCst) {
                    return;
                }
                let server = UnixStream::connect(&to).unwrap();
                all.open.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                let (mut back, mut front) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back, &mut front);
                    let _ = front.shutdown(Shutdown::Both);
                });
                let all = Arc::clone(&all);
                std::thread::spawn(move || all.relay(client, server));
            }
        });
        Self { path, _dir: dir, seen }
    }

    fn has_cut(&self) -> bool {
        self.seen.cut.load(Ordering::SeqCst)
    }

    /// Something was asked for, and nothing has been for a while.
    fn is_idle(&self) -> bool {
        std::thread::sleep(Duration::from_millis(50));
        self.seen.requests.load(Ordering::SeqCst) > 0
            && self.seen.last.lock().unwrap().elapsed() > Duration::from_millis(1500)
    }

    fn cut(&self) {
        self.seen.cut();
    }
}

impl Seen {
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        let _ = std::fs::remove_file(&self.own);
        for stream in self.open.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Heads are sent in one piece, and no body holds what they end with.
    fn relay(&self, mut client: UnixStream, mut server: UnixStream) {
        let mut piece = [0; 65536];
        while let Ok(length @ 1..) = client.read(&mut piece) {
            let piece = &piece[..length];
            if piece.windows(10).any(|part| part == b" HTTP/1.1\r") {
                *self.last.lock().unwrap() = Instant::now();
                if self.requests.fetch_add(1, Ordering::SeqCst) >= self.after {
                    self.cut();
                    return;
                }
            }
            if server.write_all(piece).is_err() {
                return;
            }
        }
        let _ = server.shutdown(Shutdown::Write);
    }
}
