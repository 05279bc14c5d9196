//! Who and what comes in at all, before a route is looked for: the name that we were called by, the web page that a
//! request is from, and who asks (docs/adr/0025). What a caller may do is said by each route.

use std::sync::{Arc, OnceLock};

use tokio::sync::OnceCell;
use warp::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, uri::Authority};

use super::{HttpError, Reply, Response, origin};
use crate::model::Role;
use crate::service::access::{Access, Caller, Judgement, Peer, Vigil};

/// The other end of a connection, judged when it asks for the first time.
pub struct Visitor {
    peer: Peer,
    judged: OnceCell<Judgement>,
    /// The bearer of the first token that was shown.
    bearer: OnceLock<String>,
}

impl Visitor {
    pub fn new(peer: Peer) -> Arc<Self> {
        Arc::new(Self { peer, judged: OnceCell::new(), bearer: OnceLock::new() })
    }

    /// The caller, or where they are where none is known.
    pub(super) fn whose(&self) -> String {
        let known = self.judged.get().and_then(|judged| judged.as_ref().ok()).map(|caller| &caller.name);
        if let Some(name) = self.bearer.get().or(known) {
            return name.clone();
        }
        match &self.peer {
            Peer::Local { uid } => format!("uid {uid}"),
            Peer::Tcp { theirs, .. } => theirs.ip().to_canonical().to_string(),
        }
    }
}

/// A caller whom nobody knows, where whoever comes may ask. Load is counted by where they are.
pub(super) fn somebody(visitor: Option<&Visitor>) -> Caller {
    Caller { role: Role::Viewer, name: visitor.map_or_else(|| "somebody".to_owned(), Visitor::whose) }
}

/// Who is let in.
pub struct Gate {
    access: Access,
    /// Names that this host is called by, in lower case.
    hosts: Vec<String>,
    /// Origins of web pages that may ask, in lower case.
    pages: Vec<String>,
    /// Whoever is elsewhere has to use TLS.
    tls: bool,
}

/// What comes in.
#[derive(Debug)]
pub enum Admitted {
    Caller(Caller),
    /// A browser asks whether one of the allowed pages may ask.
    Preflight,
}

/// An allowed page that a request is from.
pub struct Page(HeaderValue);

impl Gate {
    pub fn new(access: Access, hosts: Vec<String>, pages: Vec<String>, tls: bool) -> Arc<Self> {
        Arc::new(Self { access, hosts, pages, tls })
    }

    /// For root and the daemon's own user, by literal addresses.
    pub fn closed() -> Arc<Self> {
        let access = Access::new(crate::service::access::Rules::default(), Arc::new(Vec::new));
        Self::new(access, Vec::new(), Vec::new(), false)
    }

    /// # Errors
    /// For whoever may not ask at all, or not in this way.
    pub async fn admit(
        &self,
        method: &Method,
        headers: &HeaderMap,
        visitor: Option<&Visitor>,
    ) -> Result<Admitted, HttpError> {
        let host = self.host(headers)?;
        let tls = visitor.is_some_and(|visitor| visitor.peer.is_tls());
        origin::check(headers, &host, tls, &self.pages)?;
        if *method == Method::OPTIONS
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
            && self.page_of(headers).is_some()
        {
            return Ok(Admitted::Preflight);
        }
        self.caller(headers, visitor).await.map(Admitted::Caller)
    }

    /// What we were called: an address, `localhost`, or a name of ours. A web page can make any other name lead here, and its
    /// browser then takes us for the page's own host.
    fn host(&self, headers: &HeaderMap) -> Result<Authority, HttpError> {
        let mut values = headers.get_all(header::HOST).iter();
        let (value, None) = (values.next(), values.next()) else {
            return Err(HttpError::BadHead { why: "it has more than one Host header" });
        };
        let value = value.ok_or(HttpError::BadHead { why: "it has no Host header" })?;
        let text = value.to_str().unwrap_or_default();
        let authority: Option<Authority> = text.parse().ok().filter(|_| !text.contains('@'));
        let authority = authority.ok_or(HttpError::BadHead { why: "its Host header is malformed" })?;
        let host = authority.host();
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
        let ours = || self.hosts.iter().any(|name| name.eq_ignore_ascii_case(host));
        if literal || host.eq_ignore_ascii_case("localhost") || ours() {
            return Ok(authority);
        }
        Err(HttpError::Misdirected { host: host.chars().take(80).collect() })
    }

    /// A token that is shown decides alone: one that is not good is not made up for by anything else.
    async fn caller(&self, headers: &HeaderMap, visitor: Option<&Visitor>) -> Result<Caller, HttpError> {
        let peer = visitor.map(|visitor| &visitor.peer);
        if self.tls && !self.access.is_open() && peer.is_none_or(Peer::is_in_the_clear) {
            return Err(HttpError::InTheClear);
        }
        let refused = |why: &str| HttpError::TokenRefused { why: why.to_owned() };
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        match (given.next(), given.next()) {
            (None, _) => {}
            (Some(value), None) => {
                let words = value.to_str().ok().and_then(|text| text.trim().split_once(' '));
                let token = words.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
                let (_, token) = token.ok_or_else(|| refused("Authorization must read Bearer TOKEN."))?;
                let bearer = self.access.bearer(token.trim()).await.map_err(|error| refused(&error.to_string()))?;
                if let Some(visitor) = visitor {
                    visitor.bearer.get_or_init(|| bearer.name.clone());
                }
                return Ok(bearer);
            }
            (Some(_), Some(_)) => return Err(refused("Authorization must be given only once.")),
        }
        let Some(visitor) = visitor else {
            return Err(HttpError::Unauthenticated { why: "from nowhere".to_owned() });
        };
        let judged = visitor.judged.get_or_init(|| self.access.judge(&visitor.peer)).await;
        judged.clone().map_err(|why| {
            tracing::debug!(peer = ?visitor.peer, why, "not known");
            HttpError::Unauthenticated { why }
        })
    }

    /// How long what this caller has begun may last.
    pub(super) fn vigil(&self, caller: &Caller) -> Option<Vigil> {
        self.access.vigil(caller)
    }

    /// The allowed page that a request is from, if it is from one.
    pub fn page_of(&self, headers: &HeaderMap) -> Option<Page> {
        let origin = headers.get(header::ORIGIN)?;
        origin::is_allowed(origin, &self.pages).then(|| Page(origin.clone()))
    }

    /// What a browser is told before an allowed page asks.
    pub fn preflight(&self) -> Response {
        Reply::empty(StatusCode::NO_CONTENT)
            .header(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, DELETE")
            .header(
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, X-Request-Id",
            )
            .header(header::ACCESS_CONTROL_MAX_AGE, "600")
            .build()
    }

    /// What every answer says: that it is what it says that it is, and nobody's to keep.
    pub fn seal(&self, mut response: Response, page: Option<Page>) -> Response {
        const NOSNIFF: (HeaderName, HeaderValue) =
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        const NO_STORE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let headers = response.headers_mut();
        for (name, value) in [NOSNIFF, NO_STORE] {
            headers.insert(name, value);
        }
        if !self.pages.is_empty() {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(Page(origin)) = page {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let shown = HeaderValue::from_static(
                "Link, Location, Preference-Applied, Retry-After, Idempotency-Replayed, X-Request-Id",
            );
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in of.iter().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn we_are_called_by_address_localhost_or_a_name_of_ours() {
        let access = || Access::new(crate::service::access::Rules::default(), Arc::new(Vec::new));
        let gate = Gate::new(access(), vec!["vms.example".to_owned()], Vec::new(), false);
        let status = |hosts: &[&str]| {
            let hosts: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            gate.host(&headers(&hosts)).map_or_else(|error| error.status().as_u16(), |_| 200)
        };
        for good in ["127.0.0.1:8080", "[::1]:8080", "192.0.2.1", "localhost", "LocalHost:1", "VMs.example:443"] {
            assert_eq!(status(&[good]), 200, "{good}");
        }
        for other in ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert_eq!(status(&[other]), 421, "{other}");
        }
        for bad in [&[""][..], &[], &["localhost", "localhost"], &["a b"], &["user@localhost"]] {
            assert_eq!(status(bad), 400, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_visitor_whom_nobody_knows_is_not_let_in() {
        let gate = Gate::closed();
        let admitted = gate.admit(&Method::GET, &headers(&[("host", "localhost")]), None).await;
        assert!(matches!(admitted, Err(HttpError::Unauthenticated { .. })), "{admitted:?}");
        let root = Visitor::new(Peer::Local { uid: 0 });
        assert!(gate.admit(&Method::GET, &headers(&[("host", "localhost")]), Some(&root)).await.is_ok());
        // What else is shown does not make up for it.
        for bad in ["Bearer x", "Basic eDp5", "Bearer", ""] {
            let shown = headers(&[("host", "localhost"), ("authorization", bad)]);
            let admitted = gate.admit(&Method::GET, &shown, Some(&root)).await;
            assert!(matches!(admitted, Err(HttpError::TokenRefused { .. })), "{bad}: {admitted:?}");
        }
    }
}
