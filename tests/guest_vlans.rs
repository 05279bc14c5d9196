//! VLANs of External switches, in a kernel whose bridges can keep them apart: frames through real taps, a real bridge, and a
//! wire behind its adapter.

#[path = "support/kernel.rs"]
mod kernel;
#[path = "support/lab.rs"]
mod lab;
mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lab::{Lab, nic};
use qherd::{
    model::{Nic, NicBackend, Switch, SwitchKind, SwitchPort},
    net::{Network, PortHealth},
};
use support::{
    PATIENCE,
    netns::{BROADCAST, Guest, Peer, arp, ethernet, icmp6, ip, ip_json, udp},
    yard,
};

const WIRE: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Of what only markers are of (IEEE 802, local experiments).
const MARK: u16 = 0x88b5;

#[test]
fn vlans_are_kept_apart_on_the_wire_and_between_guests() {
    kernel::run_inside("inside", &["ip", "nft", "bridge"]);
}

#[tokio::test]
#[ignore = "runs in a kernel of its own"]
async fn inside() {
    kernel::enter();
    let begun = Instant::now();
    let step = |what: &str| println!("{:6.1} s: {what}", begun.elapsed().as_secs_f64());
    let lab = Lab::new().await;
    let peer = Peer::new();
    peer.connect("up0", "wire0");
    peer.ip("link add br0 type bridge mcast_snooping 0");
    let wire = peer.within(|| yard::tap("wire1")).join().unwrap();
    for device in ["wire0", "wire1"] {
        peer.ip(&format!("link set {device} master br0 up"));
    }
    peer.ip("link set br0 up");
    let wire = Guest::new(wire, "02:00:00:00:00:09");

    let lan = lab::switch(SwitchKind::External { adapter: "up0".into(), allow_management_os: false, dhcp: false });
    lab.net.survey(&lan, None).await.unwrap();
    lab.net.put_switch(&lan, None).await.unwrap();
    lab.net.sweep(&[lan.id], &[]).await.unwrap();
    lab.net.check_vlans().unwrap();
    let port = |last: u8, vlan, trunk: &[u16]| {
        let address = (last != 0).then(|| [10, 0, 0, last].into());
        nic(SwitchPort { address, vlan, trunk: trunk.to_vec(), ..SwitchPort::on(lan.id) })
    };
    let mut nics = BTreeMap::new();
    let mut guests = BTreeMap::new();
    for (name, nic) in [
        ("plain", port(1, None, &[])),
        ("ten", port(2, Some(10), &[])),
        ("tenth", port(3, Some(10), &[])),
        // The address of another in another VLAN.
        ("twenty", port(2, Some(20), &[])),
        ("trunk", port(0, None, &[10, 20])),
    ] {
        guests.insert(name, lab.guest(&nic).await);
        nics.insert(name, nic);
    }
    let mut yard = Yard { lab, lan, wire, nics, guests };
    step("each hears its own");
    yard.each_hears_its_own().await;
    step("attacks");
    yard.attacks_are_refused().await;
    step("live changes");
    yard.a_nic_moves_while_it_is_plugged().await;
    step("mending");
    yard.what_is_changed_by_hand_is_mended().await;
    step("another daemon");
    let yard = yard.a_new_daemon_leaves_it_as_it_is().await;
    step("the end");
    yard.without_vlans_nothing_is_kept_apart().await;
}

struct Yard {
    lab: Lab,
    lan: Switch,
    wire: Guest,
    nics: BTreeMap<&'static str, Nic>,
    guests: BTreeMap<&'static str, Guest>,
}

fn tagged(vlan: u16, frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &vlan.to_be_bytes(), &frame[12..]].concat()
}

/// Who hears a frame, and in which form: without a tag, or with this one.
type Heard = BTreeMap<&'static str, Option<u16>>;

fn heard<const N: usize>(who: [(&'static str, Option<u16>); N]) -> Heard {
    who.into()
}

impl Yard {
    /// Sends a frame and says who of the others hears it. `bare` is the frame without its tag.
    async fn hear(&self, from: &str, frame: &[u8], bare: &[u8]) -> Heard {
        self.of(from).send(frame);
        let mut all = Heard::new();
        for name in self.guests.keys().copied().chain(["wire"]).filter(|name| *name != from) {
            let seen = self.up_to_a_marker(name).await;
            let form = |seen: &Vec<u8>| {
                if seen.starts_with(bare) {
                    return Some(None);
                }
                let tag = u16::from_be_bytes(seen.get(14..16)?.try_into().ok()?);
                seen.starts_with(&tagged(tag, bare)).then_some(Some(tag))
            };
            all.extend(seen.iter().find_map(form).map(|form| (name, form)));
        }
        all
    }

    fn of(&self, name: &str) -> &Guest {
        self.guests.get(name).unwrap_or(&self.wire)
    }

    /// What somebody has heard before a frame that is known to come through.
    async fn up_to_a_marker(&self, name: &str) -> Vec<Vec<u8>> {
        static SERIAL: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if name == "wire" {
            let plain = &self.guests["plain"];
            let marker = arp(plain.mac, plain.mac, [10, 0, 0, 1], [192, 0, 2, serial]);
            plain.send(&marker);
            return self.wire.until(|seen| seen.starts_with(&marker)).await;
        }
        let marker = ethernet(BROADCAST, WIRE, MARK, &[serial; 4]);
        let port = self.nics[name].port().unwrap();
        match port.vlan.or(port.trunk.first().copied()) {
            Some(vlan) => self.wire.send(&tagged(vlan, &marker)),
            None => self.wire.send(&marker),
        }
        let is = |seen: &[u8]| seen.starts_with(&marker) || (seen.len() > 20 && seen[16..].starts_with(&marker[12..]));
        self.guests[name].until(is).await
    }

    async fn refused(&self, name: &str) -> u64 {
        self.lab.net.refused_frames().await.unwrap();
        self.lab.net.refused(&self.nics[name]).unwrap()
    }

    fn hello(&self, name: &'static str, last: u8) -> Vec<u8> {
        let mac = self.of(name).mac;
        arp(mac, mac, [10, 0, 0, last], [10, 0, 0, 99])
    }

    async fn each_hears_its_own(&self) {
        let hello = self.hello("plain", 1);
        let others = heard([("trunk", None), ("wire", None)]);
        assert_eq!(self.hear("plain", &hello, &hello).await, others, "without a tag");
        let hello = self.hello("ten", 2);
        let tens = heard([("tenth", None), ("trunk", Some(10)), ("wire", Some(10))]);
        assert_eq!(self.hear("ten", &hello, &hello).await, tens, "in VLAN 10");
        let hello = self.hello("twenty", 2);
        let twenties = heard([("trunk", Some(20)), ("wire", Some(20))]);
        assert_eq!(self.hear("twenty", &hello, &hello).await, twenties, "in VLAN 20");
        let hello = self.hello("trunk", 7);
        let twenties = heard([("twenty", None), ("wire", Some(20))]);
        assert_eq!(self.hear("trunk", &tagged(20, &hello), &hello).await, twenties, "of the trunk, with a tag");
        let plains = heard([("plain", None), ("wire", None)]);
        assert_eq!(self.hear("trunk", &hello, &hello).await, plains, "of the trunk, without a tag");
        let hello = self.hello("wire", 50);
        for (vlan, who) in [
            (10, heard([("ten", None), ("tenth", None), ("trunk", Some(10))])),
            (20, heard([("trunk", Some(20)), ("twenty", None)])),
            (30, heard([])),
            // What the bridge calls frames without a tag.
            (4094, heard([])),
        ] {
            assert_eq!(self.hear("wire", &tagged(vlan, &hello), &hello).await, who, "VLAN {vlan} on the wire");
        }
        let untagged = heard([("plain", None), ("trunk", None)]);
        assert_eq!(self.hear("wire", &hello, &hello).await, untagged, "no tag on the wire");
        let words = |mac| udp(BROADCAST, mac, ([10, 0, 0, 2], [255; 4]), (1000, 1001), b"x");
        let hello = words(self.of("ten").mac);
        assert_eq!(
            self.hear("ten", &hello, &hello).await,
            heard([("tenth", None), ("trunk", Some(10)), ("wire", Some(10))])
        );
    }

    async fn attacks_are_refused(&self) {
        let (ten, trunk) = (self.of("ten").mac, self.of("trunk").mac);
        let server = |mac| udp(BROADCAST, mac, ([10, 0, 0, 2], [255; 4]), (67, 68), b"x");
        let advert = |mac| icmp6(mac, [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 134, [0; 16]);
        let neighbour = |mac| udp(BROADCAST, mac, ([10, 0, 0, 3], [255; 4]), (1, 2), b"x");
        let hello = self.hello("ten", 2);
        for (from, vlan, bare, what) in [
            ("ten", 10, hello.clone(), "the tag of its own VLAN"),
            ("ten", 20, hello.clone(), "the tag of another VLAN"),
            ("ten", 4094, hello, "the tag of frames without one"),
            ("ten", 0, arp(ten, ten, [10, 0, 0, 3], [10, 0, 0, 99]), "a neighbour's address"),
            ("ten", 0, server(ten), "an answer of a DHCP server"),
            ("ten", 0, self.hello("tenth", 3), "a neighbour's MAC address"),
            ("trunk", 30, self.hello("trunk", 7), "a VLAN that is not of its trunk"),
            ("trunk", 10, arp(trunk, trunk, [10, 0, 0, 3], [10, 0, 0, 99]), "a neighbour's address, with a tag"),
            ("trunk", 20, arp(trunk, trunk, [10, 0, 0, 2], [10, 0, 0, 99]), "a neighbour's address in VLAN 20"),
            ("trunk", 10, neighbour(trunk), "a neighbour's address in IP, with a tag"),
            ("trunk", 10, server(trunk), "an answer of a DHCP server, with a tag"),
            ("trunk", 10, advert(trunk), "a router advertisement, with a tag"),
            ("trunk", 10, arp(trunk, ten, [10, 0, 0, 7], [10, 0, 0, 99]), "a MAC address inside ARP, with a tag"),
        ] {
            let before = self.refused(from).await;
            let frame = if vlan == 0 { bare.clone() } else { tagged(vlan, &bare) };
            assert_eq!(self.hear(from, &frame, &bare).await, heard([]), "{what}");
            assert_eq!(self.refused(from).await, before + 1, "{what} is not counted");
        }
        // What a trunk calls its own in a VLAN is not for a neighbour to take.
        let hello = self.hello("trunk", 7);
        assert_eq!(self.hear("trunk", &tagged(10, &hello), &hello).await.len(), 3);
    }

    async fn change(&mut self, name: &'static str, vlan: Option<u16>, trunk: &[u16]) {
        let nic = self.nics.get_mut(name).unwrap();
        let NicBackend::Switch(port) = &mut nic.backend else { unreachable!() };
        (port.vlan, port.trunk) = (vlan, trunk.to_vec());
        self.lab.net.put_port(nic).await.unwrap();
    }

    async fn a_nic_moves_while_it_is_plugged(&mut self) {
        self.change("tenth", Some(4094), &[]).await;
        let hello = self.hello("tenth", 3);
        assert_eq!(self.hear("tenth", &hello, &hello).await, heard([("wire", Some(4094))]));
        let plain = self.hello("plain", 1);
        assert_eq!(self.hear("plain", &plain, &plain).await, heard([("trunk", None), ("wire", None)]));
        self.change("trunk", Some(30), &[4094]).await;
        assert_eq!(self.hear("tenth", &hello, &hello).await, heard([("trunk", Some(4094)), ("wire", Some(4094))]));
        let own = self.hello("trunk", 8);
        assert_eq!(self.hear("trunk", &own, &own).await, heard([("wire", Some(30))]));
        self.change("tenth", None, &[]).await;
        assert_eq!(self.hear("tenth", &hello, &hello).await, heard([("plain", None), ("wire", None)]));
        self.change("tenth", Some(10), &[]).await;
        self.change("trunk", None, &[10, 20]).await;
        self.each_hears_its_own().await;
    }

    async fn what_is_changed_by_hand_is_mended(&self) {
        let (bridge, tap) = (self.lan.bridge(), |name: &str| self.nics[name].tap());
        let before = state(&bridge);
        let (ten, twenty, plain, trunk) = (tap("ten"), tap("twenty"), tap("plain"), tap("trunk"));
        for by_hand in [
            format!("bridge vlan add dev {ten} vid 20 pvid untagged"),
            format!("bridge vlan del dev {ten} vid 10"),
            format!("bridge vlan add dev {twenty} vid 10"),
            format!("bridge vlan del dev {plain} vid 4094"),
            format!("bridge vlan add dev {trunk} vid 20 untagged"),
            "bridge vlan del dev up0 vid 10".to_owned(),
            "bridge vlan add dev up0 vid 99-200".to_owned(),
            format!("bridge vlan add dev {bridge} vid 10 self"),
            format!("ip link set {bridge} type bridge vlan_filtering 0"),
            format!("ip link set {bridge} type bridge vlan_default_pvid 7"),
            format!("ip link set {ten} nomaster"),
            "ip link set up0 nomaster".to_owned(),
            format!("ip link del {bridge}"),
        ] {
            let mut words = by_hand.split(' ');
            let done = std::process::Command::new(words.next().unwrap()).args(words).status().unwrap();
            assert!(done.success(), "{by_hand}");
            // Each look starts two programs, which is not for nothing under emulation.
            let deadline = Instant::now() + PATIENCE;
            while state(&bridge) != before {
                assert!(Instant::now() < deadline, "{by_hand}: {} is not {before}", state(&bridge));
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        self.each_hears_its_own().await;
    }

    async fn a_new_daemon_leaves_it_as_it_is(self) -> Self {
        let bridge = self.lan.bridge();
        let before = state(&bridge);
        let Lab { host, dir, net } = self.lab;
        drop(net);
        let net = Network::open(dir.path()).await;
        net.put_switch(&self.lan, None).await.unwrap();
        net.adopt(&self.nics["plain"]).await;
        assert_eq!(state(&bridge), before, "before it knows all of its NICs");
        let nics: Vec<Nic> = self.nics.values().cloned().collect();
        net.sweep(&[self.lan.id], &nics).await.unwrap();
        for nic in &nics {
            net.adopt(nic).await;
            assert_eq!(net.port(nic.id), PortHealth::Ok);
        }
        assert_eq!(state(&bridge), before);
        let yard = Self { lab: Lab { host, dir, net }, ..self };
        yard.each_hears_its_own().await;
        yard
    }

    async fn without_vlans_nothing_is_kept_apart(mut self) {
        let bridge = self.lan.bridge();
        for name in ["ten", "tenth", "twenty", "trunk"] {
            drop(self.guests.remove(name));
            self.lab.net.unplug(&self.nics.remove(name).unwrap()).await.unwrap();
        }
        assert_eq!(filtering(&bridge), 0);
        let hello = self.hello("plain", 1);
        assert_eq!(self.hear("plain", &hello, &hello).await, heard([("wire", None)]));
        let hello = self.hello("wire", 50);
        assert_eq!(self.hear("wire", &hello, &hello).await, heard([("plain", None)]));
        self.guests.clear();
        self.lab.net.unplug(&self.nics["plain"]).await.unwrap();
        ip("link del up0");
        self.lab.close(&[&self.lan]).await;
    }
}

fn filtering(bridge: &str) -> i64 {
    ip_json(&format!("-d link show {bridge}"))[0]["linkinfo"]["info_data"]["vlan_filtering"].as_i64().unwrap_or(-1)
}

/// All VLANs of the host's bridges, and whether this one keeps them apart, in words.
fn state(bridge: &str) -> String {
    let mut vlans: Vec<String> = Vec::new();
    let reported = std::process::Command::new("bridge").args(["-j", "vlan", "show"]).output().unwrap().stdout;
    for port in serde_json::from_slice::<Vec<serde_json::Value>>(&reported).unwrap_or_default() {
        vlans.push(format!("{} {}", port["ifname"], port["vlans"]));
    }
    vlans.sort();
    let default = std::process::Command::new("ip").args(["-j", "-d", "link", "show", bridge]).output().unwrap().stdout;
    let reported: serde_json::Value = serde_json::from_slice(&default).unwrap_or_default();
    let options = &reported[0]["linkinfo"]["info_data"];
    format!("{} {} {vlans:?}", options["vlan_filtering"], options["vlan_default_pvid"])
}
