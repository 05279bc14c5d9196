//! What a VM's guest and its QEMU wrote, and go on to write: line by line with times, and for as long as somebody reads it.

use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;

use super::{Shared, error::Problem, info::ranged, shown::Shown, vm_id};
use crate::{
    api::http::{HttpError, PIECE, Reply, Request},
    service::Output,
    vm::{Follower, Source},
};

/// Lines when the request says neither how many nor since when.
const DEFAULT_TAIL: i64 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    source: Option<Named>,
    follow: Option<bool>,
    since: Option<String>,
    tail: Option<i64>,
    timestamps: Option<bool>,
    plain: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Named {
    Console,
    Qemu,
}

pub async fn logs(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let query: Query = request.query()?;
    let source = match query.source {
        None | Some(Named::Console) => Source::Console,
        Some(Named::Qemu) => Source::Qemu,
    };
    let tail = match (query.tail, &query.since) {
        (Some(0), _) => Some(0),
        (None, Some(_)) => None,
        (given, _) => Some(ranged("tail", given.unwrap_or(DEFAULT_TAIL), i64::MAX)?),
    };
    let since = query.since.as_deref().map(time).transpose()?;
    let output = shared.service.output(id, source)?;
    let follower = match query.follow {
        // Before the first look: nothing that comes after it is missed.
        Some(true) => Some(output.follower().map_err(|error| HttpError::Internal { why: error.to_string() })?),
        _ => None,
    };
    let kept = output.last(tail.map_or(usize::MAX, |tail| tail as usize)).await?;
    let since = match since {
        Some(since) => output.since(since).await?,
        None => 0,
    };
    let follows = follower.is_some();
    let reading = Reading {
        output,
        at: kept.begin.max(since),
        end: kept.end,
        follower,
        shown: (query.plain == Some(true)).then(Shown::default),
        times: query.timestamps == Some(true),
        line_begins: true,
    };
    let pieces = stream::try_unfold(Some(reading), async |reading| match reading {
        Some(reading) => reading.next().await,
        None => Ok(None),
    });
    let reply = Reply::stream("text/plain; charset=utf-8", pieces);
    Ok(if follows { reply.until_the_end("") } else { reply })
}

/// Milliseconds since 1970: a time, seconds since 1970, or how long ago.
fn time(text: &str) -> Result<u64, HttpError> {
    let time = if let Ok(seconds) = text.parse::<u64>() {
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    } else if let Ok(ago) = humantime::parse_duration(text) {
        Some(SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH))
    } else {
        humantime::parse_rfc3339_weak(text).ok()
    };
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let since = since.and_then(|since| u64::try_from(since.as_millis()).ok());
    since.ok_or_else(|| {
        HttpError::invalid(
            "since",
            "be a time such as 2026-01-31T12:00:00Z, seconds since 1970, or how long ago, such as 10m",
        )
    })
}

struct Reading {
    output: Output,
    at: u64,
    /// Where it ends that does not follow.
    end: u64,
    follower: Option<Follower>,
    /// `plain`.
    shown: Option<Shown>,
    times: bool,
    /// What is read next is the beginning of a line.
    line_begins: bool,
}

type Next = Option<(Bytes, Option<Reading>)>;

impl Reading {
    async fn next(mut self) -> io::Result<Next> {
        loop {
            let most = match self.follower {
                Some(_) => PIECE as u64,
                None => self.end.saturating_sub(self.at).min(PIECE as u64),
            };
            if most == 0 {
                let rest = self.shown.take().map(|mut shown| shown.end()).unwrap_or_default();
                return Ok((!rest.is_empty()).then(|| (Bytes::from(rest), None)));
            }
            let piece = self.output.read(self.at, most).await?;
            if piece.from > self.at {
                let note = format!("\n[qherd: {} bytes are not kept any more]\n", piece.from - self.at);
                (self.at, self.line_begins) = (piece.from, true);
                return Ok(Some((Bytes::from(note), Some(self))));
            }
            self.at = piece.to();
            if !piece.text.is_empty() {
                let text = self.rendered(piece.from, &piece.text).await?;
                // Nothing of it is to be shown, or not yet.
                if !text.is_empty() {
                    return Ok(Some((Bytes::from(text), Some(self))));
                }
            } else if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Waits for more; `false` where nothing can come.
    async fn more(&mut self) -> io::Result<bool> {
        let Some(follower) = &mut self.follower else { return Ok(false) };
        tokio::select! {
            more = follower.more() => more.map(|()| true),
            () = self.output.gone() => Ok(false),
        }
    }

    /// The text as it is asked for.
    async fn rendered(&mut self, from: u64, text: &[u8]) -> io::Result<Vec<u8>> {
        let mut at = from;
        let mut lines: Vec<(u64, &[u8])> = Vec::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            lines.push((at, line));
            at += line.len() as u64;
        }
        let times = match self.times {
            true => self.output.written_at(lines.iter().map(|(at, _)| *at).collect()).await?,
            false => Vec::new(),
        };
        let mut out = Vec::with_capacity(text.len());
        for (index, (_, line)) in lines.into_iter().enumerate() {
            if self.times && self.line_begins {
                out.extend_from_slice(stamp(times.get(index).copied().flatten()).as_bytes());
            }
            match &mut self.shown {
                // A sequence ends within its line, so that nothing of the last one is held back here.
                Some(shown) => out.extend_from_slice(shown.more(line).as_bytes()),
                None => out.extend_from_slice(line),
            }
            self.line_begins = line.ends_with(b"\n");
        }
        Ok(out)
    }
}

fn stamp(written: Option<u64>) -> String {
    let time = written.and_then(|written| UNIX_EPOCH.checked_add(Duration::from_millis(written)));
    time.map_or_else(|| "- ".to_owned(), |time| format!("{} ", humantime::format_rfc3339_millis(time)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_in_any_of_three_ways() {
        assert_eq!(time("1700000000"), Ok(1_700_000_000_000));
        assert_eq!(time("2023-11-14T22:13:20Z"), Ok(1_700_000_000_000));
        assert_eq!(time("2023-11-14 22:13:20"), Ok(1_700_000_000_000));
        let now = || UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
        let (before, ago, after) = (now(), time("10m").unwrap(), now());
        assert!((before..=after).contains(&(ago + 600_000)), "{before} {ago} {after}");
        for bad in ["", "yesterday", "-5", "99999999999999999999", "18446744073709551615"] {
            let refused = time(bad).unwrap_err();
            assert_eq!(refused.status(), 400, "{bad}");
        }
        assert_eq!(stamp(Some(1_700_000_000_123)), "2023-11-14T22:13:20.123Z ");
        assert_eq!(stamp(None), "- ");
    }
}
