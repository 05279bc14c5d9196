//! The VLANs of a network adapter in the words of Hyper-V's `Get-VMNetworkAdapterVlan` and `Set-VMNetworkAdapterVlan`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    api::http::HttpError,
    model::{PortWish, SwitchPort},
};

/// How an adapter meets VLANs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
enum Mode {
    /// Not at all.
    Untagged,
    /// It is in one, and its guest does not know.
    Access,
    /// Its guest sees the tags of several.
    Trunk,
}

/// The VLANs that an adapter of an External switch is in.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct VlanFields {
    operation_mode: Mode,
    /// 0 where the mode is not `Access`.
    access_vlan_id: u16,
    /// That of a trunk's frames without a tag; 0 for the adapter's own network.
    native_vlan_id: u16,
    allowed_vlan_id_list: Vec<u16>,
}

/// The VLANs that an adapter of an External switch is to be in.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct VlanBody {
    operation_mode: Mode,
    /// 1 to 4094; of the mode `Access` alone.
    access_vlan_id: Option<i64>,
    /// Of the mode `Trunk` alone: the VLAN of frames without a tag; 0, the default, for the adapter's own network.
    native_vlan_id: Option<i64>,
    /// Of the mode `Trunk` alone: the VLANs that the guest sees with their tags.
    allowed_vlan_id_list: Option<Vec<i64>>,
}

impl VlanFields {
    pub fn of(port: &SwitchPort) -> Self {
        let SwitchPort { vlan, trunk, .. } = port;
        let (operation_mode, access, native) = match (vlan, trunk.is_empty()) {
            (None, true) => (Mode::Untagged, None, None),
            (vlan, true) => (Mode::Access, *vlan, None),
            (vlan, false) => (Mode::Trunk, None, *vlan),
        };
        Self {
            operation_mode,
            access_vlan_id: access.unwrap_or(0),
            native_vlan_id: native.unwrap_or(0),
            allowed_vlan_id_list: trunk.clone(),
        }
    }
}

impl VlanBody {
    /// What it says, added to a wish.
    ///
    /// # Errors
    /// For fields that do not go with the mode.
    pub fn wish(self, wish: PortWish) -> Result<PortWish, HttpError> {
        let Self { operation_mode, access_vlan_id, native_vlan_id, allowed_vlan_id_list } = self;
        let not_here = |name: &'static str, mode| Err(HttpError::invalid(name, format!("be given only with {mode}")));
        if operation_mode != Mode::Access && access_vlan_id.is_some() {
            return not_here("vlanSetting.accessVlanId", "operationMode Access");
        }
        if operation_mode != Mode::Trunk && native_vlan_id.is_some() {
            return not_here("vlanSetting.nativeVlanId", "operationMode Trunk");
        }
        if operation_mode != Mode::Trunk && allowed_vlan_id_list.is_some() {
            return not_here("vlanSetting.allowedVlanIdList", "operationMode Trunk");
        }
        let (vlan, trunk) = match operation_mode {
            Mode::Untagged => (None, Vec::new()),
            Mode::Access => match access_vlan_id {
                Some(id) => (Some(id), Vec::new()),
                None => {
                    return Err(HttpError::invalid("vlanSetting.accessVlanId", "be given with operationMode Access"));
                }
            },
            Mode::Trunk => match allowed_vlan_id_list.filter(|list| !list.is_empty()) {
                Some(list) => (native_vlan_id.filter(|id| *id != 0), list),
                None => {
                    let must = "name at least one VLAN with operationMode Trunk";
                    return Err(HttpError::invalid("vlanSetting.allowedVlanIdList", must));
                }
            },
        };
        Ok(PortWish { vlan: Some(vlan), trunk: Some(trunk), ..wish })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::SwitchId;

    #[test]
    fn each_mode_is_told_as_it_was_wished() {
        let trunk = json!({ "operationMode": "Trunk", "nativeVlanId": 7, "allowedVlanIdList": [20, 30] });
        let open = json!({ "operationMode": "Trunk", "nativeVlanId": 0, "allowedVlanIdList": [20] });
        for (body, mode, access, native, list) in [
            (json!({ "operationMode": "Access", "accessVlanId": 10 }), "Access", 10, 0, vec![]),
            (trunk, "Trunk", 0, 7, vec![20, 30]),
            (open, "Trunk", 0, 0, vec![20]),
            (json!({ "operationMode": "Untagged" }), "Untagged", 0, 0, vec![]),
        ] {
            let body: VlanBody = serde_json::from_value(body).unwrap();
            let mut port = SwitchPort { vlan: Some(99), ..SwitchPort::on(SwitchId::random()) };
            body.wish(PortWish::default()).unwrap().apply(&mut port).unwrap();
            let reported = json!({
                "OperationMode": mode, "AccessVlanId": access, "NativeVlanId": native, "AllowedVlanIdList": list,
            });
            assert_eq!(serde_json::to_value(VlanFields::of(&port)).unwrap(), reported);
        }
    }

    #[test]
    fn what_does_not_go_with_the_mode_is_refused_by_name() {
        for (body, name) in [
            (json!({ "operationMode": "Access" }), "accessVlanId"),
            (json!({ "operationMode": "Untagged", "accessVlanId": 10 }), "accessVlanId"),
            (json!({ "operationMode": "Access", "accessVlanId": 10, "nativeVlanId": 1 }), "nativeVlanId"),
            (json!({ "operationMode": "Access", "accessVlanId": 1, "allowedVlanIdList": [2] }), "allowedVlanIdList"),
            (json!({ "operationMode": "Trunk", "allowedVlanIdList": [] }), "allowedVlanIdList"),
        ] {
            let body: VlanBody = serde_json::from_value(body).unwrap();
            let reported = body.wish(PortWish::default()).unwrap_err().message();
            assert!(reported.contains(name), "{reported}");
        }
    }
}
