//! The instructions of a rule to messages of nf_tables, and the digest that it is known by.

use super::{
    Family, Verdict,
    expr::{Expr, Layer, Reg},
    wire::Message,
};

/// What a rule is known by.
pub fn digest(exprs: &[Expr]) -> String {
    let mut code = Vec::new();
    let mut message = Message::begin(&mut code, 0, 0, 0, 0);
    expressions(&mut message, exprs);
    drop(message);
    format!("{:08x}{:04x}", crc32fast::hash(&code), code.len())
}

pub fn counter(message: &mut Message) {
    message.text(1, "counter").nest(2, |message| {
        message.u64(1, 0).u64(2, 0);
    });
}

pub fn expressions(message: &mut Message, exprs: &[Expr]) {
    message.nest(4, |message| {
        for expr in exprs {
            message.nest(1, |message| expression(message, expr));
        }
    });
}

fn expression(message: &mut Message, expr: &Expr) {
    let mut write = |name: &str, data: &dyn Fn(&mut Message)| {
        message.text(1, name).nest(2, |message| data(message));
    };
    match expr {
        Expr::Payload { layer, offset, len, to } => write("payload", &|m| {
            let layer = match layer {
                Layer::Link => 0,
                Layer::Network => 1,
                Layer::Transport => 2,
            };
            m.u32(1, to.number()).u32(2, layer).u32(3, *offset).u32(4, *len);
        }),
        Expr::Meta { key, to } => write("meta", &|m| {
            m.u32(2, *key).u32(1, to.number());
        }),
        Expr::Ct { key, to } => write("ct", &|m| {
            m.u32(2, *key).u32(1, to.number());
        }),
        Expr::AddressKind { here, to } => write("fib", &|m| {
            // The kind of the destination, here or anywhere.
            m.u32(1, to.number()).u32(2, 3).u32(3, if *here { 2 | 8 } else { 2 });
        }),
        Expr::Extension { header, offset, len, to } => write("exthdr", &|m| {
            m.u32(1, to.number()).bytes(2, &[*header]).u32(3, *offset).u32(4, *len);
        }),
        Expr::HasExtension { header, to } => write("exthdr", &|m| {
            m.u32(1, to.number()).bytes(2, &[*header]).u32(3, 0).u32(4, 1).u32(5, 1);
        }),
        Expr::RouteMss { to } => write("rt", &|m| {
            m.u32(1, to.number()).u32(2, 3);
        }),
        Expr::ClampMss { from } => write("exthdr", &|m| {
            m.bytes(2, &[2]).u32(3, 2).u32(4, 2).u32(6, 1).u32(7, from.number());
        }),
        Expr::ToNetworkOrder { reg, len } => write("byteorder", &|m| {
            m.u32(1, reg.number()).u32(2, reg.number()).u32(3, 1).u32(4, *len).u32(5, *len);
        }),
        Expr::Mask { reg, mask } => write("bitwise", &|m| {
            m.u32(1, reg.number()).u32(2, reg.number()).u32(3, mask.len() as u32);
            value(m, 4, mask);
            value(m, 5, &vec![0; mask.len()]);
        }),
        Expr::Compare { reg, equal, value: wanted } => write("cmp", &|m| {
            m.u32(1, reg.number()).u32(2, u32::from(!equal));
            value(m, 3, wanted);
        }),
        Expr::Between { reg, first, last } => write("range", &|m| {
            m.u32(1, reg.number()).u32(2, 0);
            value(m, 3, first);
            value(m, 4, last);
        }),
        Expr::Lookup { set, key, to, absent } => write("lookup", &|m| {
            m.text(1, set).u32(2, key.number());
            if let Some(to) = to {
                m.u32(3, to.number());
            }
            m.u32(5, u32::from(*absent));
        }),
        Expr::Dispatch { map, key } => write("lookup", &|m| {
            m.text(1, map).u32(2, key.number()).u32(3, 0);
        }),
        Expr::Update { set, key, above } => write("dynset", &|m| {
            m.text(1, set).u32(3, 1).u32(4, key.number());
            if let Some(rate) = above {
                m.nest(7, |m| limit(m, rate.a_minute, 60, rate.burst, 0));
            }
        }),
        Expr::Value { value: known, to } => write("immediate", &|m| {
            m.u32(1, to.number());
            value(m, 2, known);
        }),
        Expr::Mark { by } => write("meta", &|m| {
            m.u32(2, 3).u32(3, by.number());
        }),
        Expr::Counter => counter(message),
        Expr::Masquerade => write("masq", &|_| ()),
        Expr::Dnat { address, port } => write("nat", &|m| {
            m.u32(1, 1).u32(2, u32::from(Family::Ip.number())).u32(3, address.number()).u32(5, port.number());
        }),
        // As ICMP of either version: the port cannot be reached.
        Expr::Reject => write("reject", &|m| {
            m.u32(1, 2).bytes(2, &[1]);
        }),
        Expr::Verdict(to) => write("immediate", &|m| {
            m.u32(1, 0).nest(2, |m| verdict(m, to));
        }),
    }
}

/// A limit that holds for what is above it: packets (0) or bytes (1) in so many seconds.
pub fn limit(message: &mut Message, rate: u64, seconds: u64, burst: u32, what: u32) {
    message.text(1, "limit").nest(2, |message| {
        message.u64(1, rate).u64(2, seconds).u32(3, burst).u32(4, what).u32(5, 1);
    });
}

fn value(message: &mut Message, kind: u16, bytes: &[u8]) {
    message.nest(kind, |message| {
        message.bytes(1, bytes);
    });
}

pub fn verdict(message: &mut Message, verdict: &Verdict) {
    let (code, chain): (i32, Option<&str>) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    message.nest(2, |message| {
        message.bytes(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            message.text(2, chain);
        }
    });
}

impl Reg {
    /// The registers of four bytes begin at 8.
    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}
