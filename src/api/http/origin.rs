//! Keeps web pages away. A page that somebody on this host has open can send requests to the loopback address like any
//! program, and its browser asks nobody before a plain POST, or before a WebSocket. But browsers tell the page's origin with
//! everything that could change something, and with every upgrade; programs never do.
//!
//! It relies on `gate` for the host: that a name is one of ours is known by then.

use warp::http::{HeaderMap, HeaderValue, header, uri::Authority};

use super::HttpError;

/// Of every request, upgrades included.
///
/// # Errors
/// [`HttpError::CrossOrigin`] unless every `Origin` is the very address that the request went to, or one of `pages`.
pub(super) fn check(headers: &HeaderMap, host: &Authority, tls: bool, pages: &[String]) -> Result<(), HttpError> {
    let own = |origin: &HeaderValue| {
        let parts = origin.to_str().ok().and_then(|text| text.split_once("://"));
        // A page that came in the clear could have been anybody's on the way.
        let scheme = |scheme: &str| scheme.eq_ignore_ascii_case("https") || !tls && scheme.eq_ignore_ascii_case("http");
        parts.is_some_and(|(with, at)| scheme(with) && at.parse::<Authority>().is_ok_and(|at| at == *host))
    };
    let all = headers.get_all(header::ORIGIN).iter().all(|origin| own(origin) || is_allowed(origin, pages));
    if all { Ok(()) } else { Err(HttpError::CrossOrigin) }
}

/// Whether it is one of `pages`, which are in lower case.
pub(super) fn is_allowed(origin: &HeaderValue, pages: &[String]) -> bool {
    origin.to_str().is_ok_and(|origin| pages.iter().any(|page| page.eq_ignore_ascii_case(origin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(host: &str, origin: Option<&str>, tls: bool) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        check(&headers, &host.parse().unwrap(), tls, &["https://console.example".to_owned()]).is_ok()
    }

    #[test]
    fn a_program_and_our_own_pages_pass_and_other_pages_do_not() {
        for (host, origin) in [
            ("127.0.0.1:8080", None),
            ("vms.example", None),
            ("127.0.0.1:8080", Some("http://127.0.0.1:8080")),
            ("localhost:8080", Some("http://LOCALHOST:8080")),
            ("[::1]:8080", Some("http://[::1]:8080")),
            ("192.0.2.1", Some("https://192.0.2.1")),
            ("127.0.0.1:8080", Some("https://Console.example")),
        ] {
            assert!(allowed(host, origin, false), "{host} {origin:?}");
        }
        for (host, origin) in [
            ("127.0.0.1:8080", "http://evil.example"),
            ("127.0.0.1:8080", "null"),
            ("127.0.0.1:8080", ""),
            ("127.0.0.1:8080", "http://127.0.0.1:3000"),
            ("127.0.0.1:8080", "http://localhost:8080"),
            ("127.0.0.1:8080", "http://console.example"),
            ("127.0.0.1:8080", "ftp://127.0.0.1:8080"),
        ] {
            assert!(!allowed(host, Some(origin), false), "{host} {origin}");
        }
        assert!(allowed("vms.example", Some("https://vms.example"), true));
        assert!(!allowed("vms.example", Some("http://vms.example"), true));
    }
}
