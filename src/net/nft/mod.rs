//! nftables as values, and the way to the kernel's: no child process, no text. What the rules mean, it does not know
//! (that is `net::rules`).
//!
//! ```text
//!  ruleset    tables, chains, sets and elements: what is wanted, and what is
//!  expr       what a rule is made of, as the kernel runs it           rule     how one is written down
//!  diff       from what is to what is wanted, as a batch              batch    changes that are made together or not at all
//!  encode · decode · wire · numbers        values and netlink messages
//!  kernel     reads and applies                                       events   tells that somebody changed a table
//! ```
//! Only tables that are named are read or changed. A rule is compared by a digest that it carries, a set by its form
//! and its elements; what packets put into a set is never compared and goes only with its set.

mod batch;
mod decode;
mod diff;
mod encode;
mod encode_expr;
mod events;
mod expr;
mod family;
mod kernel;
mod numbers;
mod others;
mod part;
mod rule;
mod ruleset;
#[cfg(test)]
mod tests;
mod wire;

pub use batch::{Batch, Command};
pub use diff::{diff, is_mendable};
pub use events::{Change, Events};
pub use expr::{Expr, Layer, Rate, Reg, Verdict};
pub use family::Family;
pub use kernel::{BaseChain, Kernel, Refused};
pub use others::{CT_STATE, Instruction, OtherChain, OtherTable, matched, target};
pub use rule::{Field, Rule, When, field};
pub use ruleset::{
    Base, Chain, ChainKind, Datum, Elements, Form, Hook, Key, Ruleset, Set, Table, TableName, Type, Value, ifname,
};
