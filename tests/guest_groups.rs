//! Control groups of version 2, in a kernel of its own that has no others: where they are made, what they bound, and that what is
//! in them ends. Those of this machine's kernel, of whichever version, are in tests/vms/sandbox.rs.

#[path = "support/kernel.rs"]
mod kernel;

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};

use qherd::host::{
    cgroups::{Bounds, Cgroups, Group},
    launcher::{Cell, Child, QEMU, Spawned},
};
use uuid::Uuid;

const TOP: &str = "/sys/fs/cgroup";
const MIB: u64 = 1 << 20;

#[test]
fn groups_of_version_2_bound_what_is_in_them_and_end_it() {
    kernel::run_inside("inside", &["sleep", "dd"]);
}

#[test]
#[ignore = "runs in a kernel of its own"]
fn inside() {
    kernel::enter();
    rustix::mount::mount("none", TOP, "cgroup2", rustix::mount::MountFlags::empty(), c"").unwrap();
    // In the host's root, whose group may have both.
    all_of_it(Path::new(TOP));
    // As a service: its own group has a process in it, the slice's gives its children both.
    let slice = PathBuf::from(TOP).join("system.slice");
    let service = slice.join("qherd.service");
    fs::create_dir(&slice).unwrap();
    fs::write(slice.join("cgroup.subtree_control"), "+memory +pids").unwrap();
    fs::create_dir(&service).unwrap();
    fs::write(service.join("cgroup.procs"), "0").unwrap();
    all_of_it(&slice);
    assert!(!service.join("qherd-mark").exists());
}

fn all_of_it(parent: &Path) {
    let groups = Cgroups::find("mark").unwrap();
    let all = parent.join("qherd-mark");
    let (first, second) = (made(&groups), made(&groups));
    let folder = |group: &Group| PathBuf::from(TOP).join(group.path().trim_start_matches('/'));
    assert_eq!(folder(&first).parent(), Some(&*all));
    let read = |group: &Group, name: &str| fs::read_to_string(folder(group).join(name)).unwrap().trim().to_owned();
    assert_eq!((read(&first, "pids.max"), read(&first, "memory.max")), ("2048".into(), (32 * MIB).to_string()));
    for mib in [64, 16, 32] {
        first.bound_memory(mib * MIB).unwrap();
        assert_eq!(read(&first, "memory.max"), (mib * MIB).to_string());
    }
    // It touches all of that.
    let eats = |group: &Group, size: &str| {
        let args = ["if=/dev/zero", "of=/dev/null", size, "count=1"];
        within(group, "/bin/dd", &args).output().unwrap().status.signal()
    };
    assert_eq!((eats(&first, "bs=8M"), eats(&first, "bs=64M")), (None, Some(9)));
    let (one, other) = (within(&first, "/bin/sleep", &["1000"]), within(&second, "/bin/sleep", &["1000"]));
    // The bound is not brought below what is in use.
    first.bound_memory(4096).unwrap();
    assert_eq!(read(&first, "memory.max"), (32 * MIB).to_string());
    assert_eq!(groups.of(one.pid().as_raw_pid()).unwrap().path(), first.path());
    assert!(groups.of(1).is_none());
    groups.sweep();
    assert!(folder(&first).exists() && folder(&second).exists());
    first.end();
    assert_eq!(one.output().unwrap().status.signal(), Some(9));
    assert!(!folder(&first).exists() && folder(&second).exists());
    groups.left(second.path()).unwrap().end();
    assert_eq!(other.output().unwrap().status.signal(), Some(9));
    // What a daemon has left that was killed.
    made(&groups);
    groups.sweep();
    assert!(!all.exists() && groups.left(second.path()).is_none());
}

fn made(groups: &Cgroups) -> Group {
    let bounds = Bounds { memory: 32 * MIB, processes: 2048 };
    groups.make(&Uuid::new_v4().to_string(), bounds).unwrap()
}

fn within(group: &Group, program: &str, args: &[&str]) -> Spawned {
    let cell = Cell { seat: Some(group.seat().unwrap()), ..Cell::default() };
    Child::new(QEMU, Path::new(program)).args(args).within(cell).spawn().unwrap()
}
