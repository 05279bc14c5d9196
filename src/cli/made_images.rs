//! What the commands that make images have in common: how an image is called that nobody names, its labels, and what is said when it
//! is there.

use super::{exit::Fail, output::Output, sizes::Label};
use crate::api::kvm::bodies::ImageFields;

const ENDINGS: [&str; 13] =
    [".xz", ".gz", ".zst", ".bz2", ".qcow2", ".img", ".raw", ".vmdk", ".vhdx", ".vhd", ".vdi", ".vpc", ".disk"];

pub(super) fn labels(labels: &[Label]) -> Option<std::collections::BTreeMap<String, String>> {
    let all = || labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
    (!labels.is_empty()).then(all)
}

/// `debian-12.qcow2.xz` → `debian-12`
pub(super) fn name_of(path: &std::path::Path) -> Option<String> {
    let mut name = path.file_name()?.to_str()?;
    while let Some(shorter) = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)) {
        name = shorter;
    }
    (name.len() > 1).then(|| name.to_owned())
}

pub(super) fn made(output: Output, image: &ImageFields, what: &str) -> Result<(), Fail> {
    if output.is_for_programs() {
        return output.value(image);
    }
    if output.is_quiet() {
        return super::output::line(&image.id);
    }
    output.say(&format!("{}:{} {what} ({})", image.name, image.tag, image.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_image_a_name_without_its_endings() {
        let of = |path: &str| name_of(std::path::Path::new(path));
        assert_eq!(of("/a/debian-12.qcow2.xz").as_deref(), Some("debian-12"));
        assert_eq!(of("disk.vhdx").as_deref(), Some("disk"));
        assert_eq!(of("plain").as_deref(), Some("plain"));
        assert_eq!(of("x.img"), None);
        assert_eq!(of("/"), None);
    }
}
