//! The files of the host that devices work with. QEMU opens none of them: the daemon does, looks into what it has opened, and
//! hands the descriptor over in a numbered set, as which QEMU knows the file (docs/adr/0028). The numbers are fixed, so that a
//! next daemon knows what a set is for.

use std::path::{Path, PathBuf};

use crate::model::{Below, Disk, ImageFormat, Seed, SeedId, VmSpec};

/// What a file is to its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileUse {
    /// Written to: not the file of that name, but what is held for it.
    Log,
    /// Read.
    Medium,
    /// Read: what a disk was cloned from.
    Base(ImageFormat),
    /// The same, of one that lies on another itself.
    Overlay(ImageFormat),
    /// Read; made in memory of what is in the file that it is named after.
    Seed(SeedId),
    /// Read and written.
    Disk(ImageFormat),
}

/// A file of the host, with the access that it is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFile {
    /// Number of the set that its descriptor is in.
    pub set: u32,
    pub path: PathBuf,
    pub used: FileUse,
}

/// Of the console's log.
const LOG: u32 = 1;
/// Of the drive's medium, and of the one that takes its place.
const MEDIA: [u32; 2] = [2, 3];
/// Of what cloud-init is given.
const SEED: u32 = 4;
/// Of the root disk; each disk has two, the second for its base.
const DISKS: u32 = 10;
/// Of what bases lie on themselves; each disk has so many.
const CHAINS: u32 = 1_000_000;
const LEVELS: u32 = 32;

impl HostFile {
    pub(super) fn medium(iso: &Path, place: usize) -> Self {
        Self { set: MEDIA[place % MEDIA.len()], path: iso.to_owned(), used: FileUse::Medium }
    }

    /// Below the state directory.
    pub(super) fn seed(seed: &Seed, spec: &VmSpec) -> Self {
        let path = Path::new("cloud-init").join(spec.id.to_string()).join(seed.id.to_string());
        Self { set: SEED, path, used: FileUse::Seed(seed.id) }
    }

    pub(super) fn disk(disk: &Disk) -> Self {
        Self { set: disk_set(disk), path: disk.file.to_path_buf(), used: FileUse::Disk(disk.file.format()) }
    }

    /// What a disk lies on, from above.
    pub(super) fn below(disk: &Disk) -> Vec<Self> {
        let files = disk.lies_on();
        let last = files.len().saturating_sub(1);
        let file = |(depth, Below { path, format }): (usize, Below)| {
            let used = if depth == last { FileUse::Base(format) } else { FileUse::Overlay(format) };
            Self { set: below_set(disk, depth), path, used }
        };
        files.into_iter().enumerate().map(file).collect()
    }

    /// What QEMU calls it.
    pub fn name(&self) -> String {
        format!("{SETS}{}", self.set)
    }
}

/// What QEMU calls the set of a descriptor begins with this.
const SETS: &str = "/dev/fdset/";

/// The number of the set that QEMU calls so; `None` for a path of the host.
pub fn set_of(name: &str) -> Option<u32> {
    name.strip_prefix(SETS)?.parse().ok()
}

/// The console's log.
pub fn log_file(path: PathBuf) -> HostFile {
    HostFile { set: LOG, path, used: FileUse::Log }
}

/// A disk's image, and what that lies on.
pub fn disk_files(disk: &Disk) -> Vec<HostFile> {
    [HostFile::disk(disk)].into_iter().chain(HostFile::below(disk)).collect()
}

/// Every file that a VM starts with.
pub fn files(spec: &VmSpec, console_log: PathBuf) -> Vec<HostFile> {
    let disks = spec.disks.iter().flat_map(disk_files);
    let medium = spec.iso.iter().map(|iso| HostFile::medium(iso, 0));
    let seed = spec.seed.iter().map(|seed| HostFile::seed(seed, spec));
    [log_file(console_log)].into_iter().chain(disks).chain(medium).chain(seed).collect()
}

/// Numbers of further disks, `disk<n>`, are given out once in the life of a VM.
fn disk_set(disk: &Disk) -> u32 {
    let number: u32 = disk.name.strip_prefix("disk").and_then(|number| number.parse().ok()).unwrap_or(0);
    DISKS + 2 * number
}

fn below_set(disk: &Disk, depth: usize) -> u32 {
    let base = disk_set(disk) + 1;
    match u32::try_from(depth) {
        Ok(depth @ 1..) => CHAINS + LEVELS * ((base - DISKS) / 2) + depth,
        Ok(0) | Err(_) => base,
    }
}
