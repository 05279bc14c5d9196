//! A switch of each kind that matters, with ports of all sorts, for tests that break something of them.
#![allow(dead_code)] // Every test file uses its own part.

use qherd::model::{
    Bandwidth, ForwardId, Nic, Protocol, Subnet, Subnet6, Switch, SwitchForward, SwitchKind, SwitchPort,
};

use crate::{
    lab::{Lab, await_that, nic, nic_on, switch},
    support::netns::{Guest, Peer, ip},
};

pub struct Town {
    pub lab: Lab,
    peer: Peer,
    /// With NAT of both families, and port forwards.
    pub lan: Switch,
    /// The host takes no part in it.
    pub wan: Switch,
    /// The host shares it.
    pub shared: Switch,
    /// Two on the first, one on the second, two on the third.
    pub nics: Vec<Nic>,
    guests: Vec<Guest>,
}

/// A switch of each kind that matters, with ports of all sorts.
pub async fn town() -> Town {
    let lab = Lab::new().await;
    let peer = Peer::new();
    peer.connect("up0", "up1");
    peer.connect("up2", "up3");
    ip("addr add 192.0.2.9/32 dev lo");
    let mut subnet = Subnet::parse("10.77.0.0/24", true).unwrap();
    subnet.ipv6 = Some(Subnet6::parse("fd77::/64", true).unwrap());
    let mut lan = switch(SwitchKind::Internal { subnet: Some(subnet) });
    let web = nic_on(&lan, Some([10, 77, 0, 2].into()));
    let forward = |host_address: Option<[u8; 4]>, host_port| SwitchForward {
        id: ForwardId::random(),
        protocol: Protocol::Tcp,
        host_address: host_address.map(Into::into),
        host_port,
        nic: web.id,
        guest_port: 80,
    };
    lan.forwards = vec![forward(None, 8080), forward(Some([192, 0, 2, 9]), 8081)];
    lab.net.put_switch(&lan, None).await.unwrap();
    let external = |adapter: &str, allow_management_os| SwitchKind::External {
        adapter: adapter.into(),
        allow_management_os,
        dhcp: false,
    };
    let (wan, shared) = (lab.switch(external("up0", false)).await, lab.switch(external("up2", true)).await);
    let limited = SwitchPort {
        isolated: true,
        bandwidth: Bandwidth { inbound: Some(80_000_000), outbound: Some(8_000_000) },
        address: Some([10, 77, 0, 3].into()),
        ..SwitchPort::on(lan.id)
    };
    let free = SwitchPort { allow_spoofing: true, ..SwitchPort::on(shared.id) };
    let nics = vec![web, nic(limited), nic_on(&wan, None), nic(free), nic_on(&shared, None)];
    let mut guests = Vec::new();
    for nic in &nics {
        guests.push(lab.guest(nic).await);
    }
    // Which the kernel gives a bridge that has a carrier.
    let own = || ip(&format!("-6 addr show dev {}", shared.bridge())).contains("fe80::");
    await_that("the bridge has its link-local address", own).await;
    Town { lab, peer, lan, wan, shared, nics, guests }
}

impl Town {
    pub async fn close(self) {
        for nic in &self.nics {
            self.lab.net.unplug(nic).await.unwrap();
        }
        drop(self.guests);
        for external in [&self.wan, &self.shared] {
            self.lab.net.remove_switch(external, None).await.unwrap();
        }
        ip("link del up0");
        ip("link del up2");
        drop(self.peer);
        self.lab.close(&[&self.lan]).await;
    }
}
