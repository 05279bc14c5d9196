//! Where a file may be: its URL as a client gives it, and the addresses that a server of it may have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::Url;

use super::FetchError;

/// Characters of a URL.
const LONGEST: usize = 2048;

/// A URL of a file, by http or https, in which nobody's password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(Url);

impl Place {
    /// # Errors
    /// [`FetchError::Unsuitable`].
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        if text.len() > LONGEST {
            return Err(unsuitable(format!("have at most {LONGEST} characters")));
        }
        let url = Url::parse(text).map_err(|error| {
            unsuitable(format!("be a URL such as https://images.example/disk.qcow2, and it is not: {error}"))
        })?;
        Self::of(url)
    }

    fn of(mut url: Url) -> Result<Self, FetchError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(unsuitable(format!("begin with https:// or http://, not {}:", url.scheme())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(unsuitable("hold no user name and no password, which everybody would see".to_owned()));
        }
        url.set_fragment(None);
        Ok(Self(url))
    }

    /// Where a redirect leads. From https it stays there, unless the sum of the file is known beforehand.
    pub(super) fn redirected(&self, location: &str, is_checked: bool) -> Result<Self, FetchError> {
        let elsewhere = |why: String| unsuitable(format!("lead to a file, but {} redirects {why}", self.host()));
        let url = self.0.join(location).map_err(|error| elsewhere(format!("to what is no URL: {error}")))?;
        let next = Self::of(url).map_err(|error| elsewhere(format!("to a URL that must {error}")))?;
        if self.0.scheme() == "https" && next.0.scheme() == "http" && !is_checked {
            return Err(elsewhere(format!(
                "from https to http ({}), where anybody on the way may change the file; give its sha256, or the URL of a \
                 server that does not",
                next.shown()
            )));
        }
        Ok(next)
    }

    /// As it may be shown and kept: what follows a `?` may let whoever knows it in.
    pub fn shown(&self) -> String {
        let mut url = self.0.clone();
        url.set_query(None);
        url.into()
    }

    /// Of the server, with its port where that is not the usual one.
    pub fn host(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    pub(super) fn is_by_tls(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The name or the address, without the brackets of the latter.
    pub(super) fn bare_host(&self) -> &str {
        self.0.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(80)
    }

    /// What its server is asked for.
    pub(super) fn target(&self) -> &str {
        &self.0[url::Position::BeforePath..url::Position::AfterQuery]
    }

    /// The name that the file has there.
    pub fn file_name(&self) -> Option<&str> {
        self.0.path_segments()?.next_back().filter(|name| !name.is_empty())
    }
}

fn unsuitable(must: String) -> FetchError {
    FetchError::Unsuitable(must)
}

/// Whether a server may have this address: a public one, or one that the administrator allows.
pub(super) fn is_allowed(address: IpAddr, allowed: &[IpNet]) -> bool {
    // An IPv4 address in the clothes of IPv6 is that address.
    let address = address.to_canonical();
    is_public(address) || allowed.iter().any(|network| network.contains(&address))
}

const fn v4(a: u8, b: u8, c: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// Of IANA's registry of special addresses: this host, private networks, those of carriers, loopback, link-local, protocols,
/// documentation, 6to4, measurements, multicast, and what is reserved.
const SPECIAL: [Ipv4Net; 15] = [
    v4(0, 0, 0, 8),
    v4(10, 0, 0, 8),
    v4(100, 64, 0, 10),
    v4(127, 0, 0, 8),
    v4(169, 254, 0, 16),
    v4(172, 16, 0, 12),
    v4(192, 0, 0, 24),
    v4(192, 0, 2, 24),
    v4(192, 88, 99, 24),
    v4(192, 168, 0, 16),
    v4(198, 18, 0, 15),
    v4(198, 51, 100, 24),
    v4(203, 0, 113, 24),
    v4(224, 0, 0, 4),
    v4(240, 0, 0, 4),
];
/// All that is given out of IPv6 is in here; link-local, unique local and NAT64 ones are not.
const GLOBAL: Ipv6Net = v6(0x2000, 0, 3);
/// Protocols (with Teredo, which hides an IPv4 address), documentation, 6to4 (which does as well), documentation.
const SPECIAL_6: [Ipv6Net; 4] = [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x2002, 0, 16), v6(0x3fff, 0, 20)];

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => GLOBAL.contains(&address) && !SPECIAL_6.iter().any(|network| network.contains(&address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_gone_to_unless_the_administrator_says_more() {
        let allowed = |text: &str, networks: &[IpNet]| is_allowed(text.parse().unwrap(), networks);
        for public in
            ["1.1.1.1", "9.255.255.255", "172.15.0.1", "172.32.0.1", "193.0.0.1", "2a01:4f8::1", "2606:4700::1"]
        {
            assert!(allowed(public, &[]), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a00:1",
            "2002:7f00:1::1",
            "2001:0:1::1",
            "2001:db8::1",
        ] {
            assert!(!allowed(other, &[]), "{other}");
        }
        let networks = ["10.1.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()];
        for (address, is_fine) in [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("10.2.0.1", false), ("::1", true)] {
            assert_eq!(allowed(address, &networks), is_fine, "{address}");
        }
    }

    #[test]
    fn a_url_leads_to_a_server_and_holds_no_secret_that_is_shown() {
        let place = Place::parse("https://images.example:8443/a/disk.qcow2?signature=secret#part").unwrap();
        assert_eq!(place.shown(), "https://images.example:8443/a/disk.qcow2");
        assert_eq!((place.host().as_str(), place.port()), ("images.example:8443", 8443));
        assert_eq!((place.target(), place.file_name()), ("/a/disk.qcow2?signature=secret", Some("disk.qcow2")));
        assert_eq!(Place::parse("http://[::1]/x").unwrap().bare_host(), "::1");
        for (text, said) in [
            ("", "be a URL"),
            ("disk.qcow2", "be a URL"),
            ("file:///etc/shadow", "begin with https"),
            ("ftp://a.example/x", "begin with https"),
            ("https://", "be a URL"),
            ("https://me:word@a.example/x", "no password"),
            ("https://me@a.example/x", "no user name"),
        ] {
            let error = Place::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert!(Place::parse(&format!("https://a.example/{}", "x".repeat(LONGEST))).is_err());
    }

    #[test]
    fn a_redirect_does_not_leave_https_unless_the_sum_is_known() {
        let place = Place::parse("https://a.example/dir/disk").unwrap();
        let to = |location, is_checked| place.redirected(location, is_checked).map(|place| place.shown());
        assert_eq!(to("../other", false).unwrap(), "https://a.example/other");
        assert_eq!(to("https://b.example/x", false).unwrap(), "https://b.example/x");
        assert_eq!(to("http://b.example/x", true).unwrap(), "http://b.example/x");
        assert!(to("http://b.example/x", false).unwrap_err().to_string().contains("from https to http"));
        assert!(to("file:///etc/shadow", true).unwrap_err().to_string().contains("begin with https"));
    }
}
