//! What guests on the user-mode network reach of this host: whoever carries them connects as the user of their VM, and so do these rules
//! know them. Nothing of the host itself and nothing link-local, where clouds keep what tells a machine its secrets; but name servers, which
//! are often there. Answers to who connected by a forward pass. Like all rules here they only ever refuse (docs/adr/0019, 0037).

use std::{
    collections::BTreeSet,
    fmt,
    future::pending,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{
    Inner, NetError, Network, Result,
    nft::{
        Base, Chain, ChainKind, Change, Events, Family, Hook, Kernel, Rule, Ruleset, TableName, diff, field::*, ifname,
    },
};
use crate::model::Uids;

const PATIENCE: Duration = Duration::from_secs(10);
/// Everything is looked at so often, also what should have been told.
const WHOLE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_secs(5);
/// Before others judge.
const FILTER: i32 = -10;
/// Bits of a connection's state: established, related.
const KNOWN: u32 = 2 | 4;
const TCP: [u8; 1] = [6];
const UDP: [u8; 1] = [17];
const DNS: [u8; 2] = [0, 53];
const V4: [u8; 1] = [2];
const V6: [u8; 1] = [10];

/// There for as long as somebody is on the user-mode network, over all lives of the daemon.
pub struct UserRules {
    kernel: Option<Kernel>,
    table: TableName,
    uids: OnceLock<Uids>,
    /// Who is, or may be.
    users: Mutex<BTreeSet<Uuid>>,
    /// Held by who changes the kernel: what it has, as far as is known.
    known: tokio::sync::Mutex<Option<bool>>,
}

impl UserRules {
    pub fn new(state: &str) -> Self {
        let kernel = Kernel::open().inspect_err(|error| tracing::debug!(%error, "cannot speak to nf_tables")).ok();
        Self {
            kernel,
            table: TableName { family: Family::Inet, name: format!("qherd_{state}_users") },
            uids: OnceLock::new(),
            users: Mutex::default(),
            known: tokio::sync::Mutex::default(),
        }
    }

    fn is_used(&self) -> bool {
        !self.users().is_empty()
    }

    /// Brings the kernel to what is wanted; `anew` where somebody may have changed that.
    async fn put(&self, anew: bool) -> Result<()> {
        timeout(PATIENCE, self.put_now(anew)).await.unwrap_or_else(|_| Err(failed("the kernel has not answered")))
    }

    async fn put_now(&self, anew: bool) -> Result<()> {
        let mut known = self.known.lock().await;
        let used = self.is_used();
        if *known == Some(used) && !anew {
            return Ok(());
        }
        let (Some(kernel), Some(uids)) = (&self.kernel, self.uids.get()) else {
            return Err(failed("the kernel has no nf_tables"));
        };
        let before = known.take();
        let there = kernel.read(std::slice::from_ref(&self.table)).await.map_err(failed)?;
        let wanted = if used { ruleset(&self.table, uids) } else { Ruleset::default() };
        let batch = diff(&there, &wanted);
        if before == Some(used) && !batch.is_empty() {
            tracing::warn!("somebody changed the rules of the user-mode network; putting them right");
        }
        kernel.apply(batch).await.map_err(failed)?;
        *known = Some(used);
        Ok(())
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn users(&self) -> MutexGuard<'_, BTreeSet<Uuid>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network {
    /// Whose users guests on the user-mode network have.
    pub fn users_are(&self, uids: &Uids) {
        let _ = self.0.user_rules.uids.set(uids.clone());
    }

    /// Somebody is on the user-mode network from now on, or may be: what he reaches of this host has bounds.
    ///
    /// # Errors
    /// [`NetError`], where the host cannot refuse him anything.
    pub async fn user_enters(&self, user: Uuid) -> Result<()> {
        self.user_is_there(user);
        self.0.netlink()?;
        self.0.user_rules.put(false).await
    }

    /// The same of one who was there before this daemon, and his rules with him.
    pub fn user_is_there(&self, user: Uuid) {
        self.0.user_rules.users().insert(user);
    }

    /// He is there no more, from this moment on: who comes back at once is not taken for gone.
    pub fn user_leaves(&self, user: Uuid) {
        if self.0.user_rules.users().remove(&user) {
            let net = self.clone();
            tokio::spawn(async move { net.tidy_user_rules().await });
        }
    }

    /// Brings the rules to who is there.
    pub async fn tidy_user_rules(&self) {
        if self.0.netlink().is_ok()
            && let Err(error) = self.0.user_rules.put(true).await
        {
            tracing::warn!(%error, "looking after the rules of the user-mode network");
        }
    }

    /// Whether guests on the user-mode network can be refused anything of this host: tries it.
    ///
    /// # Errors
    /// Why not.
    pub async fn check_user_rules(&self) -> Result<()> {
        let trial = Uuid::new_v4();
        let tried = self.user_enters(trial).await;
        // They stay until it is known who is there.
        self.0.user_rules.users().remove(&trial);
        tried
    }
}

/// Puts right what others do to the rules, for as long as the network is in use.
pub async fn follow(inner: Weak<Inner>) {
    let events = Events::open().inspect_err(|error| tracing::warn!(%error, "cannot follow nf_tables")).ok();
    loop {
        let next = async {
            match &events {
                Some(events) => match events.next().await {
                    Ok(changes) => changes,
                    Err(_) => {
                        sleep(AGAIN).await;
                        vec![Change::Anything]
                    }
                },
                None => pending().await,
            }
        };
        // An event may be lost.
        let changes = timeout(WHOLE, next).await.unwrap_or_else(|_| vec![Change::Anything]);
        let Some(inner) = inner.upgrade() else { return };
        let rules = &inner.user_rules;
        let ours = rules.kernel.as_ref().map(Kernel::port_id);
        let concerns = |change: &Change| match change {
            Change::Table { name, by, .. } => *name == rules.table && Some(*by) != ours,
            Change::Anything => true,
        };
        if changes.iter().any(concerns) && rules.is_used() {
            Network(inner.clone()).tidy_user_rules().await;
        }
    }
}

fn ruleset(table: &TableName, uids: &Uids) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let made = ruleset.table(table.family, &table.name);
    let last = uids.first() + (uids.count() - 1);
    let base = Some(Base { kind: ChainKind::Filter, hook: Hook::Output, priority: FILTER, drop: false });
    *made.chain("output") = Chain { base, rules: vec![Rule::when().between(SKUID, uids.first(), last).goto("users")] };
    made.chain("users").rules = vec![
        Rule::when().any(CT_STATE, KNOWN).leave(),
        Rule::when().is(L4PROTO, UDP).is(DPORT, DNS).leave(),
        Rule::when().is(L4PROTO, TCP).is(DPORT, DNS).leave(),
        // Every address of the host is behind this one.
        Rule::when().is(OIFNAME, ifname("lo")).reject(),
        Rule::when().is(NFPROTO, V4).masked(IP_DADDR, [255, 255, 0, 0], [169, 254, 0, 0]).reject(),
        Rule::when().is(NFPROTO, V6).masked(IP6_DADDR_START, [0xff, 0xc0], [0xfe, 0x80]).reject(),
        // The host hears what it sends to a group that it has joined, by whatever adapter it goes.
        Rule::when().is(NFPROTO, V4).masked(IP_DADDR, [240, 0, 0, 0], [224, 0, 0, 0]).reject(),
        Rule::when().is(NFPROTO, V6).masked(IP6_DADDR_START, [0xff, 0], [0xff, 0]).reject(),
    ];
    ruleset
}

fn failed(why: impl fmt::Display) -> NetError {
    NetError::failed("refuse guests on the user-mode network the host's own addresses", why)
}
