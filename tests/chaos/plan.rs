//! What is going to happen, and when: a pure function of the seed.

use fastrand::Rng;

use super::operation::Operation;
use crate::support::crash::Side;

/// Places for VMs that idle in their firmware; 16 MiB each.
pub const BARE: usize = 8;
/// Places for VMs with a guest that boots.
pub const GUESTS: usize = 2;
pub const PLACES: usize = BARE + GUESTS;
const BARE_MEMORY: u64 = 16;
pub const GUEST_MEMORY: u64 = 256;

/// From one life of the daemon that has work to do to the next. Times are in milliseconds from the beginning.
#[derive(Debug)]
pub struct Cycle {
    pub lanes: Vec<Lane>,
    pub violence: Vec<Violence>,
    pub death: Death,
    /// Further deaths, each so long after the start of a daemon that then recovers.
    pub starts: Vec<u64>,
}

/// What one VM is asked, one thing after the other.
#[derive(Debug)]
pub struct Lane {
    pub place: usize,
    pub steps: Vec<Step>,
}

#[derive(Debug)]
pub struct Step {
    pub pause: u64,
    /// Where there is no VM this is what is done instead of the operation.
    pub create: Operation,
    /// And this where it does not run: most of them should.
    pub asleep: Operation,
    pub operation: Operation,
}

/// How the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    At(u64),
    /// When all has been asked and answered.
    WhenDone,
    /// At a commit, at the latest when there is nothing more to do.
    Commit(u64, Side),
}

/// Done to the QEMU of a place.
#[derive(Clone, Copy, Debug)]
pub struct Violence {
    pub place: usize,
    pub at: u64,
    pub deed: Deed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Kill,
    /// SIGSTOP, and SIGCONT so much later.
    Hang(u64),
    /// SIGSTOP, and SIGCONT when the next daemon is there.
    HangOverRestart,
}

impl Cycle {
    pub fn of(seed: u64, number: u64) -> Self {
        let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
        let rng = &mut rng;
        let mut lanes: Vec<Lane> = (0..PLACES).filter_map(|place| lane(rng, place)).collect();
        let first = number == 0;
        if first {
            // So that there is something to lose from the beginning, however slow the host is.
            lanes = (0..PLACES).map(|place| newcomer(rng, place)).collect();
        }
        let violence = (0..rng.usize(0..3)).map(|_| Violence {
            place: rng.usize(0..PLACES),
            at: rng.u64(0..800),
            deed: match rng.u8(0..4) {
                0 | 1 => Deed::Kill,
                2 => Deed::Hang(rng.u64(50..1500)),
                _ => Deed::HangOverRestart,
            },
        });
        let violence = violence.collect();
        let death = if first {
            Death::WhenDone
        } else if rng.bool() {
            Death::At(rng.u64(0..1200))
        } else {
            Death::Commit(rng.u64(1..16), if rng.bool() { Side::Before } else { Side::After })
        };
        let starts = (0..rng.usize(0..4)).map(|_| rng.u64(0..400)).collect();
        Self { lanes, violence, death, starts }
    }
}

fn lane(rng: &mut Rng, place: usize) -> Option<Lane> {
    let guest = place >= BARE;
    // Guests need their time to boot; some VMs are left alone, so that any change of theirs is noticed.
    let busy = if guest { rng.u8(0..100) < 20 } else { rng.u8(0..100) < 65 };
    let steps = (0..rng.usize(1..4)).map(|_| {
        let operation = if guest { Operation::pick_gentle(rng) } else { Operation::pick(rng) };
        let asleep = if guest || rng.u8(0..3) > 0 { Operation::Start } else { operation.clone() };
        Step { pause: rng.u64(0..250), create: create(rng, place), asleep, operation }
    });
    let steps = steps.collect();
    busy.then_some(Lane { place, steps })
}

fn newcomer(rng: &mut Rng, place: usize) -> Lane {
    let (private, nat) = (rng.u8(0..4) == 0, rng.u8(0..4) > 0);
    let (nic, port) = (rng.u64(1..60_000), rng.u64(1..60_000));
    // The first one makes the VM.
    let first = [
        Operation::Start,
        Operation::MakeSwitch { private, nat },
        Operation::AddNic(nic),
        Operation::AddForward(port),
        Operation::Start,
    ];
    let steps =
        first.map(|operation| Step { pause: 0, create: create(rng, place), asleep: operation.clone(), operation });
    Lane { place, steps: steps.into() }
}

fn create(rng: &mut Rng, place: usize) -> Operation {
    Operation::create(rng, if place >= BARE { GUEST_MEMORY } else { BARE_MEMORY })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan() {
        let plan = |seed| (0..50).map(|number| format!("{:?}", Cycle::of(seed, number))).collect::<Vec<_>>();
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        let mut cycles = plan(7);
        cycles.dedup();
        assert_eq!(cycles.len(), 50, "each cycle is another one");
    }
}
