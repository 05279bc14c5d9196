//! The terminal of who is at a console: as it was before, however that ends. A guest may have done anything to it.

use std::io::{self, IsTerminal, Write, stdin, stdout};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{Exit, Fail};

/// Takes back what a guest may have set, in the order of harm: an unfinished sequence, the scrolling region, the other screen,
/// reports of mouse, focus and pasted text, modes of the keyboard, invisible cursor, wrapping, inserting, character sets, colours.
const AS_BEFORE: &str = "\x18\x1b\\\x1b7\x1b[r\x1b8\x1b7\x1b[?1049l\x1b[?1;9;1000;1001;1002;1003;1004;1005;1006;1015;1016;2004l\
                         \x1b[>4m\x1b[<9u\x1b>\x1b[?25h\x1b[?7h\x1b[?6l\x1b[4l\x1b[20l\x1b(B\x0f\x1b[!p\x1b[0m\x1b[0 q";

/// While it lives, keys come as they are typed.
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// # Errors
    /// Where standard input or output is no terminal.
    pub fn enter() -> Result<Self, Fail> {
        if !stdin().is_terminal() || !stdout().is_terminal() {
            return Err(Fail::usage("a console takes a terminal; qherd logs -f shows what a guest writes without one"));
        }
        let before = tcgetattr(stdin()).map_err(io::Error::from)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(io::Error::from)?;
        Ok(Self { before })
    }
}

/// Also when something panics.
impl Drop for Raw {
    fn drop(&mut self) {
        // One that has gone needs nothing.
        let _ = stdout().write_all(AS_BEFORE.as_bytes()).and_then(|()| stdout().flush());
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

/// The signals that end a process, for who has to leave in order. Ctrl-Z is the guest's, so a stop from elsewhere means nothing.
pub struct Signals {
    ends: [(u8, Signal); 4],
    _stop: Signal,
}

impl Signals {
    /// # Errors
    /// Where the kernel has no descriptor left.
    pub fn listen() -> Result<Self, Fail> {
        let of = |kind: SignalKind| signal(kind).map_err(Fail::from);
        let ends = [
            (1, of(SignalKind::hangup())?),
            (2, of(SignalKind::interrupt())?),
            (3, of(SignalKind::quit())?),
            (15, of(SignalKind::terminate())?),
        ];
        Ok(Self { ends, _stop: of(SignalKind::from_raw(nix::libc::SIGTSTP))? })
    }

    /// May be dropped and called again.
    pub async fn next(&mut self) -> Fail {
        let [hangup, interrupt, quit, terminate] = &mut self.ends;
        let number = tokio::select! {
            _ = hangup.1.recv() => hangup.0,
            _ = interrupt.1.recv() => interrupt.0,
            _ = quit.1.recv() => quit.0,
            _ = terminate.1.recv() => terminate.0,
        };
        Fail::new(Exit::Signal(number), "")
    }
}
