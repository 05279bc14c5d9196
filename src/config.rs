//! Settings of the daemon: flags over `QHERD_*` variables over `qherd.toml` over defaults. Nothing is made or opened here;
//! only the state directory's links are followed, so that everything below it has one name.

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]

use std::{
    ffi::OsString,
    net::SocketAddr,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::model::Cidr;

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

/// `FROM=TO`: a client's path prefix and the host's folder that stands for it (ruling 7).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PathMap {
    pub from: String,
    pub to: PathBuf,
}

impl TryFrom<String> for PathMap {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for PathMap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((from, to)) if !from.is_empty() && Path::new(to).is_absolute() => {
                let from = if is_windows(from) { from.replace('\\', "/") } else { from.to_owned() };
                Ok(Self { from: from.trim_end_matches('/').to_owned(), to: to.into() })
            }
            _ => Err(format!("{text:?} must read FROM=TO with an absolute TO, such as D:/HyperV=/srv/vms")),
        }
    }
}

/// Whether a path can only be one of a Windows host: `D:\\VMs`, `D:/VMs`, `\\\\server\\share`.
pub fn is_windows(path: &str) -> bool {
    let mut chars = path.chars();
    let drive = chars.next().is_some_and(|c| c.is_ascii_alphabetic()) && chars.next() == Some(':');
    (drive && chars.next().is_none_or(|c| c == '/' || c == '\\')) || path.starts_with("\\\\")
}

impl PathMap {
    /// The host's path for `path`, where this map covers it.
    pub fn apply(&self, path: &str) -> Option<PathBuf> {
        // Windows knows two separators and no case.
        let windows = is_windows(path).then(|| path.replace('\\', "/"));
        let path = windows.as_deref().unwrap_or(path);
        let rest = match path.split_at_checked(self.from.len())? {
            (from, rest) if from == self.from => rest,
            (from, rest) if windows.is_some() && from.eq_ignore_ascii_case(&self.from) => rest,
            _ => return None,
        };
        if rest.is_empty() {
            return Some(self.to.clone());
        }
        rest.strip_prefix('/').map(|rest| self.to.join(rest.trim_start_matches('/')))
    }
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
    /// Machine profiles that replace or join the built-in ones
    #[arg(long, env = "QHERD_TEMPLATES_DIR", value_name = "DIR")]
    pub templates_dir: Option<PathBuf>,
    /// Accelerator [default: auto]
    #[arg(long, env = "QHERD_ACCEL")]
    pub accel: Option<Accel>,
    /// The QEMU program [default: qemu-system-x86_64 from PATH]
    #[arg(long, env = "QHERD_QEMU", value_name = "PATH")]
    pub qemu: Option<PathBuf>,
    /// Power off every VM when the daemon ends; without it they go on running
    #[arg(long, env = "QHERD_STOP_VMS_ON_EXIT", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub stop_vms_on_exit: Option<bool>,
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
    pub image_dirs: Vec<PathBuf>,
    pub storage_dirs: Vec<PathBuf>,
    pub path_maps: Vec<PathMap>,
    /// Networks that switches may have beside the private ones.
    pub allow_subnets: Vec<Cidr>,
    pub templates_dir: Option<PathBuf>,
    pub accel: Accel,
    pub qemu: PathBuf,
    pub qemu_img: PathBuf,
    pub stop_vms_on_exit: bool,
    /// Seconds.
    pub stop_timeout: u32,
    /// MiB.
    pub balloon_floor: u32,
    /// This program: with it a store is opened in a helper process first, to see whether it is sound.
    pub program: Option<PathBuf>,
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
        let list = |mine: Vec<PathBuf>, theirs: Vec<PathBuf>| if mine.is_empty() { theirs } else { mine };
        let state_dir = self.state_dir.or(from_file.state_dir).unwrap_or_else(|| "state".into());
        let state_dir = canonical(&state_dir).with_context(|| format!("state directory {}", state_dir.display()))?;
        let mut image_dirs = list(self.image_dirs, from_file.image_dirs);
        if image_dirs.is_empty() {
            image_dirs.push(state_dir.join("bases"));
        }
        let mut storage_dirs = list(self.storage_dirs, from_file.storage_dirs);
        storage_dirs.insert(0, state_dir.join("images"));
        Ok(Config {
            listen: self.listen.or(from_file.listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080))),
            hyperv_listen: self.hyperv_listen.or(from_file.hyperv_listen),
            image_dirs,
            storage_dirs,
            path_maps: if self.path_maps.is_empty() { from_file.path_maps } else { self.path_maps },
            allow_subnets: if self.allow_subnets.is_empty() { from_file.allow_subnets } else { self.allow_subnets },
            templates_dir: self.templates_dir.or(from_file.templates_dir),
            accel: self.accel.or(from_file.accel).unwrap_or_default(),
            qemu: self.qemu.or(from_file.qemu).unwrap_or_else(|| "qemu-system-x86_64".into()),
            qemu_img: "qemu-img".into(),
            stop_vms_on_exit: self.stop_vms_on_exit.or(from_file.stop_vms_on_exit).unwrap_or(false),
            balloon_floor: self.balloon_floor.or(from_file.balloon_floor).unwrap_or(64),
            stop_timeout: self.stop_timeout.or(from_file.stop_timeout).unwrap_or(60),
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

fn read(path: &Path) -> anyhow::Result<Settings> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("in the configuration {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("qherd.toml");
        std::fs::write(&file, "listen = \"127.0.0.1:1\"\naccel = \"tcg\"\npath-maps = [\"D:/HyperV=/srv/vms\"]\n")
            .unwrap();
        let flags = Settings { listen: Some("127.0.0.1:2".parse().unwrap()), ..Settings::default() };
        let config = flags.resolve(Some(&file)).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.accel, Accel::Tcg);
        assert_eq!(config.stop_timeout, 60);
        assert_eq!(config.image_dirs, [config.state_dir.join("bases")]);
        assert_eq!(config.path_maps[0].apply("D:/HyperV/a"), Some("/srv/vms/a".into()));
        assert_eq!(config.path_maps[0].apply("D:/HyperVx"), None);
    }

    #[test]
    fn a_flag_is_never_split_and_a_variable_is_like_path() {
        #[derive(clap::Parser)]
        struct Flags {
            #[command(flatten)]
            settings: Settings,
        }
        let parsed = |words: &[&str]| <Flags as clap::Parser>::parse_from([&["qherd"], words].concat()).settings;
        let mut flags = parsed(&["--image-dir", "/srv/img:2026", "--image-dir", "/b", "--path-map", "D:/a=/x;y"]);
        flags.add_lists_of(|_| Some("/ignored".into())).unwrap();
        assert_eq!(flags.image_dirs, [PathBuf::from("/srv/img:2026"), "/b".into()]);
        assert_eq!(flags.path_maps[0].to, PathBuf::from("/x;y"));
        assert_eq!(flags.storage_dirs, [PathBuf::from("/ignored")]);
        let mut variables = parsed(&[]);
        let value = |name: &str| match name {
            "QHERD_PATH_MAP" => Some("D:/a=/x;E:/=/y".into()),
            _ => Some("/srv/a::/srv/b".into()),
        };
        variables.add_lists_of(value).unwrap();
        assert_eq!(variables.image_dirs, [PathBuf::from("/srv/a"), "/srv/b".into()]);
        assert_eq!(variables.path_maps.len(), 2);
        let bad = |name: &str| (name == "QHERD_PATH_MAP").then(|| "D:/a".into());
        let error = format!("{:#}", parsed(&[]).add_lists_of(bad).unwrap_err());
        assert!(error.contains("QHERD_PATH_MAP") && error.contains("FROM=TO"), "{error}");
    }

    #[test]
    fn the_state_directory_has_one_name_whatever_leads_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("real/state")).unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        let resolved = |path: &str| {
            let settings = Settings { state_dir: Some(dir.path().join(path)), ..Settings::default() };
            settings.resolve(None).unwrap()
        };
        for path in ["real/state", "link/state", "real/../real/state", "link/state/", "real/./state"] {
            let config = resolved(path);
            assert_eq!(config.state_dir, root.join("real/state"), "{path}");
            assert_eq!(config.storage_dirs, [root.join("real/state/images")], "{path}");
        }
        // One that is to be made.
        assert_eq!(resolved("link/new/deeper").state_dir, root.join("real/new/deeper"));
    }

    #[test]
    fn a_path_map_knows_how_windows_writes_paths() {
        let map: PathMap = "D:\\HyperV\\=/srv/vms".parse().unwrap();
        for (path, to) in [
            ("D:\\HyperV\\web\\disks", Some("/srv/vms/web/disks")),
            ("d:/hyperv/web", Some("/srv/vms/web")),
            ("D:\\HyperV", Some("/srv/vms")),
            ("D:\\HyperVisor", None),
            ("D:\\Größe", None),
            ("/HyperV", None),
        ] {
            assert_eq!(map.apply(path), to.map(PathBuf::from), "{path}");
        }
        let unix: PathMap = "/client=/srv/vms".parse().unwrap();
        assert_eq!(unix.apply("/CLIENT/x"), None);
        assert_eq!(unix.apply("/client/a\\b"), Some("/srv/vms/a\\b".into()));
        assert!(is_windows("C:") && !is_windows("C:x") && !is_windows("/C:/") && is_windows("\\\\nas\\vms"));
    }

    #[test]
    fn a_misspelt_setting_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("qherd.toml");
        std::fs::write(&file, "listne = \"127.0.0.1:1\"\n").unwrap();
        let error = format!("{:#}", Settings::default().resolve(Some(&file)).unwrap_err());
        assert!(error.contains("listne"), "{error}");
    }

    #[test]
    fn the_example_configuration_is_valid() {
        let text = include_str!("../templates/qherd.toml");
        toml::from_str::<Settings>(text).unwrap();
        // Also with every example line switched on.
        let all: String = text
            .lines()
            .map(|l| l.strip_prefix("# ").filter(|l| l.contains(" = ")).unwrap_or(l))
            .fold(String::new(), |all, line| all + line + "\n");
        toml::from_str::<Settings>(&all).unwrap();
    }
}
