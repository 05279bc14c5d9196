//! Keeps web pages away. A page that somebody on this host has open can send requests to the loopback address like any
//! program, and its browser asks nobody before a plain POST. But browsers tell the page's origin with everything that
//! could change something, and programs never do.
//!
//! It does not replace authentication: a page whose host name was pointed at this address afterwards (DNS rebinding)
//! can still read by GET, for which browsers send no origin to their own host.

use warp::http::{HeaderMap, HeaderValue, header, uri::Authority};

use super::HttpError;

/// # Errors
/// [`HttpError::CrossOrigin`] unless every `Origin` is the very address that the request went to, given by number or as
/// `localhost`: a name could have been pointed here by anybody.
pub(super) fn check(headers: &HeaderMap) -> Result<(), HttpError> {
    let host = headers.get(header::HOST).and_then(authority);
    let own = |origin: &HeaderValue| {
        let at = origin.to_str().ok().and_then(|text| text.split_once("://")).and_then(|(_, at)| at.parse().ok());
        at.is_some_and(|at: Authority| host.as_ref() == Some(&at) && is_unambiguous(&at))
    };
    if headers.get_all(header::ORIGIN).iter().all(own) { Ok(()) } else { Err(HttpError::CrossOrigin) }
}

fn authority(value: &HeaderValue) -> Option<Authority> {
    value.to_str().ok()?.parse().ok()
}

fn is_unambiguous(authority: &Authority) -> bool {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        check(&headers).is_ok()
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
        ] {
            assert!(allowed(host, origin), "{host} {origin:?}");
        }
        for (host, origin) in [
            ("127.0.0.1:8080", "http://evil.example"),
            ("127.0.0.1:8080", "null"),
            ("127.0.0.1:8080", ""),
            ("127.0.0.1:8080", "http://127.0.0.1:3000"),
            ("127.0.0.1:8080", "http://localhost:8080"),
            // Rebound: the page and the request name the same host.
            ("evil.example:8080", "http://evil.example:8080"),
        ] {
            assert!(!allowed(host, Some(origin)), "{host} {origin}");
        }
    }
}
