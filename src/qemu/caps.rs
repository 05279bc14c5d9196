//! What this host's QEMU can do, asked once at the daemon's start: version, machine types, working accelerator.

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]

use std::{
    os::fd::AsRawFd,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    accelerator::{self, Accelerator},
    cpus::Cpus,
    stderr::stderr_pipe,
};
use crate::{
    host::{
        launcher::{Child, QEMU_PROBE},
        process::Process,
    },
    model::{GuestCpu, Result as Checked},
    qmp::{MachineInfo, QmpError, Session},
};

/// As distributions call it.
const PROGRAM: &str = "qemu-system-x86_64";
/// Starting a bare QEMU takes 30 ms; this is for a host under heavy load.
const ANSWER: Duration = Duration::from_secs(30);

/// The abilities of one QEMU on this host.
#[derive(Clone, Debug)]
pub struct Caps {
    /// "7.2.22".
    pub version: String,
    pub accelerator: Accelerator,
    /// Why this accelerator, for people.
    pub accelerator_reason: String,
    machines: Vec<MachineInfo>,
    cpus: Cpus,
    /// The program as it was found.
    pub program: PathBuf,
    /// What it turned out to execute, and what a script in its place may end in.
    pub may_execute: Vec<PathBuf>,
}

impl Caps {
    /// Asks `qemu` and probes the accelerator, unless `wanted` says TCG; the result of the probe is kept in `cache` for
    /// this host boot.
    ///
    /// # Errors
    /// In words: QEMU is missing (with the package's name) or does not start, or KVM is wanted and does not work.
    pub async fn detect(qemu: &Path, wanted: Option<Accelerator>, cache: &Path) -> Result<Self, String> {
        let qemu = &locate(qemu)?;
        // Without a machine, and unless it is told otherwise, it is one that runs under TCG.
        let Answers { version, machines, mut cpus, executable } = interrogate(qemu, Accelerator::Tcg).await?;
        let may_execute = [Some(executable), locate(Path::new(PROGRAM)).ok()].into_iter().flatten().collect();
        let (accelerator, accelerator_reason) = accelerator::choose(qemu, &version, wanted, cache).await?;
        if accelerator == Accelerator::Kvm {
            cpus = interrogate(qemu, accelerator).await?.cpus;
        }
        Ok(Self { version, accelerator, accelerator_reason, machines, cpus, program: qemu.clone(), may_execute })
    }

    /// Refuses a CPU that this QEMU does not know, or cannot run under the accelerator in use.
    ///
    /// # Errors
    /// [`crate::model::Error::Invalid`], with names that are near.
    pub fn check_cpu(&self, cpu: &GuestCpu) -> Checked<()> {
        self.cpus.check(cpu, &self.version, self.accelerator)
    }

    /// The versioned type for a family ("q35") or a versioned type, where this QEMU has it.
    pub fn versioned_machine(&self, name: &str) -> Option<&str> {
        let by_alias = self.machines.iter().find(|m| m.alias.as_deref() == Some(name));
        by_alias.or_else(|| self.machines.iter().find(|m| m.name == name)).map(|m| m.name.as_str())
    }

    /// The newest machine type of a kind, as [`family`] tells it.
    pub fn latest_of(&self, kind: &str) -> Option<&str> {
        self.machines.iter().find(|m| m.alias.is_some() && family(&m.name) == kind).map(|m| m.name.as_str())
    }

    #[cfg(test)]
    pub fn for_tests(machines: &[(&str, Option<&str>)]) -> Self {
        let machine = |&(name, alias): &(&str, Option<&str>)| MachineInfo {
            name: name.into(),
            alias: alias.map(Into::into),
            is_default: false,
            cpu_max: 255,
            deprecated: false,
        };
        Self {
            version: "7.2.22".into(),
            accelerator: Accelerator::Tcg,
            accelerator_reason: String::new(),
            machines: machines.iter().map(machine).collect(),
            cpus: Cpus::default(),
            program: PathBuf::new(),
            may_execute: Vec::new(),
        }
    }
}

/// The kind of hardware that a versioned machine type is a version of: `pc-q35` of `pc-q35-7.2`, and of what distributions
/// call theirs, such as `pc-q35-jammy-hpb`.
pub fn family(machine_type: &str) -> &str {
    let second = machine_type.match_indices('-').nth(1).map_or(machine_type.len(), |(at, _)| at);
    &machine_type[..second]
}

/// Finds the program before anything is started, so that the message can name the package.
fn locate(qemu: &Path) -> Result<PathBuf, String> {
    let found = if qemu.components().count() > 1 {
        Some(qemu.to_owned())
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|dir| dir.join(qemu)).find(|p| p.is_file())
    };
    found.filter(|p| p.is_file()).ok_or_else(|| {
        format!(
            "{} is not installed; on Debian and Ubuntu: apt-get install qemu-system-x86, on Fedora: dnf install qemu-system-x86",
            qemu.display()
        )
    })
}

/// What a QEMU says of itself.
struct Answers {
    version: String,
    machines: Vec<MachineInfo>,
    cpus: Cpus,
    executable: PathBuf,
}

/// Starts a QEMU without a machine and asks it over QMP.
async fn interrogate(qemu: &Path, accelerator: Accelerator) -> Result<Answers, String> {
    let failed = |why: String| format!("{} does not answer: {why}", qemu.display());
    let (ours, theirs) = UnixStream::pair().map_err(|e| failed(e.to_string()))?;
    let fd = theirs.as_raw_fd();
    let args = [
        "-machine",
        "none",
        "-accel",
        accelerator.argument(),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-chardev",
        &format!("socket,id=monitor,fd={fd}"),
        "-mon",
        "chardev=monitor,mode=control",
    ]
    .map(str::to_owned);
    let (stderr, words) = stderr_pipe().map_err(|e| failed(e.to_string()))?;
    let child = Child::new(QEMU_PROBE, qemu).args(&args).inherit([fd]).stderr(stderr);
    let process = Process::spawn(child).map_err(|e| failed(e.to_string()))?;
    drop(theirs);
    let answers = async {
        ours.set_nonblocking(true).map_err(|e| e.to_string())?;
        let stream = tokio::net::UnixStream::from_std(ours).map_err(|e| e.to_string())?;
        let (session, _events) = Session::open(stream, ANSWER).await.map_err(|e| e.to_string())?;
        let version = session.version();
        let version = format!("{}.{}.{}", version.major, version.minor, version.micro);
        let machines = session.query_machines().await.map_err(|e| e.to_string())?;
        let cpus = match Cpus::ask(&session).await {
            Ok(cpus) => cpus,
            // Every name is left to it then.
            Err(QmpError::Refused { .. } | QmpError::Decode { .. }) => Cpus::default(),
            Err(error) => return Err(error.to_string()),
        };
        let executable = std::fs::read_link(format!("/proc/{}/exe", process.pid())).map_err(|e| e.to_string())?;
        Ok::<_, String>(Answers { version, machines, cpus, executable })
    }
    .await;
    process.kill();
    process.exited().await;
    answers.map_err(|why| failed(format!("{why} {}", words.read())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_type_has_a_latest_of_its_kind() {
        let caps = Caps::for_tests(&[
            ("pc-q35-7.1", None),
            ("pc-q35-7.2", Some("q35")),
            ("pc-i440fx-7.2", Some("pc")),
            ("microvm", None),
        ]);
        assert_eq!(caps.latest_of(family("pc-q35-2.0")), Some("pc-q35-7.2"));
        assert_eq!(caps.latest_of(family("pc-i440fx-jammy-hpb")), Some("pc-i440fx-7.2"));
        assert_eq!(caps.latest_of(family("microvm")), None);
    }
}
