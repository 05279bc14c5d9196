//! Keeps the host's network as it is wanted: looks where the kernel tells of a change, every second at all of it, and wakes
//! those switches of which something differs. What an event says has changed is never taken for true, only where; so it
//! misses none. And it waits for nobody who mends.

use std::{
    collections::HashMap,
    future::pending,
    net::IpAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use rtnetlink::packet_route::address::AddressMessage;
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    Inner, NetError, PortEvent, adapter,
    host_side::closed,
    netlink::{Events, Link, News, address_of},
    place::{Area, Place, Wanted},
    reconcile::{address_set, is_in_place, is_set},
};
use crate::model::SwitchKind;

/// Events that come together are answered by one look.
const GATHER: Duration = Duration::from_millis(50);
/// The figures of the taps are read so often, and the rest is looked at too.
const PERIOD: Duration = Duration::from_secs(1);

/// The host's interfaces and addresses, as they were last read.
struct Seen {
    links: HashMap<String, Link>,
    addresses: Vec<AddressMessage>,
}

/// A look at what is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// After something happened.
    Again,
    /// Also of what no event tells: files, settings, figures. Those with a problem are tried again.
    Whole,
}

impl Inner {
    /// Looks at every link and address, wakes the switches that are not as they are wanted, and publishes how the ports
    /// are.
    ///
    /// # Errors
    /// [`NetError::Missing`], [`NetError::Failed`].
    pub async fn look(&self, look: Look) -> Result<(), NetError> {
        if self.places.is_empty() {
            return Ok(());
        }
        let read = Instant::now();
        let seen = self.see(look).await?;
        self.judge(&seen, read, look).await
    }

    async fn see(&self, look: Look) -> Result<Seen, NetError> {
        let netlink = self.netlink()?;
        let links = match look {
            Look::Again => netlink.links().await?,
            Look::Whole => netlink.links_with_figures().await?,
        };
        Ok(Seen { links: self.with_rates(links).await?, addresses: self.addresses().await? })
    }

    /// Brings what was seen up to date where something has happened.
    async fn see_again(&self, seen: &mut Seen, news: &News) -> Result<(), NetError> {
        let netlink = self.netlink()?;
        let mut links = Vec::new();
        for index in &news.links {
            links.extend(netlink.link_at(*index).await?);
        }
        seen.links.retain(|_, link| !news.links.contains(&link.index));
        seen.links.extend(self.with_rates(links).await?);
        if news.addresses {
            seen.addresses = self.addresses().await?;
        }
        Ok(())
    }

    /// Of all interfaces, where a switch has any.
    async fn addresses(&self) -> Result<Vec<AddressMessage>, NetError> {
        let addressed = self.places.switches().iter().any(|place| !closed(&place.wanted().switch));
        if addressed { self.netlink()?.addresses().await } else { Ok(Vec::new()) }
    }

    /// `seen` is the host as it was `read`.
    async fn judge(&self, seen: &Seen, read: Instant, look: Look) -> Result<(), NetError> {
        let netlink = self.netlink()?;
        let (links, again) = (&seen.links, look == Look::Whole);
        let addresses = address_set(&seen.addresses);
        // Those of all are one list.
        let vlans = links.values().any(|link| link.filtering.is_some_and(|filtering| filtering.on));
        let failed = |error| NetError::failed("list the VLANs of the bridges", error);
        let vlans = if vlans { netlink.vlans().await.map_err(failed)? } else { HashMap::new() };
        for place in self.places.switches() {
            let wanted = place.wanted();
            // Of files and settings no event tells, and each is a file to be read.
            let served = !again || place.is_served() && wanted.side.sysctls.iter().all(is_set);
            let led = match links.get(&wanted.side.bridge).filter(|bridge| again && bridge.carrier) {
                Some(bridge) => self.leads_home(&wanted.side, bridge.index).await.unwrap_or(true),
                None => true,
            };
            if again && place.problem().is_some()
                || !(served && led)
                || !is_in_place(&wanted.side, links, &addresses)
                || !self.vlans_stand(&place, links, &vlans)
            {
                place.wake.notify_one();
            }
            if place.sees(on_bridge(&wanted, links, &seen.addresses)) {
                // Nobody else is to have them.
                place.wake.notify_one();
            }
            self.look_at_leased(&place, &seen.addresses, links);
            self.look_at_forwards(&place, &seen.addresses);
            if let SwitchKind::External { adapter, allow_management_os: true, .. } = &wanted.switch.kind
                && let Some(link) = links.get(adapter)
                && let Ok(carried) = adapter::Carried::read(netlink, link.index).await
                && !carried.is_empty()
            {
                // It carries addresses (again) that belong on its bridge; what moves is written down first.
                let _ = self.events.send(PortEvent::AdapterChanged(place.id));
            }
        }
        for place in self.judge_ports(links, read, again) {
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

/// The addresses that the host has on a switch's bridge. While they move there from its adapter, each is on one of the two.
fn on_bridge(wanted: &Wanted, links: &HashMap<String, Link>, addresses: &[AddressMessage]) -> Option<Vec<IpAddr>> {
    let side = &wanted.side;
    let bridge = links.get(&side.bridge)?.index;
    let adapter = side.adapter.as_ref().filter(|_| !closed(&wanted.switch)).and_then(|name| links.get(name));
    let here = addresses.iter().filter(|address| {
        let on = address.header.index;
        on == bridge || adapter.is_some_and(|adapter| adapter.index == on)
    });
    let mut here: Vec<IpAddr> = here.filter_map(address_of).collect();
    here.sort();
    Some(here)
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
    // None where all of it has to be read.
    let mut seen: Option<Seen> = None;
    loop {
        let event = async {
            match &events {
                Some(events) => events.next().await,
                None => pending().await,
            }
        };
        let happened = tokio::select! {
            happened = event => Some(happened),
            _ = tick.tick() => None,
        };
        let (look, mut news) = match happened {
            Some(Ok(news)) => (Look::Again, news),
            Some(Err(error)) => {
                tracing::warn!(%error, "the events of the host's network");
                sleep(PERIOD).await;
                (Look::Again, News::everything())
            }
            None => (Look::Whole, News::everything()),
        };
        if look == Look::Again {
            sleep(GATHER).await;
        }
        let Some(inner): Option<Arc<Inner>> = inner.upgrade() else { return };
        if inner.places.is_empty() {
            seen = None;
            continue;
        }
        // Of a port that was plugged before this, all that happened is among the news.
        let read = Instant::now();
        events.iter().for_each(|events| events.add_to(&mut news));
        let looked = async {
            let mut now = match seen.take() {
                Some(now) if !news.all => now,
                _ => inner.see(look).await?,
            };
            if !news.all {
                inner.see_again(&mut now, &news).await?;
            }
            inner.judge(&now, read, look).await?;
            seen = Some(now);
            Ok::<(), NetError>(())
        };
        if let Err(error) = looked.await {
            tracing::warn!(%error, "cannot look after the host's network");
        }
    }
}
