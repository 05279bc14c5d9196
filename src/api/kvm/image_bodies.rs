//! Images of the store: their bodies.

use std::{borrow::Cow, collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{switches::User, times::time};
use crate::{
    api::http::given,
    model::{Compression, ImageSource, SourceFormat},
    service::image_store::{DiskOn, ImageTree, ImageView, KnownImage},
};

/// As JSON Schema has it; the model says it in words.
pub(super) const NAME: &str =
    "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}[A-Za-z0-9](:[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?)?$";
pub(super) const SUM: &str = "^[0-9a-fA-F]{64}$";
const URL: &str = "^https?://[^/]";

/// An image to be made of a file.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "name": "debian:12", "path": "debian-12-genericcloud-amd64.qcow2" }))]
#[schemars(example = json!({ "name": "app:3", "url": "https://images.example/app-3.qcow2.xz", "sha256": "5".repeat(64) }))]
#[schemars(example = json!({ "name": "debian:12" }))]
#[schemars(example = json!({ "name": "golden:1", "from_vm": "123e4567-e89b-12d3-a456-426614174000" }))]
pub struct ImportBody {
    /// What it is to be called; without a tag it is `latest`.
    #[schemars(extend("pattern" = NAME))]
    pub name: String,
    /// In an image directory of the host: absolute, or relative to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub path: Option<String>,
    /// Of a file elsewhere, which the daemon gets. It leads to a public address, or to one that the administrator allows. Without it, `path`,
    /// `upload` and `from_vm` it is that of the well-known image that `name` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), extend("pattern" = URL))]
    pub url: Option<String>,
    /// The id of an upload that was begun with `POST /uploads`, and has come; it is gone with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "uuid"))]
    pub upload: Option<String>,
    /// The id of a VM that is off, of one of whose disks the image is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "uuid"))]
    pub from_vm: Option<String>,
    /// With `from_vm`: which disk; without it the root disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    /// The SHA-256 sum of the file, which is compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = SUM))]
    pub sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// It is not deleted until that is taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
}

/// What is to change of an image; at least one field.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "name": "debian:stable", "labels": { "env": "prod" } }))]
pub struct ImageUpdate {
    /// With its tag; without one it is `latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("pattern" = NAME))]
    pub name: Option<String>,
    /// All of them, in the place of those that there are; null for none.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, String>>")]
    pub labels: Option<Option<BTreeMap<String, String>>>,
    /// Null for none.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub description: Option<Option<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
}

/// An image of the store.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct ImageFields {
    pub id: String,
    /// Without its tag.
    pub name: String,
    pub tag: String,
    /// The SHA-256 sum of the file that it was made of, as whoever publishes that lists it.
    pub sha256: String,
    /// The form of that file.
    pub format: SourceFormat,
    /// What that file was compressed with.
    pub compression: Option<Compression>,
    /// Bytes that a guest sees.
    pub virtual_size: u64,
    /// Bytes that its data take, which all disks that lie on it share.
    pub size: u64,
    /// Where its data are. Nothing ever writes there.
    pub layer: LayerFields,
    pub source: SourceFields,
    pub created_at: String,
    pub labels: BTreeMap<String, String>,
    pub description: Option<String>,
    pub protected: bool,
    /// VMs with a disk that lies on it.
    pub vms: Vec<User>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct LayerFields {
    pub id: String,
    pub file: PathBuf,
    /// Of that file.
    pub sha256: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct SourceFields {
    pub r#type: SourceKind,
    /// Of a file of the host, as it was named.
    pub path: Option<PathBuf>,
    /// Of one that was pulled, without what followed a `?`.
    pub url: Option<String>,
    /// Of one that was made of a VM, which may be gone.
    pub vm_id: Option<String>,
    pub disk: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    Path,
    Upload,
    Url,
    Vm,
}

/// An image that was deleted.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct ImageDone {
    pub id: String,
    pub name: String,
    pub tag: String,
    pub status: Cow<'static, str>,
    pub message: Cow<'static, str>,
}

/// An image, with what lies on it.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct ImageDetails {
    #[serde(flatten)]
    pub image: ImageFields,
    /// Bytes that its data take on the host's storage; null where that does not tell.
    pub allocated: Option<u64>,
    /// The disks that lie on it, each a layer of its own.
    pub disks: Vec<DiskOnFields>,
    /// The volumes that lie on it and that no VM has.
    pub volumes: Vec<User>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct DiskOnFields {
    pub vm_id: String,
    pub vm: String,
    /// `root`, `disk1`…
    pub disk: String,
    pub layer: String,
    pub file: PathBuf,
    /// Bytes that it takes by itself, and shares with nobody; null where its storage does not tell.
    pub allocated: Option<u64>,
}

impl ImageDetails {
    pub(super) fn of(tree: &ImageTree) -> Self {
        let disk = |on: &DiskOn| DiskOnFields {
            vm_id: on.vm.to_string(),
            vm: on.vm_name.clone(),
            disk: on.disk.clone(),
            layer: on.layer.to_string(),
            file: on.file.clone(),
            allocated: on.allocated,
        };
        let disks = tree.disks.iter().map(disk).collect();
        let volumes = tree.volumes.iter().map(|(id, name)| User { id: id.to_string(), name: name.clone() }).collect();
        Self { image: ImageFields::of(&tree.view), allocated: tree.allocated, disks, volumes }
    }
}

/// A well-known image: its name is all that a pull needs.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct KnownImageFields {
    /// Without its tag.
    pub name: String,
    pub tag: String,
    /// Where it is pulled from.
    pub url: String,
    /// There is an image of that name.
    pub here: bool,
}

impl KnownImageFields {
    pub(super) fn of(known: KnownImage) -> Self {
        Self { name: known.name.name, tag: known.name.tag, url: known.url, here: known.is_here }
    }
}

impl ImageDone {
    pub(super) fn of(gone: &ImageView) -> Self {
        Self {
            id: gone.image.id.to_string(),
            name: gone.image.name.name.clone(),
            tag: gone.image.name.tag.clone(),
            status: "deleted".into(),
            message: "Image successfully deleted.".into(),
        }
    }
}

impl ImageFields {
    pub(super) fn of(view: &ImageView) -> Self {
        let image = &*view.image;
        let nothing = SourceFields { r#type: SourceKind::Upload, path: None, url: None, vm_id: None, disk: None };
        let source = match &image.source {
            ImageSource::Path(path) => SourceFields { r#type: SourceKind::Path, path: Some(path.clone()), ..nothing },
            ImageSource::Upload => nothing,
            ImageSource::Url(url) => SourceFields { r#type: SourceKind::Url, url: Some(url.clone()), ..nothing },
            ImageSource::Vm { id, disk } => SourceFields {
                r#type: SourceKind::Vm,
                vm_id: Some(id.to_string()),
                disk: Some(disk.clone()),
                ..nothing
            },
        };
        Self {
            id: image.id.to_string(),
            name: image.name.name.clone(),
            tag: image.name.tag.clone(),
            sha256: image.sha256.clone(),
            format: image.format,
            compression: image.compression,
            virtual_size: image.virtual_size,
            size: image.size,
            layer: LayerFields {
                id: image.layer.to_string(),
                file: view.file.clone(),
                sha256: image.content_sha256.clone(),
            },
            source,
            created_at: time(image.created_at),
            labels: image.metadata.labels.clone(),
            description: image.metadata.description.clone(),
            protected: image.metadata.protected,
            vms: view.vms.iter().map(|(id, name)| User { id: id.to_string(), name: name.clone() }).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::has_examples;

    #[test]
    fn what_is_shown_as_an_example_is_taken() {
        has_examples::<ImportBody>();
        has_examples::<ImageUpdate>();
    }
}
