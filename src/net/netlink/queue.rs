//! The queue of what an interface sends: as fast as it goes, or a token bucket (tbf), which keeps to a rate.

use std::{collections::HashMap, io};

use rtnetlink::{
    packet_core::{DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, Nla, NlasIterator},
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcHandle, TcMessage, TcOption},
    },
};

use super::{Link, Netlink, gone};

/// The kind of a queue that keeps to a rate.
pub const BUCKET: &str = "tbf";
/// Kinds that the kernel gives an interface by itself, as net.core.default_qdisc says.
const PLAIN: [&str; 12] =
    ["noop", "noqueue", "mq", "pfifo_fast", "pfifo", "fq_codel", "fq", "fq_pie", "sfq", "cake", "codel", "pie"];
/// linux/pkt_sched.h.
const PARAMETERS: u16 = 1;
const RATE64: u16 = 4;
const BURST: u16 = 6;
const LINK_LAYER_ETHERNET: u8 = 1;
/// Two `tc_ratespec`, then the limit, the bucket and the peak's in ticks.
const PARAMETERS_LENGTH: usize = 36;
const RATE_AT: usize = 8;
const LIMIT_AT: usize = 24;
/// So much may wait, in milliseconds of the rate.
const WAITING: u64 = 50;
/// The largest frame, segmented by nobody yet, fits into a bucket.
const SMALLEST_BUCKET: u64 = 128 << 10;

/// Whether an interface sends through a queue of another kind, which somebody gave it.
pub fn is_queued(link: &Link) -> bool {
    link.queue.as_ref().is_some_and(|kind| !PLAIN.contains(&kind.as_str()))
}

impl Netlink {
    /// The rate in bytes per second of each interface that keeps to one, by its index.
    pub async fn rates(&self) -> io::Result<HashMap<u32, u64>> {
        let all = self.list(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default())).await?;
        let rate = |message| match message {
            RouteNetlinkMessage::NewQueueDiscipline(queue)
                if queue.header.parent == TcHandle::ROOT
                    && queue.attributes.contains(&TcAttribute::Kind(BUCKET.into())) =>
            {
                Some((queue.header.index.cast_unsigned(), rate_of(&queue)?))
            }
            _ => None,
        };
        Ok(all.into_iter().filter_map(rate).collect())
    }

    /// Has an interface keep to a rate in bytes per second, changed in place.
    pub async fn set_rate(&self, index: u32, rate: u64) -> io::Result<()> {
        let mut message = root(index);
        message.attributes = vec![TcAttribute::Kind(BUCKET.into()), TcAttribute::Options(options(rate))];
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewQueueDiscipline(message), flags).await.map(drop)
    }

    /// As fast as it goes, from now on.
    pub async fn unset_rate(&self, index: u32) -> io::Result<()> {
        let removed = self.ask(RouteNetlinkMessage::DelQueueDiscipline(root(index)), NLM_F_ACK).await;
        gone(removed, &[nix::libc::ENOENT, nix::libc::ENODEV])
    }
}

fn root(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::ROOT;
    message
}

fn options(rate: u64) -> Vec<TcOption> {
    let bucket = (rate / 100).max(SMALLEST_BUCKET);
    let limit = (rate * WAITING / 1000).max(bucket);
    let mut parameters = vec![0; PARAMETERS_LENGTH];
    parameters[1] = LINK_LAYER_ETHERNET;
    parameters[RATE_AT..RATE_AT + 4].copy_from_slice(&saturated(rate).to_ne_bytes());
    parameters[LIMIT_AT..LIMIT_AT + 4].copy_from_slice(&saturated(limit).to_ne_bytes());
    let option = |kind, bytes| TcOption::Other(DefaultNla::new(kind, bytes));
    let mut options = vec![option(PARAMETERS, parameters), option(BURST, saturated(bucket).to_ne_bytes().to_vec())];
    if u32::try_from(rate).is_err() {
        options.push(option(RATE64, rate.to_ne_bytes().to_vec()));
    }
    options
}

fn saturated(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// The options of a kind that the library does not know come as one, unread.
fn rate_of(queue: &TcMessage) -> Option<u64> {
    let options =
        queue.attributes.iter().find_map(|a| if let TcAttribute::Options(o) = a { o.first() } else { None })?;
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let value = |wanted: u16| {
        let mut all = NlasIterator::new(&bytes[..]).flatten();
        all.find(|option| option.kind() == wanted).map(|option| option.value().to_vec())
    };
    let wide = value(RATE64).and_then(|bytes| Some(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?)));
    let narrow =
        value(PARAMETERS).and_then(|bytes| Some(u32::from_ne_bytes(bytes.get(RATE_AT..RATE_AT + 4)?.try_into().ok()?)));
    wide.or(narrow.map(u64::from))
}
