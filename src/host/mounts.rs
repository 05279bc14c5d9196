//! Which file system a path is on, by its mount points: so that one that is not mounted today is missed.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// File systems that hold nothing over a boot.
const FLEETING: [&str; 2] = ["tmpfs", "ramfs"];
/// Without these the system does not come up: who starts a daemon has them.
const OF_THE_SYSTEM: [&str; 8] = ["/home", "/opt", "/root", "/run", "/tmp", "/usr", "/var", "/var/tmp"];

/// The mount points on the way to `path`, which is canonical, that may be missing one day: the innermost first.
pub fn above(path: &Path) -> Vec<PathBuf> {
    found(&all(), path)
}

/// Every mount point of this process.
pub fn points() -> BTreeSet<PathBuf> {
    all().into_iter().map(|(point, _)| point).collect()
}

/// With what is mounted there.
fn all() -> Vec<(PathBuf, String)> {
    let mounts = procfs::process::Process::myself().and_then(|me| me.mountinfo());
    let mounts = mounts.into_iter().flat_map(|mounts| mounts.0);
    mounts.map(|mount| (plain(&mount.mount_point), mount.fs_type)).collect()
}

/// The kernel writes spaces, tabs, line ends and backslashes in octal (proc(5)).
fn plain(escaped: &Path) -> PathBuf {
    let bytes = escaped.as_os_str().as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(plain).into()
}

fn found(mounts: &[(PathBuf, String)], path: &Path) -> Vec<PathBuf> {
    let of = |place: &Path| mounts.iter().rev().find(|(point, _)| point == place).map(|(_, kind)| kind.as_str());
    // What lies on a file system that is made anew at each boot is not expected to be there.
    if path.ancestors().find_map(of).is_some_and(|kind| FLEETING.contains(&kind)) {
        return Vec::new();
    }
    let expected =
        |place: &&Path| place.parent().is_some() && !OF_THE_SYSTEM.iter().any(|own| Path::new(own) == *place);
    path.ancestors().filter(|place| of(place).is_some()).filter(expected).map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_that_may_be_missing_are_found_from_the_inside_out() {
        let mounts = [("/", "ext4"), ("/home", "ext4"), ("/srv", "xfs"), ("/srv/vms", "ext4"), ("/tmp", "tmpfs")];
        let mounts: Vec<_> = mounts.iter().map(|(at, kind)| (PathBuf::from(at), (*kind).to_owned())).collect();
        let above = |path: &str| found(&mounts, Path::new(path));
        assert_eq!(above("/var/lib/qherd"), [] as [PathBuf; 0]);
        assert_eq!(above("/home/me/state"), [] as [PathBuf; 0]);
        assert_eq!(above("/tmp/x/state"), [] as [PathBuf; 0]);
        assert_eq!(above("/srv/state"), [PathBuf::from("/srv")]);
        assert_eq!(above("/srv/vms"), [PathBuf::from("/srv/vms"), "/srv".into()]);
        assert_eq!(above("/srv/vmsx"), [PathBuf::from("/srv")]);
        assert_eq!(plain(Path::new("/a\\040b\\134c\\x")), Path::new("/a b\\c\\x"));
    }
}
