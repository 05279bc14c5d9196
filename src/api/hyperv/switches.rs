//! Switches: bodies and handlers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

use super::{Shared, dto, error::Problem};
use crate::{
    api::http::{HttpError, Reply, Request},
    model::{CreateSwitch, Subnet, SwitchId, SwitchKind, same_name},
    service::SwitchView,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SwitchType {
    /// Connects VMs with one another.
    Private,
    /// And with the host.
    Internal,
    /// And with the network behind a physical adapter.
    External,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Switch {
    id: String,
    name: String,
    switch_type: SwitchType,
    notes: String,
    /// Of an External one.
    net_adapter_name: Option<String>,
    /// Of an External one.
    #[serde(rename = "AllowManagementOS")]
    allow_management_os: Option<bool>,
    /// Of an Internal one.
    subnet: Option<String>,
    /// Of an Internal one with a subnet.
    nat: Option<bool>,
    /// `Ok`, or why it does not work as it should.
    health: String,
}

impl Switch {
    fn of(view: SwitchView) -> Self {
        let SwitchView { switch, problem, .. } = view;
        let (mut net_adapter_name, mut allow_management_os) = (None, None);
        let (subnet, nat) = (switch.subnet().map(ToString::to_string), switch.subnet().map(|subnet| subnet.nat));
        let switch_type = match switch.kind {
            SwitchKind::Private => SwitchType::Private,
            SwitchKind::Internal { .. } => SwitchType::Internal,
            SwitchKind::External { adapter, allow_management_os: allow, .. } => {
                (net_adapter_name, allow_management_os) = (Some(adapter), Some(allow));
                SwitchType::External
            }
        };
        Self {
            id: switch.id.to_string(),
            name: switch.name,
            switch_type,
            notes: switch.notes,
            net_adapter_name,
            allow_management_os,
            subnet,
            nat,
            health: problem.unwrap_or_else(|| "Ok".to_owned()),
        }
    }
}

/// A switch to be created.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    /// 1 to 64 letters, digits, '.', '_', '-', spaces; need not be unique.
    name: String,
    r#type: SwitchType,
    #[serde(default)]
    notes: String,
    /// The host's adapter, as `ip link` calls it; for External, and needed there.
    #[serde(rename = "netAdapterName")]
    net_adapter_name: Option<String>,
    /// The host's addresses and routes on the adapter move to the switch; for External.
    #[serde(rename = "allowManagementOS")]
    allow_management_os: Option<bool>,
    /// Such as 10.77.0.0/24; for Internal: the host's address and DHCP.
    subnet: Option<String>,
    /// Guests reach what the host reaches; with a subnet, default false.
    nat: Option<bool>,
}

impl CreateBody {
    fn into_model(self) -> Result<CreateSwitch, Problem> {
        let only_for = |given: bool, name: &str, what: &str| match given {
            true => Err(HttpError::invalid(name, format!("be given only for {what}"))),
            false => Ok(()),
        };
        let external = self.r#type == SwitchType::External;
        only_for(!external && self.net_adapter_name.is_some(), "netAdapterName", "a switch of type External")?;
        only_for(!external && self.allow_management_os.is_some(), "allowManagementOS", "a switch of type External")?;
        let internal = self.r#type == SwitchType::Internal;
        only_for(!internal && self.subnet.is_some(), "subnet", "a switch of type Internal")?;
        only_for(self.subnet.is_none() && self.nat.is_some(), "nat", "a switch with a subnet")?;
        let kind = match self.r#type {
            SwitchType::Private => SwitchKind::Private,
            SwitchType::Internal => {
                let nat = self.nat.unwrap_or(false);
                SwitchKind::Internal { subnet: self.subnet.map(|text| Subnet::parse(&text, nat)).transpose()? }
            }
            SwitchType::External => {
                let must = "be given for a switch of type External: the name of a network adapter of the host";
                let adapter = self.net_adapter_name.ok_or_else(|| HttpError::invalid("netAdapterName", must))?;
                SwitchKind::External {
                    adapter,
                    allow_management_os: self.allow_management_os.unwrap_or(false),
                    dhcp: false,
                }
            }
        };
        Ok(CreateSwitch { id: None, name: self.name, kind, notes: self.notes, mtu: None })
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    notes: String,
}

#[derive(Serialize, JsonSchema)]
pub struct Updated {
    /// Its name.
    updated: String,
    id: String,
}

pub async fn list(shared: Shared, _: Request) -> Result<Reply, Problem> {
    let switches: Vec<Switch> = shared.service.switches().into_iter().map(Switch::of).collect();
    Ok(Reply::json(StatusCode::OK, &switches))
}

pub async fn by_name(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let wanted = request.param("name");
    let named = shared.service.switches().into_iter().filter(|view| same_name(&view.switch.name, wanted));
    Ok(Reply::json(StatusCode::OK, &named.map(Switch::of).collect::<Vec<_>>()))
}

pub async fn get(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let view = shared.service.switch(shared.switch(&request)?)?;
    Ok(Reply::json(StatusCode::OK, &Switch::of(view)))
}

pub async fn create(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let body: CreateBody = request.json()?;
    let wish = CreateSwitch { id: request.makes.map(SwitchId::from), ..body.into_model()? };
    let made = shared.service.create_switch(wish).await?.switch;
    Ok(Reply::json(StatusCode::CREATED, &dto::Created { created: made.name, id: made.id.to_string() }))
}

pub async fn update(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = shared.switch(&request)?;
    let body: UpdateBody = request.json()?;
    let switch = shared.service.update_switch(id, body.notes).await?.switch;
    Ok(Reply::json(StatusCode::OK, &Updated { updated: switch.name, id: id.to_string() }))
}

pub async fn delete(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = shared.switch(&request)?;
    shared.service.delete_switch(id).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Deleted::new(id, false)))
}
