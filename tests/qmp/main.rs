//! The QMP session and the client of the guest agent. A file is a subject.

#[allow(dead_code)]
#[path = "../support/scripted_peer.rs"]
mod scripted_peer;

mod qmp_agent;
mod qmp_real;
mod qmp_session;
mod qmp_session_end;
