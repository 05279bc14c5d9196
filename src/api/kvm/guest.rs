//! What is asked of a VM's guest by its agent: bodies, handlers, and their rows of the route table.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::StatusCode;

use super::{
    Shared, agent,
    error::{Endpoint, NotFound, Problem, endpoint},
    times::time,
    vm_id,
};
use crate::{
    api::{
        guest::{self, Encoding, FILE, READ_QUERY, WRITE_QUERY},
        http::{NoFields, Reply, Request, Route, in_section},
    },
    model::Role,
    service::{guest::Exec, operations::Work},
    vm::Executed,
};

const AGENT: Endpoint = endpoint(NotFound::Colon, "Internal error while asking the guest agent.");
const TAG: &str = "Guest";

const NO_AGENT: &str = "Its guest agent is not there.";
const LACKS: &str = "Its guest agent has no such command; the message has its version.";
const FAILS: &str = "Its guest agent does not answer, or not as one does; whether it has done it is not known.";
const NOT_NOW: &str =
    "The VM is off, paused or stopping; its guest is frozen, or refuses it: the message has its words.";

/// Their rows of the route table.
pub fn routes() -> Vec<Route<Shared>> {
    vec![
        Route::get("/vms/{id}/agent", "getVMAgent", in_section(&AGENT, agent::agent))
            .role(Role::Viewer)
            .tag(TAG)
            .summary("What the agent of the guest says of it; null where it does not know.")
            .waits_for_guest()
            .output::<agent::Agent>(200, "What it says.")
            .error(409, NOT_NOW)
            .error(422, NO_AGENT)
            .error(502, FAILS),
        Route::post("/vms/{id}/exec", "execInVM", in_section(&AGENT, exec))
            .does(Work::AskGuest)
            .role(Role::Operator)
            .tag(TAG)
            .summary(
                "Run a command in the guest, and answer when it has ended. A command that is not there has the exit code 127, and \
                 one that is none 126. Of each output 1 MiB is held. Under an Idempotency-Key it is never run twice.",
            )
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
            .summary(
                "Write a file of the guest: the body as it is, whatever its length. It is written in its place, so that one that is \
                 cut off is left as far as it came.",
            )
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
            .summary("Set the clock of the guest: to that of the host, as after a pause, or to a time.")
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

/// A command to be run in a guest.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "argv": ["sh", "-c", "make test"], "env": { "CI": "true" }, "cwd": "/src", "timeout": 600 }))]
pub struct ExecBody {
    /// The command, which is looked for as the agent's own PATH says, and its arguments.
    #[schemars(length(min = 1, max = 1024))]
    pub argv: Vec<String>,
    /// Beside what the agent itself has in its environment. A guest without `env` has it not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// The folder that it is run in; the agent's own where none is given. A guest without `/bin/sh` has it not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// As whom it is run; as whom the agent runs where none is given, which is root. A guest without `/bin/sh` has it not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Of `stdin`, and of what it writes; default `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// Seconds after which it is killed; default 60. What it has started itself may go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3600))]
    pub timeout: Option<i64>,
}

/// What became of a command.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct ExecDone {
    pub vm_id: String,
    /// Null of one that a signal has ended, or that goes on.
    pub exit_code: Option<i64>,
    pub signal: Option<i64>,
    /// It took too long, and was killed. One that has neither exit code nor signal goes on all the same.
    pub timed_out: bool,
    pub stdout: String,
    pub stderr: String,
    /// There was more than 1 MiB, or more than the agent holds.
    pub stdout_truncated: bool,
    pub stderr_truncated: bool,
    pub encoding: Encoding,
}

impl ExecDone {
    fn of(id: String, done: &Executed, encoding: Encoding) -> Self {
        Self {
            vm_id: id,
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
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct FileDone {
    pub vm_id: String,
    pub path: String,
    /// Bytes that were sent.
    pub size: u64,
    /// Their SHA-256 sum.
    pub sha256: String,
}

/// What the clock of a guest is set to.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "time": "2026-01-31T12:00:00Z" }))]
pub struct TimeBody {
    /// In RFC 3339; that of the host where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TimeDone {
    pub vm_id: String,
    /// What it was set to.
    pub time: String,
}

/// For how long.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "timeout": 30 }))]
pub struct FreezeBody {
    /// Seconds after which they thaw by themselves, also while no daemon runs that could be asked: the next one sees to it; default 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 600))]
    pub timeout: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Frozen {
    pub vm_id: String,
    /// How many.
    pub file_systems: u64,
    pub thaws_at: String,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct Thawed {
    pub vm_id: String,
    /// How many were frozen.
    pub file_systems: u64,
}

async fn exec(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
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
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let (path, offset) = guest::to_read(&request)?;
    Ok(guest::contents(shared.service.read_guest_file(id, &path, offset).await?))
}

async fn write(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let (path, size, sha256) = guest::write::<Problem>(&shared.service, id, &request).await?;
    Ok(Reply::json(StatusCode::OK, &FileDone { vm_id: id.to_string(), path, size, sha256 }))
}

async fn set_time(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let body: TimeBody = request.json_or_default()?;
    let wanted = body.time.as_deref().map(guest::time).transpose()?;
    let set = shared.service.set_guest_time(id, wanted).await?;
    Ok(Reply::json(StatusCode::OK, &TimeDone { vm_id: id.to_string(), time: time(set) }))
}

async fn freeze(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
    let body: FreezeBody = request.json_or_default()?;
    let (file_systems, at) = shared.service.freeze(id, body.timeout).await?;
    let thaws_at = time(at);
    Ok(Reply::json(StatusCode::OK, &Frozen { vm_id: id.to_string(), file_systems, thaws_at }))
}

async fn thaw(shared: Shared, request: Request) -> Result<Reply, Problem> {
    let id = vm_id(&request)?;
    shared.service.view(id)?;
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
