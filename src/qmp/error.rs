//! What can go wrong on a monitor or agent socket, in words for a person.
//!
//! [`CloseReason`] is why a *connection* ended; [`QmpError`] and [`QgaError`] are why a *command*
//! did not succeed. What follows from either (is the VM dead, is it a 409?) is decided further up,
//! never here.

use std::time::Duration;

/// Why a connection ended. After it nothing more is sent or received on that socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer closed its end between two messages, which is what the exit of QEMU looks like.
    #[error("the peer closed the connection")]
    Eof,
    /// The peer closed its end in the middle of a message.
    #[error("the peer closed the connection in the middle of a line")]
    HalfLine,
    /// A line grew beyond what is accepted; a hostile peer must not exhaust our memory.
    #[error("the peer sent a line of more than {limit} bytes")]
    LineTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A line that is no message of the protocol.
    #[error("the peer sent something that is not a message: {0}")]
    Garbage(String),
    /// QEMU could not parse what we sent, so its replies can no longer be told apart.
    #[error("the peer could not parse what it was sent: {0}")]
    Rejected(String),
    /// Events came faster than they were consumed; or they, or replies to the client before, came without end.
    #[error("the peer sent more messages than can be dealt with")]
    Flood,
    /// `command` was not answered within its deadline. It may still take effect later.
    #[error("`{command}` was not answered within its deadline")]
    Poisoned {
        /// The command that QEMU left unanswered.
        command: String,
    },
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Io(String),
    /// Nobody holds the session any more, or its runtime has gone.
    #[error("the session was dropped")]
    Dropped,
}

impl CloseReason {
    /// The peer does not keep to the protocol, as opposed to one that is gone or slow.
    pub fn is_misconduct(&self) -> bool {
        matches!(self, Self::LineTooLong { .. } | Self::HalfLine | Self::Garbage(_) | Self::Rejected(_) | Self::Flood)
    }
}

/// Why a QMP command, or the opening of a session, did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    /// QEMU's own error reply. The session goes on.
    #[error("QEMU refused `{command}`: {desc}")]
    Refused {
        /// The command as it was sent.
        command: String,
        /// QEMU's error class, such as `GenericError`, `CommandNotFound` or `DeviceNotFound`.
        class: String,
        /// QEMU's own words.
        desc: String,
    },
    /// No answer in time. The session is closed, because the command may still be carried out.
    #[error("QEMU did not answer `{command}` within {after:?}")]
    Timeout {
        /// The command, or `greeting`.
        command: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The session ended before an answer came; whether the command took effect is unknown.
    #[error("the QMP session is closed: {reason}")]
    Closed {
        /// Why it ended.
        reason: CloseReason,
    },
    /// The arguments or the reply do not have the shape that the caller's types promise. The
    /// session goes on.
    #[error("`{command}` could not be converted: {why}")]
    Decode {
        /// The command.
        command: String,
        /// What did not fit.
        why: String,
    },
}

/// Why a call to the guest agent did not succeed. Only after `Refused` may the same
/// [`Agent`](super::Agent) be used again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QgaError {
    /// The agent socket does not accept.
    #[error("the agent socket cannot be reached: {0}")]
    Connect(String),
    /// The agent's own error reply.
    #[error("the guest agent refused `{command}`: {desc}")]
    Refused {
        /// The command as it was sent.
        command: String,
        /// The agent's error class.
        class: String,
        /// The agent's own words.
        desc: String,
    },
    /// No answer in time: no agent runs in the guest, or it is busy or hung.
    #[error("the guest agent did not answer `{command}` within {after:?}")]
    Timeout {
        /// The command.
        command: String,
        /// The deadline that passed.
        after: Duration,
    },
    /// The connection ended before an answer came.
    #[error("the guest agent's connection is closed: {reason}")]
    Closed {
        /// Why it ended.
        reason: CloseReason,
    },
    /// The reply is none to this command.
    #[error("the guest agent's answer to `{command}` cannot be read: {error}")]
    Decode {
        /// The command.
        command: String,
        /// What is wrong with the reply.
        error: String,
    },
    /// An earlier call was cancelled or failed half-way, so the next reply could belong to it.
    /// Connect anew.
    #[error("an earlier call to the guest agent was left unfinished")]
    OutOfSync,
}
