//! VLANs of a bridge: whether it keeps them apart, and what of them the bridge itself and each of its ports carry.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use rtnetlink::{
    LinkBridge, LinkMessageBuilder,
    packet_core::NLM_F_ACK,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{
            AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridge, InfoData, LinkAttribute,
            LinkExtentMask, LinkInfo, LinkMessage,
        },
    },
};

use super::{Netlink, gone, nameless};

/// VLANs of a port, by their numbers.
pub type Carried = BTreeMap<u16, Form>;

/// In which form a port carries a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// With its tag on the wire.
    Tagged,
    /// Without, both ways: what comes without a tag is in it.
    Plain,
    /// Without, one way only. Nothing of ours does so.
    Half,
}

/// What a bridge says of VLANs, of a kernel whose bridges can keep them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filtering {
    pub on: bool,
    /// What a port that joins carries at once; 0 for nothing.
    pub default: u16,
}

impl Netlink {
    /// What every bridge and every port of one carries, by their indices.
    pub async fn vlans(&self) -> io::Result<HashMap<u32, Carried>> {
        let mut wanted = LinkMessage::default();
        wanted.header.interface_family = AddressFamily::Bridge;
        wanted.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed])];
        let mut carried = HashMap::new();
        for message in self.list(RouteNetlinkMessage::GetLink(wanted)).await? {
            if let RouteNetlinkMessage::NewLink(link) = message {
                let all = link.attributes.iter().filter_map(|a| match a {
                    LinkAttribute::AfSpecBridge(specs) => Some(specs),
                    _ => None,
                });
                carried.insert(link.header.index, read(all.flatten()));
            }
        }
        Ok(carried)
    }

    /// Has a port, or the `bridge` itself, carry what is `wanted` beside what `is`.
    pub async fn carry_vlans(&self, index: u32, bridge: bool, is: &Carried, wanted: &Carried) -> io::Result<()> {
        let missing = wanted.iter().filter(|(id, form)| is.get(id) != Some(form));
        let missing: Vec<_> = missing.map(|(id, form)| info(*id, form.flags())).collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.ask(RouteNetlinkMessage::SetLink(message(index, bridge, missing)), NLM_F_ACK).await.map(drop)
    }

    /// Has a port, or the `bridge` itself, carry nothing of what `is` beside what is `wanted`.
    pub async fn drop_vlans(&self, index: u32, bridge: bool, is: &Carried, wanted: &Carried) -> io::Result<()> {
        let surplus = is.keys().filter(|id| !wanted.contains_key(id));
        let surplus: Vec<_> = surplus.map(|id| info(*id, BridgeVlanInfoFlags::empty())).collect();
        if surplus.is_empty() {
            return Ok(());
        }
        let dropped = self.ask(RouteNetlinkMessage::DelLink(message(index, bridge, surplus)), NLM_F_ACK).await;
        gone(dropped, &[nix::libc::ENOENT])
    }

    /// From now on a bridge keeps VLANs apart, or does not.
    pub async fn filter_vlans(&self, index: u32, on: bool) -> io::Result<()> {
        let bridge = LinkMessageBuilder::<LinkBridge>::new("").vlan_filtering(on).index(index).build();
        self.ask(RouteNetlinkMessage::NewLink(nameless(bridge)), NLM_F_ACK).await.map(drop)
    }

    /// From now on a port that joins a bridge carries nothing before it is told to.
    pub async fn no_default_vlan(&self, index: u32) -> io::Result<()> {
        let options = InfoData::Bridge(vec![InfoBridge::VlanDefaultPvid(0)]);
        let bridge = LinkMessageBuilder::<LinkBridge>::new("").set_info_data(options).index(index).build();
        self.ask(RouteNetlinkMessage::NewLink(nameless(bridge)), NLM_F_ACK).await.map(drop)
    }
}

impl Form {
    fn flags(self) -> BridgeVlanInfoFlags {
        match self {
            Self::Tagged => BridgeVlanInfoFlags::empty(),
            Self::Plain => BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged,
            Self::Half => BridgeVlanInfoFlags::Untagged,
        }
    }

    fn of(flags: BridgeVlanInfoFlags) -> Self {
        match (flags.contains(BridgeVlanInfoFlags::Pvid), flags.contains(BridgeVlanInfoFlags::Untagged)) {
            (false, false) => Self::Tagged,
            (true, true) => Self::Plain,
            _ => Self::Half,
        }
    }
}

fn info(vid: u16, flags: BridgeVlanInfoFlags) -> AfSpecBridge {
    AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid })
}

fn message(index: u32, bridge: bool, mut vlans: Vec<AfSpecBridge>) -> LinkMessage {
    if bridge {
        vlans.insert(0, AfSpecBridge::Flags(BridgeFlag::LowerDev));
    }
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    message.attributes = vec![LinkAttribute::AfSpecBridge(vlans)];
    message
}

/// Neighbours of one form come as a range.
fn read<'a>(specs: impl Iterator<Item = &'a AfSpecBridge>) -> Carried {
    let (mut carried, mut begun) = (Carried::new(), None);
    for spec in specs {
        let AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid }) = spec else { continue };
        if flags.contains(BridgeVlanInfoFlags::RangeBegin) {
            begun = Some(*vid);
            continue;
        }
        let first = begun.take().filter(|_| flags.contains(BridgeVlanInfoFlags::RangeEnd)).unwrap_or(*vid);
        carried.extend((first..=*vid).map(|id| (id, Form::of(*flags))));
    }
    carried
}

/// What a bridge itself says of it.
pub fn filtering(info: &[LinkInfo]) -> Option<Filtering> {
    let options = info.iter().find_map(|i| if let LinkInfo::Data(InfoData::Bridge(o)) = i { Some(o) } else { None })?;
    let default = options.iter().find_map(|o| if let InfoBridge::VlanDefaultPvid(v) = o { Some(*v) } else { None })?;
    Some(Filtering { on: options.contains(&InfoBridge::VlanFiltering(true)), default })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_what_they_stand_for() {
        let (begin, end) = (BridgeVlanInfoFlags::RangeBegin, BridgeVlanInfoFlags::RangeEnd);
        let own = Form::Plain.flags();
        let reported = [info(7, own), info(20, begin), info(22, end), info(30, BridgeVlanInfoFlags::Pvid)];
        let tagged = (20..=22).map(|id| (id, Form::Tagged));
        let expected: Carried = tagged.chain([(7, Form::Plain), (30, Form::Half)]).collect();
        assert_eq!(read(reported.iter()), expected);
    }
}
