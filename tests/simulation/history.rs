//! What happens to one VM, drawn from a seed: requests, outcomes of steps, things that come by themselves, and deaths of the
//! daemon and the host.

use fastrand::Rng;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    Request(Ask),
    /// The `nth` step that is under way ends like this.
    Finish {
        nth: u8,
        fate: Fate,
    },
    /// Of those who wait the `nth` does not want it any more.
    Cancel(u8),
    /// All that is under way ends well, and so does what follows, for a while.
    Calm,
    /// Milliseconds go by.
    Wait(u32),
    /// Something comes by itself.
    Sight(Chance),
    /// The daemon dies: of the steps under way those had taken effect whose bit is set.
    Crash {
        effects: u8,
    },
    /// The host is booted.
    Boot {
        effects: u8,
    },
    /// The wall clock is set.
    SetClock(i32),
}

/// A request; the numbers choose among what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ask {
    Start,
    Stop {
        patience: u32,
        agent_only: bool,
    },
    StopAndDelete {
        patience: u32,
    },
    ForceOff,
    Reboot {
        patience: u32,
        agent_only: bool,
    },
    Reset,
    Restart,
    Suspend,
    Resume,
    Freeze(u32),
    Thaw,
    TurnAfterBoot,
    Vcpus(u8),
    Memory(u8),
    Grow(u8),
    Throttle(u8),
    AddDisk,
    RemoveDisk(u8),
    AddNic {
        on_switch: bool,
    },
    RemoveNic(u8),
    MovePort(u8),
    Policy(u8),
    Medium(bool),
    /// Several changes as one.
    Several(u8),
    Redefine(u8),
    Delete,
}

/// How a step ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Well,
    /// Its report says so, and nothing was done.
    Lie,
    NotNow,
    Refused,
    Host,
    /// The monitor hangs or dies over it; it may have taken effect.
    Lost {
        effect: bool,
    },
    /// It takes longer than anybody waits for.
    Silent {
        effect: bool,
    },
}

/// What comes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chance {
    ProcessDies,
    GuestPowersOff,
    GuestPanics,
    GuestResets,
    /// A disk of the host is full.
    IoError,
    AgentComes,
    AgentGoes,
    MonitorCloses,
    MonitorMisbehaves,
    LetsGo(u8),
    Keeps(u8),
    TapRemoved(u8),
    MemoryMoves(u8),
    Flood,
    KernelHolds,
    KernelLetsGo,
    Closing,
}

/// A VM, and what happens to it.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    pub seed: u64,
    pub start: bool,
    pub disks: u8,
    pub switches: u8,
    pub policy: u8,
    /// Its guest powers off when it is asked to.
    pub heeds: bool,
    pub events: Vec<Event>,
}

impl History {
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rng = &mut rng;
        let length = 6 + rng.usize(..26);
        Self {
            seed,
            start: rng.bool(),
            disks: rng.u8(..3),
            switches: rng.u8(..3),
            policy: rng.u8(..12),
            heeds: rng.bool(),
            events: (0..length).map(|_| event(rng)).collect(),
        }
    }
}

fn event(rng: &mut Rng) -> Event {
    match rng.u8(..100) {
        0..31 => Event::Request(ask(rng)),
        31..34 => Event::Cancel(rng.u8(..)),
        34..58 => Event::Finish { nth: rng.u8(..), fate: fate(rng) },
        58..78 => Event::Calm,
        78..83 => Event::Wait(1 << rng.u32(..17)),
        83..94 => Event::Sight(chance(rng)),
        94..98 => Event::Crash { effects: rng.u8(..) },
        98 => Event::Boot { effects: rng.u8(..) },
        _ => Event::SetClock(rng.i32(-100_000_000..100_000_000)),
    }
}

fn ask(rng: &mut Rng) -> Ask {
    let patience = 1 << rng.u32(..17);
    match rng.u8(..44) {
        0..7 => Ask::Start,
        7..9 => Ask::Stop { patience, agent_only: false },
        9 => Ask::Stop { patience, agent_only: true },
        10 => Ask::StopAndDelete { patience },
        11..14 => Ask::ForceOff,
        14 => Ask::Reboot { patience, agent_only: false },
        15 => Ask::Reboot { patience, agent_only: true },
        16 => Ask::Reset,
        17 => Ask::Restart,
        18 => Ask::Suspend,
        19 => Ask::Resume,
        20 => Ask::TurnAfterBoot,
        21 => Ask::Vcpus(rng.u8(..6)),
        22 | 23 => Ask::Memory(rng.u8(..8)),
        24 => Ask::Grow(rng.u8(..)),
        25 => Ask::Throttle(rng.u8(..)),
        26 | 27 => Ask::AddDisk,
        28..31 => Ask::RemoveDisk(rng.u8(..)),
        31 | 32 => Ask::AddNic { on_switch: rng.bool() },
        33 | 34 => Ask::RemoveNic(rng.u8(..)),
        35 => Ask::MovePort(rng.u8(..)),
        36 => Ask::Policy(rng.u8(..12)),
        37 => Ask::Medium(rng.bool()),
        38 => Ask::Redefine(rng.u8(..)),
        39 => Ask::Several(rng.u8(..)),
        40 => Ask::Freeze(patience),
        41 => Ask::Thaw,
        42 => Ask::Start,
        _ => Ask::Delete,
    }
}

fn fate(rng: &mut Rng) -> Fate {
    match rng.u8(..100) {
        0..72 => Fate::Well,
        72..74 => Fate::Lie,
        74..79 => Fate::NotNow,
        79..84 => Fate::Refused,
        84..90 => Fate::Host,
        90..96 => Fate::Lost { effect: rng.bool() },
        _ => Fate::Silent { effect: rng.bool() },
    }
}

fn chance(rng: &mut Rng) -> Chance {
    match rng.u8(..24) {
        0 | 1 => Chance::ProcessDies,
        2 | 3 => Chance::GuestPowersOff,
        4 => Chance::GuestPanics,
        5 | 6 => Chance::GuestResets,
        7 => Chance::IoError,
        8..10 => Chance::AgentComes,
        10 => Chance::AgentGoes,
        11 | 12 => Chance::MonitorCloses,
        13 => Chance::MonitorMisbehaves,
        14..16 => Chance::LetsGo(rng.u8(..)),
        16 => Chance::Keeps(rng.u8(..)),
        17 => Chance::TapRemoved(rng.u8(..)),
        18 => Chance::MemoryMoves(rng.u8(..)),
        19 => Chance::Flood,
        20 | 21 => Chance::KernelHolds,
        22 => Chance::KernelLetsGo,
        _ => Chance::Closing,
    }
}
