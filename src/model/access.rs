//! Who may do what: roles, and the settings that give them. Who somebody is, is found out in `service::access`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a caller may do; each may also do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Makes, changes, starts, stops and removes VMs, and reads what their consoles say.
    Operator,
    /// Also changes the host: its switches.
    Admin,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// What the host said when something failed, as this role may read it: paths of the host are for who works with it.
    pub fn shown(self, said: String) -> String {
        match said.contains('/') && self < Self::Operator {
            true => "Why is told to operators, as it may name paths of this host.".to_owned(),
            false => said,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| format!("the role must be viewer, operator or admin, not {text:?}"))
    }
}

/// Whom a setting speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A user of this host, by name or number.
    User(String),
    /// The members of a group of this host.
    Group(String),
    /// Whoever shows a certificate with this DNS name.
    Certificate(String),
}

/// `WHO=ROLE`, as in `user:alice=operator`, `group:vms=admin` and `certificate:ci.example=viewer`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Grant {
    pub who: Who,
    pub role: Role,
}

impl TryFrom<String> for Grant {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Grant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(who, role)| Some((who.split_once(':')?, role)));
        let who = |sort: &str, name: &str| match sort {
            _ if name.is_empty() => None,
            "user" => Some(Who::User(name.to_owned())),
            "group" => Some(Who::Group(name.to_owned())),
            "certificate" => Some(Who::Certificate(name.to_ascii_lowercase())),
            _ => None,
        };
        let found = parts.and_then(|((sort, name), role)| Some((who(sort, name)?, role)));
        let (who, role) = found.ok_or_else(|| {
            format!(
                "{text:?} must read user:NAME=ROLE, group:NAME=ROLE or certificate:NAME=ROLE, such as user:alice=viewer"
            )
        })?;
        Ok(Self { who, role: role.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_says_who_and_what() {
        let of = |text: &str| text.parse::<Grant>().map(|grant| (grant.who, grant.role));
        assert_eq!(of("user:alice=viewer"), Ok((Who::User("alice".into()), Role::Viewer)));
        assert_eq!(of("user:1000=operator"), Ok((Who::User("1000".into()), Role::Operator)));
        assert_eq!(of("group:vms=admin"), Ok((Who::Group("vms".into()), Role::Admin)));
        assert_eq!(of("certificate:CI.example=viewer"), Ok((Who::Certificate("ci.example".into()), Role::Viewer)));
        for bad in ["alice=viewer", "user:=viewer", "user:alice", "uid:1=viewer", "user:alice=root", ""] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_role_may_what_those_before_it_may() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
        assert!(Role::ALL.iter().all(|role| role.as_str().parse() == Ok(*role)));
    }
}
