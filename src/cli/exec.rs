//! `exec` and `agent`: what the agent of a guest does and says. A command's output is its own, byte by byte, and so is its exit
//! status.

use std::{
    io::{Read, Write, stderr, stdin},
    time::Duration,
};

use base64ct::{Base64, Encoding as _};
use clap::Args;

use super::{
    connect::Connect,
    exit::{Exit, Fail},
    names,
    output::{self, bytes},
    progress::waiting,
    sizes::{self, written},
};
use crate::{
    api::kvm::{
        bodies,
        bodies::{Encoding, ExecBody, ExecDone},
    },
    client::SOON,
};

/// What `timeout` ends with.
const LATE: u8 = 124;
/// Bytes of standard input that one request holds.
const MOST_STDIN: u64 = 700_000;

#[derive(Args)]
pub struct Exec {
    /// Its name or id
    vm: String,
    /// The command and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
    /// A variable of its environment; several times for several
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The folder that it runs in
    #[arg(short = 'w', long, value_name = "DIR")]
    workdir: Option<String>,
    /// As whom it runs [default: as the agent, which is root]
    #[arg(short, long)]
    user: Option<String>,
    /// It reads what stands on standard input, up to 700 kB
    #[arg(short, long)]
    interactive: bool,
    /// How long it may take; it is killed then
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = sizes::time)]
    timeout: Duration,
    #[command(flatten)]
    to: Connect,
}

#[derive(Args)]
pub struct Agent {
    /// Its name or id
    vm: String,
    #[command(flatten)]
    to: Connect,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| "it is NAME=VALUE".to_owned())
}

impl Exec {
    pub async fn run(self) -> Result<(), Fail> {
        let client = self.to.client()?;
        let vm = names::vm(&client, &self.vm).await?;
        let body = ExecBody {
            argv: self.command,
            env: (!self.env.is_empty()).then(|| self.env.into_iter().collect()),
            cwd: self.workdir,
            user: self.user,
            stdin: if self.interactive { Some(read()?) } else { None },
            encoding: Some(Encoding::Base64),
            timeout: Some(self.timeout.as_secs().max(1).try_into().unwrap_or(i64::MAX)),
        };
        let done: ExecDone = client.post(&format!("/vms/{}/exec", vm.id), &body, self.timeout + 3 * SOON).await?;
        let bytes_of = |text: &str| {
            Base64::decode_vec(text)
                .map_err(|_| Fail::new(Exit::Failed, "what the daemon says it wrote is not in base64"))
        };
        bytes(&bytes_of(&done.stdout)?)?;
        let mut errors = stderr().lock();
        errors.write_all(&bytes_of(&done.stderr)?).and_then(|()| errors.flush())?;
        drop(errors);
        for (cut, which) in [(done.stdout_truncated, "output"), (done.stderr_truncated, "error output")] {
            if cut {
                eprintln!("qherd: its {which} was longer than an answer holds; the rest is lost");
            }
        }
        ended(&done)
    }
}

/// As a shell says how it ended.
fn ended(done: &ExecDone) -> Result<(), Fail> {
    let byte = |number: i64| u8::try_from(number).ok();
    if done.timed_out {
        return Err(Fail::new(Exit::Its(LATE), "the time was over, and it was killed; --timeout gives it more"));
    }
    match (done.exit_code, done.signal.and_then(byte)) {
        (Some(0), None) => Ok(()),
        (Some(code), _) => Err(Fail::new(Exit::Its(byte(code).unwrap_or(u8::MAX)), "")),
        (None, Some(signal @ 1..=127)) => Err(Fail::new(Exit::Signal(signal), "")),
        (None, _) => Err(Fail::new(Exit::Failed, "its agent does not say how it ended")),
    }
}

/// What stands on standard input, in base64.
fn read() -> Result<String, Fail> {
    let mut text = Vec::new();
    stdin().lock().take(MOST_STDIN + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MOST_STDIN {
        return Err(Fail::usage(
            "standard input is longer than 700 kB; qherd cp takes a file of any length into the VM",
        ));
    }
    Ok(Base64::encode_string(&text))
}

impl Agent {
    pub async fn run(self) -> Result<(), Fail> {
        let output: output::Output = self.to.output();
        let client = self.to.client()?;
        let vm = names::vm(&client, &self.vm).await?;
        let path = format!("/vms/{}/agent", vm.id);
        let agent: bodies::Agent =
            waiting(output, "asking the guest agent", client.get_within(&path, 3 * SOON)).await?;
        if output.is_for_programs() {
            return output.value(&agent);
        }
        let os = agent.os.as_ref();
        let mut facts = vec![
            ("Agent", agent.version.clone()),
            ("System", os.and_then(|os| os.pretty_name.clone().or_else(|| os.name.clone())).unwrap_or_default()),
            ("Kernel", os.and_then(|os| os.kernel.clone()).unwrap_or_default()),
            ("Host name", agent.hostname.clone().unwrap_or_default()),
            ("Time", agent.time.clone().unwrap_or_default()),
        ];
        for interface in agent.interfaces.iter().flatten() {
            let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
            facts.push(("Interface", format!("{}: {}", interface.name, addresses.join(" "))));
        }
        for file_system in agent.file_systems.iter().flatten() {
            let size = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), written);
            let (used, total) = (size(file_system.used), size(file_system.total));
            facts.push((
                "File system",
                format!("{} ({}): {used} of {total}", file_system.mountpoint, file_system.r#type),
            ));
        }
        facts.extend(agent.users.iter().flatten().map(|user| ("Logged in", user.name.clone())));
        facts.push(("Commands", agent.capabilities.join(" ")));
        output.facts(&facts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_ends_as_a_shell_says_it() {
        let done = |exit_code, signal, timed_out| {
            let (stdout, stderr) = (String::new(), String::new());
            let encoding = Encoding::Base64;
            let (stdout_truncated, stderr_truncated, vm_id) = (false, false, String::new());
            let done = ExecDone {
                vm_id,
                exit_code,
                signal,
                timed_out,
                stdout,
                stderr,
                stdout_truncated,
                stderr_truncated,
                encoding,
            };
            ended(&done).map_err(|fail| fail.exit)
        };
        assert_eq!(done(Some(0), None, false), Ok(()));
        assert_eq!(done(Some(7), None, false), Err(Exit::Its(7)));
        assert_eq!(done(Some(1 << 20), None, false), Err(Exit::Its(255)));
        assert_eq!(done(None, Some(9), false), Err(Exit::Signal(9)));
        assert_eq!(done(None, Some(9), true), Err(Exit::Its(124)));
        assert_eq!(done(None, Some(500), false), Err(Exit::Failed));
    }
}
