//! Capabilities of a child: a set that is kept of those that the daemon has, for good.

#![allow(unsafe_code, reason = "capget, capset and prctl with structures of the kernel's")]

use std::io;

use nix::libc;

/// A set, by the kernel's numbers (linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`, of which version 3 has two: the lower and the upper half of each set.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;
/// More than any kernel has.
const LAST: u32 = 63;

impl Capabilities {
    pub const CHOWN: u32 = 0;
    pub const DAC_OVERRIDE: u32 = 1;
    pub const SETGID: u32 = 6;
    pub const SETUID: u32 = 7;
    pub const NET_BIND_SERVICE: u32 = 10;
    pub const NET_ADMIN: u32 = 12;
    pub const NET_RAW: u32 = 13;

    pub const NONE: Self = Self(0);

    pub const fn of(numbers: &[u32]) -> Self {
        let (mut set, mut index) = (0, 0);
        while index < numbers.len() {
            set |= 1 << numbers[index];
            index += 1;
        }
        Self(set)
    }

    /// Keeps all others from what a program of root's would get. Allocates nothing.
    pub fn bound(self) {
        for number in (0..=LAST).filter(|number| self.0 & (1 << number) == 0) {
            // SAFETY: numbers only. Without CAP_SETPCAP it is refused, and then there is nothing that exec could give back, as
            // the daemon is not root; beyond the last one it is refused too.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        }
    }

    /// Gives up all others; behind [`Self::bound`], which needs one of them. Allocates nothing.
    ///
    /// # Errors
    /// None that the kernel tells of: a set is only lowered.
    pub fn keep_only(self) -> io::Result<()> {
        let mut header = Header { version: VERSION_3, pid: 0 };
        let mut halves = [Half::default(); 2];
        // SAFETY: version 3 fills two halves.
        let read = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
        if read != 0 {
            return Err(io::Error::last_os_error());
        }
        for (half, kept) in halves.iter_mut().zip([self.0 as u32, (self.0 >> 32) as u32]) {
            half.permitted &= kept;
            half.effective &= kept;
            half.inheritable &= kept;
        }
        // What is permitted or inheritable no more is not ambient either.
        // SAFETY: version 3 reads two halves.
        match unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
