//! Waiting for what a VM comes to: told by its task as soon as it publishes it, and never asked in between. A guest that has its
//! address from nobody on this host is the exception: it tells nobody, so its agent is asked while somebody waits.

use std::{future::pending, time::Duration};

use futures_util::future::select_all;
use tokio::time::{Instant, sleep, timeout_at};

use super::Service;
use crate::{
    model::{Error, Result, Status, VmId, VmView},
    vm::{FRESH, VmHandle},
};

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    Running,
    /// Nothing of it runs, however it ended.
    Stopped,
    /// The agent of its guest is there.
    Agent,
    /// Its guest has an address that others reach it by.
    Ip,
}

impl Service {
    /// How long a guest is given when a request does not say.
    pub fn default_patience(&self) -> Duration {
        Duration::from_secs(self.ctx.config.stop_timeout.into())
    }

    /// The VM as it is when it is so, or when the time is over; and which of both.
    ///
    /// # Errors
    /// [`Error::VmNotFound`], also as soon as it is deleted meanwhile.
    pub async fn wait_for(&self, id: VmId, awaited: Awaited, time: Duration) -> Result<(VmView, bool)> {
        let handle = self.handle(id)?;
        let end = Instant::now() + time;
        match awaited {
            Awaited::Running => handle.until(|view| view.status == Status::Running, end).await,
            Awaited::Stopped => {
                handle.until(|view| matches!(view.status, Status::Stopped | Status::Crashed), end).await
            }
            Awaited::Agent => handle.until(|view| view.agent, end).await,
            Awaited::Ip => match timeout_at(end, self.has_address(&handle)).await {
                Ok(view) => Ok((view?, true)),
                Err(_) => Ok((handle.view(), false)),
            },
        }
    }

    async fn has_address(&self, handle: &VmHandle) -> Result<VmView> {
        let mut views = handle.views();
        loop {
            let view = views.borrow_and_update().clone();
            if view.gone {
                return Err(Error::VmNotFound(view.spec.id));
            }
            // Before it is looked: what is written meanwhile is heard.
            let switches = view.in_effect.iter().flat_map(|live| &live.nics).filter_map(|nic| nic.switch());
            let mut news: Vec<_> = switches.map(|switch| self.ctx.net.lease_news(switch)).collect();
            if self.has_any_address(&view).await {
                return Ok(view);
            }
            let lease = async {
                match news.is_empty() {
                    true => pending().await,
                    false => drop(select_all(news.iter_mut().map(|news| Box::pin(news.changed()))).await),
                }
            };
            // What a port has seen nobody tells, as little as an agent does.
            let nics = view.in_effect.iter().flat_map(|live| &live.nics);
            let claims = nics.filter_map(|nic| nic.port()).any(|port| port.address.is_none());
            let agent = async {
                match view.agent || claims {
                    true => sleep(FRESH).await,
                    false => pending().await,
                }
            };
            tokio::select! {
                changed = views.changed() => changed.map_err(|_| Error::ShuttingDown)?,
                () = lease => {}
                () = agent => {}
            }
        }
    }
}
