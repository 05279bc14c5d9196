//! Uploads that go on where they broke off: bodies, handlers, and their rows of the route table.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{
    Shared,
    error::{Endpoint, NotFound, Problem, endpoint},
    times::time,
};
use crate::{
    api::http::{HttpError, QueryParam, Reply, Request, Route, in_section},
    model::{Error, Role, UploadId},
    service::image_store::{SpoolError, UploadView},
};

const UPLOADS: Endpoint = endpoint(NotFound::Short, "Internal error during an upload.");
const TAG: &str = "Images";

const CONTINUE_QUERY: &[QueryParam] = &[QueryParam::whole(
    "offset",
    0,
    i64::MAX,
    "Where in the file the body begins: as many bytes as are there already, as `offset` of the upload tells.",
)
.required()];

/// Their rows of the route table.
pub fn routes() -> Vec<Route<Shared>> {
    vec![
        Route::get("/uploads", "listUploads", in_section(&UPLOADS, list))
            .role(Role::Operator)
            .tag(TAG)
            .summary("Uploads that were begun and are no images yet.")
            .output::<Vec<UploadFields>>(200, "The uploads."),
        Route::post("/uploads", "beginUpload", in_section(&UPLOADS, begin))
            .at_once()
            .role(Role::Operator)
            .tag(TAG)
            .summary("Begin an upload that may come in several requests; an import makes an image of it.")
            .optional_input::<UploadBody>()
            .output::<UploadFields>(201, "The upload, of which nothing is there yet.")
            .error(409, "There are too many."),
        Route::get("/uploads/{upload}", "getUpload", in_section(&UPLOADS, details))
            .role(Role::Operator)
            .tag(TAG)
            .summary("One upload: how much of it is there, and the sum of that.")
            .output::<UploadFields>(200, "The upload.")
            .error(404, "There is no such upload."),
        Route::put("/uploads/{upload}", "continueUpload", in_section(&UPLOADS, append))
            .at_once()
            .role(Role::Operator)
            .tag(TAG)
            .summary("Send the file, or go on with it: what has come stays, also where the connection breaks.")
            .query(CONTINUE_QUERY)
            .uploads()
            .output::<UploadFields>(200, "The upload.")
            .error(404, "There is no such upload.")
            .error(409, "Another part is the next one, which the message tells.")
            .error(507, "It does not fit; the message has the figures."),
        Route::delete("/uploads/{upload}", "deleteUpload", in_section(&UPLOADS, delete))
            .at_once()
            .role(Role::Operator)
            .tag(TAG)
            .summary("Throw an upload away.")
            .output::<UploadFields>(200, "It is gone.")
            .error(404, "There is no such upload.")
            .error(409, "An image is made of it."),
    ]
}

/// An upload to be begun.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "name": "debian-12.qcow2" }))]
pub struct UploadBody {
    /// Whatever its client knows it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), extend("pattern" = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"))]
    pub name: Option<String>,
}

/// An upload that was begun.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct UploadFields {
    pub id: String,
    pub name: Option<String>,
    /// Bytes that are there: the next ones begin here.
    pub offset: u64,
    /// The SHA-256 sum of what is there; null while more comes.
    pub sha256: Option<String>,
    pub created_at: String,
    /// When it goes, unless something of it comes before.
    pub expires_at: String,
}

impl UploadFields {
    fn of(view: UploadView) -> Self {
        Self {
            id: view.id.to_string(),
            name: view.name,
            offset: view.offset,
            sha256: view.sha256,
            created_at: time(view.created_at),
            expires_at: time(view.expires_at),
        }
    }
}

/// The upload that a client names.
///
/// # Errors
/// [`Error::UploadNotFound`] for what is no id of one.
pub(super) fn id(named: &str) -> Result<UploadId, Error> {
    UploadId::parse(named).ok_or_else(|| Error::UploadNotFound(named.to_owned()))
}

async fn list(shared: Shared, _: Request) -> Result<Reply, Problem> {
    let all = shared.service.uploads().into_iter();
    Ok(Reply::json(StatusCode::OK, &all.map(UploadFields::of).collect::<Vec<_>>()))
}

async fn begin(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let body: UploadBody = request.json_or_default()?;
    let begun = shared.service.begin_upload(request.makes.map(UploadId::from), body.name).await?;
    Ok(Reply::json(StatusCode::CREATED, &UploadFields::of(begun)))
}

async fn details(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let found = shared.service.upload(id(request.param("upload"))?)?;
    Ok(Reply::json(StatusCode::OK, &UploadFields::of(found)))
}

#[derive(Deserialize)]
struct ContinueQuery {
    offset: Option<u64>,
}

async fn append(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let upload = id(request.param("upload"))?;
    let ContinueQuery { offset } = request.query()?;
    let offset = offset.ok_or_else(|| HttpError::invalid("offset", "be given, as in ?offset=0"))?;
    let Some(body) = &request.upload else {
        return Err(HttpError::MissingBody.into());
    };
    let sent = shared.service.continue_upload(upload, offset, body.declared(), body.pieces()).await;
    let sent = sent.map_err(|error| match error {
        SpoolError::Stream(error) => Problem::from(error),
        SpoolError::Domain(error) => error.into(),
    })?;
    Ok(Reply::json(StatusCode::OK, &UploadFields::of(sent)))
}

async fn delete(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let gone = shared.service.delete_upload(id(request.param("upload"))?).await?;
    Ok(Reply::json(StatusCode::OK, &UploadFields::of(gone)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::has_examples;

    #[test]
    fn what_is_shown_as_an_example_is_taken() {
        has_examples::<UploadBody>();
    }
}
