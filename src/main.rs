//! The `qherd` program: reads the settings, opens the core, serves the API until a signal, and says in one line why it
//! could not.

mod doors;
mod signals;

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Parser;
use qherd::{
    api::{
        http::{Limits, Load, Shutdown, dispatch, listen::UnixDoor, serve},
        hyperv, kvm,
    },
    cli::{self, Cli, Command},
    config::Settings,
    host::{image, memory},
    service::Service,
};
use tracing_subscriber::EnvFilter;

/// How long requests under way may take after a signal; a launch takes a fraction of a second. A second signal ends it.
const DRAIN: Duration = Duration::from_secs(20);

/// Bytes that are kept of answers which clients have not taken yet: four console logs of the largest size.
const ANSWERS: u64 = 64 << 20;

fn main() -> ExitCode {
    let command = match Cli::parse_from(cli::arguments(std::env::args_os())).command {
        // They log nothing, and are to be done soon.
        Command::OfClient(command) => return command.run(),
        Command::Unpack { compression, from, to, room } => {
            let ended = image::unpack_here(&compression, [from, to], room);
            return ExitCode::from(u8::try_from(ended).unwrap_or(1));
        }
        command => command,
    };
    // Before anything is made, here or by a program that is started from here: disks, consoles and exports are for nobody
    // else.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let filter = EnvFilter::try_from_env("QHERD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A log that cannot be written (its disk is full) must not take a request down: the complaint would go to the same
    // standard error, and panic there.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    // A journal or a file wants no colours.
    log.with_ansi(std::io::stderr().is_terminal()).init();
    let served = match command {
        Command::Db(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Serve { config, settings } => start(*settings, config).map(|()| ExitCode::SUCCESS),
        Command::OfClient(command) => Ok(command.run()),
        // Above.
        Command::Unpack { .. } => Ok(ExitCode::FAILURE),
    };
    served.unwrap_or_else(|error| {
        if cli::is_unread(&error) {
            return ExitCode::from(141);
        }
        eprintln!("qherd: {error:#}");
        ExitCode::FAILURE
    })
}

fn start(settings: Settings, file: Option<PathBuf>) -> anyhow::Result<()> {
    memory::keep_together();
    // Two threads carry thousands of VMs, because nothing here waits for one; more would only cost memory.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let served = runtime.block_on(run(settings, file));
    // QEMUs stay; what else is still under way is finished or unwound by the next start.
    runtime.shutdown_timeout(Duration::from_secs(5));
    served
}

/// Requests that may take long, each with a descriptor: VMs need some too.
fn standing() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let share = limit.map_or(usize::MAX, |limit| usize::try_from(limit / 5 * 3).unwrap_or(usize::MAX));
    share.min(Limits::default().standing)
}

async fn run(settings: Settings, file: Option<PathBuf>) -> anyhow::Result<()> {
    let mut ends = signals::listen()?;
    let mut config = settings.resolve(file.as_deref())?;
    config.program = Some(cli::db::THIS_PROGRAM.into());
    let (listen, hyperv_listen) = (config.listen, config.hyperv_listen);
    let stop_vms = config.stop_vms_on_exit;
    // The address first: a port that is taken is told before any VM is touched.
    let access = config.access.clone();
    let tls = doors::tls(&access)?;
    doors::refuse_strangers(&config, [Some(listen), hyperv_listen])?;
    let (door, mut ready) = doors::bind(listen, tls.clone(), "").await?;
    config.listen = door.listener.local_addr()?;
    let hyperv_door = match hyperv_listen {
        Some(address) => {
            let (door, line) = doors::bind(address, tls, " (Hyper-V dialect)").await?;
            config.hyperv_listen = Some(door.listener.local_addr()?);
            ready += &line;
            Some(door)
        }
        None => None,
    };
    let rules = doors::rules(&config);
    let service = Service::open(config).await?;
    let gate = doors::gate(rules, &access, &service);
    // The state directory is ours alone from here on, and so is its socket.
    let unix_door = UnixDoor::bind(&access.socket, access.knows_other_users());
    let unix_door = unix_door.context("cannot listen on the Unix socket")?;
    let caps = service.caps();
    tracing::info!(
        qemu = caps.version,
        accelerator = caps.accelerator.as_str(),
        why = caps.accelerator_reason,
        "ready"
    );
    if caps.accelerator_reason.starts_with("KVM does not work") {
        tracing::warn!("guests are emulated (TCG), which is many times slower than KVM");
    }
    let mounts = vec![("", kvm::table(service.clone())), ("/hyperv", hyperv::table(service.clone(), "/hyperv"))];
    let shutdown = Shutdown::default();
    let (servers, core) = (shutdown.clone(), service.clone());
    tokio::spawn(async move {
        loop {
            // Not within the macro: what is not logged is not waited for either.
            let signal = ends.next().await;
            tracing::info!("{signal}");
            core.begin_to_end();
            servers.ask();
        }
    });
    let limits = Limits { drain: DRAIN, standing: standing(), ..Limits::default() };
    let load = Load::new(ANSWERS, limits.standing);
    let served = |mounts| dispatch::service(mounts, Some(service.remembered()), gate.clone(), load.clone());
    let whole = served(mounts);
    let main = serve(door, whole.clone(), shutdown.clone(), limits.clone());
    let unix = serve(unix_door, whole, shutdown.clone(), limits.clone());
    let own = async {
        let door = hyperv_door?;
        let mounts = vec![("", hyperv::table(service.clone(), "/"))];
        Some(serve(door, served(mounts), shutdown.clone(), limits).await)
    };
    // Reads are answered at once; ready is who has taken over its VMs.
    let tell = async {
        service.recovered().await;
        // In one piece: whoever waits for the first line may not stay for the second, or wanted to read neither.
        let mut out = std::io::stdout();
        if let Err(error) = out.write_all(ready.as_bytes()).and_then(|()| out.flush()) {
            tracing::warn!(%error, ready, "cannot tell the address on standard output");
        }
    };
    let (report, unix, hyperv, ()) = tokio::join!(main, unix, own, tell);
    tracing::info!(?report, ?unix, ?hyperv, "no longer listening");
    if stop_vms {
        tokio::select! {
            () = service.stop_all() => {}
            () = shutdown.hurried() => tracing::warn!("asked twice to end: VMs that have not stopped go on"),
        }
    }
    service.close().await;
    Ok(())
}
