//! A disk as this dialect shows it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{CloneMode, Disk, ImageFormat, IoLimits};

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct DiskView {
    /// `root`, `disk1`…
    pub name: String,
    /// GiB.
    pub disk_size: u64,
    pub disk_file: PathBuf,
    /// `raw` or `qcow2`.
    pub format: ImageFormat,
    /// It was there before, was attached as it was, and stays when the disk is removed.
    pub attached: bool,
    /// The id of the volume that it is in, which stays when the disk is removed.
    pub volume: Option<String>,
    pub base_image: Option<PathBuf>,
    pub clone: Option<CloneMode>,
    pub io_limits: Option<IoLimits>,
}

impl DiskView {
    pub fn of(disk: &Disk) -> Self {
        Self {
            name: disk.name.clone(),
            disk_size: disk.size,
            disk_file: disk.file.to_path_buf(),
            format: disk.file.format(),
            attached: disk.file.foreign().is_some(),
            volume: disk.file.volume().map(|_| disk.layer.to_string()),
            base_image: disk.base.as_ref().map(|base| base.path.clone()),
            clone: disk.base.as_ref().map(|_| disk.clone),
            io_limits: disk.io_limits,
        }
    }
}
