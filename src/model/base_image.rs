//! What disks are cloned from, and what tells its content from another's: a file that is given by its path may be exchanged under
//! its clones by whoever has the folder.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::{ImageFormat, LayerId};

/// A base image with the format that was detected when it was cloned; QEMU is always told the format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseImage {
    /// Canonical path.
    pub path: PathBuf,
    pub format: ImageFormat,
    /// Of an image of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<LayerId>,
    /// What was in it. Of an image of the store its name says it, and of what earlier versions have cloned nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Arc<BaseContent>>,
}

impl BaseImage {
    /// A file of which nobody says what was in it.
    pub fn at(path: impl Into<PathBuf>, format: ImageFormat) -> Self {
        Self { path: path.into(), format, layer: None, content: None }
    }
}

/// What was in a file. As long as the first three are the same, it is; else the sum says whether it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseContent {
    pub inode: u64,
    pub size: u64,
    /// Nanoseconds since 1970.
    pub modified: u64,
    /// A SHA-256 sum of its length, its beginning, its end and samples between them, in hexadecimal digits.
    pub sample: String,
}

/// For people, who compare it with another.
impl fmt::Display for BaseContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modified = UNIX_EPOCH + Duration::from_nanos(self.modified);
        let sample = self.sample.get(..12).unwrap_or_default();
        write!(f, "{} bytes of {} ({sample}…)", self.size, humantime::format_rfc3339_seconds(modified))
    }
}
