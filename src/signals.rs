//! The signals of the daemon. Every one that would end a process as it is delivered has a meaning here, or none: the daemon
//! ends in order, with its drain and its export, or not at all.

use nix::libc;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// They mean nothing. SIGHUP is reserved for reading the settings anew; SIGPIPE is ignored by every Rust program.
const UNHEEDED: [(i32, &str); 11] = [
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGUSR1, "SIGUSR1"),
    (libc::SIGUSR2, "SIGUSR2"),
    (libc::SIGALRM, "SIGALRM"),
    (libc::SIGVTALRM, "SIGVTALRM"),
    (libc::SIGPROF, "SIGPROF"),
    (libc::SIGIO, "SIGIO"),
    (libc::SIGPWR, "SIGPWR"),
    (libc::SIGSTKFLT, "SIGSTKFLT"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGXFSZ, "SIGXFSZ"),
];

/// Those that ask for the daemon's end.
pub struct Ends {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

/// From now on no signal ends the process by itself, but for SIGKILL and those of its own faults.
///
/// # Errors
/// When the kernel has no descriptor left.
pub fn listen() -> std::io::Result<Ends> {
    for (number, name) in UNHEEDED {
        let mut signal = signal(SignalKind::from_raw(number))?;
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                tracing::info!("{name} means nothing to qherd; SIGTERM ends it");
            }
        });
    }
    Ok(Ends {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        quit: signal(SignalKind::quit())?,
    })
}

impl Ends {
    /// The name of the next one. May be dropped and called again.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}
