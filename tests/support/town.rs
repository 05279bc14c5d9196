//! A switch of each kind that matters, with ports of all sorts, for tests that break something of them.
#![allow(dead_code)] // Every test file uses its own part.

use qherd::model::{Bandwidth, Nic, Switch, SwitchKind, SwitchPort};

use crate::{
    lab::{Lab, nic, nic_on},
    support::netns::{Guest, Peer, ip},
};

pub struct Town {
    pub lab: Lab,
    peer: Peer,
    pub lan: Switch,
    pub wan: Switch,
    pub nics: Vec<Nic>,
    guests: Vec<Guest>,
}

/// A switch of each kind that matters, with ports of all sorts.
pub async fn town() -> Town {
    let lab = Lab::new().await;
    let peer = Peer::new();
    peer.connect("up0", "up1");
    let lan = lab.internal("10.77.0.0/24", true).await;
    let wan = lab.switch(SwitchKind::External { adapter: "up0".into(), allow_management_os: false, dhcp: false }).await;
    let limited = SwitchPort {
        isolated: true,
        bandwidth: Bandwidth { inbound: Some(80_000_000), outbound: Some(8_000_000) },
        address: Some([10, 77, 0, 3].into()),
        ..SwitchPort::on(lan.id)
    };
    let nics = vec![nic_on(&lan, Some([10, 77, 0, 2].into())), nic(limited), nic_on(&wan, None)];
    let mut guests = Vec::new();
    for nic in &nics {
        guests.push(lab.guest(nic).await);
    }
    Town { lab, peer, lan, wan, nics, guests }
}

impl Town {
    pub async fn close(self) {
        for nic in &self.nics {
            self.lab.net.unplug(nic).await.unwrap();
        }
        drop(self.guests);
        self.lab.net.remove_switch(&self.wan, None).await.unwrap();
        ip("link del up0");
        drop(self.peer);
        self.lab.close(&[&self.lan]).await;
    }
}
