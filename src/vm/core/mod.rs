//! The core of a VM's task: what is known of a VM, what is wanted of it, and what follows. Values in, values out: no
//! async, no I/O, no clock. The same code runs in the daemon, on the real host, and in `tests/simulation`, on a host that
//! lies, hangs and crashes.
//!
//! ```text
//!  request ──▶ admit ──┐                            ┌──▶ answers
//!                      ├──▶ Facts ──▶ at rest ──────┤
//!  sight, outcome ──▶ absorb                        └──▶ plan ──▶ steps to start, lanes to cut, when to wake
//!                      ▲                                            │
//!                      └────────────── outcome ◀── perform ◀────────┘
//! ```
//!
//! - A **request** changes a goal or the definition, and nothing else ([`admit()`]).
//! - The **plan** is a pure function of the facts ([`plan()`]): start, change, stop, delete, recovery and unwinding are all
//!   this one function. It compares what is wanted with what is, lane by lane.
//! - A **step** is one exchange with the host. It looks first, so it may be repeated; it waits for nothing that the plan can
//!   wait for. Steps of different lanes run side by side, and a lane has one step at a time.
//! - What a step may leave behind is in [`Held`] and stored before the step starts. What is held and no longer needed is
//!   removed by the plan. Nothing is undone by a stack.
//! - The **store** is a lane too. `record` is what is to be stored, `stored` is what is. A step with an effect that cannot be
//!   found again waits until its cause is in `stored`; an answer waits until what it says is. Only a kill waits for nothing.
//! - **Time** is a fact: whoever calls says what time it is, and the plan says when it wants to be called again.

mod absorb;
mod admit;
mod answer;
mod change;
pub mod difference;
mod due;
mod facts;
mod goal;
mod held;
mod lane;
mod news;
mod plan;
mod record;
mod recover;
mod reported;
mod request;
mod seen;
mod step;
mod table;
mod take;
mod telling;
mod view;
mod waiting;
mod withdraw;

pub use absorb::{Report, absorb};
pub use admit::admit;
pub use answer::{Answer, Effects, Ticket, Until, Waiting};
pub use facts::{Bounds, Facts, Now};
pub use goal::{Cause, Deadline, Goal};
pub use held::{Held, MAX_LIVE};
pub use lane::{DiskNo, Lane};
pub use news::tell;
pub use plan::{Plan, plan};
pub use record::{Guest, Record, Run, RunRecord, Up};
pub use recover::{Found, create, recover, unmade};
pub use reported::Reported;
pub use request::{Patience, Request};
pub use seen::{Device, Launch, Monitor, Release, Seen, Sight};
pub use step::{Look, Mode, Outcome, Report as StepReport, Setback, StartedWith, Step, Txn};
pub use table::{Act, Ask, Refusal, State, Verdict, judge};
pub use telling::{By, News, Tells};
pub use view::{reason, status};
pub use withdraw::withdraw;

pub use crate::model::Ending;

/// Milliseconds by the host's own clock, which goes on evenly from its boot and which nobody sets.
pub type Ms = u64;

#[cfg(test)]
mod tests;
