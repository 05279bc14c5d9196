//! A command on a terminal of its own: what it writes, what a terminal makes of that, what is typed at it, and in which modes it
//! leaves it. And the same command without one.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use crate::support::{Daemon, PATIENCE};

/// A command of the program, which finds the daemon by the state directory.
pub fn qherd(daemon: &Daemon, args: &[&str]) -> Command {
    let mut command = bare(args);
    command.env("QHERD_STATE_DIR", daemon.state()).current_dir(daemon.dir.path());
    command
}

/// Without a daemon, and nothing of who runs the tests.
pub fn bare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("QHERD_")) {
        command.env_remove(name);
    }
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR").args(args).stdin(Stdio::null());
    command
}

/// What came of a command without a terminal.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn run(daemon: &Daemon, args: &[&str]) -> Ran {
    ran(qherd(daemon, args))
}

pub fn ran(mut command: Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

impl Ran {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self
    }
}

/// `qherd …`, done.
#[track_caller]
pub fn done(daemon: &Daemon, args: &[&str]) -> String {
    run(daemon, args).expect(0).out
}

/// Connections to the daemon's port, also those that it has not accepted yet.
pub fn connections(daemon: &Daemon) -> usize {
    let port: u16 = daemon.url.rsplit(':').next().unwrap().parse().unwrap();
    let (to, established) = (format!(":{port:04X}"), "01");
    let all = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|words| words[2].ends_with(&to) && words[3] == established).count()
}

/// Waits until there is another one than there were.
#[track_caller]
pub fn await_one_more(daemon: &Daemon, before: usize) {
    let end = Instant::now() + PATIENCE;
    while connections(daemon) <= before {
        assert!(Instant::now() < end, "nobody came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Nobody else writes this.
const MARK: &[u8] = b"\0the end\0";

pub struct Screen {
    rows: u16,
    columns: u16,
    /// `None` once the terminal has gone.
    master: Option<(File, Arc<()>)>,
    /// So that the terminal has modes when nobody else has it open any more.
    slave: File,
    child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
    before: Termios,
}

impl Screen {
    pub fn open(mut command: Command, rows: u16, columns: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = File::options().read(true).write(true).open(name).unwrap();
        tcsetwinsize(&slave, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let before = tcgetattr(&slave).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: two system calls, and nothing of this process.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        let master = File::from(master);
        let (mut reader, seen) = (master.try_clone().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (all, open) = (Arc::clone(&seen), Arc::new(()));
        let is_open = Arc::downgrade(&open);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while is_open.strong_count() > 0 {
                let mut ready = [PollFd::new(&reader, PollFlags::IN)];
                let some = poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 })).unwrap() > 0;
                match if some { reader.read(&mut piece) } else { continue } {
                    Ok(count @ 1..) => all.lock().unwrap().extend_from_slice(&piece[..count]),
                    _ => return,
                }
            }
        });
        Self { rows, columns, master: Some((master, open)), slave, child, seen, before }
    }

    pub fn type_text(&mut self, text: &str) {
        self.master.as_mut().unwrap().0.write_all(text.as_bytes()).unwrap();
    }

    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id() as i32)
    }

    /// All that was written.
    pub fn written(&self) -> Vec<u8> {
        self.seen.lock().unwrap().clone()
    }

    /// What a terminal has made of it.
    pub fn terminal(&self) -> vt100::Parser {
        let mut terminal = vt100::Parser::new(self.rows, self.columns, 0);
        terminal.process(&self.written());
        terminal
    }

    pub fn text(&self) -> String {
        self.terminal().screen().contents()
    }

    /// Waits until it is so.
    #[track_caller]
    pub fn wait(&mut self, what: &str, is: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is(self) {
            assert!(Instant::now() < end, "{what} never came:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a person reads it.
    #[track_caller]
    pub fn see(&mut self, text: &str) {
        self.wait(text, |screen| screen.text().contains(text));
    }

    pub fn is_there(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end; with what was written by then.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        };
        // What it wrote last is on its way through the terminal, before what is written now.
        if self.master.is_some() {
            self.slave.write_all(MARK).unwrap();
            self.wait("the mark", |screen| screen.written().ends_with(MARK));
            let length = self.written().len() - MARK.len();
            self.seen.lock().unwrap().truncate(length);
        }
        status
    }

    /// Waits for its end, which is of this kind, with the terminal as it was before.
    #[track_caller]
    pub fn ends(&mut self, code: i32) {
        let status = self.end();
        assert_eq!(status.code(), Some(code), "{:?}:\n{}", status.signal(), self.text());
        self.is_as_before();
    }

    #[track_caller]
    pub fn is_as_before(&self) {
        let now = tcgetattr(&self.slave).unwrap();
        let modes = |modes: &Termios| {
            (
                modes.input_modes,
                modes.output_modes,
                modes.control_modes,
                modes.local_modes,
                format!("{:?}", modes.special_codes),
            )
        };
        assert_eq!(modes(&now), modes(&self.before));
        let terminal = self.terminal();
        let screen = terminal.screen();
        assert!(!screen.alternate_screen(), "it is on the other screen");
        assert!(!screen.hide_cursor(), "the cursor is hidden");
        assert!(!screen.bracketed_paste() && !screen.application_cursor() && !screen.application_keypad());
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None);
        assert_eq!((screen.fgcolor(), screen.bold(), screen.inverse()), (vt100::Color::Default, false, false));
    }

    /// Somebody closes the window.
    pub fn close_window(&mut self) {
        drop(self.master.take());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command on a terminal, to its end: what a person reads, and how it ended.
#[track_caller]
pub fn shown(daemon: &Daemon, args: &[&str]) -> (String, i32) {
    let mut screen = Screen::open(qherd(daemon, args), 60, 160);
    let status = screen.end();
    screen.is_as_before();
    (screen.text(), status.code().unwrap_or(-1))
}
