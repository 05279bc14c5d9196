//! A switch's DHCP and DNS: what its dnsmasq is to work by, and that it does. The process is `companion`'s, the files are
//! `dhcp`'s.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Inner, NetError,
    companion::{self, Companion, Folders, Orders},
    dhcp::{self, Facts, Files},
    place::{Area, Hands, Place, Wanted},
    problem, runtime,
};
use crate::model::{Subnet, SwitchId};

const DNS: u16 = 53;

impl Inner {
    /// Has what a NIC is given out brought up to date, without waiting.
    pub fn reserve(self: &Arc<Self>, place: &Place) {
        place.known.store(true, Ordering::Relaxed);
        let wanted = place.wanted();
        let Some(subnet) = wanted.switch.subnet() else { return };
        // Whoever has the turn does it too, or is followed by the keeper; who has to start a dnsmasq waits for it.
        match place.turn.try_lock() {
            Ok(hands) if hands.hosts.as_ref().is_some_and(|known| *known == self.places.hosts(place.id)) => {}
            Ok(mut hands) if !hands.removed && hands.dhcp.is_some() => {
                let orders = self.orders(place, &mut hands, &wanted, subnet);
                hands.hosts = Some(orders.hosts.clone());
                hands.dhcp.iter().for_each(|dhcp| dhcp.want(orders.clone()));
            }
            _ => place.wake.notify_one(),
        }
    }

    /// Sees to the switch's DHCP and DNS. On a bridge that is `new` a dnsmasq of before is deaf.
    ///
    /// # Errors
    /// When it cannot be started now.
    pub async fn serve(
        self: &Arc<Self>,
        place: &Place,
        hands: &mut Hands,
        wanted: &Wanted,
        new: bool,
    ) -> Result<(), NetError> {
        let Some(subnet) = wanted.switch.subnet() else { return Ok(()) };
        let known = place.known.load(Ordering::Relaxed);
        let orders = self.orders(place, hands, wanted, subnet);
        let reported = known.then(|| orders.hosts.clone());
        match &hands.dhcp {
            Some(dhcp) => {
                if known {
                    dhcp.want(orders);
                }
                if new {
                    dhcp.restart();
                }
            }
            None => {
                let folders = self.folders(place.id);
                let left =
                    |orders: Orders| Orders { files: orders.files.with_those_left_in(&folders.own), hosts: Vec::new() };
                let orders = if known { orders } else { left(orders) };
                hands.dhcp = Some(Companion::start(folders, orders, new, self.teller(place.id)).await?);
            }
        }
        hands.hosts = reported;
        Ok(())
    }

    /// What a switch's dnsmasq is to work by now.
    fn orders(&self, place: &Place, hands: &mut Hands, wanted: &Wanted, subnet: &Subnet) -> Orders {
        let folders = self.folders(place.id);
        let serves = match &hands.dhcp {
            Some(dhcp) => hands.dns && dhcp.is_alive(),
            None => companion::serves_names(&folders.own),
        };
        let free = || problem::is_free(SocketAddr::new(subnet.gateway().into(), DNS));
        let dns = subnet.serves_names() && (serves || free());
        let lacking = (subnet.serves_names() && !dns).then(|| problem::taken(subnet.gateway(), DNS));
        self.tell(place, Area::Dns, lacking);
        let facts = Facts { dns, resolvers: dhcp::resolvers(), mtu: wanted.side.mtu };
        let hosts = self.places.hosts(place.id);
        let reads = hands.dhcp.as_ref().is_none_or(Companion::reads_lists)
            && *self.public.get_or_init(|| runtime::is_usable(&self.state));
        let files = Files::new(&wanted.switch, subnet, &hosts, &facts, reads.then_some(folders.public));
        hands.dns = dns;
        Orders { files, hosts }
    }

    pub fn switch_folder(&self, switch: SwitchId) -> PathBuf {
        self.folder.join(switch.short())
    }

    pub fn folders(&self, switch: SwitchId) -> Folders {
        Folders { own: self.switch_folder(switch), public: runtime::folder(&self.state).join(switch.short()) }
    }

    /// What dnsmasq's news go to.
    fn teller(self: &Arc<Self>, switch: SwitchId) -> companion::Report {
        let inner = Arc::downgrade(self);
        Box::new(move |problem| {
            if let Some(inner) = inner.upgrade()
                && let Some(place) = inner.places.switch(switch)
            {
                let gateway = place.wanted().switch.subnet().map(Subnet::gateway);
                let problem = problem.zip(gateway).map(|(words, gateway)| problem::explained(words, gateway));
                inner.tell(&place, Area::Dhcp, problem);
                // Another configuration may work.
                place.wake.notify_one();
            }
        })
    }
}
