//! Switches: bodies and handlers.

use std::{collections::BTreeMap, net::Ipv4Addr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{Shared, dto, error::Problem};
use crate::{
    api::{
        http::{HttpError, Reply, Request, given},
        labels,
    },
    model::{
        CreateSwitch, Error, LabelFilter, MAX_LABELS, MetadataWish, SubnetWish, SwitchForm, SwitchId, SwitchShape,
        SwitchType, SwitchWish, same_name,
    },
    service::SwitchView,
};

#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SwitchType")]
pub enum TypeBody {
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
    switch_type: TypeBody,
    notes: String,
    labels: BTreeMap<String, String>,
    /// It is not deleted.
    protected: bool,
    /// Of an External one.
    net_adapter_name: Option<String>,
    /// Of an External one.
    #[serde(rename = "AllowManagementOS")]
    allow_management_os: Option<bool>,
    /// Of an Internal one.
    subnet: Option<String>,
    /// Of an Internal one with a subnet.
    nat: Option<bool>,
    /// The resolvers that were named; `[]` for none, null for the host's.
    dns: Option<Vec<Ipv4Addr>>,
    /// What the names of VMs end with; of an Internal one with a subnet.
    domain: Option<String>,
    /// VMs reach what listens on the host's address on it.
    host_access: Option<bool>,
    #[serde(rename = "IPv6")]
    ipv6: Option<Ipv6>,
    /// Null for the adapter's, or 1500.
    mtu: Option<u32>,
    /// `Ok`, or why it does not work as it should.
    health: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
struct Ipv6 {
    subnet: String,
    nat: bool,
}

impl From<TypeBody> for SwitchType {
    fn from(kind: TypeBody) -> Self {
        match kind {
            TypeBody::Private => Self::Private,
            TypeBody::Internal => Self::Internal,
            TypeBody::External => Self::External,
        }
    }
}

impl From<SwitchType> for TypeBody {
    fn from(kind: SwitchType) -> Self {
        match kind {
            SwitchType::Private => Self::Private,
            SwitchType::Internal => Self::Internal,
            SwitchType::External => Self::External,
        }
    }
}

impl Switch {
    fn of(view: SwitchView) -> Self {
        let SwitchView { switch, problem, .. } = view;
        let shape = SwitchShape::of(&switch);
        Self {
            id: switch.id.to_string(),
            name: switch.name,
            switch_type: shape.kind.into(),
            notes: switch.notes,
            labels: switch.metadata.labels,
            protected: switch.metadata.protected,
            net_adapter_name: shape.adapter,
            allow_management_os: shape.allow_management_os,
            subnet: shape.subnet,
            nat: shape.nat,
            dns: shape.dns,
            domain: shape.domain,
            host_access: shape.host_access,
            ipv6: shape.ipv6.map(|(subnet, nat)| Ipv6 { subnet, nat }),
            mtu: switch.mtu,
            health: problem.unwrap_or_else(|| "Ok".to_owned()),
        }
    }
}

/// A switch to be created.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "name": "LAN", "type": "Internal", "subnet": "10.77.0.0/24", "nat": true }))]
#[schemars(example = json!({ "name": "Out", "type": "External", "netAdapterName": "eth1" }))]
pub struct CreateBody {
    /// 1 to 64 letters, digits, '.', '_', '-', spaces; need not be unique.
    name: String,
    r#type: TypeBody,
    #[serde(default)]
    notes: String,
    #[schemars(extend("maxProperties" = MAX_LABELS))]
    labels: Option<BTreeMap<String, String>>,
    /// It is not deleted until that is taken away.
    protected: Option<bool>,
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
    /// Resolvers that the switch is to ask instead of the host's; none for `[]`. With a subnet.
    dns: Option<Vec<Ipv4Addr>>,
    /// What the names of VMs end with; default `lan`. With a subnet.
    domain: Option<String>,
    /// VMs reach what listens on the host's address on the switch; with a subnet, default false.
    #[serde(rename = "hostAccess")]
    host_access: Option<bool>,
    /// A network of IPv6 beside the subnet.
    ipv6: Option<Ipv6Body>,
    /// The largest packet in bytes, 576 to 65521.
    mtu: Option<i64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ipv6Body {
    /// Of 64 bits, such as fd77:1:2:3::/64.
    subnet: String,
    /// Under the host's address; without it, the network is routed.
    #[serde(default)]
    nat: bool,
}

impl Ipv6Body {
    fn into_model(self) -> (String, bool) {
        (self.subnet, self.nat)
    }
}

impl CreateBody {
    fn into_model(self, id: Option<SwitchId>) -> Result<CreateSwitch, Error> {
        let subnet = SubnetWish {
            subnet: self.subnet.map(Some),
            nat: self.nat,
            dns: self.dns.map(Some),
            domain: self.domain.map(Some),
            host_access: self.host_access,
            ipv6: self.ipv6.map(|ipv6| Some(ipv6.into_model())),
        };
        let form = SwitchForm {
            id,
            name: self.name,
            kind: self.r#type.into(),
            adapter: self.net_adapter_name,
            allow_management_os: self.allow_management_os,
            subnet,
            notes: self.notes,
            metadata: MetadataWish { labels: self.labels, protected: self.protected, ..MetadataWish::default() },
            mtu: self.mtu,
        };
        form.into_wish()
    }
}

/// What is to change; at least one field.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    /// Null clears them.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    notes: Option<Option<String>>,
    /// Replaced whole; null removes all.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<BTreeMap<String, String>>", extend("maxProperties" = MAX_LABELS))]
    labels: Option<Option<BTreeMap<String, String>>>,
    /// While it is so, it is not deleted.
    #[serde(default)]
    protected: Option<bool>,
    /// Null: the adapter's, or 1500.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<i64>")]
    mtu: Option<Option<i64>>,
    /// VMs on it keep the last part of their addresses where that fits. Null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    subnet: Option<Option<String>>,
    #[serde(default)]
    nat: Option<bool>,
    /// Null: the host's resolvers.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Vec<Ipv4Addr>>")]
    dns: Option<Option<Vec<Ipv4Addr>>>,
    /// Null: `lan`.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    domain: Option<Option<String>>,
    #[serde(default, rename = "hostAccess")]
    host_access: Option<bool>,
    /// Null takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Ipv6Body>")]
    ipv6: Option<Option<Ipv6Body>>,
}

impl UpdateBody {
    fn into_model(self) -> Result<SwitchWish, Problem> {
        let wish = SwitchWish {
            notes: self.notes.map(Option::unwrap_or_default),
            metadata: MetadataWish {
                labels: self.labels.map(Option::unwrap_or_default),
                protected: self.protected,
                ..MetadataWish::default()
            },
            mtu: self.mtu,
            subnet: SubnetWish {
                subnet: self.subnet,
                nat: self.nat,
                dns: self.dns,
                domain: self.domain,
                host_access: self.host_access,
                ipv6: self.ipv6.map(|ipv6| ipv6.map(Ipv6Body::into_model)),
            },
        };
        if wish == SwitchWish::default() {
            let fields = "notes, mtu, subnet, nat, dns, domain, hostAccess, ipv6, labels or protected";
            return Err(HttpError::invalid(fields, "be given, at least one of them").into());
        }
        Ok(wish)
    }
}

/// An adapter whose address did not fit any more; its guest takes the new one within ten minutes.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
struct Readdressed {
    vm_id: String,
    adapter_id: String,
    from: Option<Ipv4Addr>,
    to: Ipv4Addr,
}

#[derive(Serialize, JsonSchema)]
pub struct Updated {
    /// Its name.
    updated: String,
    id: String,
    #[serde(rename = "Readdressed", skip_serializing_if = "Vec::is_empty")]
    readdressed: Vec<Readdressed>,
}

pub async fn list(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let labels = labels::wanted(&request)?;
    let switches: Vec<Switch> = shared.service.switches(&labels).into_iter().map(Switch::of).collect();
    Ok(Reply::json(StatusCode::OK, &switches))
}

pub async fn by_name(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let wanted = request.param("name");
    let named = shared
        .service
        .switches(&LabelFilter::default())
        .into_iter()
        .filter(|view| same_name(&view.switch.name, wanted));
    Ok(Reply::json(StatusCode::OK, &named.map(Switch::of).collect::<Vec<_>>()))
}

pub async fn get(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let view = shared.service.switch(shared.switch(&request)?)?;
    Ok(Reply::json(StatusCode::OK, &Switch::of(view)))
}

pub async fn create(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let body: CreateBody = request.json()?;
    let wish = body.into_model(request.makes.map(SwitchId::from))?;
    let made = shared.service.create_switch(wish).await?.switch;
    Ok(Reply::json(StatusCode::CREATED, &dto::Created { created: made.name, id: made.id.to_string() }))
}

pub async fn update(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = shared.switch(&request)?;
    let body: UpdateBody = request.json()?;
    let changed = shared.service.update_switch(id, body.into_model()?).await?;
    let readdressed = changed.readdressed.into_iter().map(|nic| Readdressed {
        vm_id: nic.vm.to_string(),
        adapter_id: nic.nic.to_string(),
        from: nic.from,
        to: nic.to,
    });
    let updated = changed.view.switch.name;
    let body = Updated { updated, id: id.to_string(), readdressed: readdressed.collect() };
    Ok(Reply::json(StatusCode::OK, &body))
}

pub async fn delete(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = shared.switch(&request)?;
    shared.service.delete_switch(id).await?;
    Ok(Reply::json(StatusCode::OK, &dto::Deleted::new(id, false)))
}
