//! Keeps the host's network as it is wanted: looks at the whole whenever the kernel tells of a change, and wakes those
//! switches of which something differs. It never looks at single events, so it misses none; and it waits for nobody who
//! mends.

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Inner, NetError, PortEvent, adapter,
    host_side::SwitchSide,
    netlink::Events,
    place::{Area, Place},
    reconcile::{address_set, is_in_place, is_set},
};
use crate::model::SwitchKind;

/// Events that come together are answered by one look.
const GATHER: Duration = Duration::from_millis(50);
/// The figures of the taps are read so often, and the rest is looked at too.
const PERIOD: Duration = Duration::from_secs(1);

impl Inner {
    /// Looks at every link and address, wakes the switches that are not as they are wanted, and publishes how the ports
    /// are. Those with a problem are tried `again`.
    ///
    /// # Errors
    /// [`NetError::Missing`], [`NetError::Failed`].
    pub async fn look(&self, again: bool) -> Result<(), NetError> {
        let netlink = self.netlink()?;
        if self.places.is_empty() {
            return Ok(());
        }
        let read = Instant::now();
        let links = self.links().await?;
        let switches = self.places.switches();
        let addressed = |side: &SwitchSide| !side.addresses.is_empty() || side.adapter.is_some();
        let addressed = switches.iter().any(|place| addressed(&place.wanted().side));
        let all = if addressed { netlink.addresses().await? } else { Vec::new() };
        let addresses = address_set(&all);
        // Those of all are one list.
        let vlans = links.values().any(|link| link.filtering.is_some_and(|filtering| filtering.on));
        let failed = |error| NetError::failed("list the VLANs of the bridges", error);
        let vlans = if vlans { netlink.vlans().await.map_err(failed)? } else { HashMap::new() };
        for place in switches {
            let wanted = place.wanted();
            // Of files and settings no event tells, and each is a file to be read.
            let served = !again || place.is_served() && wanted.side.sysctls.iter().all(is_set);
            if again && place.problem().is_some()
                || !served
                || !is_in_place(&wanted.side, &links, &addresses)
                || !self.vlans_stand(&place, &links, &vlans)
            {
                place.wake.notify_one();
            }
            self.look_at_leased(&place, &all, &links);
            if let SwitchKind::External { adapter, allow_management_os: true, .. } = &wanted.switch.kind
                && let Some(link) = links.get(adapter)
                && let Ok(carried) = adapter::Carried::read(netlink, link.index).await
                && !carried.is_empty()
            {
                // It carries addresses (again) that belong on its bridge; what moves is written down first.
                let _ = self.events.send(PortEvent::AdapterChanged(place.id));
            }
        }
        for place in self.judge_ports(&links, read, again) {
            place.wake.notify_one();
        }
        Ok(())
    }

    /// Tells what is wrong with an area of a switch, or that nothing is.
    pub fn tell(&self, place: &Place, area: Area, problem: Option<String>) {
        if place.tell(area, problem) {
            let _ = self.events.send(PortEvent::SwitchChanged(place.id));
        }
    }
}

/// Mends one switch whenever it is woken, for as long as it is wanted. It keeps neither alive while it waits for that.
pub async fn mend(inner: Weak<Inner>, place: Weak<Place>, wake: Arc<Notify>) {
    loop {
        wake.notified().await;
        // What wakes it may come again and again while it cannot be mended.
        sleep(GATHER).await;
        let (Some(inner), Some(place)) = (inner.upgrade(), place.upgrade()) else { return };
        if place.turn.lock().await.removed {
            return;
        }
        // Told where it is wrong.
        let _ = inner.reconcile(&place).await;
    }
}

/// Follows the kernel for as long as the network is in use.
pub async fn follow(inner: Weak<Inner>) {
    let events = match Events::open() {
        Ok(events) => Some(events),
        Err(error) => {
            tracing::warn!(%error, "cannot follow the host's network; looking at it from time to time");
            None
        }
    };
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = async {
            match &events {
                Some(events) => events.next().await,
                None => pending().await,
            }
        };
        let ticked = tokio::select! {
            happened = event => {
                if let Err(error) = happened {
                    tracing::warn!(%error, "the events of the host's network");
                    sleep(PERIOD).await;
                }
                sleep(GATHER).await;
                events.iter().for_each(Events::forget);
                false
            }
            _ = tick.tick() => true,
        };
        let Some(inner): Option<Arc<Inner>> = inner.upgrade() else { return };
        if let Err(error) = inner.look(ticked).await {
            tracing::warn!(%error, "cannot look after the host's network");
        }
    }
}
