//! How much of the host VMs may have together: what is defined, and what runs. Pure; the counting is `service::capacity`'s.

use std::str::FromStr;

use serde::Deserialize;

use super::VmSpec;

const MIB_PER_GIB: u64 = 1024;
/// GiB that may be defined where nobody says: 1 PiB. Images are sparse, so that honest overcommitment is far beyond what the
/// host has; what is defined by mistake, or by malice, is beyond this.
const DISK: u64 = 1024 * 1024;

/// What VMs have, or would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub vms: u64,
    pub vcpus: u64,
    /// MiB.
    pub memory: u64,
    /// GiB, as the guests see it.
    pub disk: u64,
}

impl Figures {
    pub fn of(spec: &VmSpec) -> Self {
        let disk = spec.disks.iter().map(|disk| disk.size).fold(0, u64::saturating_add);
        Self { vms: 1, vcpus: spec.vcpus.into(), memory: spec.memory, disk }
    }

    pub fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// What `self` has more than `other`; never less than nothing.
    pub fn minus(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        self.with(other, u64::max)
    }

    fn with(self, other: Self, by: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            vms: by(self.vms, other.vms),
            vcpus: by(self.vcpus, other.vcpus),
            memory: by(self.memory, other.memory),
            disk: by(self.disk, other.disk),
        }
    }

    fn each(self) -> [(&'static str, &'static str, u64); 4] {
        [
            ("vms", "VMs", self.vms),
            ("vcpus", "vCPUs", self.vcpus),
            ("memory", "MiB of memory", self.memory),
            ("disk", "GiB of disks", self.disk),
        ]
    }

    /// Whether `more` is too much beside what is `used`. What a VM does not want more of is never too much, also where there
    /// is more of it than there may be.
    ///
    /// # Errors
    /// The first figure that is, in words; `verb` is what would be done with it.
    pub fn admit(self, used: Self, more: Self, verb: &str, setting: &str) -> Result<(), String> {
        let all = self.each().into_iter().zip(used.each()).zip(more.each());
        for (((key, unit, bound), (.., used)), (.., more)) in all {
            if more > 0 && used.saturating_add(more) > bound {
                return Err(format!(
                    "There would be {} {unit} {verb}, {more} of them new, and this host is to have at most {bound} \
                     ({setting} {key}=…); make room first.",
                    used.saturating_add(more)
                ));
            }
        }
        Ok(())
    }
}

/// Bounds as a setting gives them: `vms=100,memory=65536`. What is not named keeps its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Bounds {
    pub vms: Option<u64>,
    pub vcpus: Option<u64>,
    pub memory: Option<u64>,
    pub disk: Option<u64>,
}

impl Bounds {
    /// Of what may be defined, on a host with so much memory (MiB).
    pub fn defined(self, memory: u64) -> Figures {
        let default = Figures { vms: 10_000, vcpus: 100_000, memory: memory.saturating_mul(1000), disk: DISK };
        self.or(default)
    }

    /// Of what may run, on a host with so many cores. Twice its memory: balloons, and pages that guests never touch.
    pub fn running(self, cores: u64, memory: u64) -> Figures {
        let vcpus = cores.saturating_mul(32).max(1024);
        self.or(Figures { vms: 5_000, vcpus, memory: memory.saturating_mul(2).max(MIB_PER_GIB), disk: DISK })
    }

    fn or(self, default: Figures) -> Figures {
        Figures {
            vms: self.vms.unwrap_or(default.vms),
            vcpus: self.vcpus.unwrap_or(default.vcpus),
            memory: self.memory.unwrap_or(default.memory),
            disk: self.disk.unwrap_or(default.disk),
        }
    }
}

impl TryFrom<String> for Bounds {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Bounds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bounds = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let pair = part.split_once('=').and_then(|(key, value)| Some((key, value.parse::<u64>().ok()?)));
            let (key, value) =
                pair.ok_or_else(|| format!("{part:?} must read vms=N, vcpus=N, memory=MIB or disk=GIB"))?;
            let bound = match key {
                "vms" => &mut bounds.vms,
                "vcpus" => &mut bounds.vcpus,
                "memory" => &mut bounds.memory,
                "disk" => &mut bounds.disk,
                _ => return Err(format!("{key:?} is none of vms, vcpus, memory and disk")),
            };
            if bound.replace(value).is_some() {
                return Err(format!("{key} is given twice"));
            }
        }
        Ok(bounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: (u64, u64) = (2, 24 * 1024);

    #[test]
    fn what_is_too_much_is_said_with_figures() {
        let bounds = Bounds::default().defined(HOST.1);
        let one = Figures { vms: 1, vcpus: 1, memory: 512, disk: 65_536 };
        let sixteen = (0..16).fold(Figures::default(), |sum, _| sum.plus(one));
        assert_eq!(bounds.admit(sixteen.minus(one), one, "defined", "--max-defined"), Ok(()));
        let refused = bounds.admit(sixteen, one, "defined", "--max-defined").unwrap_err();
        assert_eq!(
            refused,
            "There would be 1114112 GiB of disks defined, 65536 of them new, and this host is to have at most 1048576 \
             (--max-defined disk=…); make room first."
        );
    }

    #[test]
    fn who_wants_no_more_of_something_is_not_held_up_by_it() {
        let few: Figures = "vms=1,disk=1".parse::<Bounds>().unwrap().running(HOST.0, HOST.1);
        let used = Figures { vms: 9, vcpus: 9, memory: 9, disk: 9 };
        let more = Figures { memory: 100, ..Figures::default() };
        assert_eq!(few.admit(used, more, "running", "--max-running"), Ok(()));
        assert!(few.admit(used, Figures { vms: 1, ..more }, "running", "--max-running").is_err());
    }

    #[test]
    fn honest_overcommitment_is_within_the_defaults() {
        let running = Bounds::default().running(HOST.0, HOST.1);
        // Two guests that may each have all of the host, of as many vCPUs as there can be.
        let large = Figures { vms: 1, vcpus: 255, memory: HOST.1, disk: 100_000 };
        assert_eq!(running.admit(large, large, "running", ""), Ok(()));
        assert!(running.admit(large.plus(large), large, "running", "").is_err());
    }

    #[test]
    fn a_setting_names_what_it_bounds() {
        let bounds: Bounds = "vms=3, memory=1024".parse().unwrap();
        assert_eq!((bounds.vms, bounds.vcpus, bounds.memory, bounds.disk), (Some(3), None, Some(1024), None));
        for bad in ["vms", "vms=", "vms=-1", "cores=3", "vms=1,vms=2", "memory=1GiB"] {
            assert!(bad.parse::<Bounds>().is_err(), "{bad}");
        }
    }
}
