//! What describes a dialect: its OpenAPI document, as JSON and as YAML, and a page to browse it and try it. All that the page needs is
//! in this program (docs/adr/0042). What a document says comes from the dialect's table.

use std::sync::OnceLock;

use serde_json::Value;
use warp::http::{StatusCode, header};

use super::{
    http::{HttpError, Reply, Request, Route, openapi::PathParam},
    yaml,
};
use crate::model::Role;

/// The pages of the dialects that share an address.
const PAGES: &[(&str, &str)] = &[("KVM dialect", "/docs"), ("Hyper-V dialect", "/hyperv/docs")];
const PAGE: &str = include_str!("docs/page.html");

/// No script but those that are served here, no request to elsewhere, and nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// A file of the page.
struct File {
    name: &'static str,
    content_type: &'static str,
    /// Compressed, as it is sent: every browser takes that.
    is_gzip: bool,
    bytes: &'static [u8],
}

const FILES: &[File] = &[
    File { name: "page.js", content_type: SCRIPT, is_gzip: false, bytes: include_bytes!("docs/page.js") },
    File { name: "page.css", content_type: STYLE, is_gzip: false, bytes: include_bytes!("docs/page.css") },
    File {
        name: "swagger-ui.js",
        content_type: SCRIPT,
        is_gzip: true,
        bytes: include_bytes!("../../assets/swagger-ui/swagger-ui-bundle.js.gz"),
    },
    File {
        name: "swagger-ui.css",
        content_type: STYLE,
        is_gzip: true,
        bytes: include_bytes!("../../assets/swagger-ui/swagger-ui.css.gz"),
    },
];

pub const FILE: PathParam =
    PathParam { name: "file", description: "page.js, page.css, swagger-ui.js or swagger-ui.css.", format: None };

/// A dialect's document and the page that shows it.
pub struct Docs {
    document: Value,
    /// Made when it is asked for first.
    yaml: OnceLock<Result<String, String>>,
    page: String,
}

impl Docs {
    /// `place` is the page's path, where it stands beside the pages of other dialects.
    pub fn new(document: Value, place: Option<&str>) -> Self {
        let link = |(name, path): &(&str, &str)| {
            let current = if Some(*path) == place { " aria-current=\"page\"" } else { "" };
            format!("<a href=\"{path}\"{current}>{name}</a>")
        };
        let links: String = PAGES.iter().filter(|_| place.is_some()).map(link).collect();
        Self { document, yaml: OnceLock::new(), page: PAGE.replace("<!-- dialects -->", &links) }
    }
}

/// The rows of a dialect's table.
pub fn routes<S>(tag: &'static str) -> Vec<Route<S>>
where
    S: AsRef<Docs> + Send + Sync + 'static,
{
    vec![
        Route::get("/openapi.json", "getOpenAPI", as_json)
            .role(Role::Viewer)
            .tag(tag)
            .summary("This document.")
            .output::<Value>(200, "OpenAPI 3.1."),
        Route::get("/openapi.yaml", "getOpenAPIAsYAML", as_yaml)
            .role(Role::Viewer)
            .tag(tag)
            .summary("This document, as YAML.")
            .output_data::<Value>("application/yaml", "OpenAPI 3.1."),
        Route::get("/docs", "getDocs", page)
            .open()
            .tag(tag)
            .summary("A page to browse this document and to try what it describes.")
            .output_as(
                "text/html",
                "The page; the document it reads with the token that is typed there.",
                "<!doctype html>",
            ),
        Route::get("/docs/{file}", "getDocsFile", file)
            .open()
            .tag(tag)
            .summary("A file of that page.")
            .output_as(
                "text/javascript",
                "A script; that of Swagger UI with `Content-Encoding: gzip`.",
                "\"use strict\";",
            )
            .output_as("text/css", "A style sheet.", "body { margin: 0; }")
            .error(404, "The page has no such file."),
    ]
}

async fn as_json<S: AsRef<Docs>>(shared: S, _: Request) -> Reply {
    Reply::json(StatusCode::OK, &shared.as_ref().document)
}

async fn as_yaml<S: AsRef<Docs>>(shared: S, _: Request) -> Result<Reply, HttpError> {
    let docs = shared.as_ref();
    let text = docs.yaml.get_or_init(|| yaml::text(&docs.document));
    let text = text.clone().map_err(|why| HttpError::Internal { why })?;
    Ok(Reply::whole("application/yaml", text))
}

async fn page<S: AsRef<Docs>>(shared: S, _: Request) -> Reply {
    let reply = Reply::whole("text/html; charset=utf-8", shared.as_ref().page.clone());
    reply.header(header::CONTENT_SECURITY_POLICY, POLICY).header(header::REFERRER_POLICY, "no-referrer")
}

async fn file<S>(_: S, request: Request) -> Result<Reply, HttpError> {
    let wanted = request.param("file");
    let file = FILES.iter().find(|file| file.name == wanted).ok_or(HttpError::NoSuchPath)?;
    let reply = Reply::whole(file.content_type, file.bytes);
    Ok(if file.is_gzip { reply.header(header::CONTENT_ENCODING, "gzip") } else { reply })
}
