//! `Range` of what has a length: one range of bytes (RFC 9110, 14.2). Several at once, other units and what is malformed are
//! answered whole, which a server may do; ours are logs and images, of which nobody asks for two pieces at once.

use std::ops::Range;

use warp::http::{HeaderMap, StatusCode, header};

use super::{HttpError, Reply};

/// Which of `length` bytes are asked for; `None` for all of them.
///
/// # Errors
/// [`HttpError::RangeBeyondEnd`].
pub fn wanted(headers: &HeaderMap, length: u64) -> Result<Option<Range<u64>>, HttpError> {
    wanted_of(headers, length, None)
}

/// The same of what has a name that tells it from another, its entity tag.
///
/// # Errors
/// [`HttpError::RangeBeyondEnd`].
pub fn wanted_of(headers: &HeaderMap, length: u64, tag: Option<&str>) -> Result<Option<Range<u64>>, HttpError> {
    // What it was a part of might be another by now.
    if headers.get(header::IF_RANGE).is_some_and(|is| tag.is_none_or(|tag| is.as_bytes() != tag.as_bytes())) {
        return Ok(None);
    }
    let mut values = headers.get_all(header::RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Ok(None) };
    let range = value.to_str().ok().and_then(|text| text.trim().strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else { return Ok(None) };
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are beyond any end.
        true => Some(text.parse::<u64>().unwrap_or(u64::MAX)),
        false => None,
    };
    let (first, last) = (first.trim(), last.trim());
    let (begin, end) = match (first.is_empty(), last.is_empty()) {
        (true, true) => return Ok(None),
        // The last so many.
        (true, false) => match number(last) {
            Some(0) => return Err(HttpError::RangeBeyondEnd { length }),
            Some(count) => (length.saturating_sub(count), length),
            None => return Ok(None),
        },
        (false, last_is_open) => {
            let Some(begin) = number(first) else { return Ok(None) };
            let end = match (last_is_open, number(last)) {
                (true, _) => length,
                (false, Some(last)) if last >= begin => last.saturating_add(1).min(length),
                _ => return Ok(None),
            };
            (begin, end)
        }
    };
    if begin >= length { Err(HttpError::RangeBeyondEnd { length }) } else { Ok(Some(begin..end)) }
}

/// Says of a stream which part of `length` bytes it is. The stream is of that part alone.
pub fn part(reply: Reply, range: Option<&Range<u64>>, length: u64) -> Reply {
    let reply = reply.header(header::ACCEPT_RANGES, "bytes");
    match range {
        None => reply.length(length),
        Some(Range { start, end }) => reply
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{length}", end.saturating_sub(1)))
            .length(end - start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(range: &str, length: u64) -> Result<Option<Range<u64>>, HttpError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range.parse().unwrap());
        wanted(&headers, length)
    }

    #[test]
    fn a_range_is_what_is_there_of_it() {
        for (range, expected) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=2-5", Some(2..6)),
            ("bytes=2-", Some(2..10)),
            ("bytes=2-99", Some(2..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=-99", Some(0..10)),
            ("bytes=0-18446744073709551615", Some(0..10)),
            ("bytes=0-99999999999999999999999", Some(0..10)),
            // Answered whole.
            ("bytes=5-2", None),
            ("bytes=-", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(of(range, 10), Ok(expected), "{range}");
        }
        for (range, length) in
            [("bytes=10-", 10), ("bytes=10-12", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-5", 0)]
        {
            assert_eq!(of(range, length), Err(HttpError::RangeBeyondEnd { length }), "{range}");
        }
    }

    #[test]
    fn what_cannot_be_known_to_be_the_same_is_answered_whole() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, "bytes=1-2".parse().unwrap());
        headers.insert(header::IF_RANGE, "\"x\"".parse().unwrap());
        assert_eq!(wanted(&headers, 10), Ok(None));
        assert_eq!(wanted_of(&headers, 10, Some("\"y\"")), Ok(None));
        assert_eq!(wanted_of(&headers, 10, Some("\"x\"")), Ok(Some(1..3)));
    }
}
