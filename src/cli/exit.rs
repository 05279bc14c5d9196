//! How a command ends that did not do what it was asked: the exit status, which scripts go by, and the sentence, which says the
//! next step.

use std::{fmt, io, process::ExitCode};

use crate::{
    api::{http::HttpError, kvm::plain},
    client::Failure,
    model::Error,
};

/// Why it ends. [`STATUSES`] says it to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Failed,
    /// Here or by the daemon.
    Usage,
    NotFound,
    Conflict,
    Denied,
    Unreachable,
    Late,
    /// By its number.
    Signal(u8),
    /// As what was run has ended.
    Its(u8),
}

/// The table of the help and of docs/cli.md.
pub const STATUSES: &str = "\
Exit status:
  0    done
  1    it could not be done
  2    not understood, here or by the daemon
  3    there is no such VM, switch, disk or NIC, or several are called so
  4    not in the state in which it is
  5    not for this caller
  6    there is no daemon, or it went away
  7    the time was over before it was so
  128+ a signal ended it (141: who read what it wrote has gone, as head does); ssh and exec end with their own, exec with 124
       where the time was over";

/// What the API says to do of a VM that is protected.
const BY_FIELD: &str = "; update it with protected=false first.";

#[derive(Clone, Debug)]
pub struct Fail {
    pub exit: Exit,
    pub text: String,
}

impl Fail {
    pub fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    pub fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }

    /// With the VM that it concerns ahead of it: whether a text says so cannot be told from it, as a name may be any word.
    #[must_use]
    pub fn about(self, what: &str) -> Self {
        self.about_what(what, "set")
    }

    /// The same of anything else, which is changed by the command `set`.
    #[must_use]
    pub fn about_what(self, what: &str, set: &str) -> Self {
        if self.text.starts_with(&format!("{what}: ")) {
            return self;
        }
        // Where the API names a field of its own, the flag is what is looked for.
        let text = match self.text.strip_suffix(BY_FIELD) {
            Some(text) => format!("{text}; qherd {set} {} --protected false permits it", word(what)),
            None => self.text,
        };
        Self { exit: self.exit, text: format!("{what}: {text}") }
    }
}

/// A name as a shell takes it for one word. Of what a shell acts on, names have spaces and parentheses alone.
fn word(name: &str) -> String {
    if name.contains([' ', '(', ')']) { format!("'{name}'") } else { name.to_owned() }
}

/// Whatever it says of a guest or a daemon, a terminal takes it for text.
impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(plain(&self.text).trim_end())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Conflict => 4,
            Exit::Denied => 5,
            Exit::Unreachable => 6,
            Exit::Late => 7,
            Exit::Signal(number) => 128 + number,
            Exit::Its(code) => code,
        })
    }
}

impl From<Failure> for Fail {
    fn from(failure: Failure) -> Self {
        let text = failure.to_string();
        match failure {
            Failure::Unreachable { why, .. } => {
                let (exit, next) = match why.kind() {
                    io::ErrorKind::PermissionDenied => (
                        Exit::Denied,
                        "run it as root or as the daemon's user, or have the daemon started with --allow user:YOU=ROLE",
                    ),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => (
                        Exit::Unreachable,
                        "start one with qherd serve; one with another state directory is found by --state-dir or QHERD_STATE_DIR, \
                         one elsewhere by --url or QHERD_URL",
                    ),
                    _ => (Exit::Unreachable, "see whether it runs, and whether --url and --cacert are right"),
                };
                Self::new(exit, format!("{text}\n{next}"))
            }
            Failure::Lost { .. } => Self::new(
                Exit::Unreachable,
                format!(
                    "{text}\nVMs go on without the daemon; what it was asked for may be done all the same: see qherd ls"
                ),
            ),
            Failure::Late { .. } => {
                Self::new(Exit::Late, format!("{text}\nit may be stopped or overloaded; its log says more"))
            }
            Failure::OtherDialect { .. } => Self::new(
                Exit::Usage,
                format!("{text}\n--url and QHERD_URL name the address of --listen, not that of --hyperv-listen"),
            ),
            Failure::Garbled { .. } => {
                Self::new(Exit::Failed, format!("{text}\nsee whether --url names the right one"))
            }
            Failure::Refused { status, message, detail } => {
                let text = detail.map_or(message.clone(), |detail| format!("{message} {detail}"));
                match status.as_u16() {
                    503 if is_farewell(&message) => {
                        Self::new(Exit::Unreachable, format!("{text}\nVMs go on without the daemon"))
                    }
                    400 | 413 | 415 | 422 => Self::new(Exit::Usage, text),
                    401 => Self::new(
                        Exit::Denied,
                        format!("{text}\nQHERD_TOKEN is where a token goes; qherd token create makes one"),
                    ),
                    403 => Self::new(
                        Exit::Denied,
                        format!("{text}\nthe daemon's --allow user:NAME=ROLE, or a token of a higher role, permits it"),
                    ),
                    404 | 410 => Self::new(Exit::NotFound, text),
                    409 => Self::new(Exit::Conflict, text),
                    _ => Self::new(Exit::Failed, text),
                }
            }
        }
    }
}

/// What a daemon says that ends.
fn is_farewell(message: &str) -> bool {
    let farewells =
        [HttpError::ShuttingDown.message(), HttpError::Unfinished.message(), Error::ShuttingDown.to_string()];
    farewells.iter().any(|farewell| farewell == message)
}

impl From<io::Error> for Fail {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_concerned_is_named_also_where_the_text_has_its_letters() {
        let about = |text: &str, what: &str| Fail::new(Exit::Conflict, text).about(what).to_string();
        assert_eq!(about("VM is not running.", "run"), "run: VM is not running.");
        assert_eq!(about("web: it is off", "web"), "web: it is off");
        let said = about(&crate::model::Conflict::Protected.to_string(), "a");
        assert!(
            said.starts_with("a: VM is protected") && said.ends_with("; qherd set a --protected false permits it"),
            "{said}"
        );
        let of = |text: &str| Fail::new(Exit::Conflict, text).about_what("my LAN (2)", "switch set").to_string();
        let said = of("The switch my LAN (2) is protected against deletion; update it with protected=false first.");
        assert!(said.ends_with("; qherd switch set 'my LAN (2)' --protected false permits it"), "{said}");
    }
}
