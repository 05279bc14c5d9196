//! The data of an image or a volume, as a file: streamed, with ranges, so that a client goes on where it broke off.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use warp::http::header;

use super::error::Problem;
use crate::{
    api::http::{PIECE, Reply, Request, range},
    service::content::Content,
};

const TYPE: &str = "application/octet-stream";
/// Bytes that are read at a time, of which pieces are made.
const READ: usize = 64 * PIECE;

/// # Errors
/// 416 for a range that begins beyond the end.
pub fn send(content: Content, request: &Request) -> Result<Reply, Problem> {
    let (length, tag) = (content.length, format!("\"{}\"", content.tag));
    let shown = format!("attachment; filename=\"{}\"", content.name);
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
