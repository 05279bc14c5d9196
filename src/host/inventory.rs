//! What the host has right now: its cores, NUMA nodes and memory, as /sys and /proc tell. Read anew for every request,
//! because cores go offline and memory is used up. Which VM has what of it is not known here.

#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

use std::{fs, io, path::Path};

use nix::{sched::sched_getaffinity, unistd::Pid};

use super::{cpus::parse_cpu_list, listed};

/// Cores by number, ascending; memory in MiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    pub online: Vec<u32>,
    /// Kept free of other work by the boot option `isolcpus`; empty also where the kernel does not tell.
    pub isolated: Vec<u32>,
    /// Online, and this process (so every QEMU that it starts) may use them.
    pub usable: Vec<u32>,
    /// Empty where the kernel knows no NUMA.
    pub nodes: Vec<Node>,
    pub memory_total: u64,
    /// What can be had without swapping; `None` before Linux 3.14.
    pub memory_available: Option<u64>,
}

/// One NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: u32,
    /// Those online; none on a node that has only memory.
    pub cores: Vec<u32>,
    pub memory_total: Option<u64>,
    /// Free, without caches that could be dropped: the kernel tells no more of a single node.
    pub memory_free: Option<u64>,
}

impl Inventory {
    /// # Errors
    /// When the list of cores or the size of the memory cannot be read; everything else may be missing.
    pub fn read() -> io::Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        Self::below(Path::new("/"), |core| allowed.is_set(core as usize).unwrap_or(false))
    }

    fn below(root: &Path, allowed: impl Fn(u32) -> bool) -> io::Result<Self> {
        let system = root.join("sys/devices/system");
        let online = parse_cpu_list(&read(&system.join("cpu/online"))?);
        let meminfo = read(&root.join("proc/meminfo"))?;
        let memory_total = mebibytes(&meminfo, "MemTotal")
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemTotal"))?;
        Ok(Self {
            isolated: fs::read_to_string(system.join("cpu/isolated"))
                .map_or_else(|_| Vec::new(), |t| parse_cpu_list(&t)),
            usable: online.iter().copied().filter(|&core| allowed(core)).collect(),
            nodes: nodes(&system.join("node"))?,
            memory_total,
            memory_available: mebibytes(&meminfo, "MemAvailable"),
            online,
        })
    }
}

/// Names the file in the error.
fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|e| io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display())))
}

fn nodes(folder: &Path) -> io::Result<Vec<Node>> {
    let entries = listed(folder)?;
    let node = |entry: &fs::DirEntry| {
        let id = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        let file = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let meminfo = file("meminfo");
        Some(Node {
            id,
            cores: parse_cpu_list(&file("cpulist")),
            memory_total: mebibytes(&meminfo, "MemTotal"),
            memory_free: mebibytes(&meminfo, "MemFree"),
        })
    };
    let mut nodes: Vec<Node> = entries.iter().filter_map(node).collect();
    nodes.sort_by_key(|node| node.id);
    Ok(nodes)
}

/// `MemTotal:  19228876 kB`, in a node's own file behind `Node 0`.
fn mebibytes(meminfo: &str, name: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| {
        let (label, value) = line.split_once(':')?;
        (label.split_ascii_whitespace().next_back()? == name).then_some(value)
    })?;
    Some(value.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root folder with these files.
    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn two_nodes_with_isolated_cores() {
        let root = host(&[
            ("sys/devices/system/cpu/online", "0-5\n"),
            ("sys/devices/system/cpu/isolated", "2-3,5\n"),
            ("sys/devices/system/node/node10/cpulist", "\n"),
            ("sys/devices/system/node/node10/meminfo", "Node 10 MemTotal:       2097152 kB\n"),
            ("sys/devices/system/node/node0/cpulist", "0-5\n"),
            (
                "sys/devices/system/node/node0/meminfo",
                "\nNode 0 MemTotal:       1048576 kB\nNode 0 MemFree:         524288 kB\nNode 0 MemUsed: 524288 kB\n",
            ),
            ("sys/devices/system/node/online", "0,10\n"),
            ("sys/devices/system/node/nodes", "no node\n"),
            ("proc/meminfo", "MemTotal:        3145728 kB\nMemFree: 1 kB\nMemAvailable:    2048000 kB\n"),
        ]);
        let found = Inventory::below(root.path(), |core| core != 4).unwrap();
        assert_eq!(found.online, [0, 1, 2, 3, 4, 5]);
        assert_eq!(found.isolated, [2, 3, 5]);
        assert_eq!(found.usable, [0, 1, 2, 3, 5]);
        assert_eq!((found.memory_total, found.memory_available), (3072, Some(2000)));
        let node = |id, cores: &[u32], memory_total, memory_free| Node {
            id,
            cores: cores.to_vec(),
            memory_total: Some(memory_total),
            memory_free,
        };
        assert_eq!(found.nodes, [node(0, &[0, 1, 2, 3, 4, 5], 1024, Some(512)), node(10, &[], 2048, None)]);
    }

    #[test]
    fn a_kernel_without_numa_and_isolation_has_empty_lists() {
        let root = host(&[("sys/devices/system/cpu/online", "0\n"), ("proc/meminfo", "MemTotal: 2048 kB\n")]);
        let found = Inventory::below(root.path(), |_| true).unwrap();
        assert_eq!((found.nodes, found.isolated, found.memory_available), (vec![], vec![], None));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let root = host(&[("sys/devices/system/cpu/online", "0\n"), ("proc/meminfo", "MemFree: 2048 kB\n")]);
        let why = |root: &Path| Inventory::below(root, |_| true).unwrap_err().to_string();
        assert!(why(root.path()).contains("MemTotal"));
        assert!(why(Path::new("/nonexistent")).contains("/nonexistent/sys/devices/system/cpu/online"));
    }

    #[test]
    fn this_host_is_read() {
        let found = Inventory::read().unwrap();
        assert!(!found.usable.is_empty() && found.memory_available.unwrap() <= found.memory_total);
    }
}
