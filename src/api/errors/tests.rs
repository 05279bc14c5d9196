//! Every error as clients read it, in both dialects, kept in tests/golden/errors.*.snap. Whoever words one sees it beside the
//! others; `scripts/bless` writes them anew. What the log says is in tests/api/error_texts.rs.

use std::path::PathBuf;

use http_body_util::BodyExt;
use warp::http::Method;

use super::{
    http::{HttpError, Problem, Response},
    hyperv, kvm,
};
use crate::model::{Conflict, Error, ForwardId, Operation, Role, Status, SwitchId, VmId};

/// A value of each variant. One that is missing here does not compile.
macro_rules! each {
    ($type:ty: $($pattern:pat => $value:expr),+ $(,)?) => {{
        let _complete = |value: &$type| match value { $($pattern => ()),+ };
        vec![$($value),+]
    }};
}

const ID: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";

fn why() -> String {
    "<why>".to_owned()
}

fn path() -> PathBuf {
    "/images/debian.qcow2".into()
}

fn conflicts() -> Vec<Conflict> {
    use Conflict::*;
    each!(Conflict:
        NotRunning => NotRunning, Off => Off, AlreadySuspended => AlreadySuspended, AlreadyRunning => AlreadyRunning,
        MustBeOff(_) => MustBeOff(Status::Running), Stopping => Stopping, Rebooting => Rebooting,
        Suspended => Suspended, Frozen => Frozen,
        NoFreeSlot => NoFreeSlot, DiskInUse => DiskInUse, Halted => Halted, NoWayOut => NoWayOut, Protected => Protected,
        Outdated => Outdated,
        Deleting => Deleting,
        Overtaken => Overtaken, Cancelled => Cancelled,
    )
}

fn domain() -> Vec<Error> {
    let vm: VmId = serde_json::from_value(ID.into()).unwrap();
    let switch: SwitchId = serde_json::from_value(ID.into()).unwrap();
    let forward: ForwardId = serde_json::from_value(ID.into()).unwrap();
    let mut errors = each!(Error:
        Error::MadeAndDeleted => Error::MadeAndDeleted,
        Error::Invalid { .. } => Error::invalid("memory", "be a whole number of MiB"),
        Error::Fixed { .. } => Error::Fixed { param: "memory".into(), is: "512 MiB".to_owned() },
        Error::VmNotFound(_) => Error::VmNotFound(vm),
        Error::DiskNotFound { .. } => Error::DiskNotFound { name: "disk1".to_owned() },
        Error::NicNotFound { .. } => Error::NicNotFound { name: "net1".to_owned() },
        Error::PortTaken { .. } => Error::PortTaken { port: "tcp/8080".to_owned(), why: why() },
        Error::BaseImageNotFound { .. } => Error::BaseImageNotFound { path: path() },
        Error::BaseImageInUse { .. } => Error::BaseImageInUse { path: path(), by: "qemu-nbd (1234)".to_owned() },
        Error::BaseImageUnchecked { .. } => Error::BaseImageUnchecked { path: path() },
        Error::SwitchNotFound(_) => Error::SwitchNotFound("lan".to_owned()),
        Error::AmbiguousSwitch { .. } =>
            Error::AmbiguousSwitch { param: "switch".into(), name: "lan".to_owned(), ids: vec![switch, switch] },
        Error::ImageNotFound(_) => Error::ImageNotFound("debian:12".to_owned()),
        Error::UploadNotFound(_) => Error::UploadNotFound(ID.to_owned()),
        Error::ImageExists(_) => Error::ImageExists("debian:12".to_owned()),
        Error::VolumeNotFound(_) => Error::VolumeNotFound(ID.to_owned()),
        Error::VolumeConflict(_) => Error::VolumeConflict("<who has it>".to_owned()),
        Error::ImageConflict(_) => Error::ImageConflict("<what hangs on it>".to_owned()),
        Error::Elsewhere(_) => Error::Elsewhere("<what its server does>".to_owned()),
        Error::NotPulled(_) => Error::NotPulled("debian:12".to_owned()),
        Error::NoRoom { .. } => Error::NoRoom { what: "the upload, which has 2000 bytes".to_owned(), free: 1000, place: path() },
        Error::ForwardNotFound(_) => Error::ForwardNotFound(forward),
        Error::SwitchConflict(_) => Error::SwitchConflict("<what the host's network does not allow>".to_owned()),
        Error::BeyondBounds(_) => Error::BeyondBounds("<what the settings let VMs have>".to_owned()),
        Error::Storage(_) => Error::Storage("<what of its disks is not as recorded>".to_owned()),
        Error::Conflict(_) => Conflict::Off.into(),
        Error::Unresponsive(_) => Error::Unresponsive(vm),
        Error::Busy(_) => Error::Busy(vm),
        Error::ShuttingDown => Error::ShuttingDown,
        Error::NoAgent { .. } => Error::NoAgent { why: why() },
        Error::AgentLacks { .. } =>
            Error::AgentLacks { command: "guest-exec".to_owned(), version: "7.2.22".to_owned() },
        Error::AgentFails { .. } => Error::AgentFails { why: why() },
        Error::GuestRefuses { .. } => Error::GuestRefuses { command: "guest-file-open".to_owned(), why: why() },
        Error::GuestFileNotFound { .. } => Error::GuestFileNotFound { path: "/etc/motd".to_owned() },
        Error::AnswerLost => Error::AnswerLost,
        Error::Unstartable { .. } => Error::Unstartable { why: why() },
        Error::Failed { .. } => Error::failed(Operation::Start, why()),
    );
    errors.extend(conflicts().into_iter().map(Error::from));
    // The others differ in nothing that a client sees.
    errors.push(Error::failed(Operation::Clone { base: path() }, why()));
    errors
}

fn plumbing() -> Vec<HttpError> {
    use HttpError::*;
    let name = || "vcpus".to_owned();
    each!(HttpError:
        NoSuchPath => NoSuchPath,
        MethodNotAllowed { .. } => MethodNotAllowed { allow: vec![Method::GET, Method::POST] },
        BadHead { .. } => BadHead { why: "<why>" },
        HeadTooLarge { .. } => HeadTooLarge { limit: 65_536, fields: 100 },
        TargetTooLong { .. } => TargetTooLong { limit: 8_192 },
        HeadTimeout { .. } => HeadTimeout { seconds: 10 },
        TooLarge { .. } => TooLarge { limit: 1_048_576 },
        UnsupportedMediaType => UnsupportedMediaType,
        BodyTimeout { .. } => BodyTimeout { seconds: 30 },
        BodyIncomplete => BodyIncomplete,
        MissingBody => MissingBody,
        NotAnObject { .. } => NotAnObject { found: "a list".to_owned() },
        NotJson { .. } => NotJson { line: 3, column: 7, why: why() },
        InvalidParameter { .. } => HttpError::invalid("vcpus", "be a whole number, not \"x\""),
        UnknownParameter { .. } => UnknownParameter { name: "vcpu".to_owned(), suggestion: Some(name()), known: vec![] },
        Internal { .. } => Internal { why: why() },
        UpgradeRequired { .. } => UpgradeRequired { why: "its version is 13 (Sec-WebSocket-Version)" },
        RangeBeyondEnd { .. } => RangeBeyondEnd { length: 100 },
        ShuttingDown => ShuttingDown,
        Unfinished => Unfinished,
        CrossOrigin => CrossOrigin,
        Misdirected { .. } => Misdirected { host: "evil.example".to_owned() },
        Unauthenticated { .. } => Unauthenticated { why: why() },
        TokenRefused { .. } => TokenRefused { why: why() },
        InTheClear => InTheClear,
        NoRoomForAnswer => NoRoomForAnswer,
        TooManyRequests { .. } => TooManyRequests { name: "uid 1000".to_owned(), why: "<what is too much>".to_owned() },
        Crowded { .. } => Crowded { under_way: 12_000 },
        Forbidden { .. } => Forbidden { name: "ann".to_owned(), role: Role::Viewer, needed: Role::Operator },
        EventsGone { .. } => EventsGone { begin: "5f2c9e1a-4700".into() },
        NoSuchOperation => NoSuchOperation,
        NotCancelled { .. } => NotCancelled { why: "others wait for the same stop".to_owned() },
        KeyReused => KeyReused,
        KeyNotStored { .. } => KeyNotStored { why: why() },
        NoRoomForKey => NoRoomForKey,
    )
}

/// `409 {"error": …}`, as it goes over the wire.
async fn wire(response: Response) -> String {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    format!("{} {}", head.status.as_u16(), String::from_utf8_lossy(&body))
}

fn keep(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[tokio::test]
async fn the_kvm_dialect_words_every_error_as_kept() {
    let section = kvm::error::Endpoint {
        bad_id: "<the section's words for a bad id>",
        not_found: kvm::error::NotFound::Colon,
        failed: "<the section's words for a failure>",
    };
    let mut text = String::new();
    let plumbing = plumbing().into_iter().map(kvm::error::Problem::from);
    for problem in domain().into_iter().map(kvm::error::Problem::from).chain(plumbing) {
        text += &format!("{}\n", wire(problem.render(&section, Role::Operator)).await);
    }
    keep("errors.kvm", &text);
}

#[tokio::test]
async fn the_hyperv_dialect_words_every_error_as_kept() {
    let section = hyperv::error::Endpoint {
        not_found: "<the section's words for what is not there>",
        failed: "<the section's words for a failure>",
    };
    let mut text = String::new();
    let plumbing = plumbing().into_iter().map(hyperv::error::Problem::from);
    for problem in domain().into_iter().map(hyperv::error::Problem::from).chain(plumbing) {
        text += &format!("{}\n", wire(problem.render(&section, Role::Operator)).await);
    }
    keep("errors.hyperv", &text);
}
