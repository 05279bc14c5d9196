//! Asks a monitor every few seconds whether it is there, whatever else is, or is not, asked of it. An answer that does
//! not come closes the session (`qmp`), and the VM's task hears of that; nothing else is done here.

use std::time::Duration;

use tokio::{task::JoinHandle, time::sleep};

use super::sampler::phase;
use crate::qmp::Session;

/// With the 5 s that QEMU has for an answer, a mute monitor is known to be one within 10 s.
const PERIOD: Duration = Duration::from_secs(4);

/// Goes on until it is dropped or the session ends.
pub(super) struct Heartbeat(JoinHandle<()>);

impl Heartbeat {
    /// VMs take turns, by the id of their process.
    pub fn of(session: Session, process: i32) -> Self {
        Self(tokio::spawn(async move {
            sleep(PERIOD.mul_f64(phase(process))).await;
            while session.query_status().await.is_ok() {
                sleep(PERIOD).await;
            }
        }))
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}
