//! Whether what has arrived is the head of a request: pure. Nothing passes that hyper would refuse, nor anything that
//! two readers could take for different requests.

use http::{Method, Uri};

use super::body::Framing;
use crate::api::http::HttpError;

/// Fields of a head; hyper takes no more.
const MOST_FIELDS: usize = 100;
/// Path and query may have this part of what a head may.
const TARGET_SHARE: usize = 8;

#[derive(Debug, PartialEq, Eq)]
pub enum Head {
    /// There is more to come.
    Partial,
    /// It is so long; then its body, if it has one.
    Whole {
        length: usize,
        body: Option<Framing>,
    },
    Refused(HttpError),
}

/// `looked_at` bytes of it were there the last time. It is read at the beginning, so that another protocol is found out
/// at once, and then not before there is an end to it: one that trickles in is not to cost more than it is long.
pub fn judge(bytes: &[u8], looked_at: usize, limit: usize) -> Head {
    let ended = has_end(bytes, looked_at);
    if looked_at > 0 && !ended && bytes.len() < limit {
        return Head::Partial;
    }
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(bytes);
    let longest = limit / TARGET_SHARE;
    let target_too_long = || Head::Refused(HttpError::TargetTooLong { limit: longest });
    let too_large = || match target_length(bytes) > longest {
        true => target_too_long(),
        false => Head::Refused(HttpError::HeadTooLarge { limit, fields: MOST_FIELDS }),
    };
    match parsed {
        Ok(httparse::Status::Complete(length)) if length > limit => too_large(),
        Ok(httparse::Status::Complete(_)) if target_length(bytes) > longest => target_too_long(),
        Ok(httparse::Status::Complete(length)) => match framing(&request) {
            Ok(body) => Head::Whole { length, body },
            Err(why) => bad(why),
        },
        Ok(httparse::Status::Partial) if bytes.len() >= limit => too_large(),
        Ok(httparse::Status::Partial) => Head::Partial,
        Err(httparse::Error::TooManyHeaders) => too_large(),
        Err(httparse::Error::Version) => bad("only HTTP/1.0 and HTTP/1.1 are spoken here"),
        Err(httparse::Error::HeaderName | httparse::Error::HeaderValue) => bad("a header is malformed"),
        Err(_) => bad("its first line must be a method, a path and HTTP/1.1"),
    }
}

fn bad(why: &'static str) -> Head {
    Head::Refused(HttpError::BadHead { why })
}

/// An empty line, with a look back at where the last look ended.
fn has_end(bytes: &[u8], looked_at: usize) -> bool {
    let new = bytes.get(looked_at.saturating_sub(3)..).unwrap_or_default();
    new.windows(2).any(|pair| pair == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
}

fn target_length(bytes: &[u8]) -> usize {
    bytes.split(|byte| *byte == b' ').nth(1).map_or(0, <[u8]>::len)
}

/// How the body is delimited, after everything else that makes a head one.
fn framing(request: &httparse::Request<'_, '_>) -> Result<Option<Framing>, &'static str> {
    let method = request.method.unwrap_or_default();
    let target = request.path.unwrap_or_default();
    Method::from_bytes(method.as_bytes()).map_err(|_| "the method is malformed")?;
    let target = target.parse::<Uri>().map_err(|_| "the path is malformed")?;
    // A host and a port alone, as a proxy is asked for them.
    target.path_and_query().ok_or("its first line names no path")?;
    let fields = |name: &'static str| {
        request.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    };
    let modern = request.version == Some(1);
    let hosts: Vec<&[u8]> = fields("host").collect();
    match (hosts.as_slice(), target.authority()) {
        ([], _) => return Err("it has no Host header"),
        ([_, _, ..], _) => return Err("it has more than one Host header"),
        ([host], Some(named)) if !host.trim_ascii().eq_ignore_ascii_case(named.as_str().as_bytes()) => {
            return Err("its Host header is another than the one in its first line");
        }
        ([_], _) => {}
    }
    let coding: Vec<&[u8]> = fields("transfer-encoding").collect();
    let lengths: Vec<&[u8]> = fields("content-length").collect();
    match (coding.as_slice(), lengths.as_slice()) {
        ([], []) => Ok(None),
        ([], [first, others @ ..]) => {
            if others.iter().any(|other| other != first) {
                return Err("it has more than one Content-Length");
            }
            let digits = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(first).ok().filter(|_| digits).and_then(|text| text.parse::<u64>().ok());
            match length {
                Some(0) => Ok(None),
                // The last two are words of hyper's own.
                Some(length) if length < u64::MAX - 1 => Ok(Some(Framing::Length(length))),
                _ => Err("its Content-Length is no length"),
            }
        }
        (_, [_, ..]) => Err("it has both a Content-Length and a Transfer-Encoding"),
        ([coding], []) if modern && coding.eq_ignore_ascii_case(b"chunked") => Ok(Some(Framing::CHUNKED)),
        _ => Err("its Transfer-Encoding must be chunked, in HTTP/1.1"),
    }
}

/// A head that hyper takes, in the place of one that is refused: for the same path where there is one, so that the
/// answer has the shape of the dialect that was meant.
pub fn substitute(bytes: &[u8]) -> String {
    let mut words = bytes.trim_ascii_start().split(|byte| byte.is_ascii_whitespace());
    // Its answer has no body.
    let method = if words.next() == Some(b"HEAD") { "HEAD" } else { "GET" };
    let path = words.next().unwrap_or_default().split(|byte| *byte == b'?').next().unwrap_or_default();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-_.~%".contains(byte);
    let path: Vec<u8> = path.iter().copied().take_while(plain).take(1024).collect();
    let path = String::from_utf8(path).ok().filter(|path| path.starts_with('/')).unwrap_or_else(|| "/".to_owned());
    format!("{method} {path} HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n")
}

/// For the fuzz targets: a head is the same head in whatever pieces it arrives, and no shorter one.
pub(crate) fn fuzz(bytes: &[u8]) -> Result<(), String> {
    const LIMIT: usize = 4096;
    let whole = judge(bytes, 0, LIMIT);
    if let Head::Whole { length, .. } = whole {
        if length > bytes.len() || length > LIMIT {
            return Err(format!("a head of {length} bytes in {}", bytes.len()));
        }
        if judge(&bytes[..length], 0, LIMIT) != whole {
            return Err("what follows a head changes it".to_owned());
        }
        if matches!(judge(&bytes[..length - 1], 0, LIMIT), Head::Whole { .. }) {
            return Err("a head is whole before its end".to_owned());
        }
    }
    // As it would come, some bytes at a time, until there is something to say.
    let mut seen = 0;
    for end in (0..=bytes.len()).step_by(7).chain([bytes.len()]) {
        let judged = judge(&bytes[..end], seen, LIMIT);
        seen = end;
        match (&judged, &whole) {
            (Head::Partial, _) | (Head::Refused(_), Head::Refused(_)) => {}
            _ if judged == whole => break,
            _ => return Err(format!("{judged:?} in pieces, and {whole:?} at once")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1024;

    fn at_once(text: &str) -> Head {
        judge(text.as_bytes(), 0, LIMIT)
    }

    fn whole(text: &str, body: Option<Framing>) {
        let length = text.find("\r\n\r\n").unwrap() + 4;
        assert_eq!(at_once(text), Head::Whole { length, body }, "{text:?}");
    }

    fn refused(text: &str) -> String {
        match at_once(text) {
            Head::Refused(error) => format!("{} {}", error.status().as_u16(), error.message()),
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn a_head_is_as_long_as_it_is_and_says_how_its_body_ends() {
        whole("GET / HTTP/1.1\r\nhost: a\r\n\r\nrest", None);
        whole("GET / HTTP/1.0\r\nhost: a\r\n\r\n", None);
        whole("POST /vms HTTP/1.1\r\nHost:\r\ncontent-length: 0\r\n\r\n", None);
        whole("POST /vms HTTP/1.1\r\nHOST: a:8080\r\nContent-Length: 12\r\n\r\n", Some(Framing::Length(12)));
        whole(
            "POST /vms HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n",
            Some(Framing::Length(2)),
        );
        whole("POST http://a/vms HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n", Some(Framing::CHUNKED));
        assert_eq!(at_once("GET / HTTP/1.1\r\nhost: a\r\n"), Head::Partial);
        assert_eq!(at_once("\r\n"), Head::Partial);
    }

    #[test]
    fn what_is_no_head_is_refused_with_the_reason() {
        for (text, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", "it has no Host header"),
            ("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", "it has more than one Host header"),
            ("GET / HTTP/1.0\r\n\r\n", "it has no Host header"),
            ("GET / HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n", "it has more than one Host header"),
            ("GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n", "its Host header is another than the one in its first line"),
            ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", "only HTTP/1.0 and HTTP/1.1 are spoken here"),
            ("GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", "only HTTP/1.0 and HTTP/1.1 are spoken here"),
            ("GET nowhere:// HTTP/1.1\r\nhost: a\r\n\r\n", "the path is malformed"),
            ("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n", "its first line names no path"),
            ("GET a HTTP/1.1\r\nhost: a\r\n\r\n", "its first line names no path"),
            ("\u{16}\u{3}\u{1}\u{2}", "its first line must be a method, a path and HTTP/1.1"),
            ("GET / HTTP/1.1\r\nho st: a\r\n\r\n", "a header is malformed"),
            ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", "its Content-Length is no length"),
            ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 1\r\n\r\n", "its Content-Length is no length"),
            (
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
                "it has more than one Content-Length",
            ),
            (
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
                "it has both a Content-Length and a Transfer-Encoding",
            ),
            (
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
                "its Transfer-Encoding must be chunked, in HTTP/1.1",
            ),
            (
                "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
                "its Transfer-Encoding must be chunked, in HTTP/1.1",
            ),
        ] {
            assert_eq!(refused(text), format!("400 The request is not valid HTTP: {expected}."), "{text:?}");
        }
    }

    #[test]
    fn what_is_too_long_says_which_part_of_it() {
        let long = "x".repeat(LIMIT);
        let longish = "x".repeat(LIMIT / 4);
        assert!(refused(&format!("GET /{longish} HTTP/1.1\r\nhost: a\r\n\r\n")).starts_with("414 "));
        assert!(refused(&format!("GET /{long} HTTP/1.1\r\nhost: a\r\n")).starts_with("414 "));
        assert!(refused(&format!("GET /{long}")).starts_with("414 "));
        assert!(refused(&format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n")).starts_with("431 "));
        assert!(refused(&format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}")).starts_with("431 "));
        assert!(refused(&format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(100))).starts_with("431 "));
    }

    #[test]
    fn a_head_that_trickles_in_is_whole_at_the_same_byte() {
        let text = "POST /vms HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n";
        for (at, _) in text.char_indices().skip(1) {
            assert_eq!(judge(&text.as_bytes()[..at], at - 1, LIMIT), Head::Partial, "{at}");
        }
        let length = text.len();
        assert_eq!(judge(text.as_bytes(), length - 1, LIMIT), Head::Whole { length, body: Some(Framing::Length(2)) });
    }

    #[test]
    fn the_substitute_goes_where_the_refused_one_did() {
        for (text, line) in [
            ("GET /hyperv/vms?x=1 HTTP/1.1\r\n\r\n", "GET /hyperv/vms HTTP/1.1"),
            ("HEAD /vms HTTP/3\r\n", "HEAD /vms HTTP/1.1"),
            ("\r\nPOST /hyp\u{e9} HTTP/1.1", "GET /hyp HTTP/1.1"),
            ("\u{16}\u{3}", "GET / HTTP/1.1"),
            ("GET //evil", "GET //evil HTTP/1.1"),
            ("", "GET / HTTP/1.1"),
        ] {
            assert_eq!(substitute(text.as_bytes()).lines().next(), Some(line), "{text:?}");
        }
    }
}
