//! The labels that VMs have in the DNS of one switch.

use std::collections::HashMap;

use crate::model::{VmId, host_label};

/// Labels given so far. Whoever asks first, the oldest VM, has the one that its name makes; to that of a later one with the
/// same, the first digits of its id are added.
#[derive(Default)]
pub struct Names(HashMap<String, VmId>);

impl Names {
    pub fn label(&mut self, name: &str, vm: VmId) -> String {
        let label = host_label(name, vm);
        if *self.0.entry(label.clone()).or_insert(vm) == vm {
            return label;
        }
        // A label has 63 characters.
        let label = label.get(..54).unwrap_or(&label).trim_end_matches('-');
        format!("{label}-{}", &vm.short()[..8])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_vms_with_one_name_the_first_has_it() {
        let one = VmId::random();
        let other = VmId::parse("123e4567-e89b-42d3-a456-426614174000").unwrap();
        let mut names = Names::default();
        assert_eq!((names.label("Web", one), names.label("web", other)), ("web".into(), "web-123e4567".to_owned()));
        assert_eq!((names.label("web", one), names.label("web", other)), ("web".into(), "web-123e4567".to_owned()));
        let long = "a".repeat(64);
        assert_eq!(names.label(&long, one).len(), 63);
        assert_eq!(names.label(&long, other), format!("{}-123e4567", "a".repeat(54)));
    }
}
