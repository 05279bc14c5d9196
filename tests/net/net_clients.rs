//! DHCP clients that people's guests run, on ports with all their rules: ISC dhclient and systemd-networkd, each in a network
//! stack of its own. udhcpc runs in the guests of `guest_addresses.rs`.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};

use crate::lab::{Lab, await_that, nic_on};
use crate::support::{
    PATIENCE,
    netns::{Peer, ip},
};
use qherd::{
    model::{Dns, Nic, Subnet, Switch, SwitchKind},
    net::Host,
};

/// A program of a guest's, ended with the test.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine whose NIC is `eth0`, on the other end of the port.
pub async fn machine(lab: &Lab, nic: &Nic) -> Peer {
    let peer = Peer::new();
    peer.connect(&nic.tap(), "eth0");
    peer.ip("link set eth0 down");
    peer.ip(&format!("link set eth0 address {} up", nic.mac));
    lab.net.adopt(nic).await;
    peer
}

fn run(machine: &Peer, mut command: Command) -> Client {
    Client(machine.within(move || command.stdin(Stdio::null()).spawn().unwrap()).join().unwrap())
}

/// Does in a folder of its own what a guest's dhclient does: takes the address and the way out, and notes what it was told.
fn dhclient(machine: &Peer, folder: &std::path::Path) -> Client {
    let script = folder.join("script");
    let text = format!(
        "#!/bin/sh\ncase $reason in\nBOUND|RENEW|REBIND|REBOOT)\n\
         ip addr replace $new_ip_address/24 dev $interface\nip route replace default via $new_routers\n\
         env | grep ^new_ > {0}/told.new\nmv {0}/told.new {0}/told\nesac\n",
        folder.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(
        folder.join("conf"),
        "request subnet-mask, routers, domain-name-servers, domain-name, domain-search, host-name, interface-mtu;\n",
    )
    .unwrap();
    let mut command = Command::new("dhclient");
    command.args(["-4", "-d", "-sf"]).arg(script);
    command.arg("-cf").arg(folder.join("conf")).arg("-lf").arg(folder.join("leases"));
    command.arg("-pf").arg(folder.join("pid")).arg("eth0").stderr(fs::File::create(folder.join("log")).unwrap());
    run(machine, command)
}

/// As it runs in a container: with a /run of its own, and devices that nobody has to make ready (it waits for udev otherwise).
fn networkd(machine: &Peer, folder: &std::path::Path) -> Client {
    let network = "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=ipv6\n[DHCPv4]\nUseMTU=yes\n";
    fs::write(folder.join("10-eth0.network"), network).unwrap();
    let script = format!(
        "umount -l /sys; mount -t sysfs -o ro sysfs /sys && mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/network && \
         cp {}/10-eth0.network /run/systemd/network && exec /lib/systemd/systemd-networkd",
        folder.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    command.stderr(fs::File::create(folder.join("log")).unwrap());
    run(machine, command)
}

/// What the resolver of a switch says of a name, or of the way back.
fn resolve(machine: &Peer, name: &'static str, kind: u8) -> Vec<u8> {
    let answered = machine.within(move || {
        let labels = name.split('.').flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat());
        let question = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &labels.collect::<Vec<_>>(), &[0, 0, kind, 0, 1]];
        let question = question.concat();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&question, "10.77.0.1:53").unwrap();
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).unwrap();
        answer[question.len()..length].to_vec()
    });
    answered.join().unwrap()
}

/// The way from one to another, by its address.
fn reaches(from: &Peer, to: &Peer, address: &'static str) {
    let (ready, bound) = std::sync::mpsc::channel();
    let heard = to.within(move || {
        let socket = UdpSocket::bind((address, 9)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 16];
        socket.recv(&mut buffer).unwrap()
    });
    bound.recv().unwrap();
    from.within(move || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"hello", (address, 9)).unwrap()).join().unwrap();
    assert_eq!(heard.join().unwrap(), 5);
}

fn host(nic: &Nic, label: &str) -> Host {
    Host { label: Some(label.into()), ..Host::of(nic).unwrap() }
}

async fn network() -> (Lab, Switch, [Nic; 2]) {
    let lab = Lab::new().await;
    let mut lan = lab.internal("10.77.0.0/24", true).await;
    lan.mtu = Some(1400);
    lab.net.put_switch(&lan, None).await.unwrap();
    let nics = [2, 3].map(|last| nic_on(&lan, Some(Ipv4Addr::new(10, 77, 0, last))));
    lab.net.put_hosts(lan.id, vec![host(&nics[0], "web"), host(&nics[1], "db")]);
    (lab, lan, nics)
}

#[tokio::test]
async fn dhclient_and_networkd_are_given_all_that_the_switch_has_for_them_and_find_each_other() {
    let (lab, lan, [web, db]) = network().await;
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, other) = (machine(&lab, &web).await, machine(&lab, &db).await);
    let clients = [dhclient(&one, folders[0].path()), networkd(&other, folders[1].path())];

    let file = folders[0].path().join("told");
    await_that("dhclient has a lease", || file.exists()).await;
    let report = fs::read_to_string(&file).unwrap();
    for line in [
        "new_ip_address=10.77.0.2",
        "new_subnet_mask=255.255.255.0",
        "new_routers=10.77.0.1",
        "new_domain_name_servers=10.77.0.1",
        "new_domain_name=lan",
        "new_domain_search=lan.",
        "new_host_name=web",
        "new_interface_mtu=1400",
        "new_dhcp_server_identifier=10.77.0.1",
        "new_dhcp_renewal_time=600",
    ] {
        assert!(report.lines().any(|reported| reported == line), "no {line} in:\n{report}");
    }
    let log = || fs::read_to_string(folders[1].path().join("log")).unwrap_or_default();
    await_that("networkd has the address", || other.ip("addr show dev eth0").contains("10.77.0.3/24")).await;
    await_that("the way out", || other.ip("route").contains("default via 10.77.0.1")).await;
    await_that("the MTU", || other.ip("link show dev eth0").contains("mtu 1400")).await;
    assert!(!log().contains("NAK"), "{}", log());

    reaches(&one, &other, "10.77.0.3");
    reaches(&other, &one, "10.77.0.2");
    assert!(resolve(&one, "db.lan", 1).ends_with(&[10, 77, 0, 3]));
    assert!(resolve(&other, "web.lan", 1).ends_with(&[10, 77, 0, 2]));
    assert!(resolve(&other, "2.0.77.10.in-addr.arpa", 12).windows(8).any(|part| part == b"\x03web\x03lan"));
    let leases = lab.net.leases(lan.id);
    let mut given: Vec<_> = leases.iter().map(|lease| (lease.address.octets()[3], lease.mac.clone())).collect();
    given.sort();
    assert_eq!(given, [(2, web.mac.to_string()), (3, db.mac.to_string())]);

    // The address of one that is gone is the next one's at once, whatever client had it.
    drop(clients);
    lab.net.unplug(&web).await.unwrap();
    let next = nic_on(&lan, Some([10, 77, 0, 2].into()));
    lab.net.put_hosts(lan.id, vec![host(&next, "next"), host(&db, "db")]);
    let third = machine(&lab, &next).await;
    let folder = tempfile::tempdir().unwrap();
    let client = networkd(&third, folder.path());
    await_that("the next one has the address", || third.ip("addr show dev eth0").contains("10.77.0.2/24")).await;
    drop(client);
    for nic in [&next, &db] {
        lab.net.unplug(nic).await.unwrap();
    }
    assert!(!ip("link").contains("qht"));
    lab.close(&[&lan]).await;
}

/// Answers one question for a name with an address.
fn answer_for_names(machine: &Peer, own: &'static str, address: [u8; 4]) -> std::thread::JoinHandle<()> {
    let (ready, bound) = std::sync::mpsc::channel();
    let resolver = machine.within(move || {
        let socket = UdpSocket::bind((own, 53)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        ready.send(()).unwrap();
        let mut question = [0; 512];
        let (_, from) = socket.recv_from(&mut question).unwrap();
        // Behind the header the name, label by label, then its kind and class.
        let name = question[12..].iter().position(|byte| *byte == 0).unwrap();
        let wanted = &question[12..12 + name + 5];
        let head = [&question[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]].concat();
        let record = [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4][..], &address].concat();
        socket.send_to(&[&head, wanted, &record].concat(), from).unwrap();
    });
    bound.recv().unwrap();
    resolver
}

#[tokio::test]
async fn a_guest_can_be_the_resolver_of_its_own_switch() {
    let lab = Lab::new().await;
    let mut subnet = Subnet::parse("10.77.0.0/24", true).unwrap();
    subnet.dns = Dns::of(vec![Ipv4Addr::new(10, 77, 0, 3)]).unwrap();
    let lan = lab.switch(SwitchKind::Internal { subnet: Some(subnet) }).await;
    let [web, names] = [2, 3].map(|last| nic_on(&lan, Some(Ipv4Addr::new(10, 77, 0, last))));
    lab.net.put_hosts(lan.id, vec![host(&web, "web"), host(&names, "names")]);
    let (one, other) = (machine(&lab, &web).await, machine(&lab, &names).await);
    one.ip("addr add 10.77.0.2/24 dev eth0");
    other.ip("addr add 10.77.0.3/24 dev eth0");
    let resolver = answer_for_names(&other, "10.77.0.3", [192, 0, 2, 77]);
    await_that("the switch answers for names", || UdpSocket::bind("10.77.0.1:53").is_err()).await;
    assert!(resolve(&one, "far.example", 1).ends_with(&[192, 0, 2, 77]));
    resolver.join().unwrap();
    // What is the switch's own to say it says itself.
    await_that("it knows its names", || resolve(&one, "names.lan", 1).ends_with(&[10, 77, 0, 3])).await;
    for nic in [&web, &names] {
        lab.net.unplug(nic).await.unwrap();
    }
    lab.close(&[&lan]).await;
}
