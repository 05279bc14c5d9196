//! What a client's paths mean on this host.

use std::path::{Path, PathBuf};

use serde::Deserialize;

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
