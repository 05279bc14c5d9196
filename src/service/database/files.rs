//! Compares what the records say with the files that are there: what is missing, what is not what its record says, and what no record
//! tells of. Nothing is repaired: what a crash leaves half done the daemon's next start finishes, and of the rest only its owner
//! knows what is right.

#![allow(clippy::disallowed_methods, reason = "a command, which serves nobody")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{
    host::{
        Access,
        image::{self, check_disk, sum_of},
        listed, open_within,
    },
    model::{Image, ImageFormat, ImageId, VmId},
    store::Store,
    vm::{
        layers::LayerRecord,
        records::{self, Stored},
    },
};

/// In which way records and files differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    Missing,
    Changed,
    /// Nothing has to be wrong with that: no record tells of it.
    Foreign,
}

/// One file, and what of it is not as recorded.
#[derive(Clone, Debug)]
pub struct FileProblem {
    pub difference: Difference,
    path: PathBuf,
    why: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let difference = match self.difference {
            Difference::Missing => "missing",
            Difference::Changed => "changed",
            Difference::Foreign => "foreign",
        };
        write!(f, "{difference}: {}: {}", self.path.display(), self.why)
    }
}

/// What the records say, by who names a layer.
struct Names {
    vms: BTreeMap<VmId, String>,
    images: BTreeMap<ImageId, Image>,
}

impl Names {
    fn users(&self, layer: &LayerRecord) -> String {
        let vms = layer.owners().iter().map(|id| match self.vms.get(id) {
            Some(name) => format!("the VM {name} ({id})"),
            None => format!("the VM {id}, whose record cannot be read"),
        });
        let images = layer.images().iter().map(|id| match self.images.get(id) {
            Some(image) => format!("the image {}", image.name),
            None => format!("the image {id}, whose record cannot be read"),
        });
        let volume = layer.volume().map(|(volume, _)| format!("the volume {}", volume.name));
        vms.chain(images).chain(volume).collect::<Vec<_>>().join(", ")
    }
}

/// Compares them. `sums`: all that is in the files of images is read.
///
/// # Errors
/// The store's, and a folder's that cannot be listed.
pub(super) fn compare(
    state_dir: &Path,
    vms_with_disks: &BTreeSet<VmId>,
    store: &Store,
    sums: bool,
) -> anyhow::Result<Vec<FileProblem>> {
    let vms: Vec<Stored> = records::scan(store)?.into_iter().filter_map(|(_, vm)| vm.ok()).collect();
    let names = Names {
        vms: vms.iter().map(|vm| (vm.record.definition.id, vm.record.definition.name.clone())).collect(),
        images: store.scan::<Image>()?.into_iter().filter_map(|(_, image)| image.ok()).map(|i| (i.id, i)).collect(),
    };
    let layers = store.scan_counted::<LayerRecord>()?.into_iter().filter_map(|(_, layer)| Some(layer.ok()?.0));
    // Of one that nobody names the next start takes care.
    let layers: Vec<LayerRecord> = layers
        .filter(|layer| !layer.is_nobodys() && !layer.volume().is_some_and(|(_, unfinished)| unfinished))
        .collect();
    let (mut problems, mut known) = (Vec::new(), BTreeSet::new());
    for layer in &layers {
        let path = today(state_dir, &layer.path());
        let found = match layer.images().first().and_then(|id| names.images.get(id)) {
            Some(image) => of_image(&path, image, sums),
            None => of_disk(&path, layer),
        };
        if let Err((difference, why)) = found {
            let why = format!("{why}; it belongs to {}", names.users(layer));
            problems.push(FileProblem { difference, path: path.clone(), why });
        }
        problems.extend(of_base(layer).map(|(difference, base, why)| {
            let why = format!("{why}; {} lies on it", names.users(layer));
            FileProblem { difference, path: base, why }
        }));
        known.insert(path);
    }
    problems.extend(foreign(&state_dir.join("layers"), &known)?);
    for id in vms_with_disks {
        problems.extend(foreign(&state_dir.join("images").join(id.to_string()), &known)?);
    }
    Ok(problems)
}

/// The state directory may have had another name when the daemon ended.
fn today(state_dir: &Path, recorded: &Path) -> PathBuf {
    let of_today = recorded.file_name().map(|name| state_dir.join("layers").join(name));
    match of_today.filter(|path| !recorded.exists() && path.exists()) {
        Some(path) => path,
        None => recorded.to_owned(),
    }
}

type Found = Result<(), (Difference, String)>;

fn opened(path: &Path) -> Result<File, (Difference, String)> {
    open_within(&[], path, Access::Read).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => (Difference::Missing, "it is not there".to_owned()),
        _ => (Difference::Changed, format!("it cannot be read: {error}")),
    })
}

fn of_image(path: &Path, image: &Image, sums: bool) -> Found {
    let changed = |why: String| (Difference::Changed, why);
    let file = opened(path)?;
    let metadata = file.metadata().map_err(|error| changed(error.to_string()))?;
    if metadata.len() != image.size {
        return Err(changed(format!("it has {} bytes, and was stored with {}", metadata.len(), image.size)));
    }
    if metadata.permissions().mode() & 0o222 != 0 {
        return Err(changed("somebody has made it writable".to_owned()));
    }
    if sums {
        let sum = sum_of(&file).map_err(|error| changed(error.to_string()))?;
        if sum != image.content_sha256 {
            return Err(changed(format!("its SHA-256 sum is {sum}, and was {}", image.content_sha256)));
        }
    }
    Ok(())
}

fn of_disk(path: &Path, layer: &LayerRecord) -> Found {
    let file = opened(path)?;
    let format = layer.foreign_format().unwrap_or(ImageFormat::Qcow2);
    check_disk(&file, format).map(drop).map_err(|error| (Difference::Changed, format!("it must {error}")))
}

/// What a disk lies on that is no layer.
fn of_base(layer: &LayerRecord) -> Option<(Difference, PathBuf, String)> {
    let base = layer.base()?;
    let at = |(difference, why): (Difference, String)| (difference, base.path.clone(), why);
    let file = match opened(&base.path) {
        Ok(file) => file,
        Err(problem) => return Some(at(problem)),
    };
    let was = base.content.as_ref()?;
    let now = image::other_content(&file, was).ok()??;
    Some(at((Difference::Changed, format!("it had {was} when it was cloned, and has {now}"))))
}

fn foreign(folder: &Path, known: &BTreeSet<PathBuf>) -> io::Result<Vec<FileProblem>> {
    let files = listed(folder)?
        .into_iter()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path());
    let images = files.filter(|path| path.extension().is_some_and(|ending| ending == "qcow2"));
    let unknown = images.filter(|path| !known.contains(path));
    let unknown_to_all = |path| FileProblem {
        difference: Difference::Foreign,
        path,
        why: "no record tells of it; it is left alone".to_owned(),
    };
    Ok(unknown.map(unknown_to_all).collect())
}
