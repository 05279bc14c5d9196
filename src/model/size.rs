//! How large the definition of a VM may be as a whole, so that whatever is accepted can also be stored, in every state of a
//! run. How long its lists may be is in `lists`.

use super::{Error, Result, VmSpec, written};

/// Bytes of a definition, as JSON. The record of a running VM holds it twice: as it is wanted, and as QEMU has it.
pub const MAX_DEFINITION: usize = 12_800;

/// Bytes, as JSON, of the paths of a disk, which are in a record of their own.
pub const MAX_LAYER: usize = 16 * 1024;

/// Refuses what would not fit into a record. A definition that was stored `before` there was this bound may shrink.
///
/// # Errors
/// [`Error::Invalid`] that names the part which takes most of it.
pub fn check_definition(spec: &VmSpec, before: Option<&VmSpec>) -> Result<()> {
    if spec.disks.iter().any(|disk| written(&(&*disk.file, &disk.base, disk.file.below())) > MAX_LAYER) {
        let must =
            format!("have shorter paths: the image of a disk and what it lies on may take {MAX_LAYER} bytes together");
        return Err(Error::invalid("disks", must));
    }
    // What QEMU knows nothing of has bounds of its own.
    let hardware = |spec: &VmSpec| written(&spec.for_qemu());
    let size = hardware(spec);
    if size <= MAX_DEFINITION || before.is_some_and(|before| size <= hardware(before)) {
        return Ok(());
    }
    let parts = [
        ("networks", written(&spec.nics)),
        ("disks", written(&spec.disks)),
        ("cpu_pinning", written(&spec.cpu_pinning)),
        ("cpu", written(&spec.cpu)),
        ("iso", written(&spec.iso)),
    ];
    let (largest, _) = parts.into_iter().max_by_key(|(_, size)| *size).unwrap_or_default();
    let parts = parts.map(|(name, size)| format!("{name} {size}")).join(", ");
    let must = format!(
        "take less room: the whole definition of a VM may have {MAX_DEFINITION} bytes, and this one has {size} ({parts}); \
         fewer forwards, disks and cores or shorter paths make it smaller"
    );
    Err(Error::invalid(largest, must))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Forward, LayerId, MacAddr, NewDisk, NewNic, NicBackend, NicId, Protocol};

    fn vm() -> VmSpec {
        let machine = serde_json::json!({
            "profile": "q35", "machine_type": "pc-q35-7.2", "bus": { "kind": "pcie", "hotplug_ports": 8 },
            "rng": true, "balloon": true, "pvpanic": true,
        });
        let spec = serde_json::json!({
            "id": crate::model::VmId::random(), "name": "web", "created_at": 0, "machine": machine, "vcpus": 1,
            "max_vcpus": 1, "max_vcpus_given": false, "memory": 64, "max_memory": 64, "cpu_pinning": null, "disks": [],
            "nics": [], "nics_added": 0,
        });
        serde_json::from_value(spec).unwrap()
    }

    fn nic(forwards: u16) -> NewNic {
        let forward = |host_port| Forward {
            protocol: Protocol::Tcp,
            host_address: [255, 255, 255, 255].into(),
            host_port: 60_000 + host_port,
            guest_port: 60_000,
        };
        let backend = NicBackend::User { forwards: (0..forwards).map(forward).collect() };
        NewNic { id: NicId::random(), label: "x".into(), mac: MacAddr::random(), queues: 1, backend }
    }

    #[test]
    fn a_definition_that_no_record_holds_is_refused_by_the_name_of_its_largest_part() {
        let mut spec = vm();
        spec.add_nic(nic(64), None).unwrap();
        check_definition(&spec, None).unwrap();
        let small = spec.clone();
        spec.add_nic(nic(64), None).unwrap();
        spec.add_nic(nic(64), None).unwrap();
        let said = check_definition(&spec, Some(&small)).unwrap_err().to_string();
        assert!(said.starts_with("Invalid parameter: networks must take less room"), "{said}");
        // What its disks' files are called is not in it, and has a bound of its own.
        let mut deep = small.clone();
        let layer = LayerId::random();
        let disk = NewDisk {
            request: None,
            layer,
            file: None,
            size: 1,
            base: None,
            clone: Default::default(),
            io_limits: None,
        };
        deep.add_disk(disk, "/x".repeat(2000).as_ref(), None).unwrap();
        check_definition(&deep, None).unwrap();
        deep.disks[0].file = "\u{1}".repeat(4000).into();
        let said = check_definition(&deep, None).unwrap_err().to_string();
        assert!(said.starts_with("Invalid parameter: disks must have shorter paths"), "{said}");
        // One of old may become smaller, step by step.
        let large = spec.clone();
        spec.nics.pop();
        check_definition(&spec, Some(&large)).unwrap();
    }
}
