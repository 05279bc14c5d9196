//! Images of the store: handlers, and their rows of the route table.

use serde::Deserialize;
use warp::http::{StatusCode, header};

use super::{
    Shared, content,
    error::{Endpoint, NotFound, Problem, endpoint},
    image_bodies::{ImageDetails, ImageDone, ImageFields, ImageUpdate, ImportBody, KnownImageFields, NAME, SUM},
    updated::at_least_one,
    uploads,
};
use crate::{
    api::{
        http::{HttpError, QueryParam, Reply, Request, Route, in_section, listing},
        labels,
    },
    model::{ImageId, MetadataWish, Role, VmId},
    service::{
        image_store::{ChangeImage, ImageFilter, ImportFrom, ImportImage, SpoolError},
        operations::Work,
    },
};

const IMAGES: Endpoint = endpoint(NotFound::Short, "Internal server error while retrieving images.");
const IMPORT: Endpoint = endpoint(NotFound::Short, "Internal error during image import.");
const CHANGE: Endpoint = endpoint(NotFound::Short, "Internal error during image update.");
const DELETE: Endpoint = endpoint(NotFound::Short, "Internal error during image deletion.");
const TAG: &str = "Images";

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
                "Import an image from a file of the host, a URL, an upload or a disk of a VM that is off: raw, qcow2, VMDK, VHD, VHDX or VDI, also compressed \
                 with xz, gzip, zstd or bzip2, told by its content.",
            )
            .input::<ImportBody>()
            .output::<ImageFields>(201, "The image.")
            .error(404, "There is no such upload, VM or disk.")
            .error(409, "There is an image of that name, a program has the file open for writing, or the VM is not off.")
            .error(502, "The server of the URL broke off, and did not go on.")
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
        Route::get("/known-images", "listKnownImages", in_section(&IMAGES, known))
            .role(Role::Viewer)
            .tag(TAG)
            .summary("Well-known images, by name: what a pull of them needs is their name.")
            .output::<Vec<KnownImageFields>>(200, "The images."),
        Route::get("/images/{image}", "getImage", in_section(&IMAGES, details))
            .role(Role::Viewer)
            .tag(TAG)
            .summary("One image, with the VMs whose disks lie on it, and those disks, each with what it takes by itself.")
            .output::<ImageDetails>(200, "The image.")
            .error(404, "There is no such image."),
        Route::get("/images/{image}/content", "getImageContent", in_section(&IMAGES, read))
            .role(Role::Operator)
            .tag(TAG)
            .summary("The data of an image, as a qcow2 file whose SHA-256 sum is that of its layer.")
            .output_file(200, "The file; `ETag` is its sum.")
            .output_file(206, "The range that was asked for.")
            .error(404, "There is no such image.")
            .error(416, "The range begins beyond the end."),
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

async fn known(shared: Shared, _: Request) -> Result<Reply, Problem> {
    let known = shared.service.known_images().into_iter();
    Ok(Reply::json(StatusCode::OK, &known.map(KnownImageFields::of).collect::<Vec<_>>()))
}

async fn import(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let body: ImportBody = request.json()?;
    if body.from_vm.is_some() && body.sha256.is_some() {
        return Err(HttpError::invalid("sha256", "not be given with from_vm: nobody knows it before").into());
    }
    let from = match (body.path, body.url, body.upload, body.from_vm, body.disk) {
        (Some(path), None, None, None, None) => ImportFrom::Path(path.into()),
        (None, Some(url), None, None, None) => ImportFrom::Url(url),
        (None, None, Some(upload), None, None) => ImportFrom::Kept(uploads::id(&upload)?),
        (None, None, None, Some(vm), disk) => ImportFrom::Vm(VmId::parse(&vm).ok_or(Problem::BadId)?, disk),
        (None, None, None, None, None) => ImportFrom::Known,
        (_, _, _, None, Some(_)) => return Err(HttpError::invalid("disk", "only be given with from_vm").into()),
        _ => return Err(HttpError::invalid("path, url, upload or from_vm", "be given, one of them alone").into()),
    };
    let metadata = MetadataWish {
        labels: body.labels,
        description: body.description.map(Some),
        protected: body.protected,
        ..MetadataWish::default()
    };
    let wish =
        ImportImage { id: request.makes.map(ImageId::from), name: body.name, sha256: body.sha256, metadata, from };
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
    let tree = shared.service.tree_of_image(found).await;
    Ok(Reply::json(StatusCode::OK, &ImageDetails::of(&tree)))
}

async fn read(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let found = shared.service.image_content(request.param("image")).await?;
    content::send(found, &request)
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
    Ok(Reply::json(StatusCode::OK, &ImageDone::of(&gone)))
}
