//! Paths in records are absolute. Where the state directory has another name today than when they were written, what lies
//! in it is found under today's; what lies elsewhere stays what it is.

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    model::{Disk, DiskFile, VmSpec},
    vm::core::{Record, Run},
};

/// The names that the state directory has and has had.
pub(super) struct Names {
    today: PathBuf,
    older: Vec<PathBuf>,
}

impl Names {
    /// `older` are those that the directory's marker knows; one of an earlier qherd has none, but its records tell.
    pub fn new<'a>(today: &Path, mut older: Vec<PathBuf>, records: impl Iterator<Item = &'a Record>) -> Self {
        for record in records {
            let places = record.definition.disks.iter().filter_map(|disk| own(&disk.file, &record.definition));
            older.extend(places.map(|(state_dir, _)| state_dir.to_owned()));
        }
        older.sort();
        older.dedup();
        older.retain(|name| name != today);
        // The longest first: one may have been within another.
        older.sort_by_key(|name| std::cmp::Reverse(name.components().count()));
        Self { today: today.to_owned(), older }
    }

    /// Gives what a record names in the state directory the names of today. Returns whether that changed anything.
    pub fn bring_up_to_date(&self, record: &mut Record) -> bool {
        let spec = record.definition.clone();
        let mut changed = self.rename(&mut record.definition);
        if let Run::Up(up) = &mut record.run.state {
            changed |= self.rename(&mut up.in_effect);
        }
        for disk in record.run.held.images.values_mut() {
            let today = self.disk(disk, &spec);
            if today != **disk {
                changed = true;
                *disk = today.into();
            }
        }
        changed
    }

    fn rename(&self, shared: &mut Arc<VmSpec>) -> bool {
        let mut spec = (**shared).clone();
        spec.disks.iter_mut().for_each(|disk| *disk = self.disk(disk, shared));
        spec.iso = spec.iso.map(|iso| self.of_today(&iso));
        let changed = spec != **shared;
        if changed {
            *shared = spec.into();
        }
        changed
    }

    fn disk(&self, disk: &Disk, spec: &VmSpec) -> Disk {
        let mut disk = disk.clone();
        match &mut disk.file {
            DiskFile::Own(file) => {
                disk.file = match own(file, spec) {
                    Some((_, name)) => self.today.join("images").join(spec.id.to_string()).join(name).into(),
                    None => self.of_today(file).into(),
                };
            }
            DiskFile::Volume(file) => file.path = self.of_today(&file.path),
            // As its base, and unlike itself, they may lie in an image directory below the state directory.
            DiskFile::Foreign(file) => file.below.iter_mut().for_each(|below| below.path = self.of_today(&below.path)),
        }
        if let Some(base) = &mut disk.base {
            base.path = self.of_today(&base.path);
        }
        disk
    }

    pub fn of_today(&self, path: &Path) -> PathBuf {
        if path.starts_with(&self.today) {
            return path.to_owned();
        }
        let rest = self.older.iter().find_map(|older| path.strip_prefix(older).ok());
        match rest.map(|rest| (rest, self.today.join(rest))) {
            // Disks that qherd made are in there, whether they are there or not; the rest of the directory is anybody's.
            Some((rest, today)) if rest.starts_with("images") || today.exists() => today,
            _ => path.to_owned(),
        }
    }
}

/// The state directory and the name of an image in a VM's own folder, `<state dir>/images/<vm id>/<name>`, by its form:
/// nothing else that qherd makes has it.
fn own<'a>(file: &'a Path, spec: &VmSpec) -> Option<(&'a Path, &'a str)> {
    let name = file.file_name()?.to_str()?;
    let folder = file.parent()?;
    let images = folder.parent()?;
    let is_image = name == "root.qcow2" || VmSpec::image_number(name).is_some();
    let is_folder = folder.file_name()?.to_str()? == spec.id.to_string() && images.file_name()? == "images";
    (is_image && is_folder).then_some((images.parent()?, name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        model::{BaseImage, CloneMode, Disk, Ending, ImageFormat, LayerId, Upkeep},
        vm::core::{Goal, Held, RunRecord},
    };

    fn disk(file: &str, base: Option<&str>) -> Disk {
        let base = base.map(|path| BaseImage::at(path, ImageFormat::Raw));
        Disk {
            name: "root".into(),
            layer: LayerId::random(),
            file: file.into(),
            size: 1,
            clone: CloneMode::Linked,
            base,
            io_limits: None,
            slot: None,
            request: None,
        }
    }

    fn record(id: &str, disks: Vec<Disk>, iso: Option<&str>) -> Record {
        let machine = json!({
            "profile": "pc", "machine_type": "pc", "bus": {"kind": "pci"}, "rng": false, "balloon": false, "pvpanic": false
        });
        let spec = json!({
            "id": id, "name": "a", "created_at": 0, "machine": machine, "vcpus": 1, "max_vcpus": 1,
            "max_vcpus_given": false, "memory": 64, "max_memory": 64, "cpu_pinning": null, "disks": [],
            "nics": [], "nics_added": 0, "iso": iso
        });
        let spec = VmSpec { disks, ..serde_json::from_value(spec).unwrap() };
        let state = Run::Down { last: Ending::Clean };
        let held = Held::default();
        let run = RunRecord {
            state,
            goal: Goal::Rest,
            upkeep: Upkeep::default(),
            held,
            unmade: Default::default(),
            reported: Default::default(),
            frozen: None,
            failed_start: None,
        };
        Record { definition: spec.into(), run }
    }

    #[test]
    fn what_is_in_the_state_directory_is_found_under_its_name_of_today() {
        let id = "1b2c3d4e-5f60-4b7c-9d8e-9fa0b1c2d3e4";
        let dir = tempfile::tempdir().unwrap();
        let today = dir.path().canonicalize().unwrap();
        std::fs::create_dir(today.join("bases")).unwrap();
        std::fs::write(today.join("bases/here"), "").unwrap();
        let own = format!("/a/state/images/{id}");
        let mut one = record(
            id,
            vec![
                disk(&format!("{own}/root.qcow2"), Some("/a/state/bases/here")),
                disk(&format!("{own}/disk2.qcow2"), Some("/a/state/bases/not-here")),
                disk(&format!("/a/state/images/sub/{id}.qcow2"), Some("/srv/base")),
                disk(&format!("/srv/vms/{id}.qcow2"), None),
                // Another VM's folder, or a name that is none of ours, has no such form.
                disk(&format!("/x/images/{id}/notes.qcow2"), None),
            ],
            Some("/a/state/bases/here"),
        );
        let names = Names::new(&today, Vec::new(), [&one].into_iter());
        assert!(names.bring_up_to_date(&mut one));
        let files: Vec<_> = one.definition.disks.iter().map(|disk| disk.file.to_path_buf()).collect();
        let images = today.join("images").join(id);
        let expected = [
            images.join("root.qcow2"),
            images.join("disk2.qcow2"),
            today.join(format!("images/sub/{id}.qcow2")),
            format!("/srv/vms/{id}.qcow2").into(),
            format!("/x/images/{id}/notes.qcow2").into(),
        ];
        assert_eq!(files, expected);
        let bases: Vec<_> = one.definition.disks.iter().filter_map(|disk| Some(disk.base.clone()?.path)).collect();
        assert_eq!(bases, [today.join("bases/here"), "/a/state/bases/not-here".into(), "/srv/base".into()]);
        assert_eq!(one.definition.iso, Some(today.join("bases/here")));
        assert!(!Names::new(&today, vec!["/a/state".into()], [].into_iter()).bring_up_to_date(&mut one));
    }
}
