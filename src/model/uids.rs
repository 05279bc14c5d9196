//! The users of the host that VMs run as.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::Deserialize;

/// The numbers that children's users are taken from; their groups have the same.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Uids(RangeInclusive<u32>);

impl Default for Uids {
    /// Above what distributions, systemd and directory services give out.
    fn default() -> Self {
        Self(2_100_000_000..=2_100_065_535)
    }
}

impl Uids {
    pub fn contains(&self, uid: u32) -> bool {
        self.0.contains(&uid)
    }

    pub fn first(&self) -> u32 {
        *self.0.start()
    }

    pub fn count(&self) -> u32 {
        self.0.end() - self.0.start() + 1
    }
}

impl fmt::Display for Uids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

impl TryFrom<String> for Uids {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Uids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match numbers {
            Some((first, last)) if first <= last && first >= 1000 && last < u32::MAX => Ok(Self(first..=last)),
            _ => Err(format!("{text} is no range of user ids such as 2100000000-2100065535, from 1000 on")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_and_root_is_in_none() {
        let uids: Uids = "5000-5001".parse().unwrap();
        assert!(uids.contains(5000) && uids.contains(5001) && !uids.contains(5002) && !uids.contains(0));
        for text in ["", "5", "0-7", "7-5000", "5001-5000", "5000-4294967295", "5000-x", "-1-5000"] {
            assert!(text.parse::<Uids>().is_err(), "{text}");
        }
    }
}
