//! In what a definition and what QEMU has differ, by lane: the one place that says so. The plan's work, `pending` and the
//! answer to a change follow from it.

use super::{
    lane::{DiskNo, Lane},
    record::Record,
};
use crate::model::{Disk, Nic, VmSpec};

/// Whether a lane has something left to do. Of a VM without a process nothing differs.
pub fn differs(record: &Record, lane: Lane) -> bool {
    let Some(up) = record.run.up() else { return false };
    let (wanted, live) = (&record.definition, &up.in_effect);
    match lane {
        Lane::Disk(no) => match (disk(wanted, no), disk(live, no)) {
            (None, None) => false,
            (Some(wanted), Some(live)) => resized(wanted, live) || throttled(wanted, live),
            (Some(_), None) | (None, Some(_)) => true,
        },
        Lane::Nic(id) => match (wanted.nic(id), live.nic(id)) {
            (None, None) => false,
            (Some(wanted), Some(live)) => wanted.backend != live.backend,
            (Some(_), None) | (None, Some(_)) => true,
        },
        Lane::Vcpus => wanted.vcpus != live.vcpus,
        Lane::Pin => wanted.cpu_pinning != live.cpu_pinning,
        Lane::Memory => wanted.memory != live.memory,
        Lane::Medium => wanted.iso != live.iso,
        Lane::Store
        | Lane::Kill
        | Lane::Strays
        | Lane::Power
        | Lane::Monitor
        | Lane::Look
        | Lane::Agent
        | Lane::Files
        | Lane::RunFiles
        | Lane::MemoryLook => false,
    }
}

pub fn disk(spec: &VmSpec, no: DiskNo) -> Option<&Disk> {
    spec.disks.iter().find(|disk| DiskNo::of(&disk.name) == Some(no))
}

pub fn disk_mut(spec: &mut VmSpec, no: DiskNo) -> Option<&mut Disk> {
    spec.disks.iter_mut().find(|disk| DiskNo::of(&disk.name) == Some(no))
}

pub fn resized(wanted: &Disk, live: &Disk) -> bool {
    wanted.size > live.size
}

pub fn throttled(wanted: &Disk, live: &Disk) -> bool {
    wanted.io_limits != live.io_limits
}

/// The host's side of a NIC is another one, and QEMU knows nothing of that.
pub fn port_differs(wanted: &Nic, live: &Nic) -> bool {
    wanted.switch().is_some() && wanted.switch() == live.switch() && wanted.backend != live.backend
}

/// The lanes that see to the difference between two definitions.
pub fn lanes(before: &VmSpec, after: &VmSpec) -> Vec<Lane> {
    let mut lanes = Vec::new();
    for one in after.disks.iter().chain(&before.disks) {
        let other = |spec: &VmSpec| spec.disk(&one.name).cloned();
        if other(before) != other(after)
            && let Some(no) = DiskNo::of(&one.name)
        {
            lanes.push(Lane::Disk(no));
        }
    }
    for one in after.nics.iter().chain(&before.nics) {
        if before.nic(one.id) != after.nic(one.id) {
            lanes.push(Lane::Nic(one.id));
        }
    }
    if before.vcpus != after.vcpus {
        lanes.push(Lane::Vcpus);
    }
    if before.cpu_pinning != after.cpu_pinning {
        lanes.push(Lane::Pin);
    }
    if before.memory != after.memory {
        lanes.push(Lane::Memory);
    }
    if before.iso != after.iso {
        lanes.push(Lane::Medium);
    }
    lanes.sort_unstable();
    lanes.dedup();
    lanes
}

/// In what two definitions differ, by the names of the KVM dialect.
pub fn fields(before: &VmSpec, after: &VmSpec) -> Vec<String> {
    let mut fields = Vec::new();
    macro_rules! differ {
        ($($($field:ident).+ $name:literal),*) => {$(
            if before.$($field).+ != after.$($field).+ {
                fields.push($name.to_owned());
            }
        )*};
    }
    differ!(
        name "name", machine "machine", vcpus "vcpus", max_vcpus "max_vcpus", memory "memory", max_memory "max_memory",
        cpu_pinning "cpu_pinning", cpu "cpu", policy "policy", iso "iso", seed "cloud_init", disks "disks", nics "networks",
        metadata.labels "labels", metadata.description "description", metadata.protected "protected"
    );
    fields
}

/// `now` without the change from `before` to `after`: whatever others have changed since stays.
pub fn without(now: &VmSpec, before: &VmSpec, after: &VmSpec) -> VmSpec {
    let mut spec = now.clone();
    macro_rules! take_back {
        ($($($field:ident).+),*) => {$(
            if before.$($field).+ != after.$($field).+ && spec.$($field).+ == after.$($field).+ {
                spec.$($field).+ = before.$($field).+.clone();
            }
        )*};
    }
    take_back!(name, machine, vcpus, max_vcpus, memory, max_memory, cpu_pinning, cpu, policy, iso, seed, named);
    take_back!(metadata.labels, metadata.description, metadata.protected);
    take_back_list(&mut spec.disks, &before.disks, &after.disks, |a, b| a.name == b.name);
    take_back_list(&mut spec.nics, &before.nics, &after.nics, |a, b| a.id == b.id);
    spec
}

/// The same of a list, element by element. Names that were used up stay so.
fn take_back_list<T: Clone + PartialEq>(now: &mut Vec<T>, before: &[T], after: &[T], same: fn(&T, &T) -> bool) {
    let find = |list: &[T], one: &T| list.iter().position(|other| same(one, other));
    now.retain(|one| find(before, one).is_some() || find(after, one).is_none());
    for (at, one) in before.iter().enumerate() {
        match (find(after, one), find(now, one)) {
            (None, None) => now.insert(at.min(now.len()), one.clone()),
            (Some(then), Some(here)) if after[then] != *one && now[here] == after[then] => now[here] = one.clone(),
            _ => {}
        }
    }
}
