//! A disk as this dialect shows it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use crate::model::{CloneMode, Disk, IoLimits};

#[derive(Serialize, JsonSchema)]
pub struct DiskView {
    /// `root`, `disk1`…
    name: String,
    /// GiB.
    disk_size: u64,
    disk_file: PathBuf,
    base_image: Option<PathBuf>,
    clone: Option<CloneMode>,
    io_limits: Option<IoLimits>,
}

impl DiskView {
    pub fn of(disk: &Disk) -> Self {
        Self {
            name: disk.name.clone(),
            disk_size: disk.size,
            disk_file: disk.file.clone(),
            base_image: disk.base.as_ref().map(|base| base.path.clone()),
            clone: disk.base.as_ref().map(|_| disk.clone),
            io_limits: disk.io_limits,
        }
    }
}
