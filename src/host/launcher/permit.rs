//! What each kind of child may: one declaration each, the whole list of programs that the daemon starts.

use super::{
    capabilities::Capabilities,
    filter::Sockets,
    limits::{Limits, MIB},
};

/// What a child may beside what its files let it.
#[derive(Clone, Copy, Debug)]
pub struct Permit {
    /// Beside PATH and LC_ALL.
    pub(super) environment: &'static [(&'static str, &'static str)],
    pub(super) limits: Limits,
    pub(super) capabilities: Capabilities,
    pub(super) sockets: Sockets,
    /// It makes namespaces and mounts of its own, to be kept in.
    pub(super) walls_itself_in: bool,
    /// By its own rights it may open nothing of anybody's: what it is lent it opens by asking us.
    pub(super) opens_what_is_lent: bool,
    pub(super) lifetime: Lifetime,
}

/// How long a process may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    ItsOwn,
    /// The kernel ends it with the daemon, however that ends.
    Ours,
}

/// A VM's. Each vCPU has a few event descriptors for each queue of each disk, and a guest on the user-mode network has one
/// for each of its connections.
pub const QEMU: Permit = Permit {
    environment: &[],
    limits: Limits { descriptors: 65_536, ..Limits::NONE },
    capabilities: Capabilities::NONE,
    sockets: Sockets::OfGuests,
    walls_itself_in: false,
    opens_what_is_lent: false,
    lifetime: Lifetime::ItsOwn,
};

/// One that is only asked what it can do.
pub const QEMU_PROBE: Permit = Permit { lifetime: Lifetime::Ours, ..QEMU };

/// Reads and writes images that it is lent. What it may use of the host is [`Permit::for_image`]'s.
pub const QEMU_IMG: Permit = Permit {
    // Else each of its threads reserves address space of its own.
    environment: &[("MALLOC_ARENA_MAX", "2")],
    limits: Limits { descriptors: 256, address_space: Some(4096 * MIB), ..Limits::NONE },
    capabilities: Capabilities::NONE,
    sockets: Sockets::None,
    walls_itself_in: false,
    opens_what_is_lent: true,
    lifetime: Lifetime::Ours,
};

/// The same where the kernel does not ask us (before Linux 5.14, or within a filter that asks somebody else): it opens images itself,
/// which may belong to any user.
pub const QEMU_IMG_THAT_OPENS: Permit =
    Permit { capabilities: Capabilities::of(&[Capabilities::DAC_OVERRIDE]), opens_what_is_lent: false, ..QEMU_IMG };

/// Configures itself as root and goes on as a user of its own, with the right to send what no address is behind yet.
pub const DNSMASQ: Permit = Permit {
    environment: &[],
    limits: Limits { descriptors: 1024, ..Limits::NONE },
    capabilities: Capabilities::of(&[
        Capabilities::CHOWN,
        Capabilities::DAC_OVERRIDE,
        Capabilities::SETGID,
        Capabilities::SETUID,
        Capabilities::NET_BIND_SERVICE,
        Capabilities::NET_ADMIN,
        Capabilities::NET_RAW,
    ]),
    sockets: Sockets::Any,
    walls_itself_in: false,
    opens_what_is_lent: false,
    lifetime: Lifetime::ItsOwn,
};

/// The user-mode network of one NIC: makes the guest's connections. Before it hears of the guest it goes into namespaces of its
/// own with an empty root and puts a filter on itself that leaves it a few calls.
pub const PASST: Permit = Permit {
    environment: &[],
    limits: Limits { descriptors: 65_536, ..Limits::NONE },
    capabilities: Capabilities::NONE,
    sockets: Sockets::OfRoutes,
    walls_itself_in: true,
    opens_what_is_lent: false,
    lifetime: Lifetime::ItsOwn,
};

/// This program itself, on a compressed image: what a hostile one makes of a decoder stays in there.
pub const UNPACK: Permit = Permit {
    environment: &[("RUST_BACKTRACE", "0")],
    limits: Limits { descriptors: 64, address_space: Some(1024 * MIB), cpu_seconds: Some(2 * 3600), file_size: None },
    capabilities: Capabilities::NONE,
    sockets: Sockets::None,
    walls_itself_in: false,
    opens_what_is_lent: true,
    lifetime: Lifetime::Ours,
};

/// As of [`QEMU_IMG_THAT_OPENS`].
pub const UNPACK_THAT_OPENS: Permit =
    Permit { capabilities: Capabilities::of(&[Capabilities::DAC_OVERRIDE]), opens_what_is_lent: false, ..UNPACK };

/// This program itself, on a copy of a store: damage can make sled ask for any amount of memory.
pub const STORE_TRIAL: Permit = Permit {
    environment: &[("RUST_BACKTRACE", "0")],
    limits: Limits { descriptors: 1024, address_space: Some(4096 * MIB), ..Limits::NONE },
    capabilities: Capabilities::of(&[Capabilities::DAC_OVERRIDE]),
    sockets: Sockets::None,
    walls_itself_in: false,
    opens_what_is_lent: false,
    lifetime: Lifetime::Ours,
};

impl Permit {
    /// Of a run of qemu-img that makes a file of so many bytes at most, and works for so many seconds on each of a few cores.
    #[must_use]
    pub fn for_image(mut self, file_size: u64, seconds: u64) -> Self {
        self.limits.file_size = Some(file_size);
        self.limits.cpu_seconds = Some(seconds.saturating_mul(4));
        self
    }
}
