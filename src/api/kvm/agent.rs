//! What the agent of a guest says of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::StatusCode;

use super::{Shared, error::Problem, vm_id};
use crate::{
    api::{
        guest,
        http::{Reply, Request},
    },
    vm::{AgentInfo, FileSystem, GuestUser, Interface},
};

/// What the agent of a guest says of it.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    pub vm_id: String,
    pub version: String,
    /// The commands that it does.
    pub capabilities: Vec<String>,
    pub hostname: Option<String>,
    pub os: Option<OsFields>,
    /// By the guest's clock.
    pub time: Option<String>,
    pub timezone: Option<TimezoneFields>,
    pub interfaces: Option<Vec<InterfaceFields>>,
    pub users: Option<Vec<UserFields>>,
    pub file_systems: Option<Vec<FileSystemFields>>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct OsFields {
    pub id: Option<String>,
    pub name: Option<String>,
    pub pretty_name: Option<String>,
    pub version: Option<String>,
    pub version_id: Option<String>,
    pub kernel: Option<String>,
    pub machine: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct TimezoneFields {
    pub name: String,
    /// Seconds east of UTC.
    pub offset: i64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct InterfaceFields {
    pub name: String,
    pub mac: Option<String>,
    pub addresses: Vec<std::net::IpAddr>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct UserFields {
    pub name: String,
    pub login_time: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
pub struct FileSystemFields {
    pub mountpoint: String,
    pub device: String,
    pub r#type: String,
    /// Bytes.
    pub total: Option<u64>,
    /// Bytes.
    pub used: Option<u64>,
}

impl Agent {
    fn of(id: String, info: AgentInfo) -> Self {
        let os = info.os.map(|os| OsFields {
            id: os.id,
            name: os.name,
            pretty_name: os.pretty_name,
            version: os.version,
            version_id: os.version_id,
            kernel: os.kernel_release,
            machine: os.machine,
        });
        let interfaces = info.interfaces.map(|all| {
            let of = |one: Interface| InterfaceFields { name: one.name, mac: one.mac, addresses: one.addresses };
            all.into_iter().map(of).collect()
        });
        let login = |seconds: f64| guest::written_time((seconds * 1e9) as i64);
        let users = info.users.map(|all| {
            let of = |one: GuestUser| UserFields { name: one.name, login_time: one.login.and_then(login) };
            all.into_iter().map(of).collect()
        });
        let file_systems = info.file_systems.map(|all| {
            let of = |one: FileSystem| FileSystemFields {
                mountpoint: one.mountpoint,
                device: one.device,
                r#type: one.r#type,
                total: one.total,
                used: one.used,
            };
            all.into_iter().map(of).collect()
        });
        Self {
            vm_id: id,
            version: info.version,
            capabilities: info.capabilities,
            hostname: info.hostname,
            os,
            time: info.time.and_then(guest::written_time),
            timezone: info.timezone.map(|(name, offset)| TimezoneFields { name, offset }),
            interfaces,
            users,
            file_systems,
        }
    }
}

pub async fn agent(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    let info = shared.service.agent(id).await?;
    Ok(Reply::json(StatusCode::OK, &Agent::of(id.to_string(), info)))
}
