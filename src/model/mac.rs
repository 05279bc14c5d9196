//! Hardware addresses of NICs.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A MAC address that a NIC can have, `52:54:00:ab:cd:ef` when written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// A random address with QEMU's prefix 52:54:00 (ruling 32); that it is unique on this host is the registry's care.
    pub fn random() -> Self {
        let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
        Self([0x52, 0x54, 0, a, b, c])
    }

    /// Reads six bytes in hexadecimal, apart by `:` or `-`, or all in one as the Hyper-V dialect writes them. Addresses of
    /// groups and the one of zeros are nobody's.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = match text.len() {
            12 => text.to_owned(),
            17 => {
                let apart = if text.contains('-') { '-' } else { ':' };
                let parts: Vec<&str> = text.split(apart).collect();
                (parts.len() == 6 && parts.iter().all(|part| part.len() == 2)).then(|| parts.concat())?
            }
            _ => return None,
        };
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let value = u64::from_str_radix(&digits, 16).ok()?;
        let [_, _, bytes @ ..] = value.to_be_bytes();
        (bytes[0] & 1 == 0 && value != 0).then_some(Self(bytes))
    }

    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for MacAddr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is not the MAC address of a NIC"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_survives_writing_and_reading() {
        let mac = MacAddr::random();
        let text = String::from(mac);
        assert!(text.starts_with("52:54:00:") && text.len() == 17, "{text}");
        assert_eq!(MacAddr::try_from(text).unwrap(), mac);
        let own = MacAddr::parse("00:16:3e:2b:8a:9d").unwrap();
        for same in ["00163E2B8A9D", "00-16-3E-2B-8A-9D", "00:16:3e:2B:8a:9D"] {
            assert_eq!(MacAddr::parse(same), Some(own), "{same}");
        }
        let bad = [
            "",
            "52:54:00:1:2",
            "52:54:00:01:02:03:04",
            "52:54:00:zz:02:03",
            "52:54:00:+1:02:03",
            "5254000102",
            "0052:5400:0102",
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "52:54-00:01-02:03",
            "52é4:00:01:02:03",
        ];
        for bad in bad {
            assert_eq!(MacAddr::parse(bad), None, "{bad}");
        }
    }
}
