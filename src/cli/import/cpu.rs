//! vCPUs, memory, pinning, and the CPU of a domain.

use std::collections::BTreeSet;

use roxmltree::Node;

use super::{
    left::List,
    xml::{all, child, of_child, said, words},
};
use crate::{api::kvm::bodies::CpuPinning, model::GuestCpu};

const MIB: u64 = 1 << 20;
/// The largest number of a core.
const CORES: i64 = 4096;

/// How large it is.
pub struct Size {
    pub vcpus: i64,
    pub max_vcpus: Option<i64>,
    /// MiB.
    pub memory: i64,
    /// MiB.
    pub max_memory: Option<i64>,
}

/// # Errors
/// In words.
pub fn size(domain: Node<'_, '_>, left: &mut List) -> Result<Size, String> {
    let vcpu = child(domain, "vcpu");
    let number =
        |text: &str, what: &str| text.parse::<i64>().map_err(|_| format!("its {what} is {text:?}, and no number"));
    let most = vcpu.map(words).filter(|text| !text.is_empty()).map_or(Ok(1), |text| number(text, "vcpu"))?;
    let current =
        vcpu.and_then(|vcpu| vcpu.attribute("current")).map(|text| number(text, "vcpu current")).transpose()?;
    let vcpus = current.unwrap_or(most);
    let total = child(domain, "memory").ok_or("it says nothing of its memory")?;
    let total = memory(total)?;
    let current = child(domain, "currentMemory").map(memory).transpose()?;
    let bound = child(domain, "maxMemory").map(memory).transpose()?;
    let now = current.unwrap_or(total).min(total);
    let most_memory = bound.unwrap_or(total).max(total);
    if total > now {
        left.add(
            format!("currentMemory {now} MiB of {total} MiB"),
            "the guest boots with the smaller; it grows by memory that is plugged, not by its balloon",
        );
    }
    Ok(Size {
        vcpus,
        max_vcpus: (most > vcpus).then_some(most),
        memory: now,
        max_memory: (most_memory > now).then_some(most_memory),
    })
}

/// MiB, what is begun of one counted.
fn memory(node: Node<'_, '_>) -> Result<i64, String> {
    let (text, unit) = (words(node), node.attribute("unit").unwrap_or("KiB"));
    let bad = || format!("its {} is {text:?} {unit}, which is no size", node.tag_name().name());
    let number: u64 = text.parse().map_err(|_| bad())?;
    let bytes = match unit {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => MIB,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return Err(bad()),
    };
    let bytes = number.checked_mul(bytes).ok_or_else(bad)?;
    i64::try_from(bytes.div_ceil(MIB)).map_err(|_| bad())
}

/// # Errors
/// In words.
pub fn pinning(domain: Node<'_, '_>, vcpus: i64, left: &mut List) -> Result<Option<CpuPinning>, String> {
    let tune = child(domain, "cputune");
    let set = |text: &str| cores(text).ok_or_else(|| format!("{text:?} is no list of the host's cores"));
    let all_of_them = of_child(domain, "vcpu", "cpuset").map(set).transpose()?;
    let mut each: Vec<Option<Vec<i64>>> = vec![all_of_them; usize::try_from(vcpus).unwrap_or_default().min(255)];
    for pin in tune.into_iter().flat_map(|tune| all(tune, "vcpupin")) {
        let wanted = set(pin.attribute("cpuset").unwrap_or_default())?;
        let number =
            pin.attribute("vcpu").and_then(|number| number.parse::<usize>().ok()).ok_or("a vcpupin has no vcpu")?;
        match each.get_mut(number) {
            Some(place) => *place = Some(wanted),
            None => left.add(format!("cputune/vcpupin vcpu={number}"), "the VM has fewer vCPUs when it boots"),
        }
    }
    let emulator = tune.and_then(|tune| of_child(tune, "emulatorpin", "cpuset")).map(set).transpose()?;
    // A list ends where one may run anywhere.
    let pinned: Vec<Vec<i64>> = each.iter().cloned().map_while(|cores| cores).collect();
    if each.iter().skip(pinned.len()).any(Option::is_some) {
        left.add(
            format!("cputune/vcpupin beyond vCPU {}", pinned.len()),
            "those after one that may run anywhere are not pinned",
        );
    }
    for node in tune.into_iter().flat_map(|tune| tune.children().filter(Node::is_element)) {
        let name = node.tag_name().name();
        if !matches!(name, "vcpupin" | "emulatorpin") {
            left.add(format!("cputune/{name}"), "there are no shares, quotas or I/O threads");
        }
    }
    if pinned.is_empty() && emulator.is_none() {
        return Ok(None);
    }
    let vcpus = (!pinned.is_empty()).then_some(pinned);
    Ok(Some(CpuPinning { cores: None, vcpus, emulator }))
}

/// `0-3,^2,8`
fn cores(text: &str) -> Option<Vec<i64>> {
    let (mut named, mut without) = (BTreeSet::new(), BTreeSet::new());
    for part in text.split(',').map(str::trim) {
        let (part, set) = part.strip_prefix('^').map_or((part, &mut named), |part| (part, &mut without));
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (i64, i64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first < 0 || first > last || last >= CORES {
            return None;
        }
        set.extend(first..=last);
    }
    let cores: Vec<i64> = named.difference(&without).copied().collect();
    (!cores.is_empty()).then_some(cores)
}

/// What its guest sees; `None` for the richest there is.
pub fn model(domain: Node<'_, '_>, left: &mut List) -> Option<GuestCpu> {
    let cpu = child(domain, "cpu")?;
    let mode = cpu.attribute("mode").unwrap_or("custom");
    let named = said(cpu, "model").map(str::to_owned);
    let model = if mode == "custom" { named } else { None };
    if !matches!(mode, "custom" | "host-passthrough" | "maximum") {
        left.add(format!("cpu mode={mode}"), "the VM has the richest CPU that the host offers");
    }
    if let Some(topology) = child(cpu, "topology") {
        let part = |name| topology.attribute(name).unwrap_or("1");
        if part("sockets") != "1" || part("threads") != "1" {
            let what =
                format!("cpu/topology sockets={} cores={} threads={}", part("sockets"), part("cores"), part("threads"));
            left.add(what, "all vCPUs are cores of one socket");
        }
    }
    for name in ["numa", "cache", "maxphysaddr", "vendor"] {
        if child(cpu, name).is_some() {
            left.add(format!("cpu/{name}"), "it is the model's");
        }
    }
    let mut features = std::collections::BTreeMap::new();
    for feature in all(cpu, "feature") {
        let Some(name) = feature.attribute("name") else { continue };
        match feature.attribute("policy").unwrap_or("require") {
            "require" | "force" => drop(features.insert(name.to_owned(), true)),
            "disable" | "forbid" => drop(features.insert(name.to_owned(), false)),
            policy => left.add(format!("cpu/feature {name} policy={policy}"), "it is as the model has it"),
        }
    }
    let cpu = GuestCpu { model, features };
    (cpu != GuestCpu::default()).then_some(cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_cores_are_read_as_libvirt_writes_them() {
        assert_eq!(cores("0-3,^2,8"), Some(vec![0, 1, 3, 8]));
        assert_eq!(cores("1"), Some(vec![1]));
        for text in ["", "a", "3-1", "^1", "0-99999999", "-1", "1,"] {
            assert_eq!(cores(text), None, "{text}");
        }
    }
}
