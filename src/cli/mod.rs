//! The command line: `serve`, commands on a state directory (`db`, `token`), and those of a client, which know nothing but the
//! REST API. Here is what there is; each group of commands has a file, and what all of them share has its own.

mod before;
mod columns;
mod completion;
mod connect;
mod console;
mod cpu;
mod create;
pub mod db;
mod disks;
mod events;
mod exec;
mod exit;
mod files;
mod first_boot;
mod host;
mod images;
pub(crate) mod import;
mod logs;
mod made_images;
mod names;
mod nics;
mod operations;
mod output;
mod power;
mod progress;
mod pulls;
mod saves;
mod sends;
mod set;
mod sizes;
mod ssh;
mod switches;
mod terminal;
pub mod token;
mod top;
mod vms;
mod volumes;
mod wait;
mod words;

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::config::Settings;
pub use before::arguments;
use exit::{Exit, Fail};

/// Manages QEMU/KVM virtual machines directly over QMP, without libvirt, behind a REST API.
#[derive(Parser)]
#[command(name = "qherd", version, after_help = exit::STATUSES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the daemon
    Serve {
        /// Configuration file [default: ./qherd.toml, if there]
        #[arg(long, env = "QHERD_CONFIG", value_name = "FILE", hide_env_values = true)]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    #[command(flatten)]
    OfClient(OfClient),
    /// Make, list and revoke tokens for clients from elsewhere
    #[command(subcommand)]
    Token(token::Command),
    /// Check, export, import or restore the store of VM definitions
    #[command(subcommand)]
    Db(db::Command),
    /// The process that unpacks an image
    #[command(hide = true)]
    Unpack { compression: String, from: i32, to: i32, room: u64 },
}

/// The commands of a client.
#[derive(Subcommand)]
pub enum OfClient {
    /// Make a VM by cloning an image, or of a disk that is there already
    Create(Box<create::Create>),
    /// Take a VM over from another manager
    #[command(subcommand)]
    Import(import::Command),
    /// List VMs, oldest first
    Ls(vms::Ls),
    /// All about VMs
    Show(vms::Show),
    /// Start VMs, or resume paused ones
    Start(power::Start),
    /// Stop VMs: the guest is asked, and cut off when its time is over
    Stop(power::Stop),
    /// Reboot VMs, in the background
    Reboot(power::Reboot),
    /// Halt VMs until they are resumed
    Suspend(power::Vms),
    /// Let halted VMs go on
    Resume(power::Vms),
    /// Cut the power of VMs and remove them, with every disk that qherd made
    Rm(power::Rm),
    /// Change VMs, live where it can be
    Set(Box<set::Set>),
    /// The serial console of a VM, on this terminal; Ctrl-] leaves it
    Console(console::Console),
    /// Run a command in a VM, by the agent of its guest
    Exec(exec::Exec),
    /// Copy a file into a VM or out of it, by the agent of its guest
    Cp(files::Cp),
    /// What the agent of a guest says of it
    Agent(exec::Agent),
    /// Log in to a VM, by the program ssh
    Ssh(ssh::Ssh),
    /// What a guest wrote on its console, as text
    Logs(logs::Logs),
    /// What happened to VMs, switches, images and operations, or what happens
    Events(events::Events),
    /// Wait until VMs run, have an address, or the like
    Wait(wait::Wait),
    /// What running VMs use, live
    Top(top::Top),
    /// The disks of a VM
    #[command(subcommand)]
    Disk(disks::Command),
    /// The NICs of a VM
    #[command(subcommand)]
    Nic(nics::Command),
    /// Virtual switches
    #[command(subcommand)]
    Switch(switches::Command),
    /// Images, which VMs are cloned from
    #[command(subcommand)]
    Image(images::Command),
    /// Volumes, disks that stay when their VM goes
    #[command(subcommand)]
    Volume(volumes::Command),
    /// The work for requests whose clients did not wait
    #[command(subcommand)]
    Op(operations::Command),
    /// The host: cores, memory, QEMU, and which VM is pinned where
    Host(host::Host),
    /// Print what a shell completes commands with
    Completion(completion::Completion),
}

impl OfClient {
    pub fn run(self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = match runtime {
            Ok(runtime) => {
                let done = runtime.block_on(self.done());
                // A name that is looked up still is nobody's any more.
                runtime.shutdown_background();
                done
            }
            Err(error) => Err(Fail::new(Exit::Failed, format!("cannot start the runtime: {error}"))),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(fail) => {
                let text = fail.to_string();
                if !text.is_empty() {
                    // Where nobody hears it, the exit status still says it.
                    let _ = writeln!(std::io::stderr(), "qherd: {text}");
                }
                fail.exit.into()
            }
        }
    }

    async fn done(self) -> Result<(), Fail> {
        match self {
            Self::Create(create) => create.run().await,
            Self::Import(command) => command.run().await,
            Self::Ls(ls) => ls.run().await,
            Self::Show(show) => show.run().await,
            Self::Start(start) => start.run().await,
            Self::Stop(stop) => stop.run().await,
            Self::Reboot(reboot) => reboot.run().await,
            Self::Suspend(vms) => vms.suspend().await,
            Self::Resume(vms) => vms.resume().await,
            Self::Rm(rm) => rm.run().await,
            Self::Set(set) => set.run().await,
            Self::Console(console) => console.run().await,
            Self::Exec(exec) => exec.run().await,
            Self::Cp(cp) => cp.run().await,
            Self::Agent(agent) => agent.run().await,
            Self::Ssh(ssh) => ssh.run().await,
            Self::Logs(logs) => logs.run().await,
            Self::Events(events) => events.run().await,
            Self::Wait(wait) => wait.run().await,
            Self::Top(top) => top.run().await,
            Self::Disk(command) => command.run().await,
            Self::Nic(command) => command.run().await,
            Self::Switch(command) => command.run().await,
            Self::Image(command) => command.run().await,
            Self::Volume(command) => command.run().await,
            Self::Op(command) => command.run().await,
            Self::Host(host) => host.run().await,
            Self::Completion(completion) => completion.run(),
        }
    }
}

/// Which state directory.
#[derive(Args)]
pub struct StateDir {
    /// Configuration file [default: ./qherd.toml, if there]
    #[arg(long, env = "QHERD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's state directory [default: ./state]
    #[arg(long, env = "QHERD_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl StateDir {
    fn path(self) -> anyhow::Result<PathBuf> {
        let settings = Settings { state_dir: self.state_dir, ..Settings::default() };
        Ok(settings.resolve(self.config.as_deref())?.state_dir)
    }
}

const UNWRITTEN: &str = "cannot write to standard output";

/// A reader that has gone away is no panic.
fn say(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context(UNWRITTEN)
}

/// Whether it is that: then nobody is told.
pub fn is_unread(error: &anyhow::Error) -> bool {
    let is_pipe = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.to_string() == UNWRITTEN && error.root_cause().downcast_ref().is_some_and(is_pipe)
}
