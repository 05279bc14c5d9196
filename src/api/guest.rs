//! What both dialects do alike about a guest's agent: the ways in which bytes stand in JSON, and files as they come.

use std::io;

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use futures_util::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::http::{HttpError, PIECE, QueryParam, Reply, Request, Upload};
use crate::{
    model::{Error, VmId},
    service::{Service, guest::WriteError},
    vm::{GuestFile, Write},
};

/// How bytes stand in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As text; what is no UTF-8 is U+FFFD.
    #[default]
    Text,
    Base64,
}

/// Bytes of a file that are sent in one answer.
const MOST_BYTES: u64 = 16 << 30;

pub const READ_QUERY: &[QueryParam] = &[
    QueryParam::text("path", "Where it is in the guest.").required(),
    QueryParam::whole("offset", 0, i64::MAX, "How many bytes of it are left out at its beginning; default 0."),
];
pub const WRITE_QUERY: &[QueryParam] = &[
    QueryParam::text("path", "Where it is to be in the guest.").required(),
    QueryParam::boolean(
        "append",
        "What is sent goes behind what the file has; default false, and it has nothing else then.",
    ),
];
pub const FILE: &str = "root:x:0:0:root:/root:/bin/sh\n";

impl Encoding {
    pub fn written(self, bytes: &[u8]) -> String {
        match self {
            Self::Text => String::from_utf8_lossy(bytes).into_owned(),
            Self::Base64 => Base64::encode_string(bytes),
        }
    }

    /// # Errors
    /// Of what is no base64.
    pub fn read(self, param: &str, text: String) -> Result<Vec<u8>, HttpError> {
        match self {
            Self::Text => Ok(text.into_bytes()),
            Self::Base64 => {
                Base64::decode_vec(&text).map_err(|_| HttpError::invalid(param, "be in base64, with its padding"))
            }
        }
    }
}

#[derive(Deserialize)]
struct ReadQuery {
    path: Option<String>,
    offset: Option<i64>,
}

#[derive(Deserialize)]
struct WriteQuery {
    path: Option<String>,
    append: Option<bool>,
}

fn named(path: Option<String>) -> Result<String, HttpError> {
    path.ok_or_else(|| HttpError::invalid("path", "be given, as in ?path=/etc/hostname"))
}

/// Which file is to be read, and from where on.
///
/// # Errors
/// Of the query.
pub fn to_read(request: &Request) -> Result<(String, u64), HttpError> {
    let ReadQuery { path, offset } = request.query()?;
    let offset = u64::try_from(offset.unwrap_or(0)).map_err(|_| HttpError::invalid("offset", "be at least 0"))?;
    Ok((named(path)?, offset))
}

/// Which file is to be written, how, and with what.
///
/// # Errors
/// Of the query.
pub fn to_write(request: &Request) -> Result<(String, Write, &Upload), HttpError> {
    let WriteQuery { path, append } = request.query()?;
    let how = if append == Some(true) { Write::Append } else { Write::Anew };
    Ok((named(path)?, how, request.upload.as_ref().ok_or(HttpError::MissingBody)?))
}

/// The file to its end. An agent that fails in the middle cuts the connection.
pub fn contents(file: GuestFile) -> Reply {
    let begun = (file, Bytes::new(), 0_u64);
    let pieces = stream::try_unfold(begun, async |(mut file, mut held, sent)| {
        let failed = |why: &dyn std::fmt::Display| io::Error::other(why.to_string());
        if held.is_empty() {
            held = file.read().await.map_err(|error| failed(&error))?;
        }
        if held.is_empty() {
            return Ok(None);
        }
        let piece = held.split_to(held.len().min(PIECE));
        let sent = sent + piece.len() as u64;
        if sent > MOST_BYTES {
            return Err(failed(&"the file in the guest has no end"));
        }
        Ok(Some((piece, (file, held, sent))))
    });
    Reply::stream("application/octet-stream", pieces)
}

/// Milliseconds since 1970 of a time in RFC 3339.
///
/// # Errors
/// Of what is none.
pub fn time(text: &str) -> Result<u64, HttpError> {
    let time = humantime::parse_rfc3339_weak(text).ok();
    let time = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    time.and_then(|time| u64::try_from(time.as_millis()).ok())
        .ok_or_else(|| HttpError::invalid("time", "be a time such as 2026-01-31T12:00:00Z"))
}

/// In RFC 3339, of nanoseconds since 1970.
pub fn written_time(nanoseconds: i64) -> Option<String> {
    let ms = u64::try_from(nanoseconds / 1_000_000).ok()?;
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(ms))?;
    Some(humantime::format_rfc3339_millis(time).to_string())
}

/// Writes what is sent into a file of the guest. Returns where, how many bytes, and their SHA-256 sum.
///
/// # Errors
/// In the dialect's own form.
pub async fn write<P: From<HttpError> + From<Error>>(
    service: &Service,
    id: VmId,
    request: &Request,
) -> Result<(String, u64, String), P> {
    let (path, how, body) = to_write(request)?;
    let written = service.write_guest_file(id, (&path, how), body.pieces()).await;
    match written {
        Ok((size, sha256)) => Ok((path, size, sha256)),
        Err(WriteError::Stream(error)) => Err(error.into()),
        Err(WriteError::Domain(error)) => Err(error.into()),
    }
}
