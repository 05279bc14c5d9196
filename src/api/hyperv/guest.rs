//! What is asked of a VM's guest by its agent. The original has none; it is the same as in the other dialect, in the words of this
//! one.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{
    Shared,
    error::{Endpoint, Problem},
};
use crate::{
    api::{
        guest::{self, Encoding, FILE, READ_QUERY, WRITE_QUERY},
        http::{NoFields, Reply, Request, Route, in_section},
    },
    model::Role,
    service::{guest::Exec, operations::Work},
    vm::{AgentInfo, Executed, FileSystem},
};

const AGENT: Endpoint = Endpoint { not_found: "VM not found", failed: "Failed to ask the guest agent" };
const TAG: &str = "Guests";

const NO_AGENT: &str = "The guest agent is not there.";
const LACKS: &str = "The guest agent has no such command; the error has its version.";
const FAILS: &str = "The guest agent does not answer, or not as one does; whether it has done it is not known.";
const NOT_NOW: &str = "The VM is off, paused or stopping; its guest is frozen, or refuses it: the error has its words.";

/// Their rows of the route table.
pub fn routes() -> Vec<Route<Shared>> {
    vec![
        Route::get("/vms/{id}/agent", "getVMAgent", in_section(&AGENT, agent))
            .role(Role::Viewer)
            .tag(TAG)
            .summary("What the agent of the guest says of it; null where it does not know.")
            .waits_for_guest()
            .output::<Agent>(200, "What it says.")
            .error(409, NOT_NOW)
            .error(422, NO_AGENT)
            .error(502, FAILS),
        Route::post("/vms/{id}/exec", "execInVM", in_section(&AGENT, exec))
            .does(Work::AskGuest)
            .role(Role::Operator)
            .tag(TAG)
            .summary("Run a command in the guest, and answer when it has ended. Of each output 1 MiB is held.")
            .waits_for_guest()
            .input::<ExecBody>()
            .output::<ExecDone>(200, "What became of it, whatever its exit code.")
            .error(409, NOT_NOW)
            .error(422, NO_AGENT)
            .error(501, LACKS)
            .error(502, FAILS),
        Route::get("/vms/{id}/files", "readVMFile", in_section(&AGENT, read))
            .role(Role::Operator)
            .tag(TAG)
            .summary("A file of the guest, piece by piece. An agent that fails in the middle cuts the connection.")
            .query(READ_QUERY)
            .output_stream("The file as it is, to the end that it has when that is reached.", "application/octet-stream", FILE)
            .error(404, "There is no such VM, or no such file in it.")
            .error(409, NOT_NOW)
            .error(422, NO_AGENT)
            .error(501, LACKS)
            .error(502, FAILS),
        Route::put("/vms/{id}/files", "writeVMFile", in_section(&AGENT, write))
            .does(Work::AskGuest)
            .role(Role::Operator)
            .tag(TAG)
            .summary("Write a file of the guest: the body as it is. One that is cut off is left as far as it came.")
            .query(WRITE_QUERY)
            .uploads()
            .output::<FileDone>(200, "It is written.")
            .error(404, "There is no such VM, or no folder in it for such a file.")
            .error(409, NOT_NOW)
            .error(422, NO_AGENT)
            .error(501, LACKS)
            .error(502, FAILS),
        Route::post("/vms/{id}/time", "setVMTime", in_section(&AGENT, set_time))
            .does(Work::AskGuest)
            .role(Role::Operator)
            .tag(TAG)
            .summary("Set the clock of the guest: to that of the host, or to a time.")
            .waits_for_guest()
            .optional_input::<TimeBody>()
            .output::<TimeDone>(200, "It is set.")
            .error(409, NOT_NOW)
            .error(422, NO_AGENT)
            .error(501, LACKS)
            .error(502, FAILS),
        Route::post("/vms/{id}/freeze", "freezeVM", in_section(&AGENT, freeze))
            .does(Work::AskGuest)
            .role(Role::Operator)
            .tag(TAG)
            .summary("Freeze the file systems of the guest, so that its disks can be copied as they are; they thaw by themselves when the time is over.")
            .waits_for_guest()
            .optional_input::<FreezeBody>()
            .output::<Frozen>(200, "They are frozen.")
            .error(409, NOT_NOW)
            .error(422, NO_AGENT)
            .error(501, LACKS)
            .error(502, FAILS),
        Route::post("/vms/{id}/thaw", "thawVM", in_section(&AGENT, thaw))
            .does(Work::AskGuest)
            .role(Role::Operator)
            .tag(TAG)
            .summary("Thaw the file systems of the guest, whoever has frozen them.")
            .waits_for_guest()
            .optional_input::<NoFields>()
            .output::<Thawed>(200, "They are not frozen.")
            .error(409, NOT_NOW)
            .error(422, NO_AGENT)
            .error(501, LACKS)
            .error(502, FAILS),
    ]
}

/// What the agent of a guest says of it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Agent {
    #[serde(rename = "VMId")]
    vm_id: String,
    version: String,
    /// The commands that it does.
    capabilities: Vec<String>,
    host_name: Option<String>,
    /// As the system calls itself.
    operating_system: Option<String>,
    kernel: Option<String>,
    /// By the guest's clock.
    time: Option<String>,
    #[serde(rename = "IPAddresses")]
    ip_addresses: Option<Vec<std::net::IpAddr>>,
    users: Option<Vec<String>>,
    volumes: Option<Vec<Volume>>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Volume {
    path: String,
    file_system_type: String,
    /// Bytes.
    size: Option<u64>,
    /// Bytes.
    used: Option<u64>,
}

impl From<FileSystem> for Volume {
    fn from(one: FileSystem) -> Self {
        Self { path: one.mountpoint, file_system_type: one.r#type, size: one.total, used: one.used }
    }
}

impl Agent {
    fn of(vm_id: String, info: AgentInfo) -> Self {
        let (operating_system, kernel) =
            info.os.map(|os| (os.pretty_name.or(os.name), os.kernel_release)).unwrap_or_default();
        Self {
            vm_id,
            version: info.version,
            capabilities: info.capabilities,
            host_name: info.hostname,
            operating_system,
            kernel,
            time: info.time.and_then(guest::written_time),
            ip_addresses: info.interfaces.map(|all| all.into_iter().flat_map(|one| one.addresses).collect()),
            users: info.users.map(|all| all.into_iter().map(|one| one.name).collect()),
            volumes: info.file_systems.map(|all| all.into_iter().map(Volume::from).collect()),
        }
    }
}

/// A command to be run in a guest.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "argv": ["sh", "-c", "make test"], "env": { "CI": "true" }, "cwd": "/src", "timeout": 600 }))]
pub struct ExecBody {
    /// The command and its arguments.
    #[schemars(length(min = 1, max = 1024))]
    argv: Vec<String>,
    /// Beside what the agent itself has in its environment.
    env: Option<BTreeMap<String, String>>,
    /// The folder that it is run in.
    cwd: Option<String>,
    /// As whom it is run.
    user: Option<String>,
    /// What it reads.
    stdin: Option<String>,
    /// Of `stdin`, and of what it writes; default `text`.
    encoding: Option<Encoding>,
    /// Seconds after which it is killed; default 60.
    #[schemars(range(min = 1, max = 3600))]
    timeout: Option<i64>,
}

/// What became of a command.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct ExecDone {
    #[serde(rename = "VMId")]
    vm_id: String,
    /// Null of one that a signal has ended, or that goes on.
    exit_code: Option<i64>,
    signal: Option<i64>,
    /// It took too long, and was killed.
    timed_out: bool,
    stdout: String,
    stderr: String,
    /// There was more than 1 MiB, or more than the agent holds.
    stdout_truncated: bool,
    stderr_truncated: bool,
    encoding: Encoding,
}

impl ExecDone {
    fn of(vm_id: String, done: &Executed, encoding: Encoding) -> Self {
        Self {
            vm_id,
            exit_code: done.exit_code,
            signal: done.signal,
            timed_out: done.timed_out,
            stdout: encoding.written(&done.stdout),
            stderr: encoding.written(&done.stderr),
            stdout_truncated: done.stdout_truncated,
            stderr_truncated: done.stderr_truncated,
            encoding,
        }
    }
}

/// A file that was written.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct FileDone {
    #[serde(rename = "VMId")]
    vm_id: String,
    path: String,
    /// Bytes that were sent.
    size: u64,
    /// Their SHA-256 sum.
    sha256: String,
}

/// What the clock of a guest is set to.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "time": "2026-01-31T12:00:00Z" }))]
pub struct TimeBody {
    /// In RFC 3339; that of the host where none is given.
    time: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct TimeDone {
    #[serde(rename = "VMId")]
    vm_id: String,
    /// What it was set to.
    time: Option<String>,
}

/// For how long.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "timeout": 30 }))]
pub struct FreezeBody {
    /// Seconds after which they thaw by themselves, also while no daemon runs that could be asked: the next one sees to it; default 60.
    #[schemars(range(min = 1, max = 600))]
    timeout: Option<i64>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Frozen {
    #[serde(rename = "VMId")]
    vm_id: String,
    /// How many.
    file_systems: u64,
    thaws_at: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
pub struct Thawed {
    #[serde(rename = "VMId")]
    vm_id: String,
    /// How many were frozen.
    file_systems: u64,
}

async fn agent(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let info = shared.service.agent(id).await?;
    Ok(Reply::json(StatusCode::OK, &Agent::of(id.to_string(), info)))
}

async fn exec(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let body: ExecBody = request.json()?;
    let encoding = body.encoding.unwrap_or_default();
    let wish = Exec {
        argv: body.argv,
        env: body.env.unwrap_or_default().into_iter().collect(),
        cwd: body.cwd,
        user: body.user,
        stdin: encoding.read("stdin", body.stdin.unwrap_or_default())?,
        timeout: body.timeout,
    };
    let done = shared.service.exec(id, wish, request.makes).await?;
    Ok(Reply::json(StatusCode::OK, &ExecDone::of(id.to_string(), &done, encoding)))
}

async fn read(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let (path, offset) = guest::to_read(&request)?;
    Ok(guest::contents(shared.service.read_guest_file(id, &path, offset).await?))
}

async fn write(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let (path, size, sha256) = guest::write::<Problem>(&shared.service, id, &request).await?;
    Ok(Reply::json(StatusCode::OK, &FileDone { vm_id: id.to_string(), path, size, sha256 }))
}

async fn set_time(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let body: TimeBody = request.json_or_default()?;
    let wanted = body.time.as_deref().map(guest::time).transpose()?;
    let set = shared.service.set_guest_time(id, wanted).await?;
    let time = i64::try_from(set).ok().and_then(|ms| guest::written_time(ms.saturating_mul(1_000_000)));
    Ok(Reply::json(StatusCode::OK, &TimeDone { vm_id: id.to_string(), time }))
}

async fn freeze(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    let body: FreezeBody = request.json_or_default()?;
    let (file_systems, at) = shared.service.freeze(id, body.timeout).await?;
    let thaws_at = i64::try_from(at).ok().and_then(|ms| guest::written_time(ms.saturating_mul(1_000_000)));
    Ok(Reply::json(StatusCode::OK, &Frozen { vm_id: id.to_string(), file_systems, thaws_at }))
}

async fn thaw(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let (id, _) = shared.vm(&request)?;
    request.json_or_default::<NoFields>()?;
    let file_systems = shared.service.thaw(id).await?;
    Ok(Reply::json(StatusCode::OK, &Thawed { vm_id: id.to_string(), file_systems }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::has_examples;

    #[test]
    fn what_is_shown_as_an_example_is_taken() {
        has_examples::<ExecBody>();
        has_examples::<TimeBody>();
        has_examples::<FreezeBody>();
    }
}
