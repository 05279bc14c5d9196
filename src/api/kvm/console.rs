//! The serial console: its log, and the console itself.

use std::{io, ops::Range};

use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::Deserialize;

use super::{Shared, error::Problem, info::ranged, shown::Shown, vm_id};
use crate::{
    api::{
        console,
        http::{PIECE, Reply, Request, range},
    },
    service::Output,
    vm::Source,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsoleQuery {
    tail: Option<i64>,
    shared: Option<bool>,
    watch: Option<bool>,
}

pub async fn open(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let output = shared.service.output(vm_id(&request)?, Source::Console)?;
    let query: ConsoleQuery = request.query()?;
    let wish = console::Wish::of(query.tail, query.shared, query.watch)?;
    Ok(console::open(&request, output, wish)?)
}

/// Lines of a console log when the request does not say.
const DEFAULT_TAIL: i64 = 1000;

const TEXT: &str = "text/plain; charset=utf-8";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TailQuery {
    tail: Option<i64>,
    plain: Option<bool>,
}

pub async fn log(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let output = shared.service.output(vm_id(&request)?, Source::Console)?;
    let query: TailQuery = request.query()?;
    let lines = ranged("tail", query.tail.unwrap_or(DEFAULT_TAIL), i64::MAX)?;
    let kept = output.last(lines as usize).await?;
    if query.plain == Some(true) {
        return Ok(Reply::stream(TEXT, plain(output, kept.begin..kept.end)));
    }
    let length = kept.end - kept.begin;
    let part = range::wanted(&request.headers, length)?;
    let Range { start, end } = part.clone().unwrap_or(0..length);
    let pieces = raw(output, kept.begin + start..kept.begin + end);
    Ok(range::part(Reply::stream(TEXT, pieces), part.as_ref(), length))
}

/// As it is. What is cut away before it was read ends it badly: its length had been told.
fn raw(output: Output, of: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((output, of), async |(output, of)| {
        if of.is_empty() {
            return Ok(None);
        }
        let piece = output.read(of.start, (of.end - of.start).min(PIECE as u64)).await?;
        if piece.from != of.start || piece.text.is_empty() {
            return Err(io::Error::other("the guest wrote more than is kept while its log was read"));
        }
        let rest = piece.to()..of.end;
        Ok(Some((Bytes::from(piece.text), (output, rest))))
    })
}

/// Without what a terminal would act on.
fn plain(output: Output, of: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((output, of, Some(Shown::default())), async |(output, of, shown)| {
        let Some(mut shown) = shown else { return Ok(None) };
        if of.is_empty() {
            return Ok(Some((Bytes::from(shown.end()), (output, of, None))));
        }
        let piece = output.read(of.start, (of.end - of.start).min(PIECE as u64)).await?;
        if piece.from != of.start || piece.text.is_empty() {
            return Err(io::Error::other("the guest wrote more than is kept while its log was read"));
        }
        let rest = piece.to()..of.end;
        Ok(Some((Bytes::from(shown.more(&piece.text)), (output, rest, Some(shown)))))
    })
}
