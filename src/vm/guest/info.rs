//! What an agent knows of its guest. Each part is a question of its own, and of one that is not answered nothing is known: no
//! agent has all of them.

use std::net::IpAddr;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Guest, SOON, Turn, bounded, refused};
use crate::model::Result;

/// What is told of each kind, at most.
const MOST: usize = 256;

/// What an agent knows of its guest.
#[derive(Clone, Debug, Default)]
pub struct AgentInfo {
    pub version: String,
    /// Commands that it does, by name.
    pub capabilities: Vec<String>,
    pub hostname: Option<String>,
    pub os: Option<Os>,
    /// Nanoseconds since 1970, by the guest's clock.
    pub time: Option<i64>,
    /// Its zone, and how far that is from UTC in seconds.
    pub timezone: Option<(String, i64)>,
    pub interfaces: Option<Vec<Interface>>,
    pub users: Option<Vec<GuestUser>>,
    pub file_systems: Option<Vec<FileSystem>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Os {
    pub id: Option<String>,
    pub name: Option<String>,
    pub pretty_name: Option<String>,
    pub version: Option<String>,
    pub version_id: Option<String>,
    pub kernel_release: Option<String>,
    pub machine: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Interface {
    pub name: String,
    pub mac: Option<String>,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug)]
pub struct GuestUser {
    pub name: String,
    /// Seconds since 1970.
    pub login: Option<f64>,
}

#[derive(Clone, Debug)]
pub struct FileSystem {
    pub mountpoint: String,
    pub device: String,
    pub r#type: String,
    /// Bytes.
    pub total: Option<u64>,
    pub used: Option<u64>,
}

#[derive(Deserialize)]
struct Known {
    version: String,
    #[serde(default)]
    supported_commands: Vec<KnownCommand>,
}

#[derive(Deserialize)]
struct KnownCommand {
    name: String,
    enabled: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Hostname {
    host_name: String,
}

#[derive(Deserialize)]
struct Zone {
    #[serde(default)]
    zone: String,
    offset: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct InterfaceReply {
    name: String,
    hardware_address: Option<String>,
    #[serde(default)]
    ip_addresses: Vec<Address>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Address {
    ip_address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserReply {
    user: String,
    login_time: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FileSystemReply {
    name: String,
    mountpoint: String,
    r#type: String,
    total_bytes: Option<u64>,
    used_bytes: Option<u64>,
}

impl Guest {
    /// All that its agent says of it.
    ///
    /// # Errors
    /// [`crate::model::Error::AgentFails`] where it does not answer at all.
    pub async fn info(&self) -> Result<AgentInfo> {
        const INFO: &str = "guest-info";
        let mut turn = self.turn(SOON).await?;
        let known: Known = match turn.execute(INFO, None).await {
            Ok(answer) => super::read(INFO, answer)?,
            Err(error) => return Err(refused(&mut turn, error).await),
        };
        let commands = known.supported_commands.into_iter().filter(|command| command.enabled);
        let mut capabilities: Vec<String> = commands.map(|command| bounded(&command.name)).take(MOST).collect();
        capabilities.sort_unstable();
        let zone: Option<Zone> = part(&mut turn, "guest-get-timezone").await;
        let hostname: Option<Hostname> = part(&mut turn, "guest-get-host-name").await;
        let os: Option<Os> = part(&mut turn, "guest-get-osinfo").await;
        let time: Option<i64> = part(&mut turn, "guest-get-time").await;
        let users: Option<Vec<Value>> = part(&mut turn, "guest-get-users").await;
        let interfaces: Option<Vec<Value>> = part(&mut turn, "guest-network-get-interfaces").await;
        // The last: a guest whose storage hangs does not answer this one.
        let file_systems: Option<Vec<Value>> = part(&mut turn, "guest-get-fsinfo").await;
        Ok(AgentInfo {
            version: bounded(&known.version),
            capabilities,
            hostname: hostname.map(|hostname| bounded(&hostname.host_name)),
            os: os.map(Os::bounded),
            time,
            timezone: zone.map(|zone| (bounded(&zone.zone), zone.offset)),
            interfaces: interfaces.map(|all| each(all, Interface::of)),
            users: users.map(|all| {
                each(all, |user: UserReply| GuestUser { name: bounded(&user.user), login: user.login_time })
            }),
            file_systems: file_systems.map(|all| each(all, FileSystem::of)),
        })
    }
}

impl Os {
    fn bounded(self) -> Self {
        let cut = |text: Option<String>| text.map(|text| bounded(&text));
        Self {
            id: cut(self.id),
            name: cut(self.name),
            pretty_name: cut(self.pretty_name),
            version: cut(self.version),
            version_id: cut(self.version_id),
            kernel_release: cut(self.kernel_release),
            machine: cut(self.machine),
        }
    }
}

impl Interface {
    fn of(reply: InterfaceReply) -> Self {
        let addresses = reply.ip_addresses.iter().filter_map(|address| address.ip_address.parse().ok());
        let mac = reply.hardware_address.map(|mac| bounded(&mac.to_lowercase()));
        Self { name: bounded(&reply.name), mac, addresses: addresses.take(MOST).collect() }
    }
}

impl FileSystem {
    fn of(reply: FileSystemReply) -> Self {
        Self {
            mountpoint: bounded(&reply.mountpoint),
            device: bounded(&reply.name),
            r#type: bounded(&reply.r#type),
            total: reply.total_bytes,
            used: reply.used_bytes,
        }
    }
}

/// The version alone, where it says it.
pub(super) async fn version(turn: &mut Turn) -> Option<String> {
    part(turn, "guest-info").await.map(|known: Known| bounded(&known.version))
}

/// One part; nothing where it is not told, or is nonsense.
async fn part<T: DeserializeOwned>(turn: &mut Turn, command: &str) -> Option<T> {
    match turn.execute(command, None).await {
        Ok(answer) => serde_json::from_value(answer).ok(),
        Err(error) => {
            tracing::debug!(command, %error, "guest agent");
            None
        }
    }
}

/// Of a list in which one is odd the others are still to be had.
fn each<R: DeserializeOwned, T>(all: Vec<Value>, of: impl Fn(R) -> T) -> Vec<T> {
    all.into_iter().filter_map(|one| serde_json::from_value(one).ok()).map(of).take(MOST).collect()
}
