//! Thirty real guests on one switch. It takes minutes without KVM, so it is run by hand:
//! `cargo nextest run --test guests --run-ignored all guest_crowd::`.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

use crate::nics::networks;
use crate::support::{
    Daemon, guest,
    netns::{Host, ip},
};
use serde_json::json;

const GUESTS: usize = 30;
/// Of them, so many reach the others and not one another.
const APART: usize = 2;
/// That boot at once: a kernel whose firmware clock stands still for want of a core gives up ("IO-APIC + timer doesn't work").
const AT_ONCE: usize = 3;
/// Emulated, on few cores.
const LONG: Duration = Duration::from_secs(1800);

async fn address(daemon: &Daemon, id: &str) -> Option<String> {
    networks(daemon, id).await[0]["addresses"][0].as_str().map(str::to_owned)
}

async fn until_it_has_an_address(daemon: &Daemon, id: &str, begin: Instant) {
    while address(daemon, id).await.is_none() {
        assert!(begin.elapsed() < LONG, "{}", daemon.console(id).await);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
#[ignore = "thirty guests take minutes without KVM"]
async fn thirty_guests_on_one_switch_each_have_their_own_address_and_name_and_reach_whom_they_may() {
    let host = Host::leave();
    let daemon = guest::daemon();
    let wish = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let lan = daemon.post("/switches", wish).await.expect(201)["id"].as_str().unwrap().to_owned();
    // A neighbour on another switch, and an address of the host that is nobody's business.
    let wish = json!({ "name": "Other", "type": "internal", "subnet": "10.78.0.0/24", "nat": true });
    let other = daemon.post("/switches", wish).await.expect(201)["id"].as_str().unwrap().to_owned();
    ip("addr add 192.0.2.1/32 dev lo");
    let mut ids: Vec<String> = Vec::new();
    let begin = Instant::now();
    for number in 0..GUESTS + 1 {
        if let Some(earlier) = number.checked_sub(AT_ONCE) {
            until_it_has_an_address(&daemon, &ids[earlier], begin).await;
        }
        let switch = if number < GUESTS { "LAN" } else { "Other" };
        // The last two are kept apart.
        let isolated = (GUESTS - APART..GUESTS).contains(&number);
        let mut wish = guest::wish();
        (wish["name"], wish["memory"]) = (json!(format!("vm{number}")), json!(128));
        wish["networks"] = json!([{ "switch": switch, "isolated": isolated }]);
        wish["start"] = json!(true);
        ids.push(daemon.create(wish).await);
    }
    for id in &ids {
        until_it_has_an_address(&daemon, id, begin).await;
    }
    eprintln!("{GUESTS} guests have their addresses {} s after the first was created", begin.elapsed().as_secs());
    let elsewhere = ids.pop().unwrap();
    let mut addresses = Vec::new();
    for id in &ids {
        let nic = networks(&daemon, id).await.remove(0);
        assert_eq!(nic["addresses"][0], nic["reserved"], "{nic}");
        assert_eq!(nic["dns_name"], format!("vm{}.lan", addresses.len()));
        addresses.push(nic["reserved"].as_str().unwrap().to_owned());
    }
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), GUESTS, "{addresses:?}");
    let folder = daemon.state().join("net").join(&lan.replace('-', "")[..12]);
    let log = fs::read_to_string(folder.join("dnsmasq.log")).unwrap();
    assert!(!log.contains("NAK"), "{log}");
    let leases = daemon.get(&format!("/switches/{lan}/leases")).await.expect(200);
    assert_eq!(leases.as_array().unwrap().len(), GUESTS, "{leases}");

    // Each resolves the next one's name, and reaches all whom it may reach, and nobody else.
    let of_other = address(&daemon, &elsewhere).await.unwrap();
    for (at, id) in ids.iter().enumerate() {
        let next = (at + 1) % GUESTS;
        let ask = format!(
            "until nslookup vm{next}.lan 10.77.0.1 | grep -q {}; do sleep 1; done; echo met-''{next}",
            addresses[next]
        );
        daemon.type_line(id, &ask, &format!("met-{next}")).await;
        let is_apart = |number: usize| number >= GUESTS - APART;
        let (kept, reached): (Vec<usize>, Vec<usize>) =
            (0..GUESTS).filter(|number| *number != at).partition(|number| is_apart(at) && is_apart(*number));
        let listed = |numbers: &[usize]| numbers.iter().map(|n| addresses[*n].as_str()).collect::<Vec<_>>().join(" ");
        let ask = format!(
            "n=0; for a in 10.77.0.1 {}; do until ping -c 1 -W 9 $a >/dev/null; do sleep 1; done; n=$((n+1)); done; echo reached-''$n",
            listed(&reached)
        );
        daemon.type_line(id, &ask, &format!("reached-{}", reached.len() + 1)).await;
        let ask = format!(
            "n=0; for a in 192.0.2.1 10.78.0.1 {of_other} {}; do ping -c 1 -W 3 $a >/dev/null && n=$((n+1)); done; echo leaks-''$n",
            listed(&kept)
        );
        daemon.type_line(id, &ask, "leaks-0").await;
    }
    // Which is not for want of an answer.
    let ask = "until ping -c 1 -W 9 10.78.0.1 >/dev/null; do sleep 1; done; echo well-''off";
    daemon.type_line(&elsewhere, ask, "well-off").await;
    while networks(&daemon, &ids[0]).await[0]["refused"].as_u64().is_none_or(|refused| refused == 0) {
        assert!(begin.elapsed() < LONG, "what was refused is not counted");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    ids.push(elsewhere);
    for id in &ids {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    for switch in [lan, other] {
        daemon.delete(&format!("/switches/{switch}")).await.expect(200);
    }
    drop(daemon);
    host.assert_untouched();
}
