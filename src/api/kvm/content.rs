//! The data of an image, as a file: streamed, with ranges, so that a client goes on where it broke off.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use warp::http::header;

use super::{Shared, error::Problem};
use crate::{
    api::http::{PIECE, Reply, Request, range},
    service::image_store::Content,
};

const TYPE: &str = "application/octet-stream";
/// Bytes that are read at a time, of which pieces are made.
const READ: usize = 64 * PIECE;

pub async fn image(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let content = shared.service.image_content(request.param("image")).await?;
    let (length, tag) = (content.image.size, format!("\"{}\"", content.image.content_sha256));
    let name = &content.image.name;
    let shown = format!("attachment; filename=\"{}-{}.qcow2\"", name.name, name.tag);
    let part = range::wanted_of(&request.headers, length, Some(&tag))?;
    let reading = Reading {
        at: part.as_ref().map_or(0, |part| part.start),
        end: part.as_ref().map_or(length, |part| part.end),
        content,
        read: Bytes::new(),
    };
    let reply = range::part(Reply::stream(TYPE, stream::try_unfold(reading, Reading::next)), part.as_ref(), length);
    Ok(reply.header(header::ETAG, tag).header(header::CONTENT_DISPOSITION, shown))
}

struct Reading {
    content: Content,
    /// What is read next, and where it ends.
    at: u64,
    end: u64,
    /// What was read, and is to go out.
    read: Bytes,
}

impl Reading {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        if self.read.is_empty() {
            let count = usize::try_from(self.end - self.at).unwrap_or(READ).min(READ);
            if count == 0 {
                return Ok(None);
            }
            self.read = self.content.read(self.at, count).await?;
            self.at += count as u64;
        }
        let piece = self.read.split_to(self.read.len().min(PIECE));
        Ok(Some((piece, self)))
    }
}
