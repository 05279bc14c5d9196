//! A `Network` in a network namespace of the test's own, without a daemon around it.
#![allow(dead_code, unused_imports)] // Every test file uses its own part.

use std::{ops::Deref, time::Duration};

use qherd::{
    model::{Nic, Subnet, Switch, SwitchKind},
    net::Network,
};
use tempfile::TempDir;

pub use crate::support::parts::{nic, nic_on, switch};
use crate::support::{
    PATIENCE, end_networks_below,
    netns::{Guest, Host, ip, ip_json, nft},
    network_mark,
};

pub struct Lab {
    pub host: Host,
    pub dir: StateDir,
    pub net: Network,
}

/// A state directory, and what goes with it, also when a test fails: a dnsmasq outlives whoever started it.
pub struct StateDir(TempDir);

impl Deref for StateDir {
    type Target = TempDir;

    fn deref(&self) -> &TempDir {
        &self.0
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        end_networks_below(self.0.path());
    }
}

impl Lab {
    pub async fn new() -> Self {
        let host = Host::leave();
        let dir = StateDir(tempfile::Builder::new().prefix("qherd-test-").tempdir().unwrap());
        let net = Network::open(dir.path()).await;
        net.available().unwrap();
        Self { host, dir, net }
    }

    pub async fn internal(&self, subnet: &str, nat: bool) -> Switch {
        let subnet = Subnet::parse(subnet, nat).unwrap();
        self.switch(SwitchKind::Internal { subnet: Some(subnet) }).await
    }

    pub async fn switch(&self, kind: SwitchKind) -> Switch {
        let switch = switch(kind);
        self.net.put_switch(&switch, None).await.unwrap();
        switch
    }

    pub async fn guest(&self, nic: &Nic) -> Guest {
        let mut queues = self.net.plug(nic).await.unwrap();
        Guest::new(queues.remove(0), &nic.mac.to_string())
    }

    /// Waits until a switch tells of a problem with all these words, which is returned, or of none.
    pub async fn await_problem(&self, switch: &Switch, words: &[&str]) -> String {
        let reported = async {
            loop {
                let problem = self.net.problem(switch.id);
                match problem {
                    None if words.is_empty() => return String::new(),
                    Some(reported) if !words.is_empty() && words.iter().all(|word| reported.contains(word)) => {
                        return reported;
                    }
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let reported = tokio::time::timeout(PATIENCE, reported).await;
        reported.unwrap_or_else(|_| panic!("{words:?}, not {:?}", self.net.problem(switch.id)))
    }

    /// Removes everything; nothing of ours is left, here or on the host.
    pub async fn close(self, switches: &[&Switch]) {
        for switch in switches {
            self.net.remove_switch(switch, None).await.unwrap();
        }
        let links = ip_json("link");
        let links: Vec<_> = links.as_array().unwrap().iter().map(|link| link["ifname"].as_str().unwrap()).collect();
        assert!(!links.iter().any(|name| name.starts_with("qh")), "{links:?}");
        assert!(!nft("list ruleset").contains("qherd"), "{}", nft("list ruleset"));
        let left: Vec<_> = std::fs::read_dir(self.dir.path().join("net")).unwrap().flatten().collect();
        assert!(left.iter().all(|entry| entry.path().is_file()), "{left:?}");
        assert!(!std::path::Path::new("/run/qherd").join(network_mark(self.dir.path())).exists());
        self.host.assert_untouched();
    }
}

/// Waits until something holds.
pub async fn await_that(what: &str, is: impl Fn() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    waited.unwrap_or_else(|_| panic!("{what}\n{}\n{}", ip("-d link"), ip("addr")));
}
