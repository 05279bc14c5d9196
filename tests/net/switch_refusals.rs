//! What of a host no switch can be made of, as both dialects say it.

use crate::hyperv::{self, Client, MOUNTS};
use crate::support::netns::{Peer, ip};
use serde_json::json;

#[tokio::test]
async fn an_adapter_whose_address_a_dhcp_server_gave_is_refused_with_what_to_do() {
    let daemon = hyperv::started();
    let peer = Peer::new();
    peer.connect("up0", "far");
    ip("addr add 192.0.2.7/24 dev up0 valid_lft 1000 preferred_lft 1000");
    let words = ["up0", "192.0.2.7", "DHCP server", "static address"];
    let refused = |answer: crate::support::Answer| {
        assert_eq!(answer.status, 409, "{answer:?}");
        let reported = answer.body.to_string();
        assert!(words.iter().all(|word| reported.contains(word)), "{reported}");
    };
    let wish = json!({ "name": "WAN", "type": "external", "adapter": "up0", "allow_management_os": true });
    refused(daemon.post("/switches", wish.clone()).await);
    for mount in MOUNTS {
        let client = Client::at(&daemon, mount);
        let wish = json!({ "name": "WAN", "type": "External", "netAdapterName": "up0", "allowManagementOS": true });
        refused(client.post("/switches", wish).await);
    }
    assert_eq!(daemon.get("/switches").await.expect(200), json!([]));
    let shown = ip("addr show dev up0");
    assert!(shown.contains("192.0.2.7/24") && !shown.contains("master"), "{shown}");
    // What it says helps.
    ip("addr change 192.0.2.7/24 dev up0 valid_lft forever preferred_lft forever");
    let made = daemon.post("/switches", wish).await.expect(201);
    assert!(ip(&format!("addr show dev {}", made["bridge"].as_str().unwrap())).contains("192.0.2.7/24"));
    daemon.delete(&format!("/switches/{}", made["id"].as_str().unwrap())).await.expect(200);
    assert!(ip("addr show dev up0").contains("192.0.2.7/24"));
}
