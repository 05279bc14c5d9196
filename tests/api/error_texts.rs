//! What the log says of failures, and what QEMU's monitor and its agent come to, kept in tests/golden/errors.below.snap. What
//! clients read is in src/api/errors/tests.rs.

use crate::golden;

use std::time::Duration;

use qherd::{
    model::{Error, Operation},
    qmp::{CloseReason, QgaError, QmpError},
};

/// A value of each variant. One that is missing here does not compile.
macro_rules! each {
    ($type:ty: $($pattern:pat => $value:expr),+ $(,)?) => {{
        let _complete = |value: &$type| match value { $($pattern => ()),+ };
        vec![$($value),+]
    }};
}

fn why() -> String {
    "<why>".to_owned()
}

fn operations() -> Vec<Operation> {
    use Operation::*;
    each!(Operation:
        Create => Create, Clone { .. } => Clone { base: "/images/debian.qcow2".into() }, Start => Start, Stop => Stop, Reboot => Reboot,
        Suspend => Suspend, Resume => Resume, Delete => Delete, Change => Change, ConsoleLog => ConsoleLog,
        CreateSwitch => CreateSwitch, ChangeSwitch => ChangeSwitch, DeleteSwitch => DeleteSwitch, Plug => Plug,
        Host => Host, AskGuest => AskGuest, ReadRecord => ReadRecord, Export => Export, Import => Import, MakeVolume => MakeVolume, DeleteVolume => DeleteVolume, Volumes => Volumes, ChangeImage => ChangeImage, DeleteImage => DeleteImage,
    )
}

/// What the log says of a failure, and QEMU's and its agent's.
fn below() -> Vec<String> {
    let command = || "query-status".to_owned();
    let closed = each!(CloseReason:
        CloseReason::Eof => CloseReason::Eof,
        CloseReason::HalfLine => CloseReason::HalfLine,
        CloseReason::LineTooLong { .. } => CloseReason::LineTooLong { limit: 16 << 20 },
        CloseReason::Garbage(_) => CloseReason::Garbage(why()),
        CloseReason::Rejected(_) => CloseReason::Rejected(why()),
        CloseReason::Flood => CloseReason::Flood,
        CloseReason::Poisoned { .. } => CloseReason::Poisoned { command: command() },
        CloseReason::Io(_) => CloseReason::Io(why()),
        CloseReason::Dropped => CloseReason::Dropped,
    );
    let after = Duration::from_secs(5);
    let reason = CloseReason::Eof;
    let class = || "GenericError".to_owned();
    let qmp = each!(QmpError:
        QmpError::Refused { .. } => QmpError::Refused { command: command(), class: class(), desc: why() },
        QmpError::Timeout { .. } => QmpError::Timeout { command: command(), after },
        QmpError::Closed { .. } => QmpError::Closed { reason: reason.clone() },
        QmpError::Decode { .. } => QmpError::Decode { command: command(), why: why() },
    );
    let agent = each!(QgaError:
        QgaError::Connect(_) => QgaError::Connect(why()),
        QgaError::Refused { .. } => QgaError::Refused { command: command(), class: class(), desc: why() },
        QgaError::Timeout { .. } => QgaError::Timeout { command: command(), after },
        QgaError::Closed { .. } => QgaError::Closed { reason },
        QgaError::Decode { .. } => QgaError::Decode { command: command(), error: why() },
        QgaError::OutOfSync => QgaError::OutOfSync,
    );
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let failures = operations().into_iter().map(|operation| Error::failed(operation, why()).to_string());
    let mut texts: Vec<String> = failures.chain(closed.iter().map(|error| words(error))).collect();
    texts.extend(qmp.iter().map(|error| words(error)));
    texts.extend(agent.iter().map(|error| words(error)));
    texts
}

#[test]
fn failures_monitors_and_agents_are_worded_as_kept() {
    golden::compare("errors.below", &(below().join("\n") + "\n"));
}
