//! Settings of the daemon: flags over `QHERD_*` variables over `qherd.toml` over defaults. Nothing is made or opened here;
//! only the state directory's links are followed, so that everything below it has one name.

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]
mod access;
mod path_map;

pub use access::{AccessSettings, TlsFiles};
pub use path_map::{PathMap, is_windows};

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use serde::Deserialize;

use crate::model::{Bounds, Cidr, Grant, Uids};

/// The file that is read without `--config` when it is there.
const DEFAULT_FILE: &str = "qherd.toml";

/// Which accelerator QEMU is to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM where a probe guest boots under it, else TCG with a warning.
    #[default]
    Auto,
    Kvm,
    Tcg,
}

/// What is done where this host lacks a layer that VMs are to be kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confine {
    /// VMs go without it, with a warning.
    #[default]
    Auto,
    /// The daemon does not start.
    Require,
}

/// What is to carry NICs on the user-mode network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carriers {
    /// passt where it works, else QEMU itself.
    #[default]
    Auto,
    /// The daemon does not start where it does not work.
    Passt,
    /// QEMU itself.
    Slirp,
}

/// The settings as a flag, a variable or a line of the file gives them; what is not given is `None` or empty.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Address of the API; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, env = "QHERD_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address of the Hyper-V dialect alone, at its root; it is always at /hyperv of the API [default: none]
    #[arg(long, env = "QHERD_HYPERV_LISTEN", value_name = "ADDR")]
    pub hyperv_listen: Option<SocketAddr>,
    /// Where everything that qherd owns is kept [default: ./state]
    #[arg(long, env = "QHERD_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The API's Unix socket [default: STATE_DIR/api.sock]
    #[arg(long, env = "QHERD_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// A role of a user, a group or a certificate beside root and the daemon's own user, which are admin: user:NAME=ROLE,
    /// group:NAME=ROLE, certificate:DNS-NAME=ROLE with viewer, operator or admin; repeatable
    #[arg(long = "allow", env = "QHERD_ALLOW", value_name = "WHO=ROLE", value_delimiter = ',')]
    pub allow: Vec<Grant>,
    /// A name that clients may call this host by, beside its addresses and localhost; repeatable
    #[arg(long = "host-name", env = "QHERD_HOST_NAMES", value_name = "NAME", value_delimiter = ',')]
    #[serde(rename = "host-names")]
    pub host_names: Vec<String>,
    /// Web pages that may use the API from another origin, such as `https://console.example`; repeatable
    #[arg(long = "cors-origin", env = "QHERD_CORS_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    #[serde(rename = "cors-origins")]
    pub cors_origins: Vec<String>,
    /// The certificate to show, with its chain (PEM); read anew when it changes
    #[arg(long, env = "QHERD_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "QHERD_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Authorities that sign clients' certificates (PEM); see --allow certificate:NAME=ROLE
    #[arg(long, env = "QHERD_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Whoever reaches the address may do everything, guests and web pages' servers included
    #[arg(long, env = "QHERD_INSECURE_NO_AUTH", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub insecure_no_auth: Option<bool>,
    /// Where base images may lie; repeatable [default: STATE_DIR/bases] [env: QHERD_IMAGE_DIR, separated by ':']
    #[arg(long = "image-dir", value_name = "DIR")]
    #[serde(rename = "image-dirs")]
    pub image_dirs: Vec<PathBuf>,
    /// Where disks may be made, beside STATE_DIR/images; repeatable [env: QHERD_STORAGE_DIR, separated by ':']
    #[arg(long = "storage-dir", value_name = "DIR")]
    #[serde(rename = "storage-dirs")]
    pub storage_dirs: Vec<PathBuf>,
    /// A client's path prefix and the host's folder for it; repeatable [env: QHERD_PATH_MAP, separated by ';']
    #[arg(long = "path-map", value_name = "FROM=TO")]
    #[serde(rename = "path-maps")]
    pub path_maps: Vec<PathMap>,
    /// A network that switches may have beside the private ones; repeatable
    #[arg(long = "allow-subnet", env = "QHERD_ALLOW_SUBNETS", value_name = "CIDR", value_delimiter = ',')]
    #[serde(rename = "allow-subnets")]
    pub allow_subnets: Vec<Cidr>,
    /// An address of this host, beside loopback ones, where a forward of a NIC on the user-mode network may listen; 0.0.0.0 allows
    /// all of them; repeatable
    #[arg(long = "forward-address", env = "QHERD_FORWARD_ADDRESSES", value_name = "ADDRESS", value_delimiter = ',')]
    #[serde(rename = "forward-addresses")]
    pub forward_addresses: Vec<Ipv4Addr>,
    /// A network of servers that images may be pulled from, beside public addresses: 10.20.0.0/16, or 127.0.0.0/8 for this
    /// host's own; repeatable
    #[arg(long = "pull-from", env = "QHERD_PULL_FROM", value_name = "CIDR", value_delimiter = ',')]
    pub pull_from: Vec<IpNet>,
    /// Machine profiles that replace or join the built-in ones, and images.toml, which does so with the well-known images
    #[arg(long, env = "QHERD_TEMPLATES_DIR", value_name = "DIR")]
    pub templates_dir: Option<PathBuf>,
    /// Accelerator [default: auto]
    #[arg(long, env = "QHERD_ACCEL")]
    pub accel: Option<Accel>,
    /// Whether the daemon starts on a host that lacks a layer that VMs are to be kept in [default: auto]
    #[arg(long, env = "QHERD_SANDBOX")]
    pub sandbox: Option<Confine>,
    /// User ids that VMs run as, each as one of its own; nobody else may have them [default: 2100000000-2100065535]
    #[arg(long, env = "QHERD_VM_UIDS", value_name = "FIRST-LAST")]
    pub vm_uids: Option<Uids>,
    /// What carries NICs on the user-mode network: passt, a process beside QEMU for each, or slirp, QEMU itself, which keeps the
    /// host's network then [default: auto, which is passt where it works]
    #[arg(long, env = "QHERD_USER_NETWORK")]
    pub user_network: Option<Carriers>,
    /// The QEMU program [default: qemu-system-x86_64 from PATH]
    #[arg(long, env = "QHERD_QEMU", value_name = "PATH")]
    pub qemu: Option<PathBuf>,
    /// Power off every VM when the daemon ends; without it they go on running
    #[arg(long, env = "QHERD_STOP_VMS_ON_EXIT", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub stop_vms_on_exit: Option<bool>,
    /// What all VMs may have together, whether they run or not: vms=N,vcpus=N,memory=MIB,disk=GIB [default: 10000 VMs, 100000
    /// vCPUs, 1000 times the host's memory, 1 PiB of disks]
    #[arg(long, env = "QHERD_MAX_DEFINED", value_name = "BOUNDS")]
    pub max_defined: Option<Bounds>,
    /// What running VMs may have together, in the same form [default: 5000 VMs, 1024 vCPUs or 32 per core, twice the
    /// host's memory, 1 PiB of disks]
    #[arg(long, env = "QHERD_MAX_RUNNING", value_name = "BOUNDS")]
    pub max_running: Option<Bounds>,
    /// MiB that the balloon leaves a guest at least [default: 64]
    #[arg(long, env = "QHERD_BALLOON_FLOOR", value_name = "MIB")]
    pub balloon_floor: Option<u32>,
    /// Seconds that a guest is given to stop or reboot by itself [default: 60]
    #[arg(long, env = "QHERD_STOP_TIMEOUT", value_name = "SECONDS")]
    pub stop_timeout: Option<u32>,
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: SocketAddr,
    pub hyperv_listen: Option<SocketAddr>,
    /// Canonical: whatever leads to it, everything in it has one name.
    pub state_dir: PathBuf,
    /// Who may use the API, and how it is reached.
    pub access: AccessSettings,
    pub image_dirs: Vec<PathBuf>,
    pub storage_dirs: Vec<PathBuf>,
    pub path_maps: Vec<PathMap>,
    /// Networks that switches may have beside the private ones.
    pub allow_subnets: Vec<Cidr>,
    /// Addresses beside loopback ones where forwards into the user-mode network may listen; the unspecified one means all.
    pub forward_addresses: Vec<Ipv4Addr>,
    /// Networks beside public addresses that images may be pulled from.
    pub pull_from: Vec<IpNet>,
    pub templates_dir: Option<PathBuf>,
    pub accel: Accel,
    pub sandbox: Confine,
    /// Users that VMs run as.
    pub vm_uids: Uids,
    /// What carries NICs on the user-mode network.
    pub user_network: Carriers,
    pub qemu: PathBuf,
    pub qemu_img: PathBuf,
    pub stop_vms_on_exit: bool,
    /// Seconds.
    pub stop_timeout: u32,
    /// MiB.
    pub balloon_floor: u32,
    /// What VMs may have together.
    pub max_defined: Bounds,
    pub max_running: Bounds,
    /// This program: with it a store is opened in a helper process first, to see whether it is sound.
    pub program: Option<PathBuf>,
}

impl Config {
    /// Where the data of the store's images are.
    pub fn layers_dir(&self) -> PathBuf {
        self.state_dir.join("layers")
    }

    /// Where base images lie: in the image directories, or in the store.
    pub fn base_dirs(&self) -> Vec<PathBuf> {
        self.image_dirs.iter().cloned().chain([self.layers_dir()]).collect()
    }
}

impl Config {
    /// Whether the API is at this TCP port: what a guest answers there is taken for it.
    pub fn is_api_port(&self, port: u16) -> bool {
        [Some(self.listen), self.hyperv_listen].iter().flatten().any(|address| address.port() == port)
    }
}

impl Settings {
    /// Joins flags and variables with the file (`file`, or `qherd.toml` if it is there) and the defaults.
    ///
    /// # Errors
    /// A file that cannot be read, or that holds a setting that does not exist or has the wrong type.
    pub fn resolve(mut self, file: Option<&Path>) -> anyhow::Result<Config> {
        self.add_lists_of(|name| std::env::var_os(name))?;
        let from_file = match file {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
            None => Settings::default(),
        };
        let access = AccessSettings::of(&mut self, &from_file)?;
        let list = |mine: Vec<PathBuf>, theirs: Vec<PathBuf>| if mine.is_empty() { theirs } else { mine };
        let state_dir = self.state_dir.or(from_file.state_dir).unwrap_or_else(|| "state".into());
        let state_dir = canonical(&state_dir).with_context(|| format!("state directory {}", state_dir.display()))?;
        let mut image_dirs = list(self.image_dirs, from_file.image_dirs);
        if image_dirs.is_empty() {
            image_dirs.push(state_dir.join("bases"));
        }
        let forward_addresses = match self.forward_addresses.is_empty() {
            true => from_file.forward_addresses,
            false => self.forward_addresses,
        };
        let mut storage_dirs = list(self.storage_dirs, from_file.storage_dirs);
        storage_dirs.insert(0, state_dir.join("images"));
        Ok(Config {
            access: access.at(&state_dir),
            listen: self.listen.or(from_file.listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))),
            hyperv_listen: self.hyperv_listen.or(from_file.hyperv_listen),
            image_dirs,
            storage_dirs,
            path_maps: if self.path_maps.is_empty() { from_file.path_maps } else { self.path_maps },
            allow_subnets: if self.allow_subnets.is_empty() { from_file.allow_subnets } else { self.allow_subnets },
            forward_addresses,
            pull_from: if self.pull_from.is_empty() { from_file.pull_from } else { self.pull_from },
            templates_dir: self.templates_dir.or(from_file.templates_dir),
            accel: self.accel.or(from_file.accel).unwrap_or_default(),
            sandbox: self.sandbox.or(from_file.sandbox).unwrap_or_default(),
            vm_uids: self.vm_uids.or(from_file.vm_uids).unwrap_or_default(),
            user_network: self.user_network.or(from_file.user_network).unwrap_or_default(),
            qemu: self.qemu.or(from_file.qemu).unwrap_or_else(|| "qemu-system-x86_64".into()),
            qemu_img: "qemu-img".into(),
            stop_vms_on_exit: self.stop_vms_on_exit.or(from_file.stop_vms_on_exit).unwrap_or(false),
            balloon_floor: self.balloon_floor.or(from_file.balloon_floor).unwrap_or(64),
            stop_timeout: self.stop_timeout.or(from_file.stop_timeout).unwrap_or(60),
            max_defined: self.max_defined.or(from_file.max_defined).unwrap_or_default(),
            max_running: self.max_running.or(from_file.max_running).unwrap_or_default(),
            state_dir,
            program: None,
        })
    }
}

impl Settings {
    /// Lists from the environment, for those that no flag gives. There one value has to hold them all, so that it is split
    /// as PATH is; a path with the separator in it is for the flag, which is never split, or the file.
    fn add_lists_of(&mut self, variable: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<()> {
        let listed = |name: &str, separator: u8| -> Vec<OsString> {
            let value = variable(name).unwrap_or_default();
            let parts = value.as_bytes().split(|byte| *byte == separator).filter(|part| !part.is_empty());
            parts.map(|part| OsString::from_vec(part.to_vec())).collect()
        };
        if self.image_dirs.is_empty() {
            self.image_dirs = listed("QHERD_IMAGE_DIR", b':').into_iter().map(PathBuf::from).collect();
        }
        if self.storage_dirs.is_empty() {
            self.storage_dirs = listed("QHERD_STORAGE_DIR", b':').into_iter().map(PathBuf::from).collect();
        }
        if self.path_maps.is_empty() {
            let maps = listed("QHERD_PATH_MAP", b';').into_iter();
            let maps = maps.map(|map| map.to_string_lossy().parse().map_err(anyhow::Error::msg));
            self.path_maps = maps.collect::<anyhow::Result<_>>().context("in QHERD_PATH_MAP")?;
        }
        Ok(())
    }
}

/// The canonical form of a path that need not be there: of what is there, with the rest behind it.
fn canonical(path: &Path) -> std::io::Result<PathBuf> {
    let mut existing = std::path::absolute(path)?;
    let mut rest: Vec<OsString> = Vec::new();
    loop {
        match (existing.canonicalize(), existing.components().next_back()) {
            (Ok(found), _) => return Ok(rest.into_iter().rev().fold(found, |path, name| path.join(name))),
            (Err(error), Some(Component::Normal(name))) if error.kind() == std::io::ErrorKind::NotFound => {
                rest.push(name.to_owned());
                existing.pop();
            }
            (Err(error), _) => return Err(error),
        }
    }
}

/// For the fuzz targets: a file's text, as it is read.
pub(crate) fn fuzz(text: &str) {
    let _ = toml::from_str::<Settings>(text);
}

fn read(path: &Path) -> anyhow::Result<Settings> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("in the configuration {}", path.display()))
}

#[cfg(test)]
mod tests;
