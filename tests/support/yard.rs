//! A yard for rules: bridges and taps made by hand in a namespace of the test's own, with the rules of `net::rules` over
//! them and nothing else of the daemon. A guest is raw frames through a tap, or a namespace with a network stack.
#![allow(dead_code)] // Every test file uses its own part.

use std::{
    fs::OpenOptions,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use qherd::{
    model::{Nic, Subnet, Switch, SwitchKind, SwitchPort},
    net::{
        nft::{Kernel, Ruleset, diff},
        rules::{self, OnHost, refused, ruleset},
    },
};

pub use super::parts::arrives;
use super::{
    netns::{Guest, Host, Peer, ip},
    parts,
};

pub const STATE: &str = "0123abcd";

pub struct Yard {
    pub host: Host,
    pub kernel: Kernel,
    pub switches: Vec<Switch>,
    /// Addresses of the host on a switch, beside those of its subnet.
    pub more: Vec<IpAddr>,
    pub nics: Vec<Nic>,
}

impl Yard {
    pub fn new() -> Self {
        let host = Host::leave();
        let kernel = Kernel::open().unwrap();
        Self { host, kernel, switches: Vec::new(), more: Vec::new(), nics: Vec::new() }
    }

    pub fn switch(&mut self, kind: SwitchKind) -> Switch {
        let switch = parts::switch(kind);
        let bridge = switch.bridge();
        ip(&format!("link add {bridge} type bridge mcast_snooping 0"));
        ip(&format!("link set {bridge} up"));
        if let Some(subnet) = switch.subnet() {
            ip(&format!("addr add {}/{} dev {bridge}", subnet.gateway(), subnet.prefix));
        }
        self.switches.push(switch.clone());
        switch
    }

    pub fn natted(&mut self, subnet: &str) -> Switch {
        self.switch(SwitchKind::Internal { subnet: Some(Subnet::parse(subnet, true).unwrap()) })
    }

    /// What the rules are to be.
    pub fn wanted(&self) -> Ruleset {
        let hosts: Vec<Vec<IpAddr>> = self.switches.iter().map(|switch| self.addresses(switch)).collect();
        let on: Vec<_> = self.switches.iter().zip(&hosts).map(|(switch, host)| OnHost { switch, host }).collect();
        ruleset(STATE, &on, &self.nics)
    }

    fn addresses(&self, switch: &Switch) -> Vec<IpAddr> {
        let own = switch.subnet().map(|subnet| IpAddr::V4(subnet.gateway()));
        own.into_iter().chain(self.more.iter().copied()).collect()
    }

    /// Brings the kernel to it.
    pub async fn put(&self) {
        let is = self.kernel.read(&rules::tables(STATE)).await.unwrap();
        self.kernel.apply(diff(&is, &self.wanted())).await.unwrap();
    }

    /// A port with raw frames.
    pub async fn guest(&mut self, port: SwitchPort) -> (Nic, Guest) {
        let nic = self.plug(port).await;
        let tap = tap(&nic.tap());
        self.join(&nic);
        let guest = Guest::new(tap, &nic.mac.to_string());
        (nic, guest)
    }

    /// A port with a network stack behind it, whose adapter is `eth0` with `address`.
    pub async fn machine(&mut self, port: SwitchPort, address: &str, gateway: Option<Ipv4Addr>) -> (Nic, Peer) {
        let nic = self.plug(port).await;
        let peer = Peer::new();
        peer.connect(&nic.tap(), "eth0");
        // Down, so that its IPv6 address is made of this one.
        peer.ip("link set eth0 down");
        peer.ip(&format!("link set eth0 address {} up", nic.mac));
        peer.ip(&format!("addr add {address} dev eth0"));
        if let Some(gateway) = gateway {
            peer.ip(&format!("route add default via {gateway}"));
        }
        self.join(&nic);
        (nic, peer)
    }

    async fn plug(&mut self, port: SwitchPort) -> Nic {
        let nic = parts::nic(port);
        self.nics.push(nic.clone());
        self.put().await;
        nic
    }

    fn join(&self, nic: &Nic) {
        let switch = self.switches.iter().find(|switch| Some(switch.id) == nic.switch()).unwrap();
        // The host has no IPv6 address of its own on a tap.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", nic.tap()), "1").unwrap();
        ip(&format!("link set {} master {} up", nic.tap(), switch.bridge()));
    }

    pub async fn refused(&self, nic: &Nic) -> u64 {
        refused(&self.kernel, STATE).await.unwrap().unwrap().of(nic).unwrap()
    }

    /// That a frame from one guest does not reach the other, and that it is counted.
    pub async fn refuses(&self, (nic, from): (&Nic, &Guest), own: [u8; 4], to: &Guest, frame: &[u8], what: &str) {
        let before = self.refused(nic).await;
        assert!(!arrives(from, own, to, frame).await, "{what} passes");
        assert_eq!(self.refused(nic).await, before + 1, "{what} is not counted");
    }
}

/// A tap with one queue, as QEMU gets it.
pub fn tap(name: &str) -> OwnedFd {
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    // IFF_TAP, IFF_NO_PI, IFF_VNET_HDR.
    request[16..18].copy_from_slice(&(0x0002u16 | 0x1000 | 0x4000).to_ne_bytes());
    // SAFETY: the request is a struct ifreq.
    assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) }, 0, "{name}");
    file.into()
}

use nix::libc;
