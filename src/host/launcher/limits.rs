//! Resource limits of a child. They hold for it and whatever it starts, and nobody in it can raise them.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub const MIB: u64 = 1 << 20;

/// Never a core file: the memory of a guest is in it. Never locked memory: nobody swaps where it is asked for here.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub descriptors: u64,
    /// Bytes.
    pub address_space: Option<u64>,
    pub cpu_seconds: Option<u64>,
    /// Bytes up to which a file may be written.
    pub file_size: Option<u64>,
}

impl Limits {
    /// No limits but those that everybody has.
    pub const NONE: Self = Self { descriptors: 1024, address_space: None, cpu_seconds: None, file_size: None };

    /// For this process, all but that of descriptors. Allocates nothing.
    ///
    /// # Errors
    /// None that the kernel tells of: a limit is only lowered.
    pub fn set(&self) -> io::Result<()> {
        let all = [
            (Resource::Core, Some(0)),
            (Resource::Memlock, Some(0)),
            (Resource::As, self.address_space),
            (Resource::Cpu, self.cpu_seconds),
            (Resource::Fsize, self.file_size),
        ];
        for (resource, wanted) in all {
            if let Some(wanted) = wanted {
                lower(resource, wanted)?;
            }
        }
        Ok(())
    }

    /// Once this process opens nothing more itself: until it executes its program it has all that the daemon has open, and a
    /// lower limit leaves no number for one more. Allocates nothing.
    ///
    /// # Errors
    /// As of [`set`](Self::set).
    pub fn set_descriptors(&self) -> io::Result<()> {
        lower(Resource::Nofile, self.descriptors)
    }
}

/// For this process. Allocates nothing.
///
/// # Errors
/// None that the kernel tells of.
pub fn lower(resource: Resource, wanted: u64) -> io::Result<()> {
    // Whoever started the daemon may have set lower ones.
    let ours = getrlimit(resource);
    let lowest = |limit: Option<u64>| Some(limit.map_or(wanted, |limit| limit.min(wanted)));
    Ok(setrlimit(resource, Rlimit { current: lowest(ours.current), maximum: lowest(ours.maximum) })?)
}
