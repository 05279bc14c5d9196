//! VLANs of NICs as both dialects take, refuse and tell them. Whether frames keep to them is `guest_vlans`' to see, in a kernel
//! that can; whether this machine's can, its bridges say.

use crate::hyperv;

use crate::hyperv::{Client, MOUNTS};
use crate::nics::{networks, tap_of};
use crate::support::{
    Answer, Daemon,
    netns::{Host, ip, ip_json},
};
use serde_json::{Value, json};

fn refused(answer: &Answer, status: u16, words: &[&str]) {
    assert_eq!(answer.status, status, "{answer:?}");
    let reported = answer.body.to_string();
    assert!(words.iter().all(|word| reported.contains(word)), "{words:?}: {reported}");
}

async fn switches(daemon: &Daemon) {
    ip("link add up0 type veth peer name up1");
    for body in [
        json!({ "name": "Yard", "type": "private" }),
        json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true }),
        json!({ "name": "Out", "type": "external", "adapter": "up0" }),
    ] {
        daemon.post("/switches", body).await.expect(201);
    }
}

/// Whether bridges of this kernel can keep VLANs apart; asked of one that is not the daemon's.
fn kernel_can() -> bool {
    ip("link add br9 type bridge");
    let can = ip_json("-d link show br9")[0]["linkinfo"]["info_data"]["vlan_default_pvid"].is_number();
    ip("link del br9");
    can
}

#[tokio::test]
async fn vlans_are_an_external_switchs_alone_and_refused_where_the_kernel_cannot() {
    let host = Host::leave();
    let daemon = Daemon::start();
    switches(&daemon).await;
    let can = kernel_can();
    let mut wish = daemon.wish();
    wish["networks"] = json!([{ "switch": "Out" }, { "switch": "LAN" }]);
    let id = daemon.create(wish.clone()).await;
    let path = format!("/vms/{id}/networks");
    for (body, words) in [
        (json!({ "switch": "Yard", "vlan": 7 }), &["vlan must be given only for a NIC on an external switch"][..]),
        (json!({ "switch": "LAN", "trunk": [7] }), &["trunk must be given only for a NIC on an external switch"]),
        (json!({ "user": {}, "vlan": 7 }), &["vlan must not be set"]),
        (json!({ "switch": "Out", "vlan": 0 }), &["vlan must be from 1 to 4094"]),
        (json!({ "switch": "Out", "vlan": 4095 }), &["vlan must be from 1 to 4094"]),
        (json!({ "switch": "Out", "trunk": [20, 4095] }), &["trunk must be from 1 to 4094"]),
        (json!({ "switch": "Out", "trunk": [20, 20] }), &["trunk must name each VLAN once"]),
        (json!({ "switch": "Out", "vlan": 20, "trunk": [20] }), &["trunk must not contain 20"]),
        (json!({ "switch": "Out", "vlan": "ten" }), &["vlan"]),
    ] {
        refused(&daemon.post(&path, body).await, 400, words);
    }
    refused(&daemon.put(&format!("{path}/net1"), json!({ "vlan": 7 })).await, 400, &["external"]);
    assert_eq!(networks(&daemon, &id).await.len(), 2);
    let body = json!({ "switch": "Out", "vlan": 10, "trunk": [30, 20] });
    let why = &["CONFIG_BRIDGE_VLAN_FILTERING", "Boot a kernel", "take vlan and trunk off"];
    wish["networks"] = json!([body]);
    if !can {
        refused(&daemon.post(&path, body).await, 409, why);
        refused(&daemon.put(&format!("{path}/net0"), json!({ "trunk": [20] })).await, 409, why);
        refused(&daemon.post("/vms", wish).await, 409, why);
        daemon.put(&format!("{path}/net0"), json!({ "vlan": null, "trunk": [] })).await.expect(200);
    } else {
        let added = daemon.post(&path, body).await.expect(201);
        assert_eq!((&added["vlan"], &added["trunk"]), (&json!(10), &json!([20, 30])));
        let tap = tap_of(&added);
        let carried = || ip_json(&format!("-d link show {tap}"))[0]["master"].is_string();
        daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
        assert!(carried());
        let changed = daemon.put(&format!("{path}/net2"), json!({ "vlan": null, "trunk": null })).await.expect(200);
        assert_eq!(
            (&changed["vlan"], &changed["trunk"], &changed["applied"]),
            (&Value::Null, &json!([]), &json!("live"))
        );
    }
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 0);
    for switch in daemon.get("/switches").await.expect(200).as_array().unwrap() {
        daemon.delete(&format!("/switches/{}", switch["id"].as_str().unwrap())).await.expect(200);
    }
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn the_hyperv_dialect_has_its_own_words_for_vlans() {
    let mut daemon = hyperv::prepared(&[]);
    daemon.run();
    switches(&daemon).await;
    let can = kernel_can();
    for mount in MOUNTS {
        let client = Client::at(&daemon, mount);
        let body = json!({
            "name": format!("web{mount:?}"), "memoryMB": 64, "vcpu": 1, "diskPath": "D:/HyperV", "diskGB": 1,
            "switchName": "Out",
        });
        let web = client.post("/vms", body).await.expect(201)["id"].as_str().unwrap().to_owned();
        let adapters = format!("/vms/{web}/network-adapters");
        let untagged = json!({
            "OperationMode": "Untagged", "AccessVlanId": 0, "NativeVlanId": 0, "AllowedVlanIdList": [],
        });
        let nic = client.get(&adapters).await.expect(200)[0].clone();
        assert_eq!(nic["VlanSetting"], untagged);
        let nic = format!("{adapters}/{}", nic["Id"].as_str().unwrap());
        let set = async |setting: Value| client.put(&nic, json!({ "vlanSetting": setting })).await;
        for (setting, words) in [
            (json!({ "operationMode": "Access" }), "vlanSetting.accessVlanId must be given"),
            (json!({ "operationMode": "Access", "accessVlanId": 4095 }), "vlanSetting must be from 1 to 4094"),
            (json!({ "operationMode": "Trunk", "allowedVlanIdList": [0] }), "vlanSetting.allowedVlanIdList must be"),
            (json!({ "operationMode": "Private" }), "operationMode"),
            (json!({ "mode": "Trunk" }), "mode"),
        ] {
            refused(&set(setting).await, 400, &[words]);
        }
        set(json!({ "operationMode": "Untagged" })).await.expect(200);
        let trunk = set(json!({ "operationMode": "Trunk", "nativeVlanId": 7, "allowedVlanIdList": [20] })).await;
        if can {
            trunk.expect(200);
            let reported = client.get(&adapters).await.expect(200)[0]["VlanSetting"].clone();
            assert_eq!((&reported["OperationMode"], &reported["NativeVlanId"]), (&json!("Trunk"), &json!(7)));
        } else {
            refused(&trunk, 409, &["CONFIG_BRIDGE_VLAN_FILTERING"]);
            assert_eq!(client.get(&adapters).await.expect(200)[0]["VlanSetting"], untagged);
        }
        let add = json!({ "switchName": "Yard", "vlanSetting": { "operationMode": "Access", "accessVlanId": 10 } });
        refused(&client.post(&adapters, add).await, 400, &["vlanSetting", "external"]);
    }
}
