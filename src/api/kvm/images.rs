//! Images of the store: bodies, handlers, and their rows of the route table.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::{StatusCode, header};

use super::{
    Shared,
    error::{Endpoint, NotFound, Problem, endpoint},
    switches::User,
    times::time,
    updated::at_least_one,
};
use crate::{
    api::{
        http::{HttpError, QueryParam, Reply, Request, Route, given, in_section, listing},
        labels,
    },
    model::{Compression, ImageId, ImageSource, MetadataWish, Role, SourceFormat},
    service::{ChangeImage, ImageFilter, ImageView, ImportFrom, ImportImage, SpoolError, operations::Work},
};

const IMAGES: Endpoint = endpoint(NotFound::Short, "Internal server error while retrieving images.");
const IMPORT: Endpoint = endpoint(NotFound::Short, "Internal error during image import.");
const CHANGE: Endpoint = endpoint(NotFound::Short, "Internal error during image update.");
const DELETE: Endpoint = endpoint(NotFound::Short, "Internal error during image deletion.");
const TAG: &str = "Images";

/// As JSON Schema has it; the model says it in words.
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}[A-Za-z0-9](:[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?)?$";
const SUM: &str = "^[0-9a-fA-F]{64}$";

const LIST_QUERY: &[QueryParam] =
    &[QueryParam::text("name", "Only images of this name; of all tags where none is given."), labels::LABEL];
const UPLOAD_QUERY: &[QueryParam] = &[
    QueryParam::form("name", NAME, "What it is to be called, such as `debian:12`; without a tag it is `latest`.")
        .required(),
    QueryParam::form(
        "sha256",
        SUM,
        "The SHA-256 sum of what is sent, which is compared; required with an Idempotency-Key.",
    ),
];

/// Their rows of the route table.
pub fn routes() -> Vec<Route<Shared>> {
    vec![
        Route::get("/images", "listImages", in_section(&IMAGES, list))
            .role(Role::Viewer)
            .tag(TAG)
            .summary("The images of the store, oldest first.")
            .query(LIST_QUERY)
            .output::<Vec<ImageFields>>(200, "The images."),
        Route::post("/images", "importImage", in_section(&IMPORT, import))
            .does(Work::ImportImage)
            .role(Role::Operator)
            .tag(TAG)
            .summary(
                "Import an image from a file of the host: raw, qcow2, VMDK, VHD, VHDX or VDI, also compressed with xz, gzip, \
                 zstd or bzip2, told by its content.",
            )
            .input::<ImportBody>()
            .output::<ImageFields>(201, "The image.")
            .error(409, "There is an image of that name, or a program has the file open for writing.")
            .error(507, "It does not fit; the message has the figures."),
        Route::post("/images/uploads", "uploadImage", in_section(&IMPORT, upload))
            .does(Work::ImportImage)
            .role(Role::Operator)
            .tag(TAG)
            .summary("Import an image from the body of the request, whatever its length: the file as it is.")
            .query(UPLOAD_QUERY)
            .uploads()
            .output::<ImageFields>(201, "The image.")
            .error(409, "There is an image of that name.")
            .error(507, "It does not fit; the message has the figures."),
        Route::get("/images/{image}", "getImage", in_section(&IMAGES, details))
            .role(Role::Viewer)
            .tag(TAG)
            .summary("One image, with the VMs whose disks lie on it.")
            .output::<ImageFields>(200, "The image.")
            .error(404, "There is no such image."),
        Route::put("/images/{image}", "updateImage", in_section(&CHANGE, update))
            .does(Work::ChangeImage)
            .role(Role::Operator)
            .tag(TAG)
            .summary("Change the name, the tag, the labels, the description or the protection of an image.")
            .input::<ImageUpdate>()
            .output::<ImageFields>(200, "The image.")
            .error(404, "There is no such image.")
            .error(409, "There is an image of that name."),
        Route::delete("/images/{image}", "deleteImage", in_section(&DELETE, delete))
            .does(Work::DeleteImage)
            .role(Role::Operator)
            .tag(TAG)
            .summary("Delete an image that no disk lies on.")
            .output::<ImageDone>(200, "It is gone.")
            .error(404, "There is no such image.")
            .error(409, "VMs use it, which the message names; or it is protected."),
    ]
}

/// An image to be made of a file.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "name": "debian:12", "path": "debian-12-genericcloud-amd64.qcow2" }))]
pub struct ImportBody {
    /// What it is to be called; without a tag it is `latest`.
    #[schemars(extend("pattern" = NAME))]
    pub name: String,
    /// In an image directory of the host: absolute, or relative to one.
    #[schemars(length(min = 1))]
    pub path: String,
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
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    Path,
    Upload,
}

/// An image that was deleted.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct ImageDone {
    pub id: String,
    pub name: String,
    pub tag: String,
    pub status: std::borrow::Cow<'static, str>,
    pub message: std::borrow::Cow<'static, str>,
}

impl ImageFields {
    fn of(view: &ImageView) -> Self {
        let image = &*view.image;
        let (kind, path) = match &image.source {
            ImageSource::Path(path) => (SourceKind::Path, Some(path.clone())),
            ImageSource::Upload => (SourceKind::Upload, None),
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
            source: SourceFields { r#type: kind, path },
            created_at: time(image.created_at),
            labels: image.metadata.labels.clone(),
            description: image.metadata.description.clone(),
            protected: image.metadata.protected,
            vms: view.vms.iter().map(|(id, name)| User { id: id.to_string(), name: name.clone() }).collect(),
        }
    }
}

#[derive(Deserialize)]
struct ListQuery {
    name: Option<String>,
    label: Option<String>,
}

async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let ListQuery { name, label } = request.query()?;
    let filter = ImageFilter { name, labels: labels::read(label.as_deref())? };
    Ok(listing::array(move |page: Option<(u64, ImageId)>| {
        let (found, next) = shared.service.images(&filter, page, listing::PAGE);
        (found.iter().map(ImageFields::of).collect(), next)
    }))
}

async fn import(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let body: ImportBody = request.json()?;
    let metadata = MetadataWish {
        labels: body.labels,
        description: body.description.map(Some),
        protected: body.protected,
        ..MetadataWish::default()
    };
    let wish = ImportImage {
        id: request.makes.map(ImageId::from),
        name: body.name,
        sha256: body.sha256,
        metadata,
        from: ImportFrom::Path(body.path.into()),
    };
    let made = shared.service.import_image(wish).await?;
    Ok(Reply::json(StatusCode::CREATED, &ImageFields::of(&made)))
}

#[derive(Deserialize)]
struct UploadQuery {
    name: Option<String>,
    sha256: Option<String>,
}

async fn upload(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let UploadQuery { name, sha256 } = request.query()?;
    let name = name.ok_or_else(|| HttpError::invalid("name", "be given, as in ?name=debian:12"))?;
    let kind = request.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.trim_start().to_ascii_lowercase().starts_with("multipart/") {
        let must = "not be multipart/form-data: the body is the file itself, as curl -T sends it";
        return Err(HttpError::invalid("Content-Type", must).into());
    }
    // Two uploads are the same request when they have the same sum.
    if sha256.is_none() && request.headers.contains_key("idempotency-key") {
        return Err(HttpError::invalid("sha256", "be given with an Idempotency-Key").into());
    }
    let Some(body) = &request.upload else {
        return Err(HttpError::MissingBody.into());
    };
    let id = request.makes.map(ImageId::from);
    // The same request may have made it already, and its answer was lost: the body says nothing new then.
    if id.is_none_or(|id| shared.service.image(&id.to_string()).is_err()) {
        shared.service.check_importable(&name, sha256.as_deref())?;
    }
    let spooled = shared.service.spool(body.declared(), body.pieces()).await.map_err(|error| match error {
        SpoolError::Stream(error) => Problem::from(error),
        SpoolError::Domain(error) => error.into(),
    })?;
    let wish = ImportImage { id, name, sha256, metadata: MetadataWish::default(), from: ImportFrom::Upload(spooled) };
    let made = shared.service.import_image(wish).await?;
    Ok(Reply::json(StatusCode::CREATED, &ImageFields::of(&made)))
}

async fn details(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let found = shared.service.image(request.param("image"))?;
    Ok(Reply::json(StatusCode::OK, &ImageFields::of(&found)))
}

async fn update(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let named = request.param("image");
    shared.service.image(named)?;
    let body: ImageUpdate = request.json()?;
    if body.name.is_none() && body.labels.is_none() && body.description.is_none() && body.protected.is_none() {
        return Err(at_least_one("name, labels, description or protected").into());
    }
    let metadata = MetadataWish {
        labels: body.labels.map(Option::unwrap_or_default),
        description: body.description,
        protected: body.protected,
        ..MetadataWish::default()
    };
    let changed = shared.service.change_image(named, ChangeImage { name: body.name, metadata }).await?;
    Ok(Reply::json(StatusCode::OK, &ImageFields::of(&changed)))
}

async fn delete(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let gone = shared.service.delete_image(request.param("image")).await?;
    let done = ImageDone {
        id: gone.image.id.to_string(),
        name: gone.image.name.name.clone(),
        tag: gone.image.name.tag.clone(),
        status: "deleted".into(),
        message: "Image successfully deleted.".into(),
    };
    Ok(Reply::json(StatusCode::OK, &done))
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
