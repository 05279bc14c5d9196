//! Who asks: what the other end of a connection may do, and what a token lets its bearer do (docs/adr/0025). What a request
//! needs is said by its route; HTTP is not known here.

pub mod tokens;
mod users;
mod vigil;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tokens::{TokenError, Tokens};
pub use vigil::Vigil;
use vigil::Vigils;

use crate::{
    host::{
        relay::Relays,
        sock_diag::{self, Owner},
    },
    model::{Grant, Role, Uids, Who},
};

/// The other end of a connection, as far as the connection tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Of a Unix socket; the kernel vouches for it.
    Local {
        uid: u32,
    },
    Tcp {
        theirs: SocketAddr,
        ours: SocketAddr,
        tls: Option<TlsPeer>,
    },
}

/// What the other end of a TLS connection has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsPeer {
    /// Of a certificate that one of the configured authorities has signed: its DNS names.
    pub names: Vec<String>,
}

impl Peer {
    /// From this host, as far as the addresses tell.
    fn is_local(&self) -> bool {
        match self {
            Self::Local { .. } => true,
            Self::Tcp { theirs, ours, .. } => {
                let (theirs, ours) = (theirs.ip().to_canonical(), ours.ip().to_canonical());
                theirs.is_loopback() || theirs == ours
            }
        }
    }

    /// What is said on it can be read on the way.
    pub fn is_in_the_clear(&self) -> bool {
        matches!(self, Self::Tcp { tls: None, .. }) && !self.is_local()
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: Some(_), .. })
    }
}

/// Somebody who may ask for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub role: Role,
    /// `uid 0`, `token 9f3c…`, `certificate ci.example`, `anybody`.
    pub name: String,
}

/// What the bearer of a token is called, before the token's id.
const TOKEN: &str = "token ";

/// A role, or why there is none.
pub type Judgement = Result<Caller, String>;

/// What the settings say of callers.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub grants: Vec<Grant>,
    /// Whoever reaches the address may do everything.
    pub open: bool,
    /// Users that only VMs run as.
    pub vm_uids: Uids,
    /// Where tokens are kept.
    pub tokens: PathBuf,
    /// The program that VMs are started with.
    pub qemu: PathBuf,
}

/// Processes of VMs.
pub type Processes = Arc<dyn Fn() -> Vec<i32> + Send + Sync>;

/// The judge.
pub struct Access {
    grants: Vec<Grant>,
    open: bool,
    vm_uids: Uids,
    tokens: Tokens,
    vigils: Vigils,
    relays: Relays,
    processes: Processes,
}

impl Access {
    pub fn new(rules: Rules, processes: Processes) -> Self {
        let tokens = Tokens::at(rules.tokens);
        Self {
            grants: rules.grants,
            open: rules.open,
            vigils: Vigils::new(tokens.clone()),
            tokens,
            relays: Relays::new(&rules.qemu, rules.vm_uids.clone()),
            vm_uids: rules.vm_uids,
            processes,
        }
    }

    /// Whoever reaches the address may do everything.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// What somebody may do who shows no token.
    pub async fn judge(&self, peer: &Peer) -> Judgement {
        let judged = match peer {
            Peer::Local { uid } => self.user(*uid).await,
            Peer::Tcp { tls: Some(TlsPeer { names }), .. } if !names.is_empty() => self.certificate(names),
            Peer::Tcp { theirs, ours, .. } if peer.is_local() => self.neighbour(*theirs, *ours).await,
            Peer::Tcp { .. } => Err("from another host".to_owned()),
        };
        match judged {
            Err(_) if self.open => Ok(Caller { role: Role::Admin, name: "anybody".to_owned() }),
            judged => judged,
        }
    }

    /// What the bearer of a token may do. Looked up anew each time: whatever was made or revoked counts at once.
    ///
    /// # Errors
    /// What is wrong with the token.
    pub async fn bearer(&self, token: &str) -> Result<Caller, TokenError> {
        let (tokens, token) = (self.tokens.clone(), token.to_owned());
        let found = tokio::task::spawn_blocking(move || tokens.check(&token)).await;
        let found = found.map_err(|error| TokenError::Unreadable(error.to_string()))??;
        Ok(Caller { role: found.role, name: format!("{TOKEN}{}", found.id) })
    }

    /// How long what this caller has begun may last; none where that is for as long as its connection does.
    pub fn vigil(&self, caller: &Caller) -> Option<Vigil> {
        caller.name.strip_prefix(TOKEN).map(|id| self.vigils.of(id))
    }

    /// A process of this host, by its end of the connection. Asked before and after the look at who speaks for others:
    /// in between the socket was open all the time, so that the look could not miss it.
    async fn neighbour(&self, theirs: SocketAddr, ours: SocketAddr) -> Judgement {
        let owner = || -> Result<Owner, String> {
            match sock_diag::owner(theirs, ours) {
                Ok(found) => found.ok_or_else(|| "from no process that this host can name".to_owned()),
                Err(error) => {
                    tracing::warn!(%error, "cannot tell whose connection this is");
                    Err(format!("the kernel does not tell whose connection this is ({error})"))
                }
            }
        };
        let found = owner()?;
        let caller = self.user(found.uid).await?;
        let relayed = self.relays.sockets((self.processes)()).await;
        if relayed.map_err(|error| format!("cannot look into /proc ({error})"))?.contains(&found.inode) {
            return Err("from a guest, or another program that speaks for others".to_owned());
        }
        if owner()? != found {
            return Err("from a process that has gone away".to_owned());
        }
        Ok(caller)
    }

    async fn user(&self, uid: u32) -> Judgement {
        let name = format!("uid {uid}");
        if self.vm_uids.contains(uid) {
            return Err(format!("{name} is that of a VM"));
        }
        if uid == 0 || uid == rustix::process::geteuid().as_raw() {
            return Ok(Caller { role: Role::Admin, name });
        }
        let of_users = |grant: &&Grant| !matches!(grant.who, Who::Certificate(_));
        let grants: Vec<Grant> = self.grants.iter().filter(of_users).cloned().collect();
        // The user database may be on another host.
        let role = match grants.is_empty() {
            true => None,
            false => tokio::task::spawn_blocking(move || users::role(uid, &grants)).await.unwrap_or(None),
        };
        role.map(|role| Caller { role, name: name.clone() }).ok_or_else(|| format!("{name} has no role here"))
    }

    fn certificate(&self, names: &[String]) -> Judgement {
        let granted = self.grants.iter().filter_map(|grant| match &grant.who {
            Who::Certificate(name) if names.contains(name) => Some((grant.role, name)),
            _ => None,
        });
        match granted.max_by_key(|(role, _)| *role) {
            Some((role, name)) => Ok(Caller { role, name: format!("certificate {name}") }),
            None => Err(format!("the certificate of {} has no role here", names.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(grants: &[&str], open: bool) -> Access {
        let grants = grants.iter().map(|grant| grant.parse().unwrap()).collect();
        let rules = Rules { grants, open, vm_uids: "200000-200999".parse().unwrap(), ..Rules::default() };
        Access::new(rules, Arc::new(Vec::new))
    }

    fn role(judged: Judgement) -> Option<Role> {
        judged.ok().map(|caller| caller.role)
    }

    #[tokio::test]
    async fn users_have_the_roles_that_they_were_given_and_vms_none() {
        let access =
            access(&["user:4711=viewer", "user:nobody=operator", "user:200005=admin", "user:4711=operator"], false);
        for (uid, expected) in [
            (0, Some(Role::Admin)),
            (4711, Some(Role::Operator)),
            (65534, Some(Role::Operator)),
            (4712, None),
            (200_005, None),
        ] {
            assert_eq!(role(access.judge(&Peer::Local { uid }).await), expected, "{uid}");
        }
    }

    #[tokio::test]
    async fn who_comes_from_elsewhere_needs_a_certificate_with_a_role() {
        let access = access(&["certificate:ci.example=operator"], false);
        let of = async |theirs: &str, tls: Option<&str>| {
            let names = |name: &str| TlsPeer { names: name.split_whitespace().map(str::to_owned).collect() };
            let (theirs, ours) = (theirs.parse().unwrap(), "192.0.2.1:8080".parse().unwrap());
            role(access.judge(&Peer::Tcp { theirs, ours, tls: tls.map(names) }).await)
        };
        assert_eq!(of("192.0.2.2:1000", None).await, None);
        assert_eq!(of("192.0.2.2:1000", Some("")).await, None);
        assert_eq!(of("192.0.2.2:1000", Some("other.example")).await, None);
        assert_eq!(of("192.0.2.2:1000", Some("other.example ci.example")).await, Some(Role::Operator));
        // An address of this host, and no such connection.
        assert_eq!(of("192.0.2.1:1000", None).await, None);
    }

    #[tokio::test]
    async fn where_nobody_is_to_be_refused_nobody_is() {
        let access = access(&[], true);
        assert_eq!(role(access.judge(&Peer::Local { uid: 4711 }).await), Some(Role::Admin));
    }

    #[test]
    fn this_host_is_known_by_its_addresses() {
        let peer = |theirs: &str, ours: &str| Peer::Tcp {
            theirs: theirs.parse().unwrap(),
            ours: ours.parse().unwrap(),
            tls: None,
        };
        assert!(peer("127.0.0.1:1", "127.0.0.2:2").is_local());
        assert!(peer("[::ffff:127.0.0.1]:1", "[::ffff:127.0.0.1]:2").is_local());
        assert!(peer("192.0.2.1:1", "192.0.2.1:2").is_local());
        assert!(peer("192.0.2.2:1", "192.0.2.1:2").is_in_the_clear());
    }
}
