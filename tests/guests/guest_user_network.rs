//! Real guests on the user-mode network, carried by a passt beside QEMU and by QEMU itself: what they reach, and what of the host
//! they do not. The daemon, the host of these tests and a machine beside it are in network namespaces of the test's own.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::nics::networks;
use crate::support::{
    Daemon, PATIENCE, guest,
    netns::{Host, Peer, ip, nft},
};
use serde_json::{Value, json};

const HOST: &str = "198.51.100.1";
const PEER: &str = "198.51.100.2";
const METADATA: &str = "169.254.169.254";
/// Where services of a network announce themselves.
const GROUP: &str = "224.0.0.251";

/// A host with a machine beside it, on which a cloud's metadata are; both serve.
struct Town {
    host: Host,
    _peer: Peer,
    /// Of the machine's server.
    peer_port: u16,
    /// Of the host's, on all of its addresses.
    host_port: u16,
    /// Who has come to it.
    at_host: Arc<AtomicUsize>,
    /// In the group, as a service of the host.
    ears: UdpSocket,
}

/// Tells whoever connects a word, and counts them.
fn serve(word: &'static str, count: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.unwrap().write_all(format!("{word}\n").as_bytes());
        }
    });
    port
}

/// Tells whoever asks for an address of a name always the same.
fn serve_names() {
    let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut bytes).unwrap();
            let question = &bytes[12..length];
            let wants_ip4 = question[question.len() - 4..] == [0, 1, 0, 1];
            // An answer, with the question and one record that is of its name.
            let mut answer = [&bytes[..2], &[0x81, 0x80, 0, 1, 0, u8::from(wants_ip4), 0, 0, 0, 0], question].concat();
            if wants_ip4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77]);
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
}

fn hear(address: &str, port: u16) -> String {
    let mut heard = String::new();
    let mut stream = TcpStream::connect((address, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read_to_string(&mut heard).unwrap();
    heard
}

impl Town {
    fn new() -> Self {
        let host = Host::leave();
        let peer = Peer::new();
        peer.connect("out", "back");
        ip(&format!("addr add {HOST}/24 dev out"));
        for address in [format!("{PEER}/24"), format!("{METADATA}/32")] {
            peer.ip(&format!("addr add {address} dev back"));
        }
        ip(&format!("route add {METADATA}/32 dev out"));
        let at_host = Arc::<AtomicUsize>::default();
        let peer_port = peer.within(|| serve("from-the-machine", Arc::default())).join().unwrap();
        peer.within(serve_names).join().unwrap();
        let host_port = serve("from-the-host", at_host.clone());
        ip("route add 224.0.0.0/4 dev out");
        let ears = UdpSocket::bind("0.0.0.0:0").unwrap();
        ears.join_multicast_v4(&GROUP.parse().unwrap(), &HOST.parse().unwrap()).unwrap();
        ears.set_read_timeout(Some(PATIENCE)).unwrap();
        let mouth = UdpSocket::bind((HOST, 0)).unwrap();
        mouth.send_to(b"hear", (GROUP, ears.local_addr().unwrap().port())).unwrap();
        assert_eq!(ears.recv(&mut [0; 16]).unwrap(), 4);
        ears.set_nonblocking(true).unwrap();
        let town = Self { host, _peer: peer, peer_port, host_port, at_host, ears };
        // The host itself reaches all of it, so that a guest that does not proves something.
        assert_eq!(hear(PEER, town.peer_port), "from-the-machine\n");
        assert_eq!(hear(METADATA, town.peer_port), "from-the-machine\n");
        assert_eq!(hear(HOST, town.host_port), "from-the-host\n");
        town
    }

    /// What a guest says that tries these addresses, which lead to the host or to metadata.
    async fn attack(&self, daemon: &Daemon, id: &str) -> Vec<String> {
        let targets = [("10.0.2.2", self.host_port), (HOST, self.host_port), (METADATA, self.peer_port)];
        let mut reached = Vec::new();
        for (address, port) in targets {
            if reaches(daemon, id, address, port).await {
                reached.push(address.to_owned());
            }
        }
        let port = self.ears.local_addr().unwrap().port();
        let line = format!("ip route add 224.0.0.0/4 dev eth0; timeout 5 tftp -g -r x {GROUP} {port}; echo tried-''it");
        daemon.type_line(id, &line, "tried-it").await;
        if self.ears.recv(&mut [0; 512]).is_ok() {
            reached.push(GROUP.to_owned());
        }
        reached
    }

    async fn reaches_the_machine(&self, daemon: &Daemon, id: &str) {
        for _ in 0..20 {
            if reaches(daemon, id, PEER, self.peer_port).await {
                return;
            }
        }
        panic!("no network:\n{}\n{}", daemon.console(id).await, daemon.log_text());
    }
}

/// Whether a guest comes to a server.
async fn reaches(daemon: &Daemon, id: &str, address: &str, port: u16) -> bool {
    // Its own end stays open: the passt of Debian 12 forgets the other half of what a guest has closed half of.
    let line =
        format!("sleep 2 | nc -w 3 {address} {port} | grep -q ^from- && echo reaches-sa''id || echo fails-sa''id");
    daemon.type_line(id, &line, "-said").await.contains("reaches-said")
}

/// The passt processes of a VM's NICs.
fn carriers(nics: &[Value]) -> Vec<i32> {
    let router = |nic: &Value| nic["mac"].as_str().unwrap().replacen("52:54:", "52:55:", 1);
    nics.iter().flat_map(|nic| qherd::host::process::find(&["--mac-addr", &router(nic)]).unwrap()).collect()
}

async fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = std::time::Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn daemon(carrier: &str) -> Daemon {
    let folder = guest::image().parent().unwrap().display().to_string();
    Daemon::start_with(&["--accel", "tcg", "--image-dir", &folder, "--user-network", carrier])
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_guest_that_passt_carries_has_a_network_whoever_is_killed_and_does_not_reach_the_host() {
    let town = Town::new();
    let mut daemon = daemon("passt");
    let (tcp, udp) = (free_port(), free_port());
    // One by UDP has the router's address lead to the host's loopback: the rules alone close it then.
    let mut wish = guest::wish();
    wish["start"] = json!(true);
    wish["networks"] = json!([{ "user": { "forwards": [
        { "host_port": tcp, "guest_port": 2000 }, { "protocol": "udp", "host_port": udp, "guest_port": 2001 },
    ] } }]);
    let id = daemon.create(wish).await;
    daemon.await_boot(&id, None).await;
    let nics = networks(&daemon, &id).await;
    assert_eq!((&nics[0]["user"]["carrier"], &nics[0]["status"]), (&json!("passt"), &json!("ok")));
    // What it was given by DHCP.
    daemon
        .type_line(&id, "until ip addr show eth0 | grep -q 10.0.2.15; do sleep 1; done; echo has-''it", "has-it")
        .await;
    town.reaches_the_machine(&daemon, &id).await;
    assert_eq!(town.attack(&daemon, &id).await, [""; 0]);

    // Forwards lead in.
    daemon.type_line(&id, "nc -ll -p 2000 -e echo from-the-guest & echo ser''ving", "serving").await;
    until("an answer by TCP", || {
        let mut heard = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", tcp)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        // The passt of Debian 12 does not tell a guest that somebody has connected before he has said something.
        stream.write_all(b"hello\n").unwrap();
        let _ = stream.read_to_string(&mut heard);
        heard.contains("from-the-guest").then_some(())
    })
    .await;
    // A question by UDP comes to the machine, and its answer back.
    let question = format!("nslookup a.example {PEER} | grep -q 192.0.2.77 && echo found-sa''id || echo lost-sa''id");
    assert!(daemon.type_line(&id, &question, "-said").await.contains("found-said"), "{}", daemon.console(&id).await);

    // Another takes the place of one that is killed, and the guest notices nothing but its connections.
    let first = carriers(&nics)[0];
    crate::support::kill_all(&[first]);
    until("another passt", || carriers(&nics).first().copied().filter(|pid| *pid != first)).await;
    town.reaches_the_machine(&daemon, &id).await;
    // A daemon that is killed leaves it be; the next one looks after it, and starts no second.
    let second = carriers(&nics);
    daemon.kill();
    assert!(daemon.qemus().len() == 1 && reaches_by_forward(tcp));
    daemon.run();
    daemon.await_status(&id, "running").await;
    assert_eq!(carriers(&nics), second);
    crate::support::kill_all(&second);
    until("a third passt", || carriers(&nics).first().copied().filter(|pid| *pid != second[0])).await;
    town.reaches_the_machine(&daemon, &id).await;
    assert_eq!(town.attack(&daemon, &id).await, [""; 0]);

    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    until("passt has ended", || carriers(&nics).is_empty().then_some(())).await;
    until("its rules have gone", || (!nft("list tables").contains("_users")).then_some(())).await;
    assert_eq!(daemon.leftovers(), Vec::<std::path::PathBuf>::new());
    town.host.assert_untouched();
}

fn reaches_by_forward(port: u16) -> bool {
    let stream = TcpStream::connect(("127.0.0.1", port));
    stream.is_ok()
}

#[tokio::test]
async fn a_guest_that_qemu_itself_carries_does_not_reach_the_host_either_and_would_without_the_rules() {
    let town = Town::new();
    let mut daemon = daemon("slirp");
    let mut wish = guest::wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    daemon.await_boot(&id, None).await;
    assert_eq!(networks(&daemon, &id).await[0]["user"]["carrier"], "slirp");
    town.reaches_the_machine(&daemon, &id).await;
    assert_eq!(town.attack(&daemon, &id).await, [""; 0]);
    // Somebody who takes the rules away is undone.
    let table = nft("list tables")
        .lines()
        .find(|line| line.ends_with("_users"))
        .unwrap()
        .trim_start_matches("table ")
        .to_owned();
    nft(&format!("delete table {table}"));
    until("the rules are back", || nft("list tables").contains(&table).then_some(())).await;
    assert_eq!(town.attack(&daemon, &id).await, [""; 0]);
    // While nobody is there to do that, the guest comes through: they are what keeps it away.
    daemon.kill();
    let before = town.at_host.load(Ordering::SeqCst);
    nft(&format!("delete table {table}"));
    let serial = daemon.write_line(&id, &format!("nc -w 3 10.0.2.2 {} </dev/null", town.host_port));
    until("the guest comes to the host", || (town.at_host.load(Ordering::SeqCst) > before).then_some(())).await;
    drop(serial);
    daemon.run();
    daemon.await_status(&id, "running").await;
    assert!(nft("list tables").contains(&table));
    assert_eq!(town.attack(&daemon, &id).await, [""; 0]);
}
