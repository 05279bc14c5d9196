//! Runs a command in a guest by its agent's `guest-exec`, which tells what became of it once it has ended, all at once. What is
//! written is held up to a bound; a command that takes too long is killed. Where it is to run, as whom, and with what in its
//! environment is a shell's matter, which a guest of another kind has not.

use std::time::Duration;

use base64ct::{Base64, Encoding};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{AgentError, Guest, PATIENCE, SOON, command_in, failed, read, refused};
use crate::{
    model::{Error, Result},
    qmp::{Bounds, QgaError},
};

/// Bytes that are held of what a command writes, on each of its two outputs.
pub const MOST_OUTPUT: usize = 1 << 20;
/// For an answer with all of it: an emulated guest sends some 200 KiB a second.
const BOUNDS: Bounds = Bounds { string: MOST_OUTPUT.div_ceil(3) * 4, line: 48 << 20, time: Duration::from_secs(180) };
/// Between two looks at whether it has ended.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(250);
/// For one that was killed to be gone.
const KILLED: Duration = Duration::from_secs(5);

/// Goes to a folder and becomes somebody, where it is told so, and then the command.
const SHELL: &str = "\
if [ -n \"$1\" ]; then cd -- \"$1\" || exit 125; fi
user=$2; shift 2
[ -n \"$user\" ] || exec \"$@\"
if command -v runuser >/dev/null 2>&1; then exec runuser -u \"$user\" -- \"$@\"; fi
exec su -s /bin/sh -c 'exec \"$@\"' -- \"$user\" sh \"$@\"";

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Command {
    pub argv: Vec<String>,
    /// Beside what the agent itself has.
    pub env: Vec<(String, String)>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub stdin: Vec<u8>,
    pub timeout: Duration,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// None of one that a signal has ended, or that goes on.
    pub exit_code: Option<i64>,
    pub signal: Option<i64>,
    /// It took too long, and was killed; one that shows neither an exit code nor a signal goes on all the same.
    pub timed_out: bool,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// There was more than is held.
    pub stdout_truncated: bool,
    pub stderr_truncated: bool,
}

#[derive(Deserialize)]
struct Begun {
    pid: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    exited: bool,
    #[serde(rename = "exitcode")]
    exit_code: Option<i64>,
    signal: Option<i64>,
    out_data: Option<String>,
    err_data: Option<String>,
    #[serde(default)]
    out_truncated: bool,
    #[serde(default)]
    err_truncated: bool,
}

impl Command {
    /// As `guest-exec` takes it.
    fn arguments(&self) -> Value {
        let mut argv = Vec::new();
        if self.cwd.is_some() || self.user.is_some() {
            argv.extend(["/bin/sh", "-c", SHELL, "sh"].map(str::to_owned));
            argv.extend([&self.cwd, &self.user].map(|given| given.clone().unwrap_or_default()));
        }
        if !self.env.is_empty() {
            argv.push("env".to_owned());
            argv.extend(self.env.iter().map(|(name, value)| format!("{name}={value}")));
        }
        argv.extend(self.argv.iter().cloned());
        let (path, arg) = argv.split_first().map_or(("", &[][..]), |(path, arg)| (path, arg));
        let mut arguments = json!({ "path": path, "arg": arg, "capture-output": true });
        if !self.stdin.is_empty() {
            arguments["input-data"] = Base64::encode_string(&self.stdin).into();
        }
        arguments
    }
}

impl Guest {
    /// Runs a command to its end.
    ///
    /// # Errors
    /// [`Error::AgentLacks`], [`Error::GuestRefuses`]; [`Error::AgentFails`], and whether it has run is not known then.
    pub async fn run(&self, command: &Command) -> Result<Executed> {
        let begun = {
            let mut turn = self.turn(SOON).await?;
            command_in::<Begun>(&mut turn, "guest-exec", command.arguments()).await
        };
        let pid = match begun {
            Ok(Begun { pid }) => pid,
            Err(Error::GuestRefuses { command, why }) => {
                return not_begun(&why).ok_or(Error::GuestRefuses { command, why });
            }
            Err(error) => return Err(error),
        };
        if let Some(executed) = self.end_of(pid, command.timeout).await? {
            return Ok(executed);
        }
        let kill = json!({ "path": "/bin/sh", "arg": ["-c", "kill -KILL \"$1\"", "sh", pid.to_string()] });
        if let Err(error) = self.ask::<Begun>("guest-exec", kill, SOON).await {
            tracing::debug!(pid, %error, "a command in a guest cannot be killed");
        }
        let executed = self.end_of(pid, KILLED).await?.unwrap_or_default();
        Ok(Executed { timed_out: true, ..executed })
    }

    /// Waits for the end of a command; `None` where that does not come in time.
    async fn end_of(&self, pid: i64, time: Duration) -> Result<Option<Executed>> {
        let (end, mut pause) = (Instant::now() + time, FIRST_LOOK);
        loop {
            match self.look(pid).await? {
                Some(status) if status.exited => return executed(status).map(Some),
                Some(_) | None => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            sleep(pause.min(left)).await;
            pause = (2 * pause).min(LONGEST_LOOK);
        }
    }

    /// Nothing where the agent was another's meanwhile.
    async fn look(&self, pid: i64) -> Result<Option<Status>> {
        const STATUS: &str = "guest-exec-status";
        let mut turn = match self.0.turn(PATIENCE, 2 * SOON).await {
            Ok(turn) => turn,
            Err(AgentError::Overtaken | AgentError::Late | AgentError::Crowded) => return Ok(None),
            Err(error) => return Err(lost(&error)),
        };
        match turn.execute_cut(STATUS, json!({ "pid": pid }), BOUNDS).await {
            Ok(answer) => read(STATUS, answer).map(Some),
            Err(AgentError::Overtaken) => Ok(None),
            Err(error @ AgentError::Agent(QgaError::Refused { .. })) => match refused(&mut turn, error).await {
                // It has begun anew, and knows nothing of what it ran before.
                Error::GuestRefuses { why, .. } => Err(Error::AgentFails {
                    why: format!("it does not know any more what became of the command: {why}"),
                }),
                Error::Conflict(_) => Ok(None),
                error => Err(error),
            },
            Err(error) => Err(lost(&error)),
        }
    }
}

fn lost(error: &AgentError) -> Error {
    match failed(error) {
        Error::AgentFails { why } => {
            Error::AgentFails { why: format!("{why}; what became of the command is not known") }
        }
        error => error,
    }
}

/// Of a command that is not there, or is none, as a shell has it.
fn not_begun(why: &str) -> Option<Executed> {
    let code = match why {
        _ if why.contains("No such file or directory") => 127,
        _ if why.contains("Permission denied") || why.contains("Exec format error") => 126,
        _ => return None,
    };
    Some(Executed { exit_code: Some(code), stderr: format!("{why}\n").into_bytes(), ..Executed::default() })
}

fn executed(status: Status) -> Result<Executed> {
    let (stdout, more_stdout) = output(status.out_data)?;
    let (stderr, more_stderr) = output(status.err_data)?;
    Ok(Executed {
        exit_code: status.exit_code,
        signal: status.signal,
        timed_out: false,
        stdout,
        stderr,
        stdout_truncated: status.out_truncated || more_stdout,
        stderr_truncated: status.err_truncated || more_stderr,
    })
}

/// And whether there was more.
fn output(data: Option<String>) -> Result<(Vec<u8>, bool)> {
    let odd = |_| Error::AgentFails { why: "what it says that the command wrote is not in base64".to_owned() };
    let mut bytes = Base64::decode_vec(&data.unwrap_or_default()).map_err(odd)?;
    let more = bytes.len() > MOST_OUTPUT;
    bytes.truncate(MOST_OUTPUT);
    Ok((bytes, more))
}
